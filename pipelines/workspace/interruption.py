"""Ctrl-C, answered from a process's first moment to its last.

In:  how to load a program, and the program.
Out: what it returns; a word and status 130 where Ctrl-C ended it, and never a traceback.
Loading a program takes longer than a hand needs. Python's own end takes a while too, in which the
work is done: there Ctrl-C changes nothing any more.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

INTERRUPTED = 130
LATER_S = 0.05
# Where Python says that the code which imports stands.
IMPORTING = "<frozen importlib._bootstrap>"
Answer = TypeVar("Answer")


def answered(load: Callable[[], Callable[[], Answer]]) -> Answer:
    """Load a program and run it.

    Args:
        load: imports the program and returns its main function.

    Returns:
        What the function returns.
    """
    # The first to be registered is called last: after it Python takes its own handlers back, and a
    # signal that is not ignored would end the process by itself.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _end)
    program = load()
    for kind in (signal.SIGINT, signal.SIGALRM):
        signal.signal(kind, _interrupt)
    try:
        return program()
    except KeyboardInterrupt:
        _end()
    finally:
        # What is left is Python's own: threads and streams are closed.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, _end)
        # Code that exec() ran, as a data class's, and that Ctrl-C ended, marks the interpreter: it
        # would end by the signal, whatever became of the interruption. Any exec() takes that back.
        exec("")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as soon as nothing is being imported.

    A library that is interrupted while it loads answers by errors of its own, or aborts.
    """
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            signal.setitimer(signal.ITIMER_REAL, LATER_S)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _end(*_: object) -> NoReturn:
    sys.stderr.write("interrupted\n")
    os._exit(INTERRUPTED)
