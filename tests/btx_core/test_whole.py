"""A seed is exactly what its class makes of its config; a build too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from btx_core.checkpoints.canonical import EMBEDDING, HEAD, canonical, in_form_of
from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.whole import misfits, require_whole
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.preflight import moved_shared, preflight
from btx_core.problems import BtxError

from .conftest import TINY, build, stock

Save = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"


def rewritten(folder: Path, out: Path, change: Callable[[Tensors], Any], **config: Any) -> Path:
    """A copy of the folder with other tensors and settings."""
    shutil.copytree(folder, out)
    tensors = load_file(out / WEIGHTS)
    change(tensors)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    content = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(content | config))
    return out


def quantised(tensors: Tensors) -> None:
    tensors[UP] = tensors[UP].to(torch.int8)


def in_float8(tensors: Tensors) -> None:
    tensors[UP] = tensors[UP].to(torch.float8_e4m3fn)


def packed(tensors: Tensors) -> None:
    shape = tensors.pop(UP).shape
    tensors[UP.replace("weight", "qweight")] = torch.zeros(shape[1] // 8, shape[0]).int()


INCOMPLETE: dict[str, Callable[[Tensors], Any]] = {
    "no head": lambda found: found.pop(HEAD),
    "no embeddings": lambda found: found.pop(EMBEDDING),
    "no norm of a layer": lambda found: found.pop("model.layers.1.input_layernorm.weight"),
    "no last norm": lambda found: found.pop("model.norm.weight"),
    "no key matrix": lambda found: found.pop("model.layers.1.self_attn.k_proj.weight"),
    "a layer too many": lambda found: found.update(
        {
            name.replace("layers.1", "layers.2"): found[name].clone()
            for name in list(found)
            if "layers.1" in name
        }
    ),
    "a classifier's head": lambda found: found.update({"score.weight": torch.zeros(2, 32)}),
    "a value head": lambda found: found.update({"v_head.summary.weight": torch.zeros(1, 32)}),
    "embeddings beyond the vocabulary": lambda found: found.update(
        {name: torch.zeros(72, 32) for name in (HEAD, EMBEDDING)}
    ),
    "whole numbers": quantised,
    "eight-bit floats": in_float8,
    "packed weights": packed,
    "names of the body alone": lambda found: found.update(
        {name.removeprefix("model."): found.pop(name) for name in list(found)}
    ),
}


@pytest.mark.parametrize("fault", INCOMPLETE)
def test_a_seed_that_is_no_whole_causal_model_is_refused(
    fault: str, tiny: Save, tmp_path: Path
) -> None:
    seed = rewritten(tiny("seed"), tmp_path / "seed", INCOMPLETE[fault])
    with pytest.raises(BtxError) as caught:
        require_whole(Checkpoint.open(seed))
    assert str(seed) in caught.value.subject
    assert caught.value.next
    with pytest.raises(BtxError):
        mix(seed, [Member("e", 1, seed)], MixRecipe(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # An expert with the same fault does not make it a family.
    assert preflight(seed, seed, "full").problems


def test_a_classifier_is_told_by_its_head(tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **TINY, pad_token_id=0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path / "reward")
    advice = [one.next for one in misfits(Checkpoint.open(tmp_path / "reward"))]
    assert any("classifier or reward model" in text for text in advice)


@pytest.mark.parametrize("family", ["llama", "gemma", "phi3", "lfm2", "qwen2"])
def test_weights_fit_the_config_that_they_were_saved_with(family: str, tmp_path: Path) -> None:
    build(family, **TINY, pad_token_id=0).save_pretrained(tmp_path / "model")
    assert misfits(Checkpoint.open(tmp_path / "model")) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 64),
        ("num_hidden_layers", 3),
        ("num_hidden_layers", 1 << 40),
        ("num_key_value_heads", 1),
        ("vocab_size", 65),
        ("attention_bias", True),
        ("hidden_size", "wide"),
        ("num_attention_heads", 0),
    ],
)
def test_a_config_that_lies_about_the_weights_is_found(
    key: str, value: object, tiny: Save, tmp_path: Path
) -> None:
    liar = rewritten(tiny("seed"), tmp_path / "liar", lambda found: None, **{key: value})
    with pytest.raises(BtxError):
        require_whole(Checkpoint.open(liar))


# Tied embeddings


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    build("llama", 1, **TINY, tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    assert HEAD not in Checkpoint.open(tmp_path / "tied").tensors
    return tmp_path / "tied"


def store_head(found: Tensors) -> None:
    found[HEAD] = found[EMBEDDING].clone()


def store_head_alone(found: Tensors) -> None:
    found[HEAD] = found.pop(EMBEDDING)


def other_head(found: Tensors) -> None:
    found[HEAD] = found[EMBEDDING] * 1.5


FORMS: dict[str, tuple[Callable[[Tensors], Any], bool]] = {
    "tied": (lambda found: None, True),
    "tied, head stored": (store_head, True),
    "tied, head stored alone": (store_head_alone, True),
    "untied, equal head": (store_head, False),
}


@pytest.mark.parametrize("seed_form", FORMS)
@pytest.mark.parametrize("expert_form", FORMS)
def test_one_model_with_and_without_a_stored_head_is_one_model(
    seed_form: str, expert_form: str, tied: Path, tmp_path: Path
) -> None:
    folders = []
    for name, form in (("seed", seed_form), ("expert", expert_form)):
        change, ties = FORMS[form]
        folders.append(rewritten(tied, tmp_path / name, change, tie_word_embeddings=ties))
    seed, expert = folders
    assert preflight(seed, expert, "anchored").problems == ()
    mix(seed, [Member("e", 1, expert)], MixRecipe(mode="full"), tmp_path / "out")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        difference = (stock(tmp_path / "out")(ids).logits - stock(tied)(ids).logits).abs().max()
    assert difference < 1e-5


def test_a_head_of_its_own_is_told_from_a_tied_one(tied: Path, tmp_path: Path) -> None:
    untied = rewritten(tied, tmp_path / "untied", other_head)
    for seed, expert in ((tied, untied), (untied, tied)):
        ours = canonical(Checkpoint.open(seed))
        theirs = in_form_of(ours, canonical(Checkpoint.open(expert)))
        same = ours.tensors.keys() == theirs.tensors.keys()
        assert not same or moved_shared(seed, expert) == [HEAD]


def test_moved_shared_parameters_are_named(tiny: Save) -> None:
    assert moved_shared(tiny("seed"), tiny("a")) == []
    moved = moved_shared(tiny("seed"), tiny("a", shared=0.02))
    assert "model.norm.weight" in moved
    assert not [name for name in moved if ".mlp." in name]
