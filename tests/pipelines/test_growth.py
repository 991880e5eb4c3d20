"""A build that goes on from the one before.

It keeps rows, takes fewer steps, says what that saved, has an edge in the lineage, and never goes
on from what was withdrawn or holds anything of it.
"""

from typing import Any

import pytest

from btx_core.problems import WrongUsage
from pipelines.cli.look import lineage_answer
from pipelines.jobs.add_data import add_data
from pipelines.jobs.audit import audit
from pipelines.jobs.build_plan import Request
from pipelines.jobs.collect_evidence import of_build
from pipelines.jobs.rebuild import look_ahead, rebuild
from pipelines.jobs.register import register
from pipelines.jobs.train import train
from pipelines.jobs.withdraw import withdraw
from pipelines.workspace.workspace import Workspace
from registry.records.events import Judged
from registry.records.facts import BuildFacts, DataStatement

STEP = 4 * 64  # tokens a step, as the story's settings say


TUNING = '[recipe.tune]\nmode = "router"\nhome = 0.3\ngrow = 0.5\n'
BESIDE = "[recipe.train]\nbeside = 0.7\nreplay = 0.5\n"


@pytest.mark.slow
def test_growing_and_shrinking(own_story: Workspace, story: Any, quiet: Any) -> None:
    root = own_story.root
    settings = (root / "btx.toml").read_text()
    (root / "btx.toml").write_text(
        settings.replace("[recipe.tune]\n", TUNING).replace("[recipe.train]\n", BESIDE)
    )
    workspace = Workspace.find(root)
    # build/1 was tuned by another recipe: from nothing
    assert rebuild(workspace).build == "build/2"
    assert cost(workspace, "build/2") == 20 * STEP
    assert "grown_from" not in relations(workspace, "build/2")

    statement = DataStatement(
        license="CC0-1.0", source="test", holder="nobody", purpose="testing", pii="none"
    )
    add_data(workspace, "units", story.corpora / "units", statement)
    branch = train(workspace, {"units": "data/units"})["units"]
    register(
        workspace, "units", branch.folder, data=["data/units@1"], seed="seed/base@1", show=quiet
    )
    ahead = look_ahead(workspace).tuning
    grown = rebuild(workspace)
    assert grown.build == "build/3"
    assert grown.tuning
    assert ahead
    assert ahead.flops
    assert (grown.tuning.from_, grown.tuning.tokens) == ("build/2", 10 * STEP)
    assert grown.tuning.from_nothing_tokens == 20 * STEP
    assert (ahead.from_, ahead.steps) == ("build/2", 10)
    assert cost(workspace, "build/3") == 10 * STEP
    assert "grown_from" in relations(workspace, "build/3")

    shrunk = rebuild(workspace, Request(without=["units"]))
    assert shrunk.build == "build/4"
    assert cost(workspace, "build/4") == 0
    # No other row moved while units joined and left: it is the build before, to the byte.
    assert weights(workspace, "build/4") == weights(workspace, "build/2")
    same = {
        file.path
        for file in files(workspace, "build/3")
        if file.sha256 in {other.sha256 for other in files(workspace, "build/4")}
    }
    assert {
        "model-shared.safetensors",
        "model-expert-math.safetensors",
        "model-expert-seed.safetensors",
    } <= same
    assert audit(workspace, "build/4").findings == ()
    # No member names it any more: gates are told of it all the same.
    told = of_build(workspace.catalog, workspace.catalog.get("build/4", BuildFacts), None)
    assert "data/units@1" in {line.ref for line in told.seed_data}
    asked = [event.read(Judged) for event in workspace.catalog.events("build/4", "verdict")]
    evidence = workspace.catalog.document(asked[-1].evidence)
    assert "data/units@1" in {line["ref"] for line in evidence["seed_data"]}

    reached = withdraw(workspace, "data/units@1", "test").reached
    assert {item.ref for item in reached} >= {"build/3", "build/4"}
    # The cure goes on from the newest build that holds nothing of it, and that is build/2.
    cure = rebuild(workspace).tuning
    assert cure
    assert cure.from_ == "build/2"
    assert weights(workspace, "build/5") == weights(workspace, "build/2")
    assert "data/units@1" not in made_from(workspace, "build/5")


