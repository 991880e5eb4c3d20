"""A build that goes on from the one before.

It keeps rows, takes fewer steps, has an edge in the lineage, and never goes on from what was
withdrawn.
"""

from typing import Any

import pytest

from pipelines.cli.look import lineage_answer
from pipelines.jobs.add_data import add_data
from pipelines.jobs.audit import audit
from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.register import register
from pipelines.jobs.train import train
from pipelines.jobs.withdraw import withdraw
from pipelines.workspace.workspace import Workspace
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

    statement = DataStatement(license="CC0-1.0", source="test", holder="nobody", purpose="testing")
    add_data(workspace, "units", story.corpora / "units", statement)
    branch = train(workspace, {"units": "data/units"})["units"]
    register(
        workspace, "units", branch.folder, data=["data/units@1"], seed="seed/base@1", show=quiet
    )
    assert rebuild(workspace).build == "build/3"
    assert cost(workspace, "build/3") == 10 * STEP
    assert "grown_from" in relations(workspace, "build/3")

    assert rebuild(workspace, Request(without=["units"])).build == "build/4"
    assert cost(workspace, "build/4") == 0
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

    reached = withdraw(workspace, "data/units@1", "test").reached
    assert {item.ref for item in reached} >= {"build/3", "build/4"}
    rebuild(workspace)
    assert cost(workspace, "build/5") == 20 * STEP
    nodes = lineage_answer(workspace.catalog, "build/5", down=False).nodes
    assert "data/units@1" not in {node.ref for node in nodes}


def cost(workspace: Workspace, build: str) -> int:
    tokens = workspace.catalog.get(build, BuildFacts).facts.cost.tune.tokens
    assert tokens is not None
    return tokens


def files(workspace: Workspace, build: str) -> Any:
    return workspace.catalog.get(build).files


def relations(workspace: Workspace, build: str) -> set[str]:
    edges = lineage_answer(workspace.catalog, build, down=False).edges
    return {edge.relation for edge in edges}
