"""Log messages for operators: which of them are shown, and where.

In:  the environment variable BTX_LOG.  Out: the messages of this project's loggers on stderr.
Answers are printed to stdout by the command line, and errors by whoever ends the process.
"""

import logging
import os
import sys

from pipelines.workspace.terminal import visible
from registry.errors import Invalid

LEVEL = "BTX_LOG"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
PACKAGES = ("btx_core", "registry", "pipelines")


class _Stderr(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment, so that a progress bar stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def is_quiet() -> bool:
    """Say whether only errors are to be shown: no bars, and no word about what is being done."""
    return os.environ.get(LEVEL, "").lower() == "error"


def remark(text: str) -> None:
    """Say on stderr what is being done, for the person who waits for it."""
    if not is_quiet():
        print(visible(text), file=sys.stderr)


def show_diagnostics(*, at: str | None = None) -> None:
    """Show this project's log messages on stderr, from the level in BTX_LOG upwards.

    With BTX_LOG unset or empty only warnings are shown. Messages of other packages are left as
    they are.

    Args:
        at: the level that was asked for: `info` shows at least that, `error` only errors. BTX_LOG
            is set to it as well, so that the processes that are started from here show the same.

    Raises:
        Invalid: if BTX_LOG holds something else than the name of a level.
    """
    name = (os.environ.get(LEVEL) or "warning").lower()
    if name not in LEVELS:
        raise Invalid(
            LEVEL,
            found=name,
            expected=", ".join(LEVELS),
            next=f"set {LEVEL} to one of them, or unset it",
        )
    if at == "error" or (at is not None and LEVELS[at] < LEVELS[name]):
        name = os.environ[LEVEL] = at
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(LEVELS[name])
        logger.handlers = [handler]
