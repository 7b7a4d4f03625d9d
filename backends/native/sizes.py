"""Named sizes from the shapes of inputs, and all the size expressions of a program evaluated at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from compiler import dims, solve
from compiler.dims import Dim, Size
from compiler.errors import ShapeError
from compiler.ir import Guard
from compiler.types import TensorType


class GuardBroken(Exception):
    """Sizes a program was built to find equal are not: it has to be compiled anew for these sizes."""

    def __init__(self, guard: Guard, sizes: Mapping[str, int]) -> None:
        why = "the model asserts" if guard.asserted else "the model was compiled for"
        found = " and ".join(str(dims.evaluate(size, sizes)) for size in (guard.left, guard.right))
        super().__init__(f"{guard.place}: {why} {guard.left} equal to {guard.right}, found {found}")
        self.guard, self.sizes = guard, dict(sizes)


def bind(
    shape: Sequence[int], type: TensorType, sizes: dict[str, int], place: str, origin: dict[str, str] | None = None
) -> None:
    """Match a shape against a type: enter the named sizes it decides into `sizes`, check the others.

    `place` says what the shape belongs to, `origin` remembers who decided each size. Raises ShapeError.
    """
    if type.shape is None:
        return
    if len(shape) != len(type.shape):
        raise ShapeError(f"{place}: rank {len(shape)}, expected {len(type.shape)} as in {type}")
    for axis, (found, size) in enumerate(zip(shape, type.shape, strict=True)):
        expected = solve.expected(size, found, sizes)
        if expected is None:  # decided by other axes, or never
            continue
        if found != expected:
            decided = f" ({size}, decided by {(origin or {}).get(str(size), 'other axes')})" if size != expected else ""
            raise ShapeError(f"{place}: axis {axis} is {found}, expected {expected}{decided}; the type is {type}")
        if isinstance(size, Dim) and origin is not None:
            origin.setdefault(str(size), f"{place} axis {axis}")


def check_guards(guards: Iterable[Guard], sizes: Mapping[str, int]) -> None:
    """Raise GuardBroken for the first guard that does not hold."""
    for guard in guards:
        if dims.evaluate(guard.left, sizes) != dims.evaluate(guard.right, sizes):
            raise GuardBroken(guard, sizes)


def names_of(values: Iterable[Size]) -> frozenset[str]:
    """Every name the sizes depend on."""
    return frozenset(name for value in values if isinstance(value, Dim) for name in value.names)


class SizeTable:
    """A set of size expressions, compiled to one evaluation."""

    def __init__(self, values: Iterable[Size]) -> None:
        self.dims = tuple(dict.fromkeys(value for value in values if isinstance(value, Dim)))
        self.names = tuple(sorted(names_of(self.dims)))
        # The text is built by compiler.dims alone, from identifiers, integers and arithmetic.
        self._code = compile(f"({''.join(f'{dim}, ' for dim in self.dims)})", "<sizes>", "eval")

    def under(self, sizes: Mapping[str, int]) -> Callable[[Size], int]:
        """The function that turns any size into its number."""
        numbers = eval(self._code, {"__builtins__": {}, "min": min, "max": max}, dict(sizes))
        table: dict[Size, int] = dict(zip(self.dims, numbers, strict=True))

        def size(value: Size) -> int:
            if isinstance(value, int):
                return value
            found = table.get(value)
            if found is None:
                found = table[value] = value.evaluate(sizes)
            return found

        return size
