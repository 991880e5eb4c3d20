"""Branches trained beside the seed.

In the end a plain checkpoint, little harm on the seed's own text, and states that tell the domain.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from btx_core.batches import Corpus
from btx_core.checkpoints.dense import FEED_FORWARD
from btx_core.machine import Machine, load
from btx_core.problems import WrongUsage
from btx_core.training.adapter import add_adapters
from btx_core.training.beside import GENERAL, BesideSeed, beside_seed, predict_as_seed
from btx_core.training.branch import OWN, _mixture, load_branch, seed_blocks, train
from btx_core.training.loop import Watch
from btx_core.training.losses import next_token_loss, predict
from btx_core.training.objectives import Batch
from btx_core.training.recipes import TrainRecipe

RECIPE = TrainRecipe(
    steps=200,
    batch=8,
    sequence=32,
    warmup_steps=4,
    save_every=50,
    learning_rate=1e-2,
    replay=0.5,
    beside=0.7,
)


@pytest.fixture(scope="module")
def beside(tiny_seed: Path, tiny_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("beside") / "math"
    train(tiny_seed, [tiny_corpora / "math"], RECIPE, out, general=[tiny_corpora / "prose"])
    return out


def sequences(corpora: Path, seed: Path, name: str, count: int) -> torch.Tensor:
    corpus = Corpus.of([corpora / name], AutoTokenizer.from_pretrained(seed), 1)
    return torch.from_numpy(np.stack([corpus.sequence(number, 32) for number in range(count)]))


def test_the_branch_is_a_plain_checkpoint_whose_shared_bytes_are_the_seeds(
    tiny_seed: Path, beside: Path
) -> None:
    before, after = (
        load_file(tiny_seed / "model.safetensors"),
        load_file(beside / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if FEED_FORWARD.search(name)
    }


def test_off_the_pairs_are_the_seed_and_ungated_the_branch(
    tiny_seed: Path, beside: Path, tiny_corpora: Path
) -> None:
    ids = sequences(tiny_corpora, tiny_seed, "math", 2)
    model, seed = load(beside, torch.float32), load(tiny_seed, torch.float32)
    branch_BSV, seed_BSV = (predict(each, ids, 0).logits().detach() for each in (model, seed))
    with beside_seed(model, 0.0) as pairs:
        for pair, block in zip(pairs, (layer.mlp for layer in seed.model.layers), strict=True):
            pair.seed.load_state_dict(block.state_dict())
        assert torch.equal(predict(model, ids, 0).logits(), branch_BSV)
        assert torch.equal(predict_as_seed(model, pairs, Batch(ids, ()), 0).logits(), seed_BSV)
        assert not torch.equal(branch_BSV, seed_BSV)
        for pair in pairs:
            pair.routed_share = 1.0
        between = predict(model, ids, 0).logits()  # the router weights are zero: half and half
        assert not torch.equal(between, branch_BSV)
        assert not torch.equal(between, seed_BSV)
    assert torch.equal(predict(model, ids, 0).logits(), branch_BSV), "unwrapped"


def test_it_strays_less_from_the_seed_on_general_text_than_a_branch_alone(
    tiny_seed: Path, tiny_corpora: Path, beside: Path, tmp_path: Path
) -> None:
    train(
        tiny_seed,
        [tiny_corpora / "math"],
        replace(RECIPE, beside=0.0, replay=0.0),
        tmp_path / "alone",
    )
    general, math = (sequences(tiny_corpora, tiny_seed, name, 16) for name in ("prose", "math"))
    with torch.no_grad():
        seed, one, other = (
            load(folder, torch.float32) for folder in (tiny_seed, beside, tmp_path / "alone")
        )
        wanted = predict(seed, general, 0)
        assert 2 * predict(one, general, 0).kl_divergence(wanted) < (
            predict(other, general, 0).kl_divergence(wanted)
        )
        losses = [float(next_token_loss(model, math, 0)) for model in (seed, one, other)]
    assert losses[0] - losses[1] > 0.5 * (losses[0] - losses[2]) > 0.05, "it learnt nothing"


def test_the_gates_learn_to_tell_the_domain(tiny_seed: Path, tiny_corpora: Path) -> None:
    model = load_branch(tiny_seed, "anchored")
    ids = torch.cat([sequences(tiny_corpora, tiny_seed, name, 8) for name in ("math", "prose")])
    batch = Batch(ids, (OWN,) * 8 + (GENERAL,) * 8)
    with beside_seed(model, 0.7) as pairs:
        objective = BesideSeed(pairs, 0, keep=3.0, tag=0.25)
        optimiser = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2
        )
        for _ in range(150):
            optimiser.zero_grad()
            objective(model, batch, 0.0).backward()
            optimiser.step()
        right = (
            (pairs[-1].router_logits_BS2.argmax(-1) == torch.tensor([[1]] * 8 + [[0]] * 8))
            .float()
            .mean()
        )
    assert right > 0.9


def test_cut_off_it_goes_on_and_ends_in_the_same_bytes(
    tiny_seed: Path, tiny_corpora: Path, beside: Path, tmp_path: Path
) -> None:
    class Died(Exception):
        pass

    def die(done: int, total: int, text: str) -> None:
        if done == 60:
            raise Died

    again: list[int] = []
    math, prose = [tiny_corpora / "math"], tiny_corpora / "prose"
    with pytest.raises(Died):
        train(tiny_seed, math, RECIPE, tmp_path / "out", general=[prose], watch=Watch(die))
    train(
        tiny_seed,
        math,
        RECIPE,
        tmp_path / "out",
        general=[prose],
        watch=Watch(lambda done, total, text: again.append(done)),
    )
    assert again[0] == 52, "it began anew"
    digests = {
        hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for folder in (tmp_path / "out", beside)
    }
    assert len(digests) == 1


def test_on_the_seeds_own_text_there_is_nothing_to_tell_apart(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    prose = tiny_corpora / "prose"
    train(tiny_seed, [prose], replace(RECIPE, steps=4), tmp_path / "beside", general=[prose])
    train(
        tiny_seed,
        [prose],
        replace(RECIPE, steps=4, beside=0.0),
        tmp_path / "alone",
        general=[prose],
    )
    assert (tmp_path / "beside/model.safetensors").read_bytes() == (
        tmp_path / "alone/model.safetensors"
    ).read_bytes()


def test_all_text_of_the_seed_is_replayed(tiny_seed: Path, tiny_corpora: Path) -> None:
    """It may have been trained on several data versions."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    general = [tiny_corpora / "prose", tiny_corpora / "code"]
    mixture = _mixture([tiny_corpora / "math"], general, tokenizer, RECIPE)
    assert mixture.corpora[GENERAL].digest == Corpus.of(general, tokenizer, RECIPE.seed).digest


