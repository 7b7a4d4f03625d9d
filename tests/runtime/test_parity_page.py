"""The page of a comparison: what stands in it, and what a real browser makes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runtime.parity.compare import compare
from runtime.parity.report import Report
from tests.runtime.parity_faults import planted
from tests.runtime.parity_models import convolutions

FAULTY = "BatchNormalization.a1"


@pytest.fixture(scope="module")
def report() -> Report:
    made, draw = convolutions()
    with planted("constant", FAULTY):
        return compare(made, draw(0), ("native", "onnxruntime"), cache=False)


class Checked(HTMLParser):
    """Collects what a page loads, and whether its tags are balanced."""

    VOID = ("meta", "input", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_stands_by_itself(report: Report, tmp_path: Path) -> None:
    report.save_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    checked = Checked()
    checked.feed(text)
    assert (checked.loads, checked.open, checked.wrong) == ([], [], [])
    assert "@import" not in text and "url(" not in text and "fetch(" not in text


def test_the_page_says_what_the_report_says(report: Report, tmp_path: Path) -> None:
    report.save_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert '<span class="bad">disagree</span>' in text
    assert f"first divergence: {FAULTY}" in text
    assert len(re.findall(r"<tr class=", text)) == 2 * len(report.rows)
    assert text.count("<circle") == 2 * len(report.rows)
    assert len(re.findall(r'<tr class="wrong first">', text)) == 1
    assert text.count('class="dot wrong"') == 1
    for row in report.rows:
        assert row.node in text


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("no chromium: `make browser` installs it; this test is the one that opens the page")
    return found


def browse(page: Path, *options: str, fragment: str = "") -> str:
    command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    url = page.absolute().as_uri() + fragment
    return subprocess.run([*command, url], capture_output=True, text=True, timeout=120, check=True).stdout


def columns(dom: str, index: int) -> list[str]:
    body = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    rows = [row for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL) if "hidden" not in row.split(">")[0]]
    return [
        re.findall(r"<td[^>]*?(?:data-v=\"([^\"]*)\")?>([^<]*)</td>", row)[index][0 if index == 4 else 1]
        for row in rows
    ]


@pytest.mark.slow
def test_a_browser_sorts_filters_and_draws_the_page(report: Report, tmp_path: Path) -> None:
    import matplotlib.image

    page = tmp_path / "page.html"
    report.save_html(page)
    own = [float(value) for value in columns(browse(page, "--dump-dom"), 4)]
    descending = [float(value) for value in columns(browse(page, "--dump-dom", fragment="#sort=-own"), 4)]
    assert descending == sorted(own, reverse=True) != own
    by_name = columns(browse(page, "--dump-dom", fragment="#sort=node"), 1)
    assert [name.lower() for name in by_name] == sorted(name.lower() for name in by_name)

    script = """<script>document.querySelector('th[data-key=own] button').click();
    const f=document.getElementById('filter');f.value='conv native';f.dispatchEvent(new Event('input'));
    const b=document.querySelector('[data-candidate="1"]');b.click();</script></body>"""
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.read_text().replace("</body>", script))
    dom = browse(clicked, "--dump-dom")
    shown = columns(dom, 1)
    assert sorted(shown) == sorted(row.node for row in report.rows if "conv" in row.node.lower())
    values = [float(value) for value in columns(dom, 4)]
    assert values == sorted(values, reverse=True)
    assert re.search(r'<g class="s1 c1" style="display: none;?">', dom)

    for scheme in ("light", "dark"):
        shot = tmp_path / f"{scheme}.png"
        forced = () if scheme == "light" else ("--blink-settings=preferredColorScheme=0",)
        browse(page, "--window-size=1500,1200", f"--screenshot={shot}", *forced)
        pixels = matplotlib.image.imread(shot)
        assert pixels.shape[:2] == (1200, 1500)
        plot = pixels[160:480, 60:1440, :3]
        coloured = (plot.max(axis=-1) - plot.min(axis=-1) > 0.35).sum()
        assert coloured > 1000, "lines, dots and the mark of the first divergence have colours"
        assert (pixels[..., :3].mean() > 0.5) == (scheme == "light")
