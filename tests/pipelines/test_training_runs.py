"""What pages learn of a training: from its notes and metrics, half written lines and all."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import status
from pipelines.jobs.training_runs import MOST_POINTS, training_run, training_runs
from pipelines.stages.monitor import TaskMonitor
from pipelines.stages.task import Task
from pipelines.workspace.bars import WATCHED, Note, bar_or_notes, note_of
from pipelines.workspace.metrics import metrics_file
from pipelines.workspace.settings_file import Settings
from pipelines.workspace.workspace import Workspace
from registry.errors import NotFound


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    metrics_file(tmp_path, "any").parent.mkdir(parents=True)
    return Workspace(tmp_path, Settings())


def write_steps(workspace: Workspace, name: str, *steps: dict[str, Any]) -> Path:
    path = metrics_file(workspace.root, name)
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    return path


def test_a_run_is_running_only_while_a_command_writes_and_steps_are_left(
    workspace: Workspace,
) -> None:
    write_steps(workspace, "legal", {"step": 3, "time": 60.0, "loss": 2.5})
    assert not training_run(workspace, "legal").running
    with workspace.writing("train"):
        Note(3, 10, "").write(note_of(workspace.root, "legal"))
        run = training_run(workspace, "legal")
        assert (run.running, run.steps, run.total) == (True, 3, 10)
        assert (training_runs(workspace).writer or "").startswith("btx train")
        write_steps(workspace, "legal", {"step": 10, "time": 61.0})
        assert not training_run(workspace, "legal").running


def test_a_run_that_was_killed_does_not_run_while_another_command_writes(
    workspace: Workspace,
) -> None:
    write_steps(workspace, "legal", {"step": 3, "time": 60.0, "loss": 2.5})
    write_steps(workspace, "done", {"step": 10, "time": 50.0, "loss": 2.5})
    for name, steps in (("legal", 3), ("done", 10)):
        Note(steps, 10, "").write(note_of(workspace.root, name))
    os.mkfifo(note_of(workspace.root, "pipe"))
    with workspace.writing("data add letters"):
        runs = training_runs(workspace).runs
        assert [(run.name, run.running, run.total) for run in runs] == [
            ("legal", False, None),
            ("done", False, 10),
        ]
        assert len(status._running(workspace)) == 1


def test_a_branch_that_ended_early_does_not_run_while_another_trains(workspace: Workspace) -> None:
    ended, other = (Task("train", name) for name in ("ended", "other"))
    note = note_of(workspace.root, "ended")
    with TaskMonitor(workspace.root, [ended, other], lambda name, ran: None) as monitor:
        for error in ("no memory", None):
            monitor.started("ended")
            Note(3, 10, "").write(note)
            monitor.ended("ended", error)
            assert not note.exists()
        monitor.started("ended")
        Note(10, 10, "").write(note)
        monitor.ended("ended", None)
        assert note.exists(), "pages tell how many steps it had"


def test_a_stage_that_shows_its_bar_itself_notes_how_far_it_has_come(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WATCHED, raising=False)
    write_steps(workspace, "tune", {"step": 3, "time": 60.0})
    path = note_of(workspace.root, "tune")
    with workspace.writing("rebuild"):
        Note(9, 9, "of the run before").write(path)
        with bar_or_notes("tune", path) as report:
            assert not path.exists()
            report(3, 10, "")
            assert training_run(workspace, "tune").running
        assert not training_run(workspace, "tune").running
        with bar_or_notes("tune", path) as report:
            report(10, 10, "")
    assert training_run(workspace, "tune").total == 10


def test_a_branch_that_is_called_as_a_stage_has_files_of_its_own(workspace: Workspace) -> None:
    names = [task.run for task in (Task("tune"), Task("train", "tune"), Task("train", "legal"))]
    assert names == ["tune", "train@tune", "legal"]
    for step, name in enumerate(names, 1):
        write_steps(workspace, name, {"step": step, "time": 1.0})
    assert [training_run(workspace, name).steps for name in names] == [1, 2, 3]


def test_half_a_line_and_a_loss_that_is_no_number_are_left_out(workspace: Workspace) -> None:
    path = write_steps(
        workspace,
        "legal",
        {"step": 1, "time": 1.0, "loss": 3.0},
        {"step": 2, "time": 2.0, "loss": float("nan")},
    )
    with path.open("a") as file:
        file.write('{"step": 3, "ti')
    points = training_run(workspace, "legal").points
    assert [(point.step, point.loss) for point in points] == [(1, 3.0), (2, None)]


def test_a_long_run_keeps_its_ends_and_every_look_at_held_out_text(workspace: Workspace) -> None:
    steps = [{"step": step, "time": 1.0, "loss": 1.0} for step in range(1, 10_001)]
    steps[76]["heldout_loss"] = 1.5
    write_steps(workspace, "long", *steps)
    run = training_run(workspace, "long")
    shown = [point.step for point in run.points]
    assert (shown[0], shown[-1]) == (1, 10_000)
    assert 77 in shown
    assert len(shown) <= MOST_POINTS + 2
    assert run.heldout_loss == 1.5


def test_the_newest_run_comes_first(workspace: Workspace) -> None:
    write_steps(workspace, "older", {"step": 1, "time": 10.0})
    write_steps(workspace, "newer", {"step": 1, "time": 20.0})
    write_steps(workspace, "empty")
    assert [run.name for run in training_runs(workspace).runs] == ["newer", "older"]


@pytest.mark.parametrize("name", ["nothing", "../secrets", ""])
def test_what_left_no_metrics_is_not_found(workspace: Workspace, name: str) -> None:
    (workspace.work / "secrets.jsonl").write_text('{"step": 1, "time": 1.0}\n')
    with pytest.raises(NotFound, match="no metrics"):
        training_run(workspace, name)
