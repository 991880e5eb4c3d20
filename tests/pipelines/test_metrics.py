"""Every step's figures are in a file of JSON lines, and reach the trackers that are named."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from pipelines.workspace import metrics
from pipelines.workspace.metrics import TrackerName, metrics_file, metrics_log
from pipelines.workspace.settings_file import LogSettings
from pipelines.workspace.workspace import template
from registry.errors import Invalid

RECIPE = {"steps": 3, "mode": "anchored", "tasks": []}


def lines(root: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in metrics_file(root, "math").read_text().splitlines()]


def test_a_run_that_goes_on_replaces_the_steps_that_it_computes_again(tmp_path: Path) -> None:
    with metrics_log(tmp_path, "math", [], RECIPE) as report:
        for step in (1, 2, 3):
            report(step, {"loss": 4.0 - step})
    with metrics_file(tmp_path, "math").open("a") as file:
        file.write('{"step": 4, "lo')  # died while it wrote
    with metrics_log(tmp_path, "math", [], RECIPE) as report:
        report(3, {"loss": 0.5})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 3.0),
        (2, 2.0),
        (3, 0.5),
    ]
    with metrics_log(tmp_path, "math", [], RECIPE) as report:
        report(1, {"loss": 9.0})
    assert [line["loss"] for line in lines(tmp_path)] == [9.0]


def test_dvc_draws_the_losses_of_every_run(tmp_path: Path) -> None:
    shutil.copy(template() / "dvc.yaml", tmp_path)
    (tmp_path / "branches.yaml").write_text("branches: {}\n")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    with metrics_log(tmp_path, "math", [], RECIPE) as report:
        report(1, {"loss": 4.0})
        report(2, {"loss": 3.5, "heldout_loss": 3.75})
    command = [sys.executable, "-m", "dvc", "plots", "show", "--json"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    drawn = json.loads(shown.stdout)["data"]
    points = {
        name: [(value["step"], value["loss"]) for value in plot[0]["content"]["data"]["values"]]
        for name, plot in drawn.items()
    }
    assert points == {
        "work/curves/math.tsv": [("1", "4.0"), ("2", "3.5")],
        "work/curves/held-out/math.tsv": [("2", "3.75")],
    }


def test_tensorboard_shows_what_the_file_holds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with metrics_log(tmp_path, "math", ["tensorboard"], RECIPE) as report:
        for step in (1, 2, 3):
            report(step, {"loss": 4.0 - step, "rate": 0.25})
    shown = scalars(tmp_path / "work" / "tensorboard")
    for line in lines(tmp_path):
        assert shown["loss", line["step"]] == line["loss"]
        assert shown["rate", line["step"]] == line["rate"]


def scalars(folder: Path) -> dict[tuple[str, float], float]:
    """Every scalar of TensorBoard's event files: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in folder.rglob("events.out.tfevents.*"):
        raw, start = file.read_bytes(), 0
        while start < len(raw):
            (length,) = struct.unpack_from("<Q", raw, start)
            event = Event.FromString(raw[start + 12 : start + 12 + length])
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
            start += 16 + length
    return found


@pytest.mark.parametrize("name", get_args(TrackerName))
def test_every_tracker_that_may_be_named_keeps_accelerates_contract(
    name: TrackerName, tmp_path: Path
) -> None:
    from accelerate.tracking import GeneralTracker

    tracker = metrics._tracker(name, tmp_path, "math")
    assert isinstance(tracker, GeneralTracker)
    assert tracker.name == name
    assert LogSettings(report_to=[name]).report_to == [name]


def test_a_tracker_that_is_not_installed_is_named_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with (
        pytest.raises(Invalid, match="pip install trackio"),
        metrics_log(tmp_path, "math", ["trackio"], RECIPE),
    ):
        pass


def test_keys_of_trackers_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-key")
    with metrics_log(tmp_path, "math", ["tensorboard"], RECIPE) as report:
        report(1, {"loss": 1.0})
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 1
    assert not any(b"a-secret-key" in file.read_bytes() for file in files)
