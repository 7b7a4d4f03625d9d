"""Runs a body in a forked child, so that a crash is the failure of a named case and not the end of the tests."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable

Note = Callable[[object], None]


def fate(body: Callable[[Note], None]) -> str:
    """'' if `body` returned, else what became of it: the exception, or the signal and what it last noted. `body` is
    given a function to say with what it is about to do."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child runs no threads but this one
        child = os.fork()
    if not child:
        _run(body, writer)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        last = said.rstrip("\n").rpartition("\n")[2]
        return f"{signal.Signals(os.WTERMSIG(status)).name} in {last}"
    return said if os.WEXITSTATUS(status) else ""


def _run(body: Callable[[Note], None], writer: int) -> None:
    code = 1
    try:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        body(lambda what: os.write(writer, f"{what}\n".encode()))
        code = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(code)
