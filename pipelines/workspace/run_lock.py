"""One run of a stage at a time, wherever it runs.

In:  a stage's label and the rank of a process.  Out: a lock in work/progress that each process
holds while it computes the stage, so that whoever starts the stage again, or writes to the
workspace, waits for those that are about to end.
"""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

POLL_S = 0.1
# Longer than a process needs to notice that its command is gone, or to be killed by Slurm.
PATIENCE_S = 60.0


@contextmanager
def held(root: Path, label: str, rank: int) -> Iterator[None]:
    """Hold the lock of one process of a stage, after whoever still holds it is gone."""
    path = _folder(root) / f"{label}.{rank}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lock:
        if not _is_free(lock.fileno()):
            logger.warning("%s waits until its run before is gone", label)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wait_until_gone(root: Path, label: str = "*") -> None:
    """Wait until no process computes the stage any more, or any stage, a minute at most.

    Call it where a stage did not end well: what it had started may outlive it for a moment.
    """
    until = time.monotonic() + PATIENCE_S
    for path in sorted(_folder(root).glob(f"{label}.*.lock")):
        if path.is_symlink() or not path.is_file():
            # No lock of ours: opening a pipe would wait for ever.
            continue
        with path.open(encoding="utf-8") as lock:
            while not _is_free(lock.fileno()):
                if time.monotonic() > until:
                    logger.warning("a process of %s goes on: %s is held", label, path)
                    return
                time.sleep(POLL_S)


def _folder(root: Path) -> Path:
    return root / "work" / "progress"


def _is_free(lock: int) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
