"""The losses that training and tuning make small, each a mean over tokens.

In:  a model and sequences of packed documents, each document led by the end token; or router
logits.
Out: logits, and losses in nats per token where nothing else is said.
Which losses a run adds up, with which weights, is left to `btx_core.training.objectives`.
Shapes: B sequences of S tokens (ids hold one more), V vocabulary, T = B × S tokens, E experts.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy, kl_div

from btx_core.training.packing import run_packed


def next_token_loss(model: torch.nn.Module, ids: torch.Tensor, end: int) -> torch.Tensor:
    """Return the cross-entropy of every next token.

    Args:
        model: a causal language model.
        ids: token ids (B, S + 1).
        end: the id of the end token.

    Returns:
        A scalar: the mean over all B × S targets.
    """
    logits_BSV = next_token_logits(model, ids, end)
    return cross_entropy(logits_BSV.flatten(0, 1), ids[:, 1:].flatten())


def next_token_logits(model: torch.nn.Module, ids: torch.Tensor, end: int) -> torch.Tensor:
    """Return the logits of every next token, documents of one sequence kept apart.

    Args:
        model: a causal language model.
        ids: token ids (B, S + 1); the last of each sequence is only a target.
        end: the id of the end token.

    Returns:
        Logits (B, S, V), float32.
    """
    inputs = ids[:, :-1]
    logits: torch.Tensor = run_packed(model, inputs, end).logits
    return logits.float()


def kl_divergence(logits: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of predictions from a target's.

    Args:
        logits: the predictions (B, S, V).
        target_logits: what they should be (B, S, V).

    Returns:
        A scalar: KL(target ‖ prediction), mean over B × S.
    """
    predicted = logits.log_softmax(-1).flatten(0, 1)
    target = target_logits.log_softmax(-1).flatten(0, 1)
    return kl_div(predicted, target, log_target=True, reduction="batchmean")


def balance_loss(logits_TE: torch.Tensor, weights_TE: torch.Tensor) -> torch.Tensor:
    """Return the load balance of a router, E Σ u_i p_i over the means of a batch.

    It multiplies means: the mean of products could not tell a balanced router from a collapsed one.

    Args:
        logits_TE: the router's logits (T, E).
        weights_TE: the weights that it gives the experts, most of them zero (T, E): u is their
            mean.

    Returns:
        A scalar without a unit: 1 when balanced, E when one expert takes all.
    """
    return logits_TE.shape[1] * (weights_TE.mean(0) * logits_TE.softmax(-1).mean(0)).sum()


def own_expert_loss(logits_TE: torch.Tensor, expert_indices: Sequence[int | None]) -> torch.Tensor:
    """Return the cross-entropy of a router's choice of each sequence's own expert.

    Args:
        logits_TE: the router's logits (T, E) of B sequences, one after another.
        expert_indices: of each of the B sequences, the expert that its text trained; None: no
            expert.

    Returns:
        A scalar: the sum over the tokens that have an expert, divided by all T.
    """
    indices = [-100 if index is None else index for index in expert_indices]
    targets = torch.tensor(indices, device=logits_TE.device)
    targets_T = targets.repeat_interleave(len(logits_TE) // len(indices))
    return cross_entropy(logits_TE, targets_T, reduction="sum") / len(logits_TE)


def z_loss(logits_TE: torch.Tensor) -> torch.Tensor:
    """Return the mean squared log-partition of router logits (T, E): it limits their drift."""
    return logits_TE.logsumexp(-1).square().mean()