@pytest.mark.parametrize(
    ("changed", "word"), [({"mode": "full"}, "anchored"), ({"replay": 0.0}, "replay")]
)
def test_what_it_stands_on_is_asked_for(
    changed: dict[str, Any], word: str, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    with pytest.raises(WrongUsage, match=word):
        train(
            tiny_seed,
            [tiny_corpora / "math"],
            replace(RECIPE, **changed),
            tmp_path / "out",
            general=[tiny_corpora / "prose"],
        )
    assert not list(tmp_path.iterdir())


def test_adapters_train_beside_the_seed_too(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, steps=4, lora_rank=2)
    train(
        tiny_seed,
        [tiny_corpora / "math"],
        recipe,
        tmp_path / "out",
        general=[tiny_corpora / "prose"],
    )
    before, after = (
        load_file(tiny_seed / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if FEED_FORWARD.search(name)
    }


def test_adapters_run_beside_blocks_of_the_seed_that_were_loaded_by_themselves(
    tiny_seed: Path,
) -> None:
    """So several processes train, whose names for the blocks are PEFT's where it wraps them."""
    branch = add_adapters(load_branch(tiny_seed, "anchored"), 2)
    ids = torch.arange(33)[None]
    expected = predict(load(tiny_seed, torch.float32), ids, 0).logits()
    with beside_seed(branch, 0.7, seed_blocks=seed_blocks(tiny_seed, Machine())) as pairs:
        found = predict_as_seed(branch, pairs, Batch(ids, ("a",)), 0).logits()
    assert torch.allclose(found, expected, atol=1e-5)
