"""A run that makes its model worse says so while it trains, and can stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from btx_core.batches import Corpus
from btx_core.machine import load
from btx_core.training.branch import train
from btx_core.training.heldout import LOOKS, HeldOutLooks, Worse
from btx_core.training.loop import Watch
from btx_core.training.recipes import TrainRecipe

from .conftest import TINY, build

RECIPE = TrainRecipe(steps=40, warmup_steps=4)


def looks(*losses: float, apart: int = 5) -> HeldOutLooks:
    numbered = [(apart * number, loss) for number, loss in enumerate(losses)]
    return HeldOutLooks(torch.zeros(1, 2, dtype=torch.long), 0, numbered)


def test_a_look_leaves_the_mode_and_the_random_numbers_of_a_run_alone() -> None:
    model = build("llama", **TINY).train()
    ids = torch.randint(3, 64, (3, 9))
    looking = HeldOutLooks(ids, 2)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert looking.look(model, 0) == pytest.approx(looking.look(model, 5, batch=3), rel=1e-5)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert [step for step, _ in looking.losses] == [0, 5]


@pytest.mark.parametrize("steps", [1, 4, 5, 37, 600, 20_000])
def test_looks_are_few_and_the_last_step_has_one(steps: int) -> None:
    due = [step for step in range(1, steps + 1) if looks().is_due(step, steps)]
    assert len(due) <= LOOKS + 1
    assert due[-1] == steps


def test_only_a_model_that_is_worse_after_its_warm_up_is_warned_of() -> None:
    assert looks(3.0, 2.9).judge(RECIPE) is None
    assert looks(3.0, 3.02).judge(RECIPE) is None
    assert looks(3.0, 3.3, apart=2).judge(RECIPE) is None, "the rate still rises"
    warning = looks(3.0, 3.3).judge(RECIPE)
    assert warning == "worse than at the start on held-out text: 3.300, was 3.000"


def test_a_run_stops_at_the_second_worse_look_in_turn_where_that_is_asked_for() -> None:
    stop = TrainRecipe(steps=40, warmup_steps=4, when_worse="stop")
    assert looks(3.0, 3.3).judge(stop)
    assert looks(3.0, 3.3, 2.9, 3.3).judge(stop)
    assert looks(3.0, 3.3, 3.3).judge(RECIPE), "not asked for"
    with pytest.raises(Worse, match="step 10\n"):
        looks(3.0, 3.3, 3.3).judge(stop)


def test_a_ruinous_rate_is_told_long_before_the_end_and_stands_in_the_result(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, str]] = []
    figures: dict[int, Any] = {}
    ruinous = {
        "mode": "full",
        "steps": 40,
        "sequence": 32,
        "warmup_steps": 2,
        "learning_rate": 30.0,
    }
    watch = Watch(lambda done, _, text: told.append((done, text)), figures.__setitem__)
    train(
        tiny_seed, [tiny_corpora / "prose"], TrainRecipe(**ruinous), tmp_path / "bad", watch=watch
    )
    assert any(done <= 10 and "worse than at the start" in text for done, text in told)
    assert set(figures) == set(range(1, 41))
    assert {"loss", "rate", "gradient_norm", "tokens_per_s", "memory_bytes"} <= figures[1].keys()
    report = json.loads((tmp_path / "bad/btx-train.json").read_text())["report"]
    assert report["heldout"]["worse"]
    looked = [[step, one["heldout_loss"]] for step, one in figures.items() if "heldout_loss" in one]
    assert looked == report["heldout"]["losses"][1:]
    stopped = TrainRecipe(**ruinous, when_worse="stop")
    with pytest.raises(Worse):
        train(tiny_seed, [tiny_corpora / "prose"], stopped, tmp_path / "stopped")
    assert not (tmp_path / "stopped").exists()


def test_a_look_reads_what_is_learnt_behind_long_questions(tiny_seed: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    (tmp_path / "heldout").mkdir()
    row = json.dumps({"prompt": "What is it? " * 600, "completion": "It is the sea."})
    for name in ("a.jsonl", "heldout/b.jsonl"):
        (tmp_path / name).write_text(f"{row}\n" * 3)
    recipe = TrainRecipe(steps=40, batch=4, sequence=32)
    corpus = Corpus.of([tmp_path], tokenizer)
    looking = HeldOutLooks.of([corpus], corpus.end, recipe)
    assert looking.weights is not None
    assert (looking.weights.sum(1) > 0).all(), "each stretch holds a part of an answer"
    assert looking.look(load(tiny_seed, torch.float32), 0) > 0
