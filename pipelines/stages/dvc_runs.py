"""Run stages through DVC and tell what ran.

In:  a workspace's root and names of stages.
Out: the stages that DVC ran and those that it found unchanged, from its own report.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from btx_core.problems import BtxError, Interrupted
from pipelines.stages.lifeline import environment_below
from pipelines.stages.monitor import Log
from pipelines.workspace import run_lock
from pipelines.workspace.environment import child_environment
from registry.records.events import StageRan

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
# Until a stage that was told to stop is told so more firmly.
PATIENCE_S = 10.0
_RAN = re.compile(r"^Running stage '([^']+)'")
_SKIPPED = re.compile(r"^Stage '([^']+)' didn't change")


class StageFailed(BtxError):
    """A stage ended with an error, which is on stderr already."""


@dataclass(frozen=True)
class Reproduced:
    """The stages that DVC ran, and those that it skipped because nothing changed."""

    ran: list[str]
    skipped: list[str]


def reproduce(
    root: Path,
    stages: Sequence[str],
    log: Log = lambda name, ran: None,
    variables: Mapping[str, str] = MappingProxyType({}),
    reason_to_stop: Callable[[], BtxError | None] = lambda: None,
) -> Reproduced:
    """Run these stages through DVC in a workspace, in this order, and no others.

    Stages that somebody else added to the workspace do not run, whatever they are to make.
    Progress and errors of the stages go to stderr as they come.

    Args:
        root: the workspace.
        stages: their names.
        log: called when a stage starts and when it ends, fails or is interrupted.
        variables: of the environment that the stages run in.
        reason_to_stop: asked every second, from another thread; the stages are interrupted once it
            returns or raises an error, which is then raised. So they are for an error of `log`.

    Raises:
        StageFailed: naming the stage.
        Interrupted: on Ctrl-C.
    """
    # Stages call `python`: it must be the one that runs now, whether or not its environment is
    # activated.
    environment = environment_below() | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "BTX_WORKSPACE": str(root),
        **variables,
    }
    # DVC by itself would answer a Ctrl-C with a traceback while it is being loaded.
    command = [sys.executable, "-m", "pipelines.stages.start", "dvc.cli"]
    command += ["repro", "--single-item", *stages]
    # It inherits the write lock: when this process is killed alone, its stage ends soon and DVC
    # after it, and the next command must wait until then. It has a process group of its own: a
    # Ctrl-C reaches DVC and its stage once, through this process, which waits until both are gone.
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        close_fds=False,
        process_group=0,
    )
    logger.info("dvc repro %s in %s, process %d", " ".join(stages), root, process.pid)
    ran, skipped, began = list[str](), list[str](), time.monotonic()

    def ended(state: str) -> None:
        if ran:
            seconds = round(time.monotonic() - began, 2)
            logger.info("stage %s %s after %.2f s", ran[-1], state, seconds)
            log(ran[-1], StageRan(stage=ran[-1], state=state, seconds=seconds))

    assert process.stdout is not None
    interrupter = _Interrupter(process, reason_to_stop)
    interrupter.start()
    try:
        for line in process.stdout:
            skipped += _SKIPPED.findall(line)
            if found := _RAN.match(line):
                ended("ended")
                ran.append(found[1])
                began = time.monotonic()
                logger.info("stage %s started", found[1])
                log(found[1], StageRan(stage=found[1], state="started"))
        status = process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
        ended("interrupted")
        at = ran[-1] if ran else stages[0]
        run_lock.wait_until_gone(root, at)
        raise Interrupted(f"stage {at}") from None
    except BtxError as error:
        # Nobody can be told what the stages did.
        _stop(process, error, lambda: _is_drained(process))
        run_lock.wait_until_gone(root, ran[-1])
        raise
    finally:
        interrupter.end()
    if interrupter.reason is not None:
        run_lock.wait_until_gone(root, ran[-1] if ran else stages[0])
        ended("interrupted")
        raise interrupter.reason
    ended("failed" if status else "ended")
    if status:
        at = ran[-1] if ran else stages[0]
        run_lock.wait_until_gone(root, at)
        raise StageFailed(
            f"stage {at}",
            found=f"exit status {status}",
            expected="0",
            next="fix what the lines above name, then run the command again",
        )
    for stage in skipped:
        logger.info("stage %s is unchanged and did not run", stage)
    return Reproduced(ran, skipped)


class _Interrupter(threading.Thread):
    """Interrupts a process and its stages once there is a reason to stop.

    Args:
        process: the leader of its process group.
        reason_to_stop: returns the reason or raises it, or returns None.
    """

    def __init__(
        self, process: "subprocess.Popen[str]", reason_to_stop: Callable[[], BtxError | None]
    ) -> None:
        super().__init__(daemon=True)
        self.reason: BtxError | None = None
        self._process, self._reason_to_stop = process, reason_to_stop
        self._ended = threading.Event()

    def run(self) -> None:
        """Ask until the process has ended."""
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                self.reason = self._reason_to_stop()
            except BtxError as error:
                self.reason = error
            if self.reason is not None:
                _stop(self._process, self.reason, lambda: self._ended.wait(PATIENCE_S))
                return

    def end(self) -> None:
        """Stop asking."""
        self._ended.set()
        self.join()


def _stop(process: "subprocess.Popen[str]", reason: BtxError, is_gone: Callable[[], bool]) -> None:
    """End a process and its stages; a command in the background ignores an interrupt."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        logger.info("stopping the stages by signal %d: %s", number, reason)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if is_gone():
            return


def _is_drained(process: "subprocess.Popen[str]") -> bool:
    """Whether a process has ended by now, whose output nobody else reads."""
    try:
        process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def stale(root: Path, targets: Sequence[str]) -> list[str]:
    """Return those of the targets that DVC would run now."""
    report = json.loads(_dvc(root, "status", "--json", *targets))
    return [target for target in targets if target in report]


def commit(root: Path, targets: Sequence[str]) -> None:
    """Tell DVC that these stages have run: their present outputs belong to their present inputs."""
    if targets:
        _dvc(root, "commit", "--force", "--quiet", *targets)


def _dvc(root: Path, *arguments: str) -> str:
    logger.debug("dvc %s in %s", " ".join(arguments), root)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise StageFailed(
            f"dvc {' '.join(arguments)}",
            found=(done.stderr or done.stdout).strip(),
            expected="exit status 0",
            next="fix what DVC names",
        )
    return done.stdout