@pytest.mark.slow
def test_a_cure_starts_from_nothing_where_every_build_before_holds_what_was_withdrawn(
    own_story: Workspace,
) -> None:
    """Under `shared` what was learnt of an expert outlives its removal."""
    growing = '[recipe.tune]\nmode = "shared"\ngrow = 0.5\nfrom_nothing_every = 2\n'
    workspace = tuned_by(own_story, growing)
    rebuild(workspace)
    without_code = rebuild(workspace, Request(without=["code"])).tuning
    assert without_code
    assert without_code.from_ == "build/2"
    # Its members are math alone, and yet it was made from code.
    assert "data/code@1" in made_from(workspace, "build/3")
    # Two builds of one chain are enough, says the recipe.
    ahead = look_ahead(workspace, Request(with_=["code"])).tuning
    assert ahead
    assert ahead.from_ == "nothing"

    reached = withdraw(workspace, "data/code@1", "test").reached
    assert {item.ref for item in reached} >= {"build/2", "build/3"}
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text().replace("from_nothing_every = 2\n", ""))
    cure = rebuild(Workspace.find(own_story.root)).tuning
    assert cure
    assert cure.from_ == "nothing"
    assert "data/code@1" not in made_from(workspace, "build/4")


@pytest.mark.slow
def test_a_grown_build_is_built_from_nothing_when_asked(own_story: Workspace) -> None:
    workspace = tuned_by(own_story, TUNING)
    rebuild(workspace, Request(without=["code"]))
    grown = rebuild(workspace).tuning
    assert grown
    assert grown.from_ == "build/2"
    assert rebuild(workspace).status == "unchanged"
    asked = rebuild(workspace, Request(from_nothing=True)).tuning
    assert asked
    assert asked.from_ == "nothing"
    assert rebuild(workspace, Request(from_nothing=True)).status == "unchanged"


@pytest.mark.slow
def test_a_larger_batch_of_growth_is_shared_by_the_processes_or_refused_at_the_door(
    own_story: Workspace,
) -> None:
    alone = tuned_by(own_story, f"{TUNING}grow_batch = 1.5\n")
    rebuild(alone, Request(without=["code"]))
    settings = own_story.root / "btx.toml"
    settings.write_text(f"{settings.read_text()}[machine]\nprocesses = 4\n")
    workspace = Workspace.find(own_story.root)
    for start in (look_ahead, rebuild):
        with pytest.raises(WrongUsage, match="6 sequences for 4 processes"):
            start(workspace)
    assert look_ahead(workspace, Request(from_nothing=True)).status == "planned"


@pytest.mark.slow
def test_a_build_that_keeps_no_expert_of_the_one_before_is_tuned_from_nothing(
    own_story: Workspace,
) -> None:
    workspace = tuned_by(own_story, "[recipe.mix]\nseed_expert = false\ntop_k = 1\n" + TUNING)
    rebuild(workspace, Request(without=["code"]))
    swapped = Request(without=["math"])
    for tuning in (look_ahead(workspace, swapped).tuning, rebuild(workspace, swapped).tuning):
        assert tuning
        assert tuning.from_ == "nothing"


def tuned_by(workspace: Workspace, tables: str) -> Workspace:
    """Open a workspace anew, with these tables in the place of the head of [recipe.tune]."""
    settings = workspace.root / "btx.toml"
    settings.write_text(settings.read_text().replace("[recipe.tune]\n", tables))
    return Workspace.find(workspace.root)


def cost(workspace: Workspace, build: str) -> int:
    tokens = workspace.catalog.get(build, BuildFacts).facts.cost.tune.tokens
    assert tokens is not None
    return tokens


def weights(workspace: Workspace, build: str) -> dict[str, str]:
    return {
        file.path: file.sha256
        for file in files(workspace, build)
        if file.path.endswith(".safetensors")
    }


def made_from(workspace: Workspace, build: str) -> set[str]:
    nodes = lineage_answer(workspace.catalog, build, down=False).nodes
    return {node.ref for node in nodes}


def files(workspace: Workspace, build: str) -> Any:
    return workspace.catalog.get(build).files


def relations(workspace: Workspace, build: str) -> set[str]:
    edges = lineage_answer(workspace.catalog, build, down=False).edges
    return {edge.relation for edge in edges}
