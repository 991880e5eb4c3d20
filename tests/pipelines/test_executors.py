"""Branches side by side give the same bytes as one after another.

On this machine's processes, on a real Ray cluster, and as submitit's jobs.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from pipelines.jobs.train import train
from pipelines.stages import stages
from pipelines.stages.dvc_runs import Interrupted, StageFailed, stale
from pipelines.stages.executors import Clusters, execute
from pipelines.stages.monitor import TaskMonitor
from pipelines.stages.task import Task
from pipelines.workspace.bars import Note, note_of
from pipelines.workspace.folders import manifest
from pipelines.workspace.placement import ExecutorName, Resources
from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid
from registry.records.events import StageRan

pytestmark = pytest.mark.slow

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


class Said:
    """The log that an executor writes."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, ran: StageRan) -> None:
        self.lines.append((name, ran.state))


@pytest.mark.parametrize("executor", ["local", "slurm"])
def test_four_branches_side_by_side_have_the_bytes_of_one_after_another(
    ordered: Callable[[], Path],
    one_after_another: dict[str, dict[str, str]],
    executor: ExecutorName,
) -> None:
    root, said = ordered(), Said()
    names = NAMES if executor == "local" else NAMES[:1]
    tasks = [Task("train", name) for name in names]
    execute(root, tasks, Resources(executor=executor), Clusters(), said)
    assert {name: weights(root, name) for name in names} == {
        name: one_after_another[name] for name in names
    }
    told = [line for line in said.lines if line[1] != "running"]  # once a minute
    assert sorted(told) == sorted(
        [(name, state) for name in names for state in ("started", "ended")]
    )


def run_states(root: Path, name: str) -> list[Path]:
    """Every whole run state of a branch."""
    return list((root / f"work/branches/.{name}.training").glob("**/run.json"))


@pytest.mark.slow
def test_on_ray_a_killed_worker_loses_nothing_and_its_branch_goes_on_from_its_checkpoint(
    ordered: Callable[[], Path],
    one_after_another: dict[str, dict[str, str]],
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    root, killed = ordered(), list[str]()

    class KillsOnce(TaskMonitor):
        """SIGKILL to the first worker that has left a checkpoint.

        A mark is made in that checkpoint, to be found again.
        """

        def look(self) -> None:
            super().look()
            for name in () if killed else NAMES:
                note, left = Note.read(note_of(root, name)), run_states(root, name)
                if note and left:
                    os.kill(note.process, signal.SIGSTOP)
                    for state in left:
                        run = json.loads(state.read_text()) | {"curve": [[0, 99.0]]}
                        state.write_text(json.dumps(run))
                        killed[:] = [name]
                    os.kill(note.process, signal.SIGKILL if killed else signal.SIGCONT)
                    break

    monkeypatch.setattr("pipelines.stages.executors.TaskMonitor", KillsOnce)
    tasks = [Task("train", name) for name in NAMES]
    execute(root, tasks, Resources(executor="ray"), Clusters(), Said())
    assert killed
    curve = json.loads((root / f"work/branches/{killed[0]}/btx-train.json").read_text())["report"][
        "curve"
    ]
    assert curve[0] == [0, 99.0], "from the checkpoint, not from nothing"
    assert {name: weights(root, name) for name in NAMES} == one_after_another
    workers = {note.process for name in NAMES if (note := Note.read(note_of(root, name)))}
    assert len(workers) > 1, "on both nodes"


@pytest.fixture(scope="module")
def by_two_processes(ordered: Callable[[], Path]) -> dict[str, str]:
    """A branch that two processes of this machine trained together."""
    root = ordered()
    execute(root, [Task("train", "a")], Resources(processes=2), Clusters())
    return weights(root, "a")


def test_two_processes_are_an_order_of_their_own(
    by_two_processes: dict[str, str], one_after_another: dict[str, dict[str, str]]
) -> None:
    assert by_two_processes.keys() == one_after_another["a"].keys()
    assert by_two_processes != one_after_another["a"], "they add in another order"


@pytest.mark.slow
def test_two_processes_of_a_job_of_slurm_give_the_bytes_of_two_here(
    ordered: Callable[[], Path], by_two_processes: dict[str, str]
) -> None:
    root = ordered()
    execute(root, [Task("train", "a")], Resources("slurm", processes=2), Clusters())
    assert weights(root, "a") == by_two_processes


@pytest.mark.slow
def test_two_processes_of_a_ray_cluster_give_the_bytes_of_two_here(
    ordered: Callable[[], Path],
    by_two_processes: dict[str, str],
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    root, tasks = ordered(), [Task("train", "a")]
    with pytest.raises(Invalid, match=r"\[machine\] threads, processes"):
        # No node has two cores.
        execute(root, tasks, Resources("ray", processes=2), Clusters())
    execute(root, tasks, Resources("ray", nodes=2, processes=2), Clusters())
    assert weights(root, "a") == by_two_processes


@pytest.mark.slow
def test_two_nodes_that_meet_give_the_bytes_of_two_processes_here(
    ordered: Callable[[], Path], by_two_processes: dict[str, str]
) -> None:
    root, address = ordered(), f"127.0.0.1:{free_port()}"
    table = f'[machine]\nnodes = 2\nprocesses = 2\nrendezvous = "{address}"\n'
    with (root / "btx.toml").open("a") as file:
        file.write(table)
    document = yaml.safe_load((root / "branches.yaml").read_text())
    document["branches"]["a"]["processes"] = 2
    (root / "branches.yaml").write_text(yaml.safe_dump(document))
    first = [sys.executable, "-m", "pipelines.stages", "train", "a"]
    nodes = [
        subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
        for command in (first, [*first[:3], "--join", *first[3:]])
    ]
    said = [node.communicate()[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "python -m pipelines.stages --join train a" in said[0]
    assert weights(root, "a") == by_two_processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_a_branch_that_fails_is_named_and_the_others_are_kept(own_story: Workspace) -> None:
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text() + "[recipe.expert.bad]\nlearning_rate = 1e30\n")
    own_story = Workspace.find(own_story.root)
    with pytest.raises(StageFailed, match=r"training of bad\n"):
        train(own_story, {"good": "data/code", "bad": "data/math"})
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
    while not run_states(own_story.root, "again"):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.stderr is not None
    said = running.stderr.read()
    assert running.wait() == 130
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


def test_an_interruption_is_an_answer_of_its_own() -> None:
    assert (Interrupted("x").exit_status, "same command" in str(Interrupted("x"))) == (130, True)
