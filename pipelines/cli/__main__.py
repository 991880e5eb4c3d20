"""The entry point of `btx`, and of `python -m pipelines.cli`.

It answers Ctrl-C from the first moment, while the rest of the command line is still being loaded.
"""

import os
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, _end)
    from pipelines.cli import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app.main()
    except KeyboardInterrupt:
        _end()
    finally:
        # What is left is Python's own: threads and streams are closed.
        signal.signal(signal.SIGINT, _end)
        # Code that exec() ran, as a data class's, and that Ctrl-C ended, marks the interpreter: it
        # would end by the signal, whatever became of the interruption. Any exec() takes that back.
        exec("")


def _end(*_: object) -> None:
    sys.stderr.write("interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
