"""Measuring: figures by hand, loads that sum to one, dead experts named; the ensemble's formula."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from btx_core.machine import load
from btx_core.measuring import ensemble
from btx_core.measuring.evaluation import evaluate, heldout_windows
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.routed import RoutedModel
from btx_core.texts import end_token, split


@pytest.fixture(scope="module")
def mixed(tiny_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "mixed"
    mix(tiny_seed, [Member("a", 1, tiny_seed), Member("b", 2, tiny_seed)], MixRecipe(), out)
    return out


def test_bits_per_byte_is_the_sum_over_documents_by_hand(
    tiny_seed: Path, tiny_corpora: Path
) -> None:
    found = evaluate(
        tiny_seed, {"math": tiny_corpora / "math"}, max_tokens=600, sequence=64
    ).domains["math"]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_seed), load(tiny_seed, torch.float32)
    end, nats, spelt, tokens = end_token(tokenizer), 0.0, 0, 0
    for document in split(tiny_corpora / "math").heldout:
        row = [
            end,
            *tokenizer(document.prompt)["input_ids"],
            *tokenizer(f" {document.answer}")["input_ids"],
            end,
        ]
        if tokens + len(row) - 1 > 600:
            break
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row[:-1]])).logits[0]
        scores = logits.double().log_softmax(-1)
        nats -= sum(float(scores[position, token]) for position, token in enumerate(row[1:]))
        spelt, tokens = spelt + len(document.text.encode()), tokens + len(row) - 1
    assert found.bits_per_byte == pytest.approx(
        nats / math.log(2) / spelt, rel=0.02
    )  # the last document is cut, not left out


def test_the_shares_of_load_add_up_to_one_in_every_layer(mixed: Path, tiny_corpora: Path) -> None:
    found = evaluate(
        mixed, {name: tiny_corpora / name for name in ("prose", "math")}, max_tokens=400
    )
    assert found.routing
    for layers in found.routing.values():
        assert len(layers) == 2
        assert all(
            sum(shares) == pytest.approx(1, abs=1e-4) and len(shares) == 3 for shares in layers
        )
    assert found.active_parameters < found.total_parameters


def test_an_expert_that_no_router_chooses_is_named_dead(
    mixed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    model = RoutedModel.load(mixed, torch.float32)
    assert evaluate(mixed, {"math": tiny_corpora / "math"}, max_tokens=400).dead == []
    for router in model.routers:
        router.weight.data[2] = -100 * router.weight.data[0]
        router.weight.data[1] = 0.9 * router.weight.data[0]
        router.weight.data[0] *= 50
    model.network.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(mixed).save_pretrained(tmp_path)
    hidden_away = evaluate(tmp_path, {"math": tiny_corpora / "math"}, max_tokens=400)
    assert hidden_away.routing
    least = min(shares[expert] for shares in hidden_away.routing["math"] for expert in range(3))
    assert bool(hidden_away.dead) == (least < 0.01 / 3)


def test_copies_of_one_model_vote_as_that_model(tiny_seed: Path, tiny_corpora: Path) -> None:
    model, tokenizer = (
        load(tiny_seed, torch.float32).eval(),
        AutoTokenizer.from_pretrained(tiny_seed),
    )
    heldout = heldout_windows(split(tiny_corpora / "math").heldout, tokenizer, 64, 500)
    by_itself = (
        evaluate(tiny_seed, {"math": tiny_corpora / "math"}, max_tokens=500, sequence=64)
        .domains["math"]
        .bits_per_byte
    )
    for top_k in (1, 2, 3):
        assert ensemble.bits_per_byte([model] * 3, heldout, top_k=top_k) == pytest.approx(
            by_itself, abs=1e-5
        )


def test_the_posterior_follows_who_foretold_the_text_before() -> None:
    foretold_MBS = torch.tensor([[[0.5, 0.5, 0.5]], [[0.25, 0.5, 0.5]]]).log().double()
    weights = ensemble.posterior(foretold_MBS, 2).exp()[:, 0].T.tolist()
    assert weights[0] == pytest.approx([0.5, 0.5])
    assert weights[1] == pytest.approx([2 / 3, 1 / 3])
    assert ensemble.posterior(foretold_MBS, 1).exp()[:, 0, 1].tolist() == [1.0, 0.0]


def test_domains_may_have_any_names(mixed: Path, tiny_corpora: Path) -> None:
    """Data references as keys give the figures of bare names, in the report's JSON too."""
    refs = {name: f"data/{name}@1" for name in ("prose", "math")}
    bare = evaluate(mixed, {name: tiny_corpora / name for name in refs}, max_tokens=400).to_json()
    named = evaluate(
        mixed, {ref: tiny_corpora / name for name, ref in refs.items()}, max_tokens=400
    ).to_json()
    for part in ("domains", "routing"):
        assert {ref: bare[part][name] for name, ref in refs.items()} == named[part]


def test_accuracy_is_given_where_answers_can_be_checked_and_only_there(
    tiny_seed: Path, tiny_corpora: Path
) -> None:
    found = evaluate(
        tiny_seed, {name: tiny_corpora / name for name in ("prose", "math")}, max_tokens=400
    ).to_json()["domains"]
    assert list(found["prose"]) == ["bits_per_byte", "tokens"]
    assert list(found["math"]) == ["bits_per_byte", "tokens", "accuracy", "answers"]
