"""Named sizes from extents that were found."""

from __future__ import annotations

from collections.abc import Iterable

from compiler.dims import Size


def expected(size: Size, found: int, sizes: dict[str, int]) -> int | None:
    """What `size` must be, given that its extent was `found`: a linear size with one name not in `sizes` is solved for
    it, which enters the name. None where more names are unknown or the size is not linear."""
    if isinstance(size, int):
        return size
    unknown = size.names - sizes.keys()
    if len(unknown) > 1:
        return None
    for name in unknown:
        if size.is_symbol:
            sizes[name] = int(found)
            continue
        # a*x + b: two evaluations give a and b.
        base, slope = (size.evaluate({**sizes, name: x}) for x in (0, 1))
        slope -= base
        if slope and size.evaluate({**sizes, name: 2}) == base + 2 * slope and (found - base) % slope == 0:
            sizes[name] = (found - base) // slope
    return size.evaluate(sizes) if unknown <= sizes.keys() else None


def solve(extents: Iterable[tuple[Size, int]]) -> dict[str, int]:
    """The named sizes that pairs of (size, found extent) decide."""
    sizes: dict[str, int] = {}
    pairs = list(extents)
    for _ in range(2):  # an axis such as 2*n may come before the axis that decides n
        for size, found in pairs:
            expected(size, found, sizes)
    return sizes
