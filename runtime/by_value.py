"""Programs whose shapes depend on what some inputs contain: one executable for each combination of contents met."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from backends.native.executable import CallRow, Executable
from compiler.builder import TRACKED_ELEMENTS

REMEMBERED = 32  # combinations of contents kept compiled


class ByValue:
    """Runs `general` where the deciding inputs are too large to look at, else an executable made by build(contents)
    for just these contents. Kernels are shared through the process' library, so another value mostly costs planning."""

    def __init__(
        self, general: Executable, deciding: Mapping[int, str], build: Callable[[Mapping[str, np.ndarray]], Executable]
    ) -> None:
        """deciding: input number -> name."""
        self.general, self._deciding, self._build = general, deciding, build
        self._made: OrderedDict[object, Executable] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Fresh outputs for inputs in order."""
        return self._chosen(arrays).run(arrays)

    def rows(self) -> list[CallRow]:
        """The ledger of what has run; before the first run, of the general program."""
        with self._lock:
            made = list(self._made.values())
        return [row for executable in made or [self.general] for row in executable.rows()]

    def _chosen(self, arrays: Sequence[np.ndarray]) -> Executable:
        contents = {name: arrays[number] for number, name in self._deciding.items()}
        if any(array.size > TRACKED_ELEMENTS or array.dtype == object for array in contents.values()):
            return self.general
        key = tuple((array.shape, array.tobytes()) for array in contents.values())
        with self._lock:
            found = self._made.get(key)
            if found is None:
                found = self._made[key] = self._build({name: array.copy() for name, array in contents.items()})
            self._made.move_to_end(key)
            while len(self._made) > REMEMBERED:
                self._made.popitem(last=False)
        return found
