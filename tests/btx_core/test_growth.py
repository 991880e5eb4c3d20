"""A line of builds under mode `router`: whatever joins, is replaced or leaves, the rest stays."""

import hashlib
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.training.branch import train
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob, tune

RECIPE = TuneRecipe(mode="router", steps=4, sequence=32, warmup_steps=1, grow=0.5)
ROUTER, SHARED = "model-router.safetensors", "model-shared.safetensors"
SLOTS = {"math": 1, "code": 2, "units": 3}
VERSIONS = (1, 2)

# An expert's name and version.
Expert = tuple[str, int]


@pytest.fixture(scope="module")
def branches(tiny_seed: Path, tiny_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of three experts."""
    root = tmp_path_factory.mktemp("branches")
    for name in SLOTS:
        for version in VERSIONS:
            recipe = TrainRecipe(steps=4, sequence=32, seed=version)
            train(tiny_seed, [tiny_corpora / name], recipe, root / f"{name}-{version}")
    return root


@dataclass
class Line:
    """Builds of one line, each grown from the one before."""

    root: Path
    branches: Path
    seed: Path
    corpora: Path
    mixing: MixRecipe = field(default_factory=MixRecipe)
    builds: list[tuple[Expert, ...]] = field(default_factory=list)

    def folder(self, number: int) -> Path:
        return self.root / f"build-{number}"

    def rows(self, number: int) -> dict[Expert | str, int]:
        """Which router row is whose; the first is the seed model's."""
        return {"seed": 0} | {one: row for row, one in enumerate(self.builds[number], 1)}

    def build(self, experts: set[Expert], recipe: TuneRecipe = RECIPE) -> Path:
        members = tuple(sorted(experts, key=lambda one: SLOTS[one[0]]))
        self.builds.append(members)
        number = len(self.builds) - 1
        mixed, out = self.root / f"mixed-{number}", self.folder(number)
        folders = {one: self.branches / f"{one[0]}-{one[1]}" for one in members}
        slots = [Member(name, SLOTS[name], folders[name, v]) for name, v in members]
        mix(self.seed, slots, self.mixing, mixed)
        rows = self.rows(number)
        own = {GENERAL: OwnExpert(0, self.seed)}
        own |= {one[0]: OwnExpert(rows[one], folders[one]) for one in members}
        texts = {GENERAL: [self.corpora / "prose"]}
        texts |= {one[0]: [self.corpora / one[0]] for one in members}
        grown = None
        if number:
            before = self.rows(number - 1)
            kept = {row: before[one] for one, row in rows.items() if one in before}
            grown = Grown(self.folder(number - 1), kept)
        tune(TuneInputs(mixed, texts, own, self.seed, grown), recipe, out)
        return out


@pytest.fixture
def line(tmp_path: Path, branches: Path, tiny_seed: Path, tiny_corpora: Path) -> Line:
    return Line(tmp_path, branches, tiny_seed, tiny_corpora)


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.glob("*.safetensors")
    }


def row_of(line: Line, number: int, expert: Expert | str) -> list[torch.Tensor]:
    row = line.rows(number)[expert]
    routers = load_file(line.folder(number) / ROUTER)
    return [routers[name][row] for name in sorted(routers)]


def changed(experts: set[Expert], generator: random.Random) -> set[Expert]:
    """Add, replace or take out one expert, whichever can be."""
    present = {name for name, _ in experts}
    ways = [experts | {(name, v)} for name in SLOTS.keys() - present for v in VERSIONS]
    for name, version in experts:
        rest = experts - {(name, version)}
        ways += [rest | {(name, 3 - version)}, *([rest] if rest else [])]
    return generator.choice(sorted(ways, key=sorted))


