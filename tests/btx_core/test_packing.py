"""Training sees the function that stock transformers evaluates, one document at a time."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.modeling_flash_attention_utils import _flash_attention_forward

from btx_core import machine
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.problems import Unsupported
from btx_core.training.losses import next_token_loss
from btx_core.training.packing import packed, run_packed

from .conftest import TINY, build, stock
from .test_families import CAMPAIGN, ENTRIES, dense, model_of

END = 2
# Longer than the windows of the models here, shorter than what they take; one row is all one.
LENGTHS = [[9, 1, 11, 3], [2, 10, 5, 7], [24]]


def rows(vocabulary: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Three packed rows, and their documents."""
    drawn = torch.Generator().manual_seed(1)
    documents = []
    for length in (length for row in LENGTHS for length in row):
        text = torch.randint(3, vocabulary, (length - 1,), generator=drawn)
        documents.append(torch.cat([torch.tensor([END]), text]))
    return torch.cat(documents).view(len(LENGTHS), -1), documents


@torch.no_grad()
def furthest(model: PreTrainedModel) -> float:
    """How far packed logits are from those of each document by itself, in units of the largest."""
    ids, documents = rows(model.config.vocab_size)
    together = run_packed(model, ids, END).logits.flatten(0, 1)
    by_itself = torch.cat([model(document[None]).logits[0] for document in documents])
    return float((together - by_itself).abs().max() / by_itself.abs().max().clamp(min=1))


@pytest.mark.parametrize("entry", ENTRIES)
@settings(CAMPAIGN, max_examples=2)
@given(data=st.data())
def test_packed_documents_give_what_stock_gives_for_each_alone(
    entry: str, data: st.DataObject
) -> None:
    config = data.draw(
        dense(entry.removesuffix("#0").removesuffix("#1") if "glm->" not in entry else entry)
    )
    model = model_of(entry, config, 0)
    assert furthest(model) <= 1e-5
    with tempfile.TemporaryDirectory() as folder:
        seed, out = Path(folder) / "seed", Path(folder) / "out"
        model.save_pretrained(seed)
        mix(seed, [Member("one", 1, seed), Member("two", 2, seed)], MixRecipe(), out)
        assert furthest(stock(out)) <= 1e-5


WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "phi3": {"sliding_window": 4, "pad_token_id": 0},
    "cohere2": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "gemma": {"head_dim": 8},
}


@pytest.mark.parametrize("family", WINDOWS)
def test_the_gradient_is_that_of_the_documents_alone(family: str) -> None:
    model = build(family, **TINY | WINDOWS[family])
    ids, documents = rows(TINY["vocab_size"])
    row, end = ids[:1], torch.tensor([[END]])
    next_token_loss(model, torch.cat([row, end], 1), END).backward()
    packed_gradient = gradient(model)
    model.zero_grad()
    alone = documents[: len(LENGTHS[0])]
    for number, document in enumerate(alone):
        follows = alone[number + 1][:1] if number + 1 < len(alone) else end[0]
        targets = torch.cat([document[1:], follows])
        logits = model(document[None]).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        (loss / row.numel()).backward()
    difference = packed_gradient - gradient(model)
    assert difference.norm() <= 1e-5 * packed_gradient.norm()


def gradient(model: torch.nn.Module) -> torch.Tensor:
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    return torch.cat([one.flatten() for one in gradients]).clone()


def test_recomputed_layers_keep_documents_apart_too() -> None:
    model = build("lfm2", **TINY | WINDOWS["lfm2"]).train()
    ids = rows(TINY["vocab_size"])[0]
    next_token_loss(model, ids, END).backward()
    plain = gradient(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    next_token_loss(model, ids, END).backward()
    assert torch.allclose(gradient(model), plain, atol=1e-6)


def test_a_layer_that_is_not_known_to_keep_documents_apart_is_refused() -> None:
    config = build("llama", **TINY).config
    config.layer_types = ["full_attention", "mamba"]
    with pytest.raises(Unsupported, match="layers of kind mamba"):
        packed(rows(TINY["vocab_size"])[0], END, config)


def test_flash_attention_is_told_where_documents_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own kernel needs a GPU: here transformers' call of it meets a plain one."""
    config = build("llama", **TINY).config
    config._attn_implementation = "flash_attention_2"
    ids, documents = rows(TINY["vocab_size"])
    arguments = packed(ids, END, config)
    monkeypatch.setattr(
        "transformers.modeling_flash_attention_utils.lazy_import_flash_attention",
        lambda *_: ((None, plain_flash, None, None, None), (lambda **named: named, None)),
    )
    query = torch.randn(*ids.shape, 4, 8, generator=torch.Generator().manual_seed(2))
    found = _flash_attention_forward(
        query, query, query, None, query_length=ids.shape[1], is_causal=True, **arguments
    )
    expected = [
        attended(part) for part in query.flatten(0, 1).split([len(one) for one in documents])
    ]
    assert torch.allclose(found.flatten(0, 1), torch.cat(expected), atol=1e-6)


def test_what_trains_in_bfloat16_takes_flash_attention_where_it_is_installed(
    tiny_seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert machine._attention(tiny_seed, cuda, torch.bfloat16) is None, "it is not installed here"
    monkeypatch.setattr(machine, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert machine._attention(tiny_seed, cuda, torch.bfloat16) is None, "an older card"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert machine._attention(tiny_seed, cuda, torch.bfloat16) == "flash_attention_2"
    assert machine._attention(tiny_seed, cuda, torch.float32) is None
    assert machine._attention(tiny_seed, cuda, None) is None, "measured as transformers chooses"
    assert machine._attention(tiny_seed, cpu, torch.bfloat16) is None
    monkeypatch.setattr(LlamaForCausalLM, "_supports_flash_attn", False)
    assert machine._attention(tiny_seed, cuda, torch.bfloat16) is None, "a family without it"
    monkeypatch.setattr(machine, "_attention", lambda *_: "eager")
    assert machine.load(tiny_seed).config._attn_implementation == "eager"


def plain_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    **_: Any,
) -> torch.Tensor:
    """Variable-length causal attention as the flash kernel defines it, documents by a loop."""
    assert cu_seqlens_q.dtype is torch.int32
    edges = pairwise(cu_seqlens_q.tolist())
    return torch.cat([attended(query[start:stop]) for start, stop in edges])


def attended(query: torch.Tensor) -> torch.Tensor:
    heads = query.transpose(0, 1)
    causal = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    return causal.transpose(0, 1)
