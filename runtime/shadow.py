"""Top-level package names here are ordinary words; this says so clearly when a stranger's folder took one of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

SIBLINGS = ("compiler", "backends")


def check_siblings(home: Path, names: Iterable[str] = SIBLINGS) -> None:
    """Raise ImportError unless each package of `names` would come from `home`, the folder `runtime` lives in."""
    for name in names:
        expected = home / name
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ImportError(f"sansuan: package `{name}` is missing, expected at {expected}; reinstall sansuan")
        locations = list(spec.submodule_search_locations or [])
        if not any(Path(location).resolve() == expected.resolve() for location in locations):
            found = locations[0] if locations else spec.origin
            raise ImportError(
                f"sansuan: package `{name}` is shadowed by {found}, expected {expected}; "
                "rename the former or take its folder off sys.path (the start directory and PYTHONPATH come first)"
            )
