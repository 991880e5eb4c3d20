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
from typing import Any

import psutil
import pytest

from pipelines.workspace.bars import Note, note_of
from pipelines.workspace.workspace import Workspace

# A mark in the run state, found again in the report of a run that went on from it.
MARK = [0, 99.0]
STATUS = {"command": -signal.SIGKILL, "ctrl-c": 130}
PATIENCE_S = 30
ROLES = {
    "process": "pipelines.stages.worker",
    "node": "pipelines.stages.node",
    "stage": "pipelines.stages",
}


def start(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipelines.cli.app", *arguments]

    def interruptible() -> None:
        # Tests started in the background ignore the signal, and hand that on.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    )


def set_up(root: Path, table: str, machine: str) -> None:
    """Make a step long enough to be killed in, and say who computes it."""
    settings = root / "btx.toml"
    longer = f"[recipe.{table}]\nsteps = 60\nsave_every = 5"
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


def end(command: "subprocess.Popen[str]", processes: list[psutil.Process], role: str) -> None:
    """Kill the process of a role, or interrupt the command."""
    if role == "ctrl-c":
        command.send_signal(signal.SIGINT)
    elif role == "command":
        command.kill()
    elif role == "node":
        os.killpg(of_role(processes, role).pid, signal.SIGKILL)
    else:
        of_role(processes, role).kill()


def elsewhere(root: Path, label: str) -> list[psutil.Process]:
    """The process that notes how far a stage has come, which may be no child of the command."""
    note = Note.read(note_of(root, label))
    return [psutil.Process(note.process)] if note else []


def killed_and_gone_on(
    workspace: Workspace, command: list[str], out: str, role: str, report: Callable[[], Path]
) -> None:
    """Kill a process of the command in the middle of the stage, and run the command again."""
    root = workspace.root
    running = start(root, *command)
    while run_state(root, out) is None:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    everyone = [*below(running), *elsewhere(root, Path(out).name.replace("tuned", "tune"))]
    end(running, everyone, role)
    _, said = running.communicate()
    assert running.returncode == STATUS.get(role, 1), said
    assert "Traceback" not in said
    with workspace.writing("a test that waits for the lock"):
        # What held the lock has let go of it, and on a busy machine ends a moment later.
        until = time.monotonic() + PATIENCE_S
        while (alive := [one for one in everyone if not gone(one)]) and time.monotonic() < until:
            time.sleep(0.1)
        assert alive == [], "nothing goes on in the background"
    state = run_state(root, out)
    assert state is not None
    half_written = list((root / "work").rglob("*.partial-*"))
    assert role != "ctrl-c" or not half_written
    assert not (root / "work" / out).exists()
    run = json.loads(state.read_text())
    state.write_text(json.dumps(run | {"curve": [MARK]}))
    again = start(root, *command)
    _, said = again.communicate()
    assert again.returncode == 0, said
    written = json.loads(report().read_text())
    curve = written.get("report", written)["curve"]
    assert curve[0] == MARK, "from the run state, not from nothing"


@pytest.mark.slow
@pytest.mark.parametrize("role", ["command", "ctrl-c", "process", "node"])
def test_a_training_of_two_processes_goes_on_after_a_kill(own_story: Workspace, role: str) -> None:
    set_up(own_story.root, "train", "[machine]\nprocesses = 2\n")
    out = "branches/again"
    command = ["train", "again", "--data", "data/math"]
    killed_and_gone_on(
        own_story, command, out, role, lambda: own_story.work / out / "btx-train.json"
    )


@pytest.mark.slow
@pytest.mark.parametrize("role", ["process", "node", "stage", "command", "ctrl-c"])
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


def tuning_on_ray(root: Path) -> "subprocess.Popen[str]":
    """Start a rebuild, and return it once its tuning has left a run state."""
    set_up(root, "tune", ON_RAY)
    running = start(root, "rebuild")
    while run_state(root, "tuned") is None:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    return running


def ends_after_another_try(running: "subprocess.Popen[str]") -> None:
    _, said = running.communicate()
    assert running.returncode == 0, said
    assert "tune lost a process and is tried again" in said
    assert "Traceback" not in said


ON_RAY = '[machine]\nexecutor = "ray"\nnodes = 2\nprocesses = 2\n'


@pytest.mark.slow
@pytest.mark.parametrize("role", ["stage", "command", "ctrl-c"])
def test_tuning_on_ray_goes_on_after_a_kill(
    own_story: Workspace, cluster: Any, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    set_up(own_story.root, "tune", ON_RAY)
    killed_and_gone_on(
        own_story, ["rebuild"], "tuned", role, lambda: own_story.work / "tuned/btx-tune.json"
    )


@pytest.mark.slow
def test_on_ray_tuning_is_tried_again_by_itself_when_a_process_dies(
    own_story: Workspace, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    running = tuning_on_ray(own_story.root)
    elsewhere(own_story.root, "tune")[0].kill()
    ends_after_another_try(running)


@pytest.mark.slow
def test_on_ray_tuning_goes_on_when_a_node_is_lost_and_another_one_comes(
    own_story: Workspace, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    running = tuning_on_ray(own_story.root)
    (lost,) = cluster.worker_nodes
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    ends_after_another_try(running)
