"""What [machine] gives each stage, what older workspaces say, and what is refused at once."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from btx_core.problems import WrongUsage
from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import look_ahead as rebuild_ahead
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.train import look_ahead as train_ahead
from pipelines.jobs.train import train
from pipelines.stages import executors, gpus, local_processes, slurm_jobs
from pipelines.stages.executors import Clusters
from pipelines.workspace.placement import STAGE_NAMES, Resources, check_counts
from pipelines.workspace.settings_file import RaySettings, Settings, read_settings
from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid

PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"


def settings(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "btx.toml"
    path.write_text(text)
    return read_settings(path)


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight GPUs, and locks of this test's own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_every_stage_is_given_what_machine_says_unless_its_own_table_differs(
    tmp_path: Path,
) -> None:
    found = settings(
        tmp_path, '[machine]\nexecutor = "ray"\nthreads = 4\n[machine.tune]\ngpus = 8\nnodes = 2\n'
    )
    assert found.resources("train") == Resources(executor="ray", threads=4)
    assert found.resources("tune") == Resources("ray", nodes=2, processes=8, gpus=8, threads=4)
    assert found.resources("evaluate", "local").executor == "local", "--executor goes before it"


def test_train_of_an_older_workspace_means_what_it_meant(tmp_path: Path) -> None:
    older = settings(tmp_path, "[train]\nthreads = 2\ngpus = 4\nprocesses = 4\n")
    assert older.resources("train") == Resources(threads=2, gpus=4, processes=4)
    assert older.resources("tune") == Resources(threads=2), "it never spoke of other stages"
    one = settings(tmp_path, "[train]\ngpus = 4\n").resources("train")
    assert (one.gpus, one.processes) == (4, 1), "processes were one unless they were named"
    assert settings(tmp_path, "[train]\ngpus = 0\n").resources("train").gpus is None, (
        "GPUs that were there were used"
    )


def test_a_key_in_both_tables_is_refused_by_its_name(tmp_path: Path) -> None:
    for table in ("machine", "machine.train"):
        both = settings(tmp_path, f"[train]\nprocesses = 1\n[{table}]\nprocesses = 2\n")
        with pytest.raises(Invalid, match=r"\[train\] processes"):
            both.resources("train")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (Resources(nodes=2, processes=3), "processes"),
        (Resources(processes=4, gpus=2), "gpus"),
        (Resources(processes=8, gpus=16), "gpus"),
        (Resources(gpus=9), "gpus"),
        (Resources(processes=9), "processes"),
        (Resources(memory_gb=1e6), "memory_gb"),
        (Resources(minutes=5), "minutes"),
        (Resources(nodes=2, processes=2), "rendezvous"),
        (Resources(rendezvous="here:1"), "rendezvous"),
        (Resources("ray", minutes=5), "minutes"),
        (Resources("ray", rendezvous="here:1"), "rendezvous"),
        (Resources("slurm", rendezvous="here:1"), "rendezvous"),
        (Resources("slurm", nodes=2, processes=2), "nodes"),
    ],
)
@pytest.mark.usefixtures("eight_gpus")
def test_what_an_executor_cannot_honour_is_refused_by_the_name_of_the_setting(
    given: Resources, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Invalid) as refused:
        executors.check(given, Clusters())
    assert refused.value.subject.endswith(f"[machine] {named}")


@pytest.mark.usefixtures("no_gpu")
def test_what_it_can_honour_is_not_refused() -> None:
    for given in (
        Resources(),
        Resources(processes=2),
        Resources(nodes=2, processes=4, rendezvous="here:1"),
        Resources("ray", nodes=2, processes=4, gpus=4, memory_gb=1e6),
        Resources("slurm", minutes=5, memory_gb=1e6, gpus=4, processes=4),
    ):
        executors.check(given, Clusters())


@pytest.mark.parametrize(
    ("key", "value", "given"),
    [
        ("slurm_ntasks_per_node", 4, Resources("slurm")),
        ("nodes", 2, Resources("slurm")),
        ("timeout_min", 60, Resources("slurm", minutes=5)),
        ("slurm_gpus_per_task", 1, Resources("slurm", gpus=1)),
    ],
)
def test_what_slurm_and_machine_say_differently_is_refused(
    key: str, value: int, given: Resources
) -> None:
    with pytest.raises(Invalid, match=rf"\[slurm\] {key}"):
        slurm_jobs.check(given, {key: value})
    slurm_jobs.check(given, {})
    slurm_jobs.check(Resources("slurm"), {"timeout_min": 60, "slurm_gpus_per_task": 1, "nodes": 1})


def test_a_job_of_slurm_has_a_task_a_node_with_the_cores_and_gpus_of_its_processes() -> None:
    given = Resources("slurm", nodes=2, processes=8, gpus=8, threads=3, memory_gb=200, minutes=90)
    assert slurm_jobs.parameters(given, {"slurm_partition": "gpu"}) == {
        "nodes": 2,
        "tasks_per_node": 1,
        "cpus_per_task": 12,
        "gpus_per_node": 4,
        "mem_gb": 200,
        "timeout_min": 90,
        "slurm_partition": "gpu",
    }


@pytest.mark.usefixtures("eight_gpus")
def test_no_two_stages_of_a_machine_take_the_same_gpu() -> None:
    first, second = gpus.claim(3), gpus.claim(5)
    assert first
    assert second
    assert (first.devices, second.devices) == (("0", "1", "2"), ("3", "4", "5", "6", "7"))
    assert gpus.claim(1) is None
    first.let_go()
    assert gpus.claim(4) is None, "what was free of too few is let go again"
    third = gpus.claim(3)
    assert third
    assert third.devices == first.devices


def test_as_many_run_at_once_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    at_once = local_processes.at_once
    assert at_once(Resources(gpus=0, threads=3)) == 2
    assert at_once(Resources(gpus=0, threads=16)) == 1
    assert at_once(Resources(gpus=0, threads=2, processes=3)) == 1
    memory_gb = local_processes.psutil.virtual_memory().total / 1e9
    assert at_once(Resources(gpus=0, memory_gb=memory_gb / 2.5)) == 2
    assert at_once(Resources(gpus=8, processes=8)) > 8, "GPUs are taken one by one"
    # Nothing is said of memory, and what a process of the tasks needs is known.
    third = int(memory_gb * 1e9 / 3.5)
    assert at_once(executors.holding(Resources(gpus=0), third)) == 3
    assert at_once(executors.holding(Resources(gpus=0, processes=2), third)) == 1
    for said in (Resources(gpus=0, memory_gb=1), Resources("ray", gpus=0), Resources(gpus=2)):
        assert executors.holding(said, third) == said


def test_nothing_is_written_of_a_training_that_is_refused(own_story: Workspace) -> None:
    root = own_story.root
    before = (root / "branches.yaml").read_bytes()
    with (root / "btx.toml").open("a") as file:
        file.write('[machine]\nnodes = 2\nprocesses = 2\nexecutor = "ray"\nminutes = 1\n')
    with pytest.raises(Invalid, match="minutes"):
        train(Workspace.find(root), {"again": "data/math"})
    assert (root / "branches.yaml").read_bytes() == before


@pytest.mark.usefixtures("no_gpu")
def test_a_batch_that_the_processes_cannot_share_is_refused_before_anything_starts(
    own_story: Workspace,
) -> None:
    root = own_story.root
    with (root / "btx.toml").open("a") as file:
        file.write("[machine]\nprocesses = 3\n")
    workspace = Workspace.find(root)
    before = visible_files(root)
    without = Request(without=["math"])
    for start in (
        lambda: train(workspace, {"again": "data/math"}),
        lambda: train_ahead(workspace, {"again": "data/math"}),
        lambda: rebuild(workspace, without),
        lambda: rebuild_ahead(workspace, without),
    ):
        with pytest.raises(WrongUsage, match="4 sequences for 3 processes"):
            start()
    assert visible_files(root) == before


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_dry_runs_say_where_each_stage_would_run_and_write_nothing(
    own_story: Workspace, btx: Any
) -> None:
    root = own_story.root
    with (root / "btx.toml").open("a") as file:
        file.write('[machine.tune]\nexecutor = "ray"\nprocesses = 2\n')
    before = visible_files(root)
    train_plan = json.loads(
        btx(
            root,
            "train",
            "math",
            "new",
            "--data",
            "data/math",
            "--data",
            "data/code",
            "--dry-run",
            "--json",
        ).stdout
    )
    actions = {one["expert"]: one["action"] for one in train_plan["branches"]}
    assert actions == {"math": "reuse", "new": "train"}
    plan = json.loads(btx(root, "rebuild", "--without", "math", "--dry-run", "--json").stdout)
    places = {one["stage"]: (one["executor"], one["processes"]) for one in plan["stages"]}
    assert places == {"mix": ("local", 1), "tune": ("ray", 2), "evaluate": ("local", 1)}
    text = btx(root, "rebuild", "--without", "math", "--dry-run").stdout
    assert "on      tune ray: 1 node, 2 processes, 1 thread" in text
    assert visible_files(root) == before


def visible_files(root: Path) -> list[Path]:
    """Every file that is no program's own, such as DVC's and the database's."""
    files = (path.relative_to(root) for path in root.rglob("*"))
    return sorted(file for file in files if not file.parts[0].startswith("."))


def blocks(language: str) -> list[str]:
    """The code blocks of the page on many machines."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return [block for kind, block in found if kind == language]


@pytest.mark.parametrize("block", blocks("toml"))
def test_the_settings_on_the_page_are_settings(tmp_path: Path, block: str) -> None:
    found = settings(tmp_path, block)
    for stage in STAGE_NAMES:
        check_counts(found.resources(stage))


@pytest.mark.usefixtures("no_gpu")
def test_the_dry_runs_on_the_page_run_as_they_stand(own_story: Workspace, btx: Any) -> None:
    commands = [line for block in blocks("") for line in block.splitlines() if "--dry-run" in line]
    assert len(commands) == 2
    for command in commands:
        done = btx(own_story.root, *command.split()[1:])
        assert done.returncode == 0, done.stderr


def test_the_settings_of_a_new_workspace_are_read(tmp_path: Path) -> None:
    from pipelines.workspace.settings_file import DEFAULT_SETTINGS

    assert settings(tmp_path, DEFAULT_SETTINGS).resources("train") == Resources()
    assert RaySettings(address="auto") == settings(tmp_path, '[ray]\naddress = "auto"\n').ray
