"""Several processes that share a model: what one computes, kept and gone on from to the byte."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import killed_runs
import pytest
import sharded_runs
from safetensors.torch import load_file
from sharded_runs import BRANCHES, FOUR, ROUTINGS, TUNINGS

# Of runs of several processes; a campaign: 50.
KILLS = int(os.environ.get("BTX_KILLS", "3"))
# The embedding and head of a model that trains and of its teacher, which a step leaves whole, and
# token ids, random state and the like.
STAYS_WHOLE = 4 * (384 * 32) * 4 + (64 << 10)
Start = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def ground(tiny_seed: Path, tiny_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    sharded_runs.prepare(tiny_seed, tiny_corpora, folder)
    return folder


def start(
    ground: Path, out: Path, *names: str, processes: int = 2, experts: int = 1, stop: int = 0
) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    environment = os.environ | {
        "BTX_EXPERT_PARALLEL": str(experts),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launch, sharded_runs.__file__]
    return subprocess.run(
        [*command, str(ground), str(out), str(stop), *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def check_alike(one: Path, several: Path, name: str) -> None:
    """Compare losses and every tensor of two runs."""
    losses = [
        json.loads((folder / f"{name}.json").read_text())["losses"] for folder in (one, several)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert {file.name for file in (one / name).iterdir()} == {
        file.name for file in (several / name).iterdir()
    }
    for file in sorted((one / name).glob("*.safetensors")):
        alone, shared = load_file(file), load_file(several / name / file.name)
        assert alone.keys() == shared.keys()
        for tensor, values in alone.items():
            assert values.shape == shared[tensor].shape
            assert bool(((values - shared[tensor]).abs() < 1e-5).all()), (file.name, tensor)


# Any: a JSON object.
def said(folder: Path, name: str) -> dict[str, Any]:
    """Return what a run said of itself."""
    answer: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return answer


def digest(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


# What trains shared parameters, in parts, and experts under a limited routing.
MOST_TELLING = ("anchored", "parts", "full", "shared", "switch")
EVERY_RUN = (*BRANCHES, *TUNINGS, *ROUTINGS)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(MOST_TELLING, id="most-telling"),
        pytest.param(
            [name for name in EVERY_RUN if name not in MOST_TELLING],
            id="the-rest",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_compute_what_one_does(
    ground: Path, tmp_path: Path, names: Sequence[str]
) -> None:
    done = start(ground, tmp_path / "two", *names)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    for name in names:
        sharded_runs.run(name, ground, tmp_path / "one")
        check_alike(tmp_path / "one", tmp_path / "two", name)
    exchanged = [
        said(tmp_path / "two", name)["exchanged"] for name in ("anchored", "parts") if name in names
    ]
    assert len(set(exchanged)) <= 1, "once a step, however many parts"
    assert 0 not in exchanged
    for name in {"full", "shared", "all", "grow"} & set(names):
        (alone,), (half,) = (said(tmp_path / each, name)["held"] for each in ("one", "two"))
        assert half <= 1.1 * alone / 2 + STAYS_WHOLE, name


@pytest.mark.slow
def test_two_processes_that_died_go_on_and_end_in_the_same_bytes(
    ground: Path, tmp_path: Path
) -> None:
    whole, died = tmp_path / "whole", tmp_path / "died"
    assert start(ground, whole, "all").returncode == 0
    assert start(ground, died, "all", stop=3).returncode != 0
    assert not (died / "all").exists()
    shutil.copytree(died, tmp_path / "alone")
    assert start(ground, died, "all").returncode == 0
    assert json.loads((died / "all.json").read_text())["first"] == 3, "it began anew"
    assert digest(died / "all") == digest(whole / "all")
    assert not list(died.glob(".*")), "the state goes when the result stands"
    sharded_runs.run("all", ground, tmp_path / "alone")
    assert json.loads((tmp_path / "alone/all.json").read_text())["first"] == 3
    for file in (whole / "all").glob("*.safetensors"):
        other = load_file(tmp_path / "alone/all" / file.name)
        for tensor, values in load_file(file).items():
            assert float((values - other[tensor]).abs().max()) < 1e-5


@pytest.mark.slow
def test_runs_killed_at_random_moments_lose_nothing(ground: Path, tmp_path: Path) -> None:
    """Every start goes on at the last step that was saved, and the end is the same bytes."""
    command = [sys.executable, killed_runs.__file__, str(ground), str(tmp_path / "runs")]
    # A module beside it is imported; an executor that ran here may have forbidden that.
    environment = {key: one for key, one in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [*command, str(KILLS), os.environ.get("BTX_SEED", "4")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(life["kills"] for life in lives) >= KILLS
    for life in lives:
        whole = tmp_path / "runs" / f"whole-{life['name']}" / life["name"]
        assert digest(Path(life["folder"]) / life["name"]) == digest(whole), life
        assert life["lost"] <= 0, life
    kills, went_on = (sum(life[what] for life in lives) for what in ("kills", "went_on"))
    print(f"{kills} kills of {len(lives)} runs; {went_on} starts went on from a state")


def test_an_error_of_one_process_ends_both_and_names_it(ground: Path, tmp_path: Path) -> None:
    (tmp_path / "two" / "anchored").mkdir(parents=True)
    (tmp_path / "two" / "anchored" / "mine").touch()
    done = start(ground, tmp_path / "two", "anchored")
    assert done.returncode == 1
    assert "OtherProcessFailed: process 0" in done.stderr
    assert "something there already" in done.stderr
    assert [file.name for file in (tmp_path / "two" / "anchored").iterdir()] == ["mine"]


@pytest.mark.slow
def test_settings_that_divide_experts_leave_whole_what_they_do_not_divide(
    ground: Path, tmp_path: Path
) -> None:
    """`expert_parallel` is of a machine, and so of its branches and of builds of any size too."""
    names = ("anchored", "beside", "shared", "four-grow")
    done = start(ground, tmp_path / "two", *names, experts=2)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    for name in names:
        sharded_runs.run(name, ground, tmp_path / "one")
        check_alike(tmp_path / "one", tmp_path / "two", name)


def test_a_mixture_whose_experts_the_processes_divide_is_measured_as_by_one(
    ground: Path, tmp_path: Path
) -> None:
    done = start(ground, tmp_path / "two", "measured", experts=2)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    sharded_runs.run("measured", ground, tmp_path / "one")
    one, two = (said(tmp_path / folder, "measured")["losses"] for folder in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 2])
def test_more_processes_than_experts_compute_what_one_does(
    ground: Path, tmp_path: Path, experts: int
) -> None:
    names = ("shared", "all", "router")
    done = start(ground, tmp_path / "four", *names, processes=4, experts=experts)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    for name in names:
        sharded_runs.run(name, ground, tmp_path / "one")
        check_alike(tmp_path / "one", tmp_path / "four", name)


@pytest.mark.slow
def test_four_processes_that_divide_the_experts_compute_what_one_does(
    ground: Path, tmp_path: Path
) -> None:
    done = start(ground, tmp_path / "four", *FOUR, processes=4, experts=2)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    for name in FOUR:
        sharded_runs.run(name, ground, tmp_path / "one")
        check_alike(tmp_path / "one", tmp_path / "four", name)
    assert start(ground, tmp_path / "died", *FOUR, processes=4, experts=2, stop=3).returncode != 0
    done = start(ground, tmp_path / "died", *FOUR, processes=4, experts=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digest(tmp_path / "died/four-shared") == digest(tmp_path / "four/four-shared")
