"""One process of a stage, started as `pipelines.stages.worker STAGE [BRANCH]`.

In:  the workspace's root as the current folder; RANK and the like where several processes compute
the stage together, as torch.distributed.run sets them.
Out: what the stage writes.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from btx_core.problems import BtxError
from pipelines.stages import stages
from pipelines.stages.lifeline import end_with_command
from pipelines.stages.task import Task
from pipelines.workspace import run_lock
from pipelines.workspace.diagnostics import show_diagnostics
from pipelines.workspace.interruption import INTERRUPTED

# torch.distributed.run reads from this file why a process failed.
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
# After this long an interrupted process stops waiting for the others.
PATIENCE_S = 5.0
# So long a process waits before it says what broke it.
GRACE_S = 10.0


def run_stage(arguments: list[str]) -> str | None:
    """Run one stage here, in the current folder.

    Args:
        arguments: the stage's name and, of a training, the branch.

    Returns:
        The message of an error that a user can fix; None when the stage has ended well.
    """
    task = Task.of(arguments)
    run = task.run if task else arguments[-1]
    with run_lock.held(Path(), run, int(os.environ.get("RANK", "0"))):
        return stages.run(*arguments)


def stop_soon() -> None:
    """Let an interrupt end this process soon, even where it waits for another one.

    The first SIGINT or SIGTERM raises KeyboardInterrupt, so that nothing half written is left.
    """

    def interrupt(number: int, frame: object) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            signal.signal(kind, signal.SIG_IGN)
        threading.Thread(target=_exit_later, daemon=True).start()
        raise KeyboardInterrupt

    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, interrupt)


def _exit_later() -> None:
    time.sleep(PATIENCE_S)
    os._exit(INTERRUPTED)


def _run_among_others(arguments: list[str]) -> str | None:
    """Run a stage; where it breaks because another process died, that death is reported first."""
    try:
        return run_stage(arguments)
    except Exception:
        if "RANK" in os.environ:
            # Meanwhile whoever started the processes sees the dead one and ends the others.
            time.sleep(GRACE_S)
        raise


def main() -> int:
    """Run the stage that the arguments name. Returns the exit status."""
    stop_soon()
    try:
        end_with_command()
        show_diagnostics()
        text = _run_among_others(sys.argv[1:])
    except BtxError as error:
        text = str(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    if text is None:
        return 0
    if ERROR_FILE in os.environ:
        failure = {"message": text, "timestamp": int(time.time())}
        Path(os.environ[ERROR_FILE]).write_text(json.dumps(failure), encoding="utf-8")
    else:
        print(text, file=sys.stderr)
    return 1
