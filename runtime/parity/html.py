"""The report as one page: verdict, errors along the graph, and every row in a table. Nothing is fetched from anywhere;
the plot and the table are there without JavaScript, which only sorts, filters and hides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

from runtime.parity import plot
from runtime.parity.report import Judged, Report, Row

_COLUMNS = (
    ("place", "#"), ("node", "node"), ("op", "op"), ("candidate", "candidate"), ("own", "own L2"),
    ("allowed", "allowed"), ("total", "total L2"), ("abs", "max abs"), ("ulp", "max ulp"), ("cosine", "1 - cosine"),
    ("sqnr", "SQNR dB"), ("nan", "NaN"), ("inf", "inf"), ("different", "different"), ("verdict", "verdict"),
)  # fmt: skip
_TEXT = {"node", "op", "candidate", "verdict"}


def page(report: Report) -> str:
    """The whole page. Its fragment may name a column to sort by, `#sort=own` or `#sort=-own` for the greatest first."""
    compared = ", ".join(report.candidates)
    title = f"{compared} against {report.reference}"
    verdict = '<span class="good">agree</span>' if report.agrees else '<span class="bad">disagree</span>'
    head = "".join(
        f'<th data-key="{key}" data-text="{int(key in _TEXT)}"><button>{escape(text)}</button></th>'
        for key, text in _COLUMNS
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parity: {escape(title)}</title><style>{_STYLE}</style></head><body>
<header><h1>{escape(title)} {verdict}</h1>
{"".join(f"<p>{escape(line)}</p>" for line in _summary(report))}</header>
<section><div class="legend">{_legend(report)}</div><div class="plot">{plot.svg(report)}</div>
<p class="hint">Dots: a node's own error, its operands being the reference's. Lines: total error, inherited with it.
Ticks: what rounding accounts for. Relative L2, log scale; the lowest line is exactly 0.</p></section>
<section><input id="filter" type="search" placeholder="Filter by node, op, candidate or verdict"
aria-label="Filter"><div class="rows"><table><thead><tr>{head}</tr></thead><tbody>
{"".join(_rows(report))}</tbody></table></div></section>
<script>{_SCRIPT}</script></body></html>
"""


def _summary(report: Report) -> list[str]:
    words = str(report).split("\n\n")[0].splitlines()
    counted = f"{len(report.rows)} nodes"
    if report.agrees:
        return [f"{counted}; every error is within what rounding accounts for."]
    return [counted, *(line.strip() for line in words[1:])]


def _legend(report: Report) -> str:
    return "".join(
        f'<label class="c{number % plot.COLOURS}"><input type="checkbox" checked data-candidate="{number}">'
        f"<i></i>{escape(name)}</label>"
        for number, name in enumerate(report.candidates)
    )


def _rows(report: Report) -> Iterator[str]:
    first = report.first_divergence
    for place, row in enumerate(report.rows):
        for name in report.candidates:
            own, total = row.own.get(name), row.total.get(name)
            cells = _cells(place, row, name, own, total)
            wrong = (own is not None and not own.agrees) or (total is not None and not total.agrees)
            mark = " first" if first is row and name in row.diverging() else ""
            yield f'<tr class="{"wrong" if wrong else ""}{mark}">{"".join(cells)}</tr>\n'
            if own is None and total is None:
                break


def _cells(place: int, row: Row, name: str, own: Judged | None, total: Judged | None) -> Iterator[str]:
    main = own or total
    e = main.errors if main else None
    verdict = row.note or ""
    if main is not None:
        verdict = "diverges" if own and not own.agrees else "inherits" if total and not total.agrees else main.verdict
    values: dict[str, Any] = {
        "place": place, "node": row.node, "op": row.op, "candidate": name if main else "",
        "own": own.errors.relative if own else None, "allowed": own.allowed if own else None,
        "total": total.errors.relative if total else None, "abs": e.max_abs if e else None,
        "ulp": e.ulp if e else None, "cosine": 1 - e.cosine if e else None, "sqnr": e.sqnr if e else None,
        "nan": e.nan if e else None, "inf": e.inf if e else None, "different": e.different if e else None,
        "verdict": verdict,
    }  # fmt: skip
    for key, _ in _COLUMNS:
        value = values[key]
        if key in _TEXT:
            yield f"<td>{escape(str(value))}</td>"
        else:
            yield f'<td class="n" data-v="{"" if value is None else float(value)}">{_number(value, key)}</td>'


def _number(value: Any, key: str) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value}" if value < 1_000_000 else f"{value:.1e}"
    if math.isinf(value):
        return "∞"
    return f"{value:.1f}" if key == "sqnr" else "0" if value == 0 else f"{value:.2e}"


