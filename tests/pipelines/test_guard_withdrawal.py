"""A withdrawal does not wait for a running training or rebuild; the stages notice it and stop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.jobs.withdraw import withdraw
from pipelines.workspace.workspace import Workspace
from registry.records.kinds import Kind

# The recipe of tuning, or of training, as a run of hours.
TUNE = "steps = 20\n", "steps = 500000\n"
TRAIN = "steps = 60\n", "steps = 500000\n"


def stopped_by_withdrawal(
    workspace: Workspace, ref: str, command: tuple[str, ...], stage_of: str, stderr_file: Path
) -> None:
    """Run a command that would go on for hours, and withdraw a version while its stage runs."""
    before = len(workspace.catalog.events(stage_of, "stage"))
    program = "from pipelines.cli.app import main; main()"
    with stderr_file.open("w") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-c", program, *command],
            cwd=workspace.root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            until = time.monotonic() + 600
            while len(workspace.catalog.events(stage_of, "stage")) == before:
                assert running.poll() is None, stderr_file.read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
            withdraw(workspace, ref, "at once")
            assert workspace.catalog.status(ref) == "withdrawn"
            assert running.wait(timeout=300) == 1
        finally:
            if running.poll() is None:
                running.kill()
    assert "while the stages ran" in stderr_file.read_text()
    assert workspace.catalog.events(stage_of, "stage")[-1].body.state == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("ref", ["data/prose@1", "expert/math@1"])
def test_a_withdrawal_during_a_rebuild_is_done_at_once_and_stops_it(
    own_story: Workspace, ref: str, tmp_path: Path
) -> None:
    """The seed's data, a member: the rebuild would run for hours."""
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text().replace(*TUNE))
    stopped_by_withdrawal(own_story, ref, ("rebuild",), "build/2", tmp_path / "stderr")
    assert not (own_story.root / "builds/2").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ref", ["data/math@1", "data/prose@1", "seed/base@1"])
def test_a_withdrawal_during_a_training_is_done_at_once_and_stops_it(
    own_story: Workspace, ref: str, tmp_path: Path
) -> None:
    """The expert's data, the seed's, the seed: the training would run for hours."""
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text().replace(*TRAIN))
    before = own_story.catalog.next_version(Kind.EXPERT, "math")
    command = ("train", "math", "--data", "data/math@1")
    stopped_by_withdrawal(own_story, ref, command, "train@math", tmp_path / "stderr")
    assert not (own_story.work / "branches/math").exists()
    assert own_story.catalog.next_version(Kind.EXPERT, "math") == before


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["slurm", "ray"])
def test_a_withdrawal_stops_a_training_that_an_executor_runs_elsewhere(
    own_story: Workspace, executor: str, tmp_path: Path
) -> None:
    """The command notices it; its workers see that their command is gone, and end."""
    settings = own_story.root / "btx.toml"
    placed = settings.read_text().replace('executor = "local"', f'executor = "{executor}"')
    settings.write_text(placed.replace(*TRAIN))
    command = ("train", "math", "--data", "data/math@1")
    stopped_by_withdrawal(own_story, "data/math@1", command, "train@math", tmp_path / "stderr")
    assert not (own_story.work / "branches/math").exists()
    assert running_in(own_story.root) == []


def running_in(root: Path) -> list[str]:
    """Return the processes that work in a workspace, a while after their command ended."""
    until = time.monotonic() + 60
    found = [""]
    while found and time.monotonic() < until:
        time.sleep(0.5)
        found = [
            " ".join(process.info["cmdline"] or ())
            for process in psutil.process_iter(["cwd", "cmdline", "pid"])
            if process.info["cwd"] == str(root) and process.info["pid"] != os.getpid()
        ]
    return found


def test_a_dry_run_says_what_a_withdrawal_reaches_and_withdraws_nothing(
    own_story: Workspace,
) -> None:
    catalog = own_story.catalog
    head = catalog.head()
    ahead = withdraw(own_story, "data/math@1", "asked", dry_run=True)
    assert catalog.head() == head
    assert {one.ref for one in ahead.reached} >= {"expert/math@1", "build/1"}
    assert withdraw(own_story, "data/math@1", "asked") == ahead
    assert catalog.status("build/1") == "tainted"
