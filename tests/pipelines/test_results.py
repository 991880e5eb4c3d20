"""Figures go to the data version and the expert that they belong to.

Experts of several data versions, data versions of one name, experts of one domain: on the tiny
story, whose seed knows prose, with the units' text as a second version of data/math.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import policy
from pipelines.jobs.add_data import add_data
from pipelines.jobs.build_plan import Request
from pipelines.jobs.diff import diff
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.register import register
from pipelines.jobs.show import shown
from pipelines.workspace.workspace import Workspace
from registry.errors import Refused
from registry.records.answers.shown import DiffAnswer
from registry.records.facts import BuildFacts, DataStatement, ExpertFacts
from registry.records.results import Result, by_data
from registry.records.version import Version

Run = Callable[..., subprocess.CompletedProcess[str]]
BOTH = ("data/math@1", "data/math@2")
# What the seed was trained on: every build is measured on it.
GENERAL = "data/prose@1"
STATEMENT = DataStatement(
    license="CC0-1.0", source="the test", holder="nobody", purpose="testing", pii="none"
)


def results(workspace: Workspace, build: str) -> dict[str, Result]:
    return by_data(workspace.catalog.get(build, BuildFacts).facts.results)


def expert(workspace: Workspace, name: str) -> dict[str, Result]:
    return by_data(workspace.catalog.get(f"expert/{name}", ExpertFacts).facts.results)


@pytest.fixture
def registered(quiet: Any, checkpoint: Path) -> Callable[..., Version[ExpertFacts]]:
    """Register the math expert's weights, moved a little, under a name and on data."""

    def register_it(workspace: Workspace, name: str, *data: str) -> Version[ExpertFacts]:
        return register(workspace, name, checkpoint, data=data, seed="seed/base", show=quiet)

    return register_it