_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1e21;--dim:#666b73;--line:#dfe1e5;--row:#f4f5f6;
--bad:#b3261e;--badbg:#fdecea;--good:#1a6b3c;--goodbg:#e4f4ea;--c0:#0b63b0;--c1:#c2500a;--c2:#0c7f5b;--c3:#a8488a;
--c4:#7b6500;--c5:#2b8fc4;--c6:#5a5f66}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--card:#1d2024;--ink:#e6e7e9;--dim:#9aa0a8;--line:#33373d;
--row:#24282d;--bad:#ff8f85;--badbg:#4a201d;--good:#7fd6a0;--goodbg:#173c27;--c0:#6bb3f5;--c1:#f59a57;--c2:#4fcfa3;
--c3:#e08fc6;--c4:#d9be4a;--c5:#7fd0f5;--c6:#aeb4bc}}
*{box-sizing:border-box}body{margin:0;padding:20px 24px 40px;background:var(--bg);color:var(--ink);
font:13.5px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header,section{max-width:1500px;margin:0 auto 18px}h1{font-size:20px;margin:0 0 6px;font-weight:600}p{margin:2px 0}
h1 span{font-size:13px;font-weight:600;padding:2px 10px;border-radius:10px;vertical-align:2px;margin-left:8px}
.bad{background:var(--badbg);color:var(--bad)}.good{background:var(--goodbg);color:var(--good)}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.hint,header p{color:var(--dim)}.hint{font-size:12.5px}.plot,.rows{overflow:auto}.rows{max-height:75vh;margin-top:10px}
.legend{display:flex;gap:18px;flex-wrap:wrap;margin-bottom:4px}.legend label{cursor:pointer}
.legend i{display:inline-block;width:11px;height:11px;border-radius:50%;background:var(--c);margin:0 6px 0 4px}
svg text{font:11px system-ui,"DejaVu Sans",sans-serif;fill:var(--dim)}svg .grid{stroke:var(--line)}
svg .dot{fill:var(--c);stroke:var(--card);stroke-width:1}svg .line{fill:none;stroke:var(--c);stroke-width:1.6}
svg .tick{stroke:var(--c);stroke-width:2;opacity:.45}svg .wrong{stroke:var(--bad);stroke-width:2.5}
svg .first{stroke:var(--bad);stroke-dasharray:4 3}svg .firstname{fill:var(--bad);font-weight:600}
input[type=search]{width:min(420px,100%);padding:6px 10px;border:1px solid var(--line);border-radius:6px;
background:var(--bg);color:var(--ink);font:inherit}
table{border-collapse:collapse;width:100%;white-space:nowrap;font-variant-numeric:tabular-nums}
th{position:sticky;top:0;background:var(--card);text-align:left;box-shadow:0 1px 0 var(--line)}
th button{all:unset;cursor:pointer;padding:5px 8px;font-weight:600;display:block}
th button:focus-visible{outline:2px solid var(--c0)}
th[aria-sort=ascending] button::after{content:" ▲";font-size:9px}
th[aria-sort=descending] button::after{content:" ▼";font-size:9px}
td{padding:3px 8px;border-top:1px solid var(--line)}td.n{text-align:right}tbody tr:hover{background:var(--row)}
tr.wrong td:last-child{color:var(--bad);font-weight:600}tr.first{background:var(--badbg)}
""" + "".join(f".c{number}{{--c:var(--c{number})}}" for number in range(plot.COLOURS))

_SCRIPT = """
const body=document.querySelector('tbody'),heads=[...document.querySelectorAll('th')];
function sort(key,down){
  const at=heads.findIndex(h=>h.dataset.key===key);if(at<0)return;
  const text=heads[at].dataset.text==='1',rows=[...body.rows];
  const value=r=>{const c=r.cells[at];return text?c.textContent:c.dataset.v===''?NaN:Number(
    c.dataset.v.replace('inf','Infinity'))};
  rows.sort((a,b)=>{const x=value(a),y=value(b);
    if(text)return (down?-1:1)*x.localeCompare(y);
    if(Number.isNaN(x)||Number.isNaN(y))return Number.isNaN(x)-Number.isNaN(y);
    return x===y?0:(down?y>x:x>y)?1:-1});
  rows.forEach(r=>body.append(r));
  heads.forEach((h,i)=>i===at?h.setAttribute('aria-sort',down?'descending':'ascending'):h.removeAttribute('aria-sort'));
}
heads.forEach(h=>h.firstChild.addEventListener('click',()=>{
  const number=h.dataset.text!=='1',now=h.getAttribute('aria-sort');
  sort(h.dataset.key,now?now==='ascending':number&&h.dataset.key!=='place')}));
document.getElementById('filter').addEventListener('input',e=>{const words=e.target.value.toLowerCase().split(/\\s+/);
  for(const r of body.rows)r.hidden=!words.every(w=>r.textContent.toLowerCase().includes(w))});
document.querySelectorAll('[data-candidate]').forEach(b=>b.addEventListener('change',()=>{
  document.querySelectorAll('.s'+b.dataset.candidate).forEach(g=>g.style.display=b.checked?'':'none')}));
const asked=/^#sort=(-?)(\\w+)$/.exec(location.hash);if(asked)sort(asked[2],asked[1]==='-');
"""
