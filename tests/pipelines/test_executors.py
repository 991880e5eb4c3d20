"""Branches side by side give the same bytes as one after another.

On this machine's processes, on a real Ray cluster, and as submitit's jobs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from pipelines.jobs.add_data import add_data
from pipelines.jobs.train import train
from pipelines.stages import stages
from pipelines.stages.dvc_runs import Interrupted, StageFailed, stale
from pipelines.stages.executors import Needs, Watch, devices_at_once, execute
from pipelines.workspace.bars import Note, note_of
from pipelines.workspace.folders import manifest
from pipelines.workspace.workspace import Workspace
from registry.records.events import StageRan
from registry.records.facts import DataStatement

NAMES = ["a", "b", "c", "d"]
LONG = 100_000  # steps: longer than any test, so that it can be killed in the middle


def weights(root: Path, name: str) -> dict[str, str]:
    """Every file of a branch but its report of seconds."""
    return {
        file.path: file.sha256
        for file in manifest(root / "work/branches" / name)
        if file.path != "btx-train.json"
    }


def order(root: Path, **recipes: dict[str, Any]) -> None:
    """branches.yaml as `btx train` writes it.

    Each name trains on math or code with its own recipe.
    """
    document = yaml.safe_load((root / "branches.yaml").read_text())
    known = [document["branches"][name] for name in ("math", "code")]
    made = {
        name: known[i % 2] | {"recipe": known[0]["recipe"] | recipe}
        for i, (name, recipe) in enumerate(recipes.items())
    }
    (root / "branches.yaml").write_text(
        yaml.safe_dump({"branches": {**document["branches"], **made}})
    )


@pytest.fixture(scope="module")
def ordered(story: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Fresh copies of a workspace with orders for four branches."""

    def copy() -> Path:
        root = tmp_path_factory.mktemp("ordered") / "workspace"
        subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
        order(
            root,
            **{
                name: {"steps": 60, "save_every": 5, "seed": number}
                for number, name in enumerate(NAMES)
            },
        )
        return root

    return copy


@pytest.fixture(scope="module")
def one_after_another(ordered: Callable[[], Path]) -> dict[str, dict[str, str]]:
    root, here = ordered(), Path.cwd()
    os.chdir(root)
    try:
        assert [stages.run("train", name) for name in NAMES] == [None] * 4
    finally:
        os.chdir(here)
    found = {name: weights(root, name) for name in NAMES}
    assert len({files["model.safetensors"] for files in found.values()}) == 4, (
        "four different experts"
    )
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, a core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False}
    )
    made.add_node(**node)
    yield made
    made.shutdown()


