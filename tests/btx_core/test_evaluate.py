"""Measuring: figures by hand, loads that sum to one, dead experts named; the ensemble's formula."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from btx_core import machine
from btx_core.machine import load
from btx_core.measuring import ensemble, scoring
from btx_core.measuring.attribution import routing_shares
from btx_core.measuring.evaluation import _outliers, evaluate
from btx_core.measuring.samples import HeldOut, Limits, batches, sample
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.routed import RoutedModel
from btx_core.texts import split
from btx_core.tokens import Tokens, end_token

from .conftest import TINY, build


@pytest.fixture(scope="module")
def mixed(tiny_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "mixed"
    mix(tiny_seed, [Member("a", 1, tiny_seed), Member("b", 2, tiny_seed)], MixRecipe(), out)
    return out


def test_bits_per_byte_is_the_sum_over_documents_by_hand(
    tiny_seed: Path, tiny_corpora: Path
) -> None:
    found = evaluate(tiny_seed, {"math": tiny_corpora / "math"}, sequence=64).domains["math"]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_seed), load(tiny_seed, torch.float32)
    end, nats, spelt, tokens = end_token(tokenizer), 0.0, 0, 0
    for document in split(tiny_corpora / "math").heldout:
        row = [
            end,
            *tokenizer(document.prompt)["input_ids"],
            *tokenizer(f" {document.answer}")["input_ids"],
            end,
        ]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row[:-1]])).logits[0]
        scores = logits.double().log_softmax(-1)
        nats -= sum(float(scores[position, token]) for position, token in enumerate(row[1:]))
        spelt, tokens = spelt + len(document.text.encode()), tokens + len(row) - 1
    assert found.tokens == tokens, "short text is measured whole"
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / spelt, rel=1e-5)
    assert sum(found.block_bits) / sum(found.sample.block_bytes) == pytest.approx(
        found.bits_per_byte, rel=1e-5
    )


@pytest.fixture(scope="module")
def prose(tiny_seed: Path, tiny_corpora: Path) -> Tokens:
    return Tokens.of(tiny_corpora / "prose", AutoTokenizer.from_pretrained(tiny_seed))


def stretch(heldout: HeldOut, number: int) -> list[int]:
    """The predicted ids of one window."""
    window = heldout.windows[number]
    return window.ids[-window.predicted :].tolist()


@pytest.mark.parametrize("sequence", [1, 2, 7, 64, 100_000])
def test_every_token_is_predicted_once_and_has_its_context(prose: Tokens, sequence: int) -> None:
    heldout = sample(prose, Limits(10**9, sequence))
    read = [id for number in range(len(heldout.windows)) for id in stretch(heldout, number)]
    assert read == prose.heldout.ids.tolist()
    assert heldout.text_bytes == prose.heldout.text_bytes.sum()
    assert heldout.documents == len(prose.heldout)
    for window in heldout.windows:
        context = len(window.ids) - window.predicted
        assert window.length <= sequence
        assert context >= sequence // 2 or window.ids[0] == prose.end


def test_a_sample_comes_from_all_over_the_text(prose: Tokens) -> None:
    """Also of text that is one long document, which the first tokens would say nothing of."""
    whole = sample(prose, Limits(10**9, 16))
    half = sample(prose, Limits(len(prose.heldout.ids) // 2, 16))
    assert sum(w.predicted for w in half.windows) == pytest.approx(whole.tokens_in_all / 2, rel=0.2)
    drawn = {tuple(stretch(half, number)) for number in range(len(half.windows))}
    for first in range(0, len(whole.windows) - 20, 20):
        near = {tuple(stretch(whole, number)) for number in range(first, first + 20)}
        assert near & drawn, f"nothing of stretches {first} to {first + 20}"
    assert len(half.block_bytes) == len(whole.block_bytes) == 32
    assert max(whole.block_bytes) < 2 * min(whole.block_bytes)


def test_a_sample_is_known_by_its_digest(prose: Tokens, tiny_seed: Path) -> None:
    limits = [Limits(300, 16), Limits(400, 16), Limits(300, 32), Limits(300, 16, number=1)]
    digests = [sample(prose, one).digest for one in limits]
    assert len(set(digests)) == 4
    assert sample(prose, Limits(300, 16, batch_tokens=7)).digest == digests[0]
    # Measured whole, neither the number of a sample nor how much more could be read matters.
    wholes = [Limits(10**9, 16), Limits(10**8, 16, number=3)]
    assert len({sample(prose, one).digest for one in wholes}) == 1


@pytest.mark.parametrize("chunk", [1, 384 * 7, 1 << 25])
def test_scores_do_not_depend_on_how_many_logits_are_held(
    mixed: Path, prose: Tokens, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load(mixed, torch.float32)
    batch = next(batches(sample(prose, Limits(2000, 64)), 512))
    with torch.no_grad():
        logits = network(input_ids=batch.inputs).logits.log_softmax(-1)
    expected = logits.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    found = scoring.score(network, batch.inputs, batch.targets)
    assert torch.allclose(found.log_probabilities_BS, expected, atol=1e-5)
    assert torch.equal(found.likeliest_BS, logits.argmax(-1) == batch.targets)
    assert torch.equal(network(input_ids=batch.inputs).logits.log_softmax(-1), logits)


def test_what_a_family_does_to_its_logits_is_in_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 2 caps its logits; another scale would give other probabilities."""
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
    )
    network, ids = Gemma2ForCausalLM(config).eval(), torch.arange(40).view(2, 20)
    with torch.no_grad():
        logits = network(input_ids=ids).logits.log_softmax(-1)
    monkeypatch.setattr(scoring, "CHUNK", 64)
    found = scoring.score(network, ids, ids)
    expected = logits.gather(-1, ids[..., None])[..., 0]
    assert torch.allclose(found.log_probabilities_BS, expected, atol=1e-5)


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