@pytest.fixture(scope="module")
def several(
    story: Any, checkpoint: Path, quiet: Any, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """data/math@2; expert/both on both versions of data/math, expert/sums on the second. Read only.

    build/2 holds code and both; build/3 every expert; build/4 code and sums, as if data/math had
    been upgraded.
    """
    root = tmp_path_factory.mktemp("several") / "workspace"
    subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
    workspace = Workspace.find(root)
    add_data(workspace, "math", story.corpora / "units", STATEMENT)
    for name, data in (("both", BOTH), ("sums", BOTH[1:])):
        register(workspace, name, checkpoint, data=data, seed="seed/base", show=quiet)
    for left_out in (["math", "sums"], [], ["math", "both"]):
        rebuild(workspace, Request(without=left_out, tune="none"))
    return workspace


@pytest.mark.parametrize(
    "order",
    [("math", "prose"), pytest.param(("prose", "math"), marks=pytest.mark.slow)],
    ids=",".join,
)
def test_what_the_seed_knew_is_told_of_the_right_data_version(
    own_story: Workspace,
    registered: Callable[..., Version[ExpertFacts]],
    order: Sequence[str],
) -> None:
    quality = own_story.policies / "quality.yaml"
    quality.write_text(quality.read_text().replace("may_lose: {}", "may_lose: {prose: 2.0}"))
    policy.adopt(own_story)
    registered(own_story, "mixed", *(f"data/{name}" for name in order))
    rebuild(own_story, Request(without=["math", "code"], tune="none"))
    found = results(own_story, "build/2")
    new = {data: result.new_to_seed for data, result in found.items()}
    assert new == {"data/math@1": True, "data/prose@1": False}
    own = expert(own_story, "mixed")
    for data, result in found.items():
        assert result.seed_bits_per_byte == own[data].seed_bits_per_byte
        assert [one.bits_per_byte for one in result.specialists] == [own[data].bits_per_byte]


@pytest.mark.slow
def test_two_versions_of_one_data_name_are_both_measured(several: Workspace) -> None:
    own, built = expert(several, "both"), results(several, "build/2")
    assert tuple(own) == BOTH
    assert set(built) == {"data/code@1", *BOTH, GENERAL}
    for measured in (own, built):
        figures = {(measured[data].bits_per_byte, measured[data].tokens) for data in BOTH}
        assert len(figures) == 2, "two texts, two figures"


@pytest.mark.slow
def test_the_commands_rebuild_and_show_two_versions_of_one_data_name(
    several: Workspace, btx: Run
) -> None:
    done = btx(several.root, "rebuild", "--without", "math", "--without", "both", "--tune", "none")
    assert (done.returncode, "unchanged" in done.stdout) == (0, True), done.stderr
    answer = json.loads(btx(several.root, "show", "build/2", "--json").stdout)
    assert set(answer["evaluation"]) == {"code", "math@1", "math@2", "prose"}
    assert isinstance(answer["results"], list)
    assert [line["data"] for line in answer["results"]] == ["data/code@1", *BOTH, GENERAL]
    names = {"data/code@1": "code", GENERAL: "prose"}
    for line in answer["results"]:
        label = names.get(line["data"], line["data"].removeprefix("data/"))
        assert answer["evaluation"][label]["bits_per_byte"] == line["bits_per_byte"]
    own = json.loads(btx(several.root, "show", "expert/both", "--json").stdout)
    assert set(own["evaluation"]["domains"]) == {"math@1", "math@2"}


FOUND = [
    (
        "math.bits_per_byte<9",
        ["both", "math", "sums"],
        ["build/1", "build/2", "build/3", "build/4"],
    ),
    ("math@1.bits_per_byte<9", ["both", "math"], ["build/1", "build/2", "build/3"]),
    ("math@2.bits_per_byte<9", ["both", "sums"], ["build/2", "build/3", "build/4"]),
    (
        "bits_per_byte<9",
        ["both", "code", "math", "sums"],
        ["build/1", "build/2", "build/3", "build/4"],
    ),
    ("math.bits_per_byte<0.001", [], []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "experts", "builds"), FOUND, ids=[one[0] for one in FOUND])
def test_a_metric_finds_experts_and_builds_alike(
    several: Workspace, btx: Run, metric: str, experts: list[str], builds: list[str]
) -> None:
    for kind, refs in (("experts", [f"expert/{name}@1" for name in experts]), ("builds", builds)):
        done = btx(several.root, "list", kind, "--metric", metric, "--json")
        assert done.returncode == 0, done.stderr
        assert [row["ref"] for row in json.loads(done.stdout)] == refs


@pytest.mark.parametrize("order", [("math", "prose"), ("prose", "math")], ids=",".join)
def test_an_expert_that_is_worse_than_its_seed_on_any_of_its_data_is_refused(
    own_story: Workspace,
    registered: Callable[..., Version[ExpertFacts]],
    order: Sequence[str],
) -> None:
    assert registered(own_story, "alone", "data/math").created, "good enough on the one"
    head = len(own_story.catalog.versions(ExpertFacts))
    with pytest.raises(Refused, match="quality/beats-seed"):
        registered(own_story, "mixed", *(f"data/{name}" for name in order))
    assert len(own_story.catalog.versions(ExpertFacts)) == head
    assert own_story.catalog.status("expert/mixed@1") == "refused"


@pytest.mark.slow
def test_of_two_experts_of_one_domain_the_better_is_the_specialist_and_both_are_named(
    several: Workspace,
) -> None:
    own = {
        f"expert/{name}@1": expert(several, name)["data/math@1"].bits_per_byte
        for name in ("math", "both")
    }
    assert len(set(own.values())) == 2
    better = min(own, key=lambda ref: own[ref] or 0.0)
    result = results(several, "build/3")["data/math@1"]
    assert {one.ref: one.bits_per_byte for one in result.specialists} == own
    assert result.specialist is not None
    assert result.specialist.ref == better
    seed, built, best = result.seed_bits_per_byte, result.bits_per_byte, own[better]
    assert seed is not None
    assert built is not None
    assert best is not None
    assert result.gain_kept == pytest.approx((seed - built) / (seed - best))
    shown_figures = shown(several, "build/3").to_json()["evaluation"]["math@1"]
    assert shown_figures["specialist"] == better
    assert shown_figures["specialist_bits_per_byte"] == best
    assert {one["ref"] for one in shown_figures["specialists"]} == set(own)


def compared(answer: DiffAnswer) -> set[str]:
    """Return the labels whose figures stand on both sides of a line."""
    lines = [one for one in answer.changes if one.what.startswith("evaluation.")]
    both = [one for one in lines if one.left is not None and one.right is not None]
    return {one.what.split(".")[1] for one in both}


@pytest.mark.slow
def test_a_diff_over_an_upgrade_of_data_compares_no_figures_of_different_texts(
    several: Workspace, btx: Run
) -> None:
    upgraded = diff(several, "build/1", "build/4")
    assert compared(upgraded) == {"code", "prose"}
    (note,) = upgraded.notes
    assert all(word in note for word in ("math: ", *BOTH, "different texts"))
    sides = {one.what: (one.left, one.right) for one in upgraded.changes}
    left, right = sides["evaluation.math@1.bits_per_byte"]
    assert (left, right) == (results(several, "build/1")["data/math@1"].bits_per_byte, None)
    left, right = sides["evaluation.math@2.bits_per_byte"]
    assert (left, right) == (None, results(several, "build/4")["data/math@2"].bits_per_byte)
    assert f"note: {note}" in btx(several.root, "diff", "build/1", "build/4").stdout


@pytest.mark.slow
def test_a_diff_of_a_build_that_took_a_second_version_in_compares_the_first_alone(
    several: Workspace,
) -> None:
    assert set(results(several, "build/3")) == {"data/code@1", *BOTH, GENERAL}
    answer = diff(several, "build/1", "build/3")
    assert compared(answer) == {"code", "math@1", "prose"}
    (note,) = answer.notes
    assert all(word in note for word in ("math: ", *BOTH, "different texts"))
    same = diff(several, "build/2", "build/3")
    assert same.notes == ()
    assert compared(same) == {"code", "math@1", "math@2", "prose"}


@pytest.mark.slow
def test_figures_of_another_amount_of_one_text_are_named_and_not_compared(
    own_story: Workspace,
) -> None:
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text().replace("max_tokens = 2000", "max_tokens = 1000"))
    rebuild(Workspace.find(own_story.root))
    answer = diff(own_story, "build/1", "build/2")
    lines = {one.what for one in answer.changes if one.what.startswith("evaluation.")}
    assert lines == {f"evaluation.{name}.tokens" for name in ("code", "math", "prose")}
    named = [note.split(":")[0] for note in answer.notes]
    assert named == ["data/code@1", "data/math@1", GENERAL]
    # Nor beside the specialists, measured on the first amount; the seed is measured anew.
    before = results(own_story, "build/1")
    for data, result in results(own_story, "build/2").items():
        assert result.bits_per_byte is not None
        assert (result.specialists, result.gain_kept) == ((), None)
        assert result.seed_bits_per_byte not in (None, before[data].seed_bits_per_byte)


@pytest.mark.slow
def test_a_release_is_judged_beside_its_seed_on_the_very_same_text(
    own_story: Workspace, btx: Run
) -> None:
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text().replace("max_tokens = 2000", "max_tokens = 1000"))
    rebuild(Workspace.find(own_story.root))
    asked = btx(own_story.root, "policy", "check", "build/2")
    assert "refused  release/second-person" in asked.stdout
    assert "release-quality/seed-measured" not in asked.stdout
