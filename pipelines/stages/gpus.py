"""Which GPUs of this machine a stage takes, so that no two stages take the same one.

In:  CUDA_VISIBLE_DEVICES, or else what nvidia-smi lists.  Out: GPUs that no other stage of this
machine holds, of whatever workspace, until they are let go.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

POLL_S = 0.5
VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """Return the GPUs in CUDA_VISIBLE_DEVICES, or else what nvidia-smi lists."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [device for device in named.split(",") if device]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


class Claim:
    """GPUs that no other stage of this machine takes until they are let go.

    The kernel lets go of them when this process ends, however it ends.

    Attributes:
        devices: as CUDA_VISIBLE_DEVICES names them.
    """

    def __init__(self, devices: Sequence[str], locks: ExitStack) -> None:
        self.devices = tuple(devices)
        self._locks = locks

    def let_go(self) -> None:
        """Let other stages take these GPUs."""
        self._locks.close()


def claim(count: int) -> Claim | None:
    """Take so many GPUs that nobody holds; None where fewer are free."""
    taken: list[str] = []
    with ExitStack() as locks:
        for device in visible_gpus():
            if len(taken) == count:
                break
            if locks.enter_context(_lock(device)):
                taken.append(device)
        if len(taken) == count:
            return Claim(taken, locks.pop_all())
    return None


def wait_for(count: int, label: str) -> Claim:
    """Take so many GPUs as soon as they are free; a line on stderr says that `label` waits."""
    taken = claim(count)
    if taken is None:
        print(waiting(label), file=sys.stderr)
    while taken is None:
        time.sleep(POLL_S)
        taken = claim(count)
    return taken


def waiting(label: str) -> str:
    """Return the line that says what a stage waits for."""
    return f"waiting: other stages hold the GPUs that {label} needs"


@contextmanager
def _lock(device: str) -> Iterator[bool]:
    """Try to lock a GPU, and yield whether it was free."""
    path = Path(tempfile.gettempdir()) / f"btx-gpu-{device.replace('/', '-')}.lock"
    try:
        # Another user's file can be opened, but not with the right to make it.
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)
