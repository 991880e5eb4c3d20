"""Losses over chunks of tokens are the losses over all logits at once, and hold less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from btx_core.training import losses
from btx_core.training.adapter import add_adapters
from btx_core.training.losses import Predictions, next_token_loss, predict

from .conftest import TINY, build

END = 2
# What each family does to its logits, or leaves: nothing, times, divided by, capped, a tied head.
MODELS = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "granite": {"logits_scaling": 2.0},
    "cohere2": {"logit_scale": 0.2},
    "gemma2": {"final_logit_softcapping": 3.0, "head_dim": 8},
}
Loss = Callable[[PreTrainedModel, PreTrainedModel, torch.Tensor], torch.Tensor]


def model_of(name: str, seed: int = 0) -> PreTrainedModel:
    return build("llama" if name == "tied" else name, seed, **TINY | MODELS[name])


def ids_of(count: int = 3, length: int = 13) -> torch.Tensor:
    return torch.randint(3, 64, (count, length), generator=torch.Generator().manual_seed(1))


def cross_entropy_of_all(
    model: PreTrainedModel, _: PreTrainedModel, ids: torch.Tensor
) -> torch.Tensor:
    logits = model(input_ids=ids[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def divergence_of_all(
    model: PreTrainedModel, teacher: PreTrainedModel, ids: torch.Tensor
) -> torch.Tensor:
    logits, target = (one(input_ids=ids[:, :-1]).logits.flatten(0, 1) for one in (model, teacher))
    target = target.detach().log_softmax(-1)
    return kl_div(logits.log_softmax(-1), target, log_target=True, reduction="batchmean")


def cross_entropy_in_chunks(
    model: PreTrainedModel, _: PreTrainedModel, ids: torch.Tensor
) -> torch.Tensor:
    return next_token_loss(model, ids, END)


def divergence_in_chunks(
    model: PreTrainedModel, teacher: PreTrainedModel, ids: torch.Tensor
) -> torch.Tensor:
    return predict(model, ids, END).kl_divergence(predict(teacher, ids, END))


@pytest.mark.parametrize("tokens_at_once", [1000, 36, 7, 1])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("in_chunks", "of_all"),
    [
        (cross_entropy_in_chunks, cross_entropy_of_all),
        (divergence_in_chunks, divergence_of_all),
    ],
)
def test_value_and_gradient_are_those_of_all_logits_at_once(
    in_chunks: Loss, of_all: Loss, name: str, tokens_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", tokens_at_once * 64)
    model, teacher, ids = model_of(name), model_of(name, 1), ids_of()
    found, expected = (with_gradient(one, model, teacher, ids) for one in (in_chunks, of_all))
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    assert (found[1] - expected[1]).norm() <= 1e-6 * expected[1].norm()
    assert model.get_output_embeddings().forward.__func__ is torch.nn.Linear.forward


def with_gradient(
    loss_of: Loss, model: PreTrainedModel, teacher: PreTrainedModel, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    loss = loss_of(model, teacher, ids)
    loss.backward()
    assert all(one.grad is None for one in teacher.parameters())
    return loss.detach(), torch.cat(
        [one.grad.flatten() for one in model.parameters() if one.grad is not None]
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_adapter_is_learnt(name: str) -> None:
    """That of a head of its own too, which the loss computes by itself."""
    adapted = add_adapters(model_of(name), rank=2)
    next_token_loss(adapted, ids_of(), END).backward()
    adapters = {name: one for name, one in adapted.named_parameters() if one.requires_grad}
    assert adapters
    assert [name for name, one in adapters.items() if one.grad is None] == []


def test_a_branch_that_shares_its_head_with_the_seed_model_is_held_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 7 * 64)
    head = torch.nn.Linear(8, 64, bias=False)
    states, target = torch.randn(2, 2, 9, 8).unbind()
    predictions, seed = Predictions(states, head), Predictions(target, head)
    expected = kl_div(
        head(states).log_softmax(-1).flatten(0, 1),
        head(target).log_softmax(-1).flatten(0, 1),
        log_target=True,
        reduction="batchmean",
    )
    assert torch.allclose(predictions.kl_divergence(seed), expected)
    assert predictions.of([1]).kl_divergence(Predictions(states[[1]], head)).detach() < 1e-6


def test_no_tensor_has_more_numbers_than_the_logits_of_one_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vocabulary, ids = 512, ids_of(8, 65)
    model = build("llama", **TINY | {"vocab_size": vocabulary})
    logits = 8 * 64 * vocabulary
    assert largest_made(model, ids) == logits
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 5 * vocabulary)
    assert largest_made(model, ids) < logits / 5


def largest_made(model: PreTrainedModel, ids: torch.Tensor) -> int:
    with Sizes() as sizes:
        next_token_loss(model, ids, END).backward()
    return sizes.largest


class Sizes(TorchDispatchMode):
    """Sees every tensor that is made."""

    largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.largest = max(self.largest, made.numel())
        return made