@pytest.mark.parametrize("order", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_in_any_order_of_changes_what_stays_is_the_same_to_the_bit(line: Line, order: int) -> None:
    generator = random.Random(order)
    experts: set[Expert] = {("math", 1), ("code", 1)}
    first = digests(line.build(experts))
    for number in range(1, 5):
        experts = changed(experts, generator)
        now = digests(line.build(experts))
        assert now[SHARED] == first[SHARED]
        before = digests(line.folder(number - 1))
        for expert in ("seed", *(set(line.builds[number]) & set(line.builds[number - 1]))):
            name = expert if isinstance(expert, str) else expert[0]
            file = f"model-expert-{name}.safetensors"
            assert now[file] == before[file]
            pairs = zip(row_of(line, number, expert), row_of(line, number - 1, expert), strict=True)
            assert all(torch.equal(row, row_before) for row, row_before in pairs)
        if number > 1 and line.builds[number] == line.builds[number - 2]:
            back_out = set(line.builds[number]) < set(line.builds[number - 1])
            assert not back_out or now == digests(line.folder(number - 2))


def test_under_shared_tuning_what_left_stays_in_what_is_shared(line: Line) -> None:
    """Why growth is an edge of the lineage: add and take out is not the build before."""
    shared = replace(RECIPE, mode="shared")
    one = digests(line.build({("math", 1)}, shared))
    two = digests(line.build({("math", 1), ("code", 1)}, shared))
    back = digests(line.build({("math", 1)}, shared))
    assert one[SHARED] != two[SHARED]
    assert back[SHARED] == two[SHARED]


def test_where_all_rows_train_routers_make_room_and_nothing_else_moves(line: Line) -> None:
    recipe = replace(RECIPE, grow_rows="all")
    before = digests(line.build({("math", 1)}, recipe))
    after = digests(line.build({("math", 1), ("code", 1)}, recipe))
    assert {name for name in before if before[name] != after[name]} == {ROUTER}
    for expert in ("seed", ("math", 1)):
        pairs = zip(row_of(line, 1, expert), row_of(line, 0, expert), strict=True)
        assert not any(torch.equal(row, row_before) for row, row_before in pairs)


def test_where_only_routers_train_they_are_tuned_on_the_shared_parameters_that_are_written(
    line: Line, tmp_path: Path
) -> None:
    """Which of branches that trained them are another mean as soon as one joins."""
    for name in ("math", "code"):
        folder = tmp_path / "full" / f"{name}-1"
        recipe = TrainRecipe(mode="full", steps=4, sequence=32)
        train(line.seed, [line.corpora / name], recipe, folder)
    line = replace(line, branches=tmp_path / "full", mixing=MixRecipe(mode="full"))
    before = line.build({("math", 1)})
    written = load_file(line.build({("math", 1), ("code", 1)}) / SHARED)
    assert any(
        not torch.equal(written[name], old) for name, old in load_file(before / SHARED).items()
    )
    inputs = TuneInputs(line.root / "mixed-1", {}, {}, line.seed, Grown(before, {0: 0, 1: 1}))
    for mode, is_written in (("router", True), ("shared", False)):
        job = TuneJob.load(inputs, replace(RECIPE, mode=mode))
        job.start_routers()
        tuned = dict(job.routed.network.named_parameters())
        same = [torch.equal(tuned[name], of_file.float()) for name, of_file in written.items()]
        assert all(same) is is_written


def test_a_run_does_not_go_on_from_the_state_of_one_that_grew_from_another_build(
    line: Line, tmp_path: Path
) -> None:
    """As when a withdrawal comes in between: the build before is another one then."""
    shared = replace(RECIPE, mode="shared")
    builds = [
        line.build(experts, shared) for experts in ({("math", 1)}, {("math", 1), ("code", 1)})
    ]
    texts = {GENERAL: [line.corpora / "prose"], "math": [line.corpora / "math"]}
    own = {GENERAL: OwnExpert(0, line.seed), "math": OwnExpert(1, line.branches / "math-1")}
    keys = set()
    for folder in builds:
        for kept in ({0: 0, 1: 1}, {0: 0}):
            inputs = TuneInputs(line.root / "mixed-1", texts, own, line.seed, Grown(folder, kept))
            keys.add(TuneJob.load(inputs, shared).checkpoints(tmp_path / "out").key)
    assert len(keys) == 4