def test_the_shares_of_load_are_those_that_explain_shows_where_routers_score_by_a_sigmoid(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    config = TINY | {"vocab_size": len(tokenizer), "head_dim": 8, "pad_token_id": 0}
    build("glm", **config).save_pretrained(tmp_path / "seed")
    tokenizer.save_pretrained(tmp_path / "seed")
    members = [Member(name, slot, tmp_path / "seed") for slot, name in enumerate("ab", 1)]
    mix(tmp_path / "seed", members, MixRecipe(router_std=0.5), tmp_path / "out")
    found = evaluate(tmp_path / "out", {"math": tiny_corpora / "math"})
    model, shares = RoutedModel.load(tmp_path / "out"), []
    for document in split(tiny_corpora / "math").heldout:
        answer = tokenizer(f" {document.answer}")["input_ids"]
        ids = [end_token(tokenizer), *tokenizer(document.prompt)["input_ids"], *answer]
        shares.extend(routing_shares(model, ids))
    assert found.routing
    for layer, by_expert in enumerate(found.routing["math"]):
        explained = [sum(one[layer][expert] for one in shares) / len(shares) for expert in range(3)]
        assert by_expert == pytest.approx(explained, abs=1e-5)


def test_an_expert_that_no_router_chooses_is_named_dead(
    mixed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    model, dead = RoutedModel.load(mixed, torch.float32), {}
    for router in model.routers:
        router.weight.data.zero_()
    for top_k in (3, 2):
        # Of equal logits the same two win at every token.
        model.network.config.num_experts_per_tok = top_k
        model.network.save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(mixed).save_pretrained(tmp_path)
        found = evaluate(tmp_path, {"math": tiny_corpora / "math"}, max_tokens=400)
        dead[top_k] = [line.rpartition(" ")[0] for line in found.dead]
    assert dead == {3: [], 2: ["layer 0, expert", "layer 1, expert"]}


def test_an_expert_that_takes_nearly_all_is_dominant_unless_it_is_the_only_one() -> None:
    assert _outliers({"math": [[0.95, 0.05]], "code": [[0.91, 0.09]]})[1] == ["layer 0, expert 0"]
    assert _outliers({"math": [[1.0]], "code": [[1.0]]}) == ([], [])


def test_copies_of_one_model_vote_as_that_model(tiny_seed: Path, tiny_corpora: Path) -> None:
    model, tokenizer = (
        load(tiny_seed, torch.float32).eval(),
        AutoTokenizer.from_pretrained(tiny_seed),
    )
    heldout = sample(Tokens.of(tiny_corpora / "math", tokenizer), Limits(500, 64))
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
    assert not {"accuracy", "answers"} & found["prose"].keys()
    assert found["math"]["answers"] > 0


@pytest.mark.parametrize(
    ("multiplies", "available", "computed"),
    [
        (False, 1 << 40, torch.float32),
        (False, 1000, torch.bfloat16),
        (True, 1 << 40, torch.bfloat16),
    ],
    ids=["without bfloat16", "without bfloat16 or memory", "with bfloat16"],
)
def test_a_processor_without_bfloat16_measures_in_float32(
    tiny_seed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    multiplies: bool,
    available: int,
    computed: torch.dtype,
) -> None:
    load(tiny_seed, torch.bfloat16).save_pretrained(tmp_path / "halves")
    monkeypatch.setattr(machine, "multiplies_halves", lambda: multiplies)
    memory = SimpleNamespace(available=available)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: memory)
    assert load(tmp_path / "halves").dtype == computed
    assert load(tiny_seed).dtype == torch.float32
    assert load(tmp_path / "halves", torch.bfloat16).dtype == torch.bfloat16
