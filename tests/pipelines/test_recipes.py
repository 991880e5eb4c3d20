"""A recipe's keys and values are checked before anything starts."""

from typing import Any

import pytest

from btx_core.mixing.mix import MixRecipe
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.train import train
from pipelines.workspace.recipe_reader import EvaluateRecipe, recipe
from pipelines.workspace.workspace import Recipes, Workspace
from registry.errors import Invalid


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (TrainRecipe, "stepss", 3),
        (TrainRecipe, "steps", -3),
        (TrainRecipe, "steps", "many"),
        (TrainRecipe, "steps", 1.5),
        (TrainRecipe, "precision", "bf16"),  # would quietly have been float32
        (TrainRecipe, "learning_rate", float("nan")),
        (TuneRecipe, "mode", "everything"),
        (TuneRecipe, "batch", 0),
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


def test_a_command_with_a_wrong_recipe_stops_before_it_writes(own_story: Workspace) -> None:
    head = own_story.catalog.head()
    wrong = own_story.root / "btx.toml"
    wrong.write_text(wrong.read_text().replace("[recipe.train]", "[recipe.train]\nstep = 3", 1))
    with pytest.raises(Invalid, match=r"\[recipe\.train\] step\n"):
        train(Workspace.find(own_story.root), {"again": "data/math"})
    for tables, named in (
        ({"tune": {"mode": "router", "step": 3}}, r"\[recipe\.tune\] step\n"),
        ({"evaluate": {"max_tokens": 0}}, r"\[recipe\.evaluate\] max_tokens\n"),
        ({"mix": {"top_k": 99}}, "top_k"),
    ):
        with pytest.raises(Exception, match=named) as raised:
            rebuild(own_story, Request(recipes=Recipes(**tables)))
        assert getattr(raised.value, "exit_status", None) == 2
    assert own_story.catalog.head() == head
