"""The commands killed at any moment.

An audit is clean or names what is unfinished, the same command completes, nothing is half visible.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.audit import audit
from pipelines.workspace.workspace import Workspace
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, SeedFacts

KILLS = int(os.environ.get("BTX_COMMAND_KILLS", "1"))  # of each command; a campaign: 70
CHANCE = random.Random(os.environ.get("BTX_SEED", "4"))
HOOK = Path(__file__).parent / "kill_hook"
BTX = str(Path(sys.executable).with_name("btx"))
COMMANDS = {
    "register": ["register", "math", "{checkpoint}", "--data", "data/math", "--json"],
    "rebuild": ["rebuild", "--without", "math", "--json"],
    "withdraw": ["withdraw", "data/code@1", "--why", "the holder withdrew consent", "--json"],
}
# About how many files each command changes, and how long it takes from the first: a kill that comes
# too late is not counted.
MOMENTS = {"register": (106, 4.0), "rebuild": (342, 13.0), "withdraw": (2, 0.3)}
MADE = {"register": "expert/math@2", "rebuild": "build/2", "withdraw": "seed/base@1"}


@pytest.fixture
def fresh(story: Any, tmp_path: Path) -> Callable[[], Path]:
    def copy() -> Path:
        root = tmp_path / "workspace"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
        return root

    return copy


def start(
    root: Path, command: list[str], counter: Path, *, at: int = 0, whole: bool = True
) -> "subprocess.Popen[bytes]":
    counter.unlink(missing_ok=True)
    order = json.dumps({"root": str(root), "counter": str(counter), "at": at, "whole": whole})
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HOOK), os.environ.get("PYTHONPATH", "")]),
        "BTX_KILL": order,
    }
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(
        [BTX, *command], cwd=root, env=environment, start_new_session=True, **pipes
    )


def changes(counter: Path) -> int:
    return counter.stat().st_size if counter.exists() else 0


def kill_after(process: "subprocess.Popen[bytes]", counter: Path, seconds: float) -> None:
    """Once the command has changed its first file, and a while later."""
    while not changes(counter) and process.poll() is None:
        time.sleep(0.001)
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("register", "rebuild")), "withdraw"],
)
def test_a_command_killed_at_any_moment_leaves_nothing_half_done(
    fresh: Callable[[], Path], checkpoint: Path, tmp_path: Path, name: str
) -> None:
    command, counter = (
        [word.format(checkpoint=checkpoint) for word in COMMANDS[name]],
        tmp_path / "counter",
    )
    total, seconds = MOMENTS[name]
    killed, unfinished = 0, 0
    while killed < KILLS:
        root = fresh()
        if (
            CHANCE.random() < 0.5 and total > 2
        ):  # at a change of a file, in whichever process; or at a moment
            process = start(
                root, command, counter, at=CHANCE.randint(2, total), whole=CHANCE.random() < 0.5
            )
        else:
            process = start(root, command, counter)
            kill_after(process, counter, CHANCE.random() * seconds)
        killed += process.wait() == -signal.SIGKILL
        assert changes(counter), "progress, before the kill"
        unfinished += look(root, name)
        complete(root, command, name)
    print(f"{name}: {killed} kills, {unfinished} left something to finish")


def look(root: Path, name: str) -> bool:
    """Every registered version is whole, and what is visible without a row is named.

    Returns whether there was such a thing.
    """
    workspace = Workspace.find(root)
    while workspace.being_written:  # what the killed command had started goes on for a while
        time.sleep(0.05)
    withdrawn = bool(workspace.catalog.events(kind="withdrawn"))
    left = False
    expected = {"unfinished", *(["standing"] if withdrawn else [])}
    kinds = (SeedFacts, DataFacts, ExpertFacts, BuildFacts)
    for version in [one for kind in kinds for one in workspace.catalog.versions(kind)]:
        findings = audit(workspace, str(version.ref)).findings
        checks = {finding.check for finding in findings}
        assert checks <= expected, (name, findings)
        left = "unfinished" in checks
    workspace.catalog.close()
    return left


def complete(root: Path, command: list[str], name: str) -> None:
    done = subprocess.run(
        [BTX, *command],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (name, done.stderr)
    workspace = Workspace.find(root)
    assert audit(workspace, MADE[name]).findings == ()
    assert (workspace.catalog.status("data/code@1") == "withdrawn") == (name == "withdraw")
    workspace.catalog.close()
