"""Start a module of the stages as a process: `python -m pipelines.stages.start MODULE ...`.

In:  the module's name and what it is given.  Out: the exit status that its `main` returns.
The process answers Ctrl-C while the module is still being loaded.
"""

import sys
from collections.abc import Callable
from importlib import import_module

from pipelines.workspace.interruption import answered


def start(module: str) -> None:
    """Load a module and run its `main`, whose answer is the exit status."""

    def load() -> Callable[[], int]:
        main: Callable[[], int] = import_module(module).main
        return main

    sys.exit(answered(load))


if __name__ == "__main__":
    start(sys.argv.pop(1))
