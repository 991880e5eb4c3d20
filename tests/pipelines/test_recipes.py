"""A recipe's keys and values are checked before anything starts."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from btx_core.files import replace_text
from btx_core.mixing.mix import MixRecipe
from btx_core.problems import WrongUsage
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import look_ahead, rebuild
from pipelines.jobs.train import look_ahead as train_ahead
from pipelines.jobs.train import train
from pipelines.stages.dvc_runs import commit
from pipelines.workspace.orders import BRANCHES, branches_text, read_branches
from pipelines.workspace.recipe_reader import EvaluateRecipe, recipe
from pipelines.workspace.reports import training_report
from pipelines.workspace.settings_file import Recipes
from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid
from registry.records.facts import BuildFacts

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (TrainRecipe, "stepss", 3),
        (TrainRecipe, "steps", -3),
        (TrainRecipe, "steps", "many"),
        (TrainRecipe, "steps", 1.5),
        (TrainRecipe, "precision", "bf16"),  # would quietly have been float32
        (TrainRecipe, "learning_rate", float("nan")),
        (TuneRecipe, "learning_rate", float("inf")),
        (TuneRecipe, "mode", "everything"),
        (TuneRecipe, "batch", 0),
        (TuneRecipe, "keep", "auto"),  # only what fits the model is chosen
        (MixRecipe, "top_k", 0),
        (MixRecipe, "routing", "soft top"),
        (MixRecipe, "seed_expert", "yes"),
        (EvaluateRecipe, "max_token", 3),
        (EvaluateRecipe, "tasks", "one.yaml"),  # a list is meant: its letters are no files
    ],
)
def test_a_wrong_key_or_value_is_named(kind: type[Any], key: str, value: Any) -> None:
    with pytest.raises(
        Invalid, match=rf"\[recipe\.{kind.__name__.removesuffix('Recipe').lower()}\] {key}\n"
    ):
        recipe(kind, {key: value})


def test_what_canonical_json_brings_back_is_the_same_recipe() -> None:
    given = MixRecipe(mode="full", scale=1.0, weights={"*": {"math": 2.0}})
    again = recipe(MixRecipe, {"mode": "full", "scale": 1, "weights": {"*": {"math": 2}}})
    assert again == given
    assert all(
        type(weight) is float for group in again.weights.values() for weight in group.values()
    )


@pytest.mark.slow
def test_what_is_left_open_is_told_ordered_and_stored_resolved(
    own_story: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = own_story.root / "btx.toml"
    left_open = '[recipe.train]\nsteps = 4\nlearning_rate = "auto"\n'
    settings.write_text(left_open + "[recipe.tune]\nsteps = 2\n")
    workspace = Workspace.find(own_story.root)
    branch = train(workspace, {"again": "data/math"})["again"]
    told = capsys.readouterr().err
    assert "again: batch 4, sequence 128, learning_rate 0.003" in told
    report = training_report(branch.folder)
    assert report is not None
    assert report.recipe == asdict(TrainRecipe(steps=4, learning_rate=3e-3, warmup_steps=1))
    planned = look_ahead(workspace)
    assert planned.chosen["learning_rate"] == 5e-3
    assert planned.chosen["warmup_steps"] == 1
    assert "steps" not in planned.chosen
    build = workspace.catalog.get(str(rebuild(workspace).build), BuildFacts)
    stored = {key: build.facts.recipe.tune[key] for key in planned.chosen}
    assert stored == planned.chosen
    assert rebuild(workspace).status == "unchanged"


def test_an_order_of_before_keeps_what_it_meant(own_story: Workspace) -> None:
    """A default was meant then; trained branches are not stale because defaults moved."""
    every = read_branches(own_story.root)
    before = {name: order.model_copy(update={"chosen": None}) for name, order in every.items()}
    replace_text(own_story.root / BRANCHES, branches_text(before))
    commit(own_story.root, ["train@math"])
    assert not train(own_story, {"math": "data/math"})["math"].ran
    assert read_branches(own_story.root)["math"].chosen is None


def test_a_command_with_a_wrong_recipe_stops_before_it_writes(own_story: Workspace) -> None:
    head = own_story.catalog.head()
    wrong = own_story.root / "btx.toml"
    wrong.write_text(wrong.read_text().replace("[recipe.train]", "[recipe.train]\nstep = 3", 1))
    with pytest.raises(Invalid, match=r"\[recipe\.train\] step\n"):
        train(Workspace.find(own_story.root), {"again": "data/math"})
    wrong.write_text(wrong.read_text().replace("step = 3", "replay = 1.5"))
    with pytest.raises(WrongUsage, match="recipe key replay"):
        train(Workspace.find(own_story.root), {"again": "data/math"})
    for tables, named in (
        ({"tune": {"mode": "router", "step": 3}}, r"\[recipe\.tune\] step\n"),
        ({"evaluate": {"max_tokens": 0}}, r"\[recipe\.evaluate\] max_tokens\n"),
        ({"mix": {"top_k": 99}}, "top_k"),
        ({"tune": {"text": 0, "keep": 0}}, "text, keep"),
        ({"tune": {"general_share": 40}}, "general_share"),
    ):
        with pytest.raises(Exception, match=named) as raised:
            rebuild(own_story, Request(recipes=Recipes(**tables)))
        assert getattr(raised.value, "exit_status", None) == 2
    assert own_story.catalog.head() == head


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("[machine]\nprocesses = 3\n", "recipe key batch"),
        ("[recipe.expert.again]\naccumulate = 5\n", "recipe key accumulate"),
        ("[recipe.expert.again]\nbeside = 0.7\n", r"\[recipe\.train\] beside"),
    ],
)
def test_what_a_stage_would_refuse_of_a_recipe_is_refused_before_anything_runs(
    own_story: Workspace, setting: str, named: str
) -> None:
    head = own_story.catalog.head()
    with (own_story.root / "btx.toml").open("a") as file:
        file.write(setting)
    workspace, without = Workspace.find(own_story.root), Request(without=["math"])
    acts: list[Callable[[], object]] = [
        partial(train, workspace, {"again": "data/math"}),
        partial(train_ahead, workspace, {"again": "data/math"}),
    ]
    if "[machine]" in setting:
        acts += [partial(rebuild, workspace, without), partial(look_ahead, workspace, without)]
    for act in acts:
        with pytest.raises(WrongUsage, match=named):
            act()
    assert own_story.catalog.head() == head
    assert not (workspace.work / "branches/again").exists()


def test_a_recipe_of_one_expert_changes_its_branch_alone(
    own_story: Workspace, btx: Run, tmp_path: Path
) -> None:
    def planned(*options: str) -> dict[str, str]:
        done = btx(own_story.root, "train", "math", "code", "--dry-run", "--json", *options)
        assert done.returncode == 0, done.stderr
        return {one["expert"]: one["action"] for one in json.loads(done.stdout)["branches"]}

    assert planned() == {"math": "reuse", "code": "reuse"}
    own = tmp_path / "recipe.toml"
    own.write_text("[recipe.train]\nsteps = 61\n")
    assert planned("--recipe", str(own)) == {"math": "train", "code": "train"}
    settings = own_story.root / "btx.toml"
    settings.write_text(f"{settings.read_text()}\n[recipe.expert.math]\nsteps = 61\n")
    assert planned() == {"math": "train", "code": "reuse"}
    settings.write_text(settings.read_text().replace("steps = 61", "stepz = 61"))
    done = btx(own_story.root, "train", "math", "--dry-run")
    assert (done.returncode, "stepz" in done.stderr) == (2, True)
