"""A run that is cut off between any two file operations loses nothing.

The same call afterwards ends in the bytes that an undisturbed run would have had.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from btx_core.problems import NotFinite, WrongUsage
from btx_core.training.branch import train
from btx_core.training.loop import Watch
from btx_core.training.recipes import TrainRecipe

RECIPE = TrainRecipe(steps=4, batch=2, sequence=16, warmup_steps=1, save_every=1)
# What changes files, as Python's audit events name it.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}


class Killed(BaseException):
    """The process is gone; whoever catches this can change no file any more."""


class Blows:
    """Lets a number of file operations under a folder pass, and none after them."""

    def __init__(self) -> None:
        self.folder = ""
        self.passing = self.seen = 0
        self.armed = False
        # A hook of this kind stays for good; it looks at nothing unless it is armed.
        sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.armed or not self.changes(event, arguments):
            return
        self.seen += 1
        if self.seen > self.passing:
            raise Killed

    def changes(self, event: str, arguments: tuple[object, ...]) -> bool:
        if not str(arguments[0] if arguments else "").startswith(self.folder):
            return False
        if event == "open":
            return any(mode in str(arguments[1]) for mode in "wxa+")
        return event in CHANGES

    @contextmanager
    def after(self, passing: int, folder: Path) -> Iterator[None]:
        self.folder, self.passing, self.seen, self.armed = str(folder), passing, 0, True
        try:
            yield
        finally:
            self.armed = False


@pytest.fixture(scope="module")
def blows() -> Blows:
    return Blows()


def digest(folder: Path) -> str:
    files = sorted(file for file in folder.iterdir() if file.name != "btx-train.json")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@pytest.fixture
def run(tiny_seed: Path, tiny_corpora: Path) -> Callable[[Path], list[int]]:
    """Trains into a folder; returns the steps that it computed."""

    def trained(out: Path) -> list[int]:
        steps: list[int] = []
        watch = Watch(report=lambda step, _: steps.append(step))
        train(tiny_seed, [tiny_corpora / "math"], RECIPE, out, watch=watch)
        return steps

    return trained


@pytest.mark.parametrize(
    "every", [7, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "each"]
)
def test_no_kill_between_two_file_operations_loses_anything(
    run: Callable[[Path], list[int]], blows: Blows, tmp_path: Path, every: int
) -> None:
    with blows.after(1 << 30, tmp_path):
        assert run(tmp_path / "whole" / "out") == [1, 2, 3, 4]
    operations, expected = blows.seen, digest(tmp_path / "whole" / "out")
    assert operations > 30
    went_on = 0
    for passing in range(0, operations, every):
        folder = tmp_path / str(passing)
        try:
            with blows.after(passing, folder):
                run(folder / "out")
        except BaseException:
            # torch.distributed wraps even this one.
            if blows.seen <= passing:
                raise
        if not (folder / "out").exists():
            went_on += run(folder / "out") != [1, 2, 3, 4]
        assert digest(folder / "out") == expected, passing
    assert went_on > 0, "none went on from a state"


def test_a_state_of_earlier_code_is_ignored(
    run: Callable[[Path], list[int]], tmp_path: Path
) -> None:
    old = tmp_path / ".out.training"
    old.mkdir()
    (old / "run.json").write_text('{"key": "{}", "step": 3, "curve": [], "since": []}')
    (old / "model.safetensors").touch()
    assert run(tmp_path / "out") == [1, 2, 3, 4]


@pytest.mark.parametrize("earlier_code", [False, True])
def test_a_run_that_went_on_reports_time_memory_and_looks_of_all_its_parts(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path, earlier_code: bool
) -> None:
    def stop(step: int, _: object) -> None:
        if step == 8:
            raise Killed

    recipe = replace(RECIPE, steps=12, save_every=7)
    run, out = (tiny_seed, [tiny_corpora / "math"], recipe), tmp_path / "out"
    with pytest.raises(Killed):
        train(*run, out, watch=Watch(report=stop))
    (state,) = (tmp_path / ".out.training").glob("*/run.json")
    kept = json.loads(state.read_text())
    assert kept["wall_s"] > 0
    assert kept["device_s"] > 0
    assert kept["peak_bytes"] > 0
    assert [step for step, _ in kept["heldout"]] == [0, 5]
    if earlier_code:
        for key in ("wall_s", "device_s", "heldout", "peak_bytes"):
            del kept[key]
    else:
        kept |= {"wall_s": 1000.0, "device_s": 2000.0, "peak_bytes": 1 << 50}
    state.write_text(json.dumps(kept))
    steps: list[int] = []
    report = train(*run, out, watch=Watch(report=lambda step, _: steps.append(step)))
    assert steps == [8, 9, 10, 11, 12]
    assert report.heldout
    looks = [step for step, _ in report.heldout["losses"]]
    assert looks == ([0, 10, 12] if earlier_code else [0, 5, 10, 12])
    assert (report.wall_s > 1000, report.device_s > 2000) == (not earlier_code, not earlier_code)
    assert (report.peak_bytes == 1 << 50) is not earlier_code


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_last_state(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, learning_rate=1e25)
    with pytest.raises(NotFinite, match="step 2"):
        train(tiny_seed, [tiny_corpora / "math"], recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [each.name for each in (tmp_path / ".out.training").iterdir()] == ["step-000000001"]


def test_parts_that_are_not_there_are_told_before_the_first_step(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    with pytest.raises(WrongUsage, match="3 parts of 2 sequences"):
        train(tiny_seed, [tiny_corpora / "math"], replace(RECIPE, accumulate=3), tmp_path / "out")