class Said:
    """The log that an executor writes."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, ran: StageRan) -> None:
        self.lines.append((name, ran.state))


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_four_branches_side_by_side_have_the_bytes_of_one_after_another(
    ordered: Callable[[], Path], one_after_another: dict[str, dict[str, str]], executor: str
) -> None:
    root, said = ordered(), Said()
    names = NAMES if executor == "local" else NAMES[:1]
    execute(executor, root, names, Needs(), said)
    assert {name: weights(root, name) for name in names} == {
        name: one_after_another[name] for name in names
    }
    told = [line for line in said.lines if line[1] != "running"]  # once a minute
    assert sorted(told) == sorted(
        [(name, state) for name in names for state in ("started", "ended")]
    )


@pytest.mark.slow
def test_on_ray_a_killed_worker_loses_nothing_and_its_branch_goes_on_from_its_checkpoint(
    ordered: Callable[[], Path],
    one_after_another: dict[str, dict[str, str]],
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    root, killed = ordered(), list[str]()

    class KillsOnce(Watch):
        """SIGKILL to the first worker that has left a checkpoint.

        A mark is made in that checkpoint, to be found again.
        """

        def look(self) -> None:
            super().look()
            for name in () if killed else NAMES:
                state, note = (
                    root / f"work/branches/.{name}.training/run.json",
                    Note.read(note_of(root, name)),
                )
                if note and state.exists():
                    os.kill(note.process, signal.SIGSTOP)
                    if state.exists():
                        state.write_text(
                            json.dumps(json.loads(state.read_text()) | {"curve": [[0, 99.0]]})
                        )
                        killed.append(name)
                    os.kill(note.process, signal.SIGKILL if killed else signal.SIGCONT)
                    break

    monkeypatch.setattr("pipelines.stages.executors.Watch", KillsOnce)
    execute("ray", root, NAMES, Needs(), Said())
    assert killed
    curve = json.loads((root / f"work/branches/{killed[0]}/btx-train.json").read_text())["report"][
        "curve"
    ]
    assert curve[0] == [0, 99.0], "from the checkpoint, not from nothing"
    assert {name: weights(root, name) for name in NAMES} == one_after_another
    workers = {note.process for name in NAMES if (note := Note.read(note_of(root, name)))}
    assert len(workers) > 1, "on both nodes"


def test_a_branch_that_fails_is_named_and_the_others_are_kept(
    own_story: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "corpus/heldout").mkdir(parents=True)
    (tmp_path / "corpus/heldout/only.txt").write_text("Nothing here may be trained on.\n" * 9)
    statement = DataStatement(
        license="CC0-1.0", source="the test", holder="nobody", purpose="testing"
    )
    add_data(own_story, "bad", tmp_path / "corpus", statement)
    with pytest.raises(StageFailed, match=r"training of bad\n"):
        train(own_story, {"good": "data/code", "bad": "data/bad"})
    assert not (own_story.root / "work/branches/bad").exists()
    states = {
        name: [
            event.read(StageRan).state
            for event in own_story.catalog.events(f"train@{name}", "stage")
        ]
        for name in ("good", "bad")
    }
    for name, last in (
        ("good", "ended"),
        ("bad", "failed"),
    ):  # between them "running", as often as the machine is slow
        assert (states[name][0], states[name][-1]) == ("started", last)
    every = [f"train@{name}" for name in ("math", "code", "good", "bad")]
    assert stale(own_story.root, every) == ["train@bad"], "by DVC's own report"
    assert not train(own_story, {"good": "data/code"})["good"].ran


def test_ctrl_c_stops_every_process_says_so_and_the_same_command_goes_on(
    own_story: Workspace,
) -> None:
    settings = own_story.root / "btx.toml"
    text = settings.read_text()
    settings.write_text(text.replace("steps = 60", f"steps = {LONG}\nsave_every = 5", 1))
    command = [str(Path(sys.executable).with_name("btx")), "train", "again", "--data", "data/math"]

    def interruptible() -> None:
        # Tests started in the background ignore the signal, and hand that on.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    running = subprocess.Popen(
        command,
        cwd=own_story.root,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=interruptible,
    )
    checkpoint = own_story.root / "work/branches/.again.training/run.json"
    while not checkpoint.exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.stderr is not None
    said = running.stderr.read()
    assert running.wait() == 1
    assert "Interrupted: training of again" in said
    assert "Traceback" not in said
    assert not own_story.being_written, "nothing goes on in the background"
    assert not (own_story.root / "work/branches/again").exists()
    events = [
        event.read(StageRan).state
        for event in own_story.catalog.events(subject="train@again", kind="stage")
    ]
    assert events == ["started", "interrupted"]
    settings.write_text(text)
    assert train(Workspace.find(own_story.root), {"again": "data/math"})["again"].ran
    assert weights(own_story.root, "again") == weights(own_story.root, "math"), (
        "the same order, the same bytes"
    )
    settings.write_text(text + "[train]\nprocesses = 2\n")
    assert train(Workspace.find(own_story.root), {"again": "data/math"})["again"].ran, (
        "another order: trained anew in its place"
    )
    alone, together = (
        load_file(own_story.root / f"work/branches/{name}/model.safetensors")
        for name in ("math", "again")
    )
    assert 0 < max(float((alone[name] - together[name]).abs().max()) for name in alone) < 1e-5, (
        "two processes add in another order"
    )


def test_places_follow_cores_or_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert devices_at_once(Needs(cpus=3)) == [None, None]
    assert devices_at_once(Needs(cpus=16)) == devices_at_once(Needs(cpus=2, processes=3)) == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
    assert devices_at_once(Needs(gpus=1)) == ["0", "3", "5"]
    assert devices_at_once(Needs(gpus=2)) == ["0,3"]
    with pytest.raises(StageFailed, match="3 GPUs here"):
        devices_at_once(Needs(gpus=4))


def test_an_interruption_is_an_answer_of_its_own() -> None:
    assert (Interrupted("x").exit_status, "same command" in str(Interrupted("x"))) == (1, True)
