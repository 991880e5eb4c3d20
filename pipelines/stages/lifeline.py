"""End a stage whose command is gone, so that nothing goes on writing behind its back.

In:  the processes above this one, or a lease that the command renews.
Out: this process is killed as soon as one of them ended, or the lease did.
What a killed stage leaves is its run state, from which the same command goes on.
"""

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from btx_core.files import replace_text
from pipelines.workspace.environment import child_environment

logger = logging.getLogger(__name__)

# The command that all processes of a stage end with, by its process.
COMMAND = "BTX_COMMAND"
POLL_S = 0.5
# A lease that was not renewed for so long is over: longer than a file server may stand still.
PATIENCE_S = 120.0
RENEWED_EVERY_S = 5.0


def environment_below() -> dict[str, str]:
    """Return the environment for a process that is to end with the command this one is part of."""
    return {**child_environment(), COMMAND: os.environ.get(COMMAND, str(os.getpid()))}


def end_with_command() -> None:
    """Kill this process when the command is gone, or any process between the two.

    Started by hand or by `dvc repro`, it ends with the process that started it.
    """
    above = psutil.Process().parents()
    command = os.environ.get(COMMAND)
    if command is None:
        watched = above[:1]
    else:
        pids = [str(process.pid) for process in above]
        if command not in pids:
            # It ended before this process could look for it.
            _kill("the command")
        watched = above[: pids.index(command) + 1]
    logger.debug("process %d ends with any of %s", os.getpid(), [one.pid for one in watched])
    _watch(lambda: next((f"process {one.pid}" for one in watched if not _runs(one)), None))


@dataclass(frozen=True)
class Lease:
    """A file by which processes on other machines see that their command still runs.

    Attributes:
        path: the file, on a file system that every machine sees.
        token: what this command wrote there; another one ends the lease.
    """

    path: Path
    token: str

    def end_with(self) -> None:
        """Kill this process when the lease is over."""
        seen, since = self._renewed(), time.monotonic()

        def over() -> str | None:
            nonlocal seen, since
            now = self._renewed()
            if now is None:
                return "the command"
            if now != seen:
                seen, since = now, time.monotonic()
            return "the command" if time.monotonic() - since > PATIENCE_S else None

        if over():
            _kill("the command")
        _watch(over)

    def _renewed(self) -> int | None:
        """Return when the lease was renewed last; None where it is another command's."""
        try:
            if self.path.read_text(encoding="utf-8") != self.token:
                return None
            return self.path.stat().st_mtime_ns
        except OSError:
            return None


@contextmanager
def leased(note: Path) -> Iterator[Lease]:
    """Renew a lease in the background inside the block; it is over when the block ends.

    Args:
        note: the file of a stage's notes; the lease lies beside it.
    """
    path, ended = note.with_suffix(".lease"), threading.Event()
    lease = Lease(path, uuid.uuid4().hex)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, lease.token)

    def renew() -> None:
        while not ended.wait(RENEWED_EVERY_S):
            # A server may stand still for a moment, and whoever reads the lease is patient.
            with suppress(OSError):
                os.utime(path)

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        path.unlink(missing_ok=True)


def _watch(gone: Callable[[], str | None]) -> None:
    """Ask in the background who is gone, and kill this process when somebody is."""

    def watch() -> None:
        while (who := gone()) is None:
            time.sleep(POLL_S)
        _kill(who)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def _kill(who: str) -> None:
    """Kill what this process has started, and itself: a clean end could go on for minutes."""
    logger.warning("process %d ends: %s is gone", os.getpid(), who)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
