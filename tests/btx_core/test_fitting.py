"""What a recipe leaves open fits the model and the text, and what it names is left alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btx_core.training.fitting import (
    BYTES_A_TOKEN,
    LEAST_STEPS,
    MOST_EPOCHS,
    MOST_STEPS,
    OPEN,
    Scope,
    branch_rate,
    for_training,
    for_tuning,
    in_parts,
)
from btx_core.training.recipes import TuneRecipe

SIZES = st.integers(10**5, 10**11)
TEXTS = st.integers(1000, 10**11)


def test_a_billion_parameters_train_at_the_papers_rate_and_smaller_ones_at_more() -> None:
    assert branch_rate(10**9) == branch_rate(8 * 10**9) == 1e-4
    rates = [branch_rate(size) for size in (10**6, 10**7, 135 * 10**6, 10**9)]
    assert rates == sorted(rates, reverse=True)
    # Between what improved SmolLM2-135M (1e-4, 3e-4) and what ruined it (2e-3).
    assert 1e-4 <= branch_rate(135 * 10**6) <= 3e-4


@given(SIZES, TEXTS, st.none() | st.integers(64, 8192))
def test_training_reads_its_text_once_where_that_is_enough_and_no_position_too_far(
    parameters: int, text_bytes: int, positions: int | None
) -> None:
    chosen = for_training(Scope(parameters, text_bytes, positions), {})
    assert set(chosen) == set(OPEN)
    read = chosen["steps"] * chosen["batch"] * chosen["sequence"]
    step = chosen["batch"] * chosen["sequence"]
    epoch = max(1, text_bytes // BYTES_A_TOKEN)
    assert read <= epoch + step or (
        chosen["steps"] <= LEAST_STEPS and read <= MOST_EPOCHS * epoch + step
    )
    assert read >= epoch or chosen["steps"] == MOST_STEPS
    assert positions is None or chosen["sequence"] <= positions
    assert 1 <= chosen["warmup_steps"] <= max(1, chosen["steps"] // 10)


@given(
    SIZES,
    TEXTS,
    st.dictionaries(st.sampled_from(["steps", "batch", "sequence"]), st.integers(1, 999)),
)
def test_what_is_named_stays_and_the_rest_follows_it(
    parameters: int, text_bytes: int, named: dict[str, int]
) -> None:
    chosen = for_training(Scope(parameters, text_bytes), named)
    assert set(chosen) == set(OPEN) - named.keys()
    if {"batch", "sequence"} <= named.keys() and "steps" not in named:
        epoch = max(1, text_bytes // BYTES_A_TOKEN) / (named["batch"] * named["sequence"])
        assert chosen["steps"] <= max(MOST_EPOCHS * epoch + 1, 1)


@given(SIZES, TEXTS, st.integers(1, 64))
def test_a_chosen_batch_is_shared_evenly_by_the_processes(
    parameters: int, text_bytes: int, processes: int
) -> None:
    for choose in (for_training, for_tuning):
        alone = choose(Scope(parameters, text_bytes), {})
        shared = choose(Scope(parameters, text_bytes, processes=processes), {})
        assert shared["batch"] % processes == 0
        assert alone["batch"] <= shared["batch"] < alone["batch"] + processes
        # Larger steps are fewer, so that as much is read.
        assert shared["steps"] <= alone["steps"]
        named = choose(Scope(parameters, text_bytes, processes=processes), {"batch": 1})
        assert named == choose(Scope(parameters, text_bytes), {"batch": 1}), "what is named stays"


def test_general_text_comes_on_top_of_the_epoch() -> None:
    scope = Scope(10**9, 10**8)
    alone, half = (
        for_training(scope, {"batch": 8}),
        for_training(scope, {"batch": 8, "replay": 0.5}),
    )
    assert half["steps"] == pytest.approx(2 * alone["steps"], abs=1)


def test_what_tuning_shares_with_the_branches_trains_at_their_rate() -> None:
    scope = Scope(10**9, 10**9)
    shared, routers = for_tuning(scope, {}), for_tuning(scope, {"mode": "router"})
    recipe = TuneRecipe()
    assert shared["learning_rate"] * recipe.shared_rate == pytest.approx(1e-4, rel=0.03)
    assert routers["learning_rate"] > shared["learning_rate"]
    tokens = [one["steps"] * one["batch"] * one["sequence"] for one in (routers, shared)]
    assert tokens[0] < tokens[1] / 3 < scope.tokens / 3


def test_a_step_is_computed_in_the_fewest_parts_that_fit() -> None:
    chosen = for_training(Scope(10**9, 10**9), {"batch": 8})

    def need(parts: Mapping[str, int | float]) -> int:
        return 10 + math.ceil(12 / parts["accumulate"])

    found = [
        in_parts(chosen, 6, need, memory)["accumulate"] for memory in (None, 22, 21, 13, 12, 0)
    ]
    assert found == [1, 1, 2, 4, 6, 6], "never more parts than rows"
    given = for_training(Scope(10**9, 10**9), {"accumulate": 3})
    assert "accumulate" not in in_parts(given, 6, need, 0), "what was given stays"
    assert in_parts(chosen, 6, lambda parts: None, 1)["accumulate"] == 1
