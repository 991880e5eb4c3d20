"""A stage one of whose processes is killed: nothing goes on behind its back, nothing is lost.

Whether the process computes, leads a node, starts the stage or is the command itself: all others
end, the write lock is free, and the same command goes on from the run state.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines.workspace.workspace import Workspace

# A mark in the run state, found again in the report of a run that went on from it.
MARK = [0, 99.0]
ROLES = {
    "process": "pipelines.stages.worker",
    "node": "pipelines.stages.node",
    "stage": "pipelines.stages",
}


def start(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipelines.cli.app", *arguments]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)


def set_up(root: Path, table: str, machine: str) -> None:
    """Make a step long enough to be killed in, and say who computes it."""
    settings = root / "btx.toml"
    longer = f"[recipe.{table}]\nsteps = 150\nsave_every = 5"
    text = settings.read_text()
    for steps in (60, 20):
        text = text.replace(f"[recipe.{table}]\nsteps = {steps}", longer)
    settings.write_text(text + machine)


def run_state(root: Path, out: str) -> Path | None:
    """The newest run state of a stage, whole."""
    folder = root / "work" / out
    found = sorted(folder.with_name(f".{folder.name}.training").glob("**/run.json"))
    return found[-1] if found else None


def below(command: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(command.pid).children(recursive=True)


def of_role(processes: list[psutil.Process], role: str) -> psutil.Process:
    """The first process whose module is the role's."""
    return next(one for one in processes if ROLES[role] in one.cmdline())


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def kill(victim: psutil.Process, role: str) -> None:
    if role == "node":
        os.killpg(victim.pid, signal.SIGKILL)
    else:
        victim.kill()


def killed_and_gone_on(
    workspace: Workspace, command: list[str], out: str, role: str, report: Callable[[], Path]
) -> None:
    """Kill a process of the command in the middle of the stage, and run the command again."""
    root = workspace.root
    running = start(root, *command)
    while run_state(root, out) is None:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    everyone = below(running)
    victim = psutil.Process(running.pid) if role == "command" else of_role(everyone, role)
    kill(victim, role)
    _, said = running.communicate()
    assert running.returncode == (-signal.SIGKILL if role == "command" else 1), said
    assert "Traceback" not in said
    with workspace.writing("a test that waits for the lock"):
        assert all(gone(process) for process in everyone), "nothing goes on in the background"
    state = run_state(root, out)
    assert state is not None
    assert not (root / "work" / out).exists()
    run = json.loads(state.read_text())
    state.write_text(json.dumps(run | {"curve": [MARK]}))
    again = start(root, *command)
    _, said = again.communicate()
    assert again.returncode == 0, said
    written = json.loads(report().read_text())
    curve = written.get("report", written)["curve"]
    assert curve[0] == MARK, "from the run state, not from nothing"


@pytest.mark.parametrize(
    "role",
    [
        "command",
        pytest.param("process", marks=pytest.mark.slow),
        pytest.param("node", marks=pytest.mark.slow),
    ],
)
def test_a_training_of_two_processes_goes_on_after_a_kill(own_story: Workspace, role: str) -> None:
    set_up(own_story.root, "train", "[machine]\nprocesses = 2\n")
    out = "branches/again"
    command = ["train", "again", "--data", "data/math"]
    killed_and_gone_on(
        own_story, command, out, role, lambda: own_story.work / out / "btx-train.json"
    )


@pytest.mark.slow
@pytest.mark.parametrize("role", ["process", "node", "stage", "command"])
def test_tuning_by_two_processes_goes_on_after_a_kill(own_story: Workspace, role: str) -> None:
    set_up(own_story.root, "tune", "[machine]\nprocesses = 2\n")
    killed_and_gone_on(
        own_story, ["rebuild"], "tuned", role, lambda: own_story.work / "tuned/btx-tune.json"
    )


@pytest.mark.slow
@pytest.mark.parametrize("role", ["stage", "command"])
def test_tuning_by_one_process_goes_on_after_a_kill(own_story: Workspace, role: str) -> None:
    set_up(own_story.root, "tune", "")
    killed_and_gone_on(
        own_story, ["rebuild"], "tuned", role, lambda: own_story.work / "tuned/btx-tune.json"
    )
