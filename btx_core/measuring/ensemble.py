"""Branch-Train-Merge, the baseline without a router: whole models vote, each weighed by how well it foretold the text so far.

In:  dense models of one tokenizer, held-out windows.  Out: bits per byte.
Shapes: M models, B rows, S tokens.  Method: the domain posterior of Branch-Train-Merge (arXiv:2208.03306), uniform prior.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from btx_core.measuring.evaluation import Windows, batches


@torch.inference_mode()
def bits_per_byte(
    models: Sequence[Any],
    windows: Windows,
    text_bytes: int,
    *,
    top_k: int,
    batch_tokens: int = 4096,
) -> float:
    """Of the held-out windows, under the top_k models' mixture at every token. Raises ValueError for a top_k that no model fills."""
    if not 1 <= top_k <= len(models):
        raise ValueError(f"top_k {top_k} of {len(models)} models")
    nats = 0.0
    for inputs, targets, _ in batches(windows, batch_tokens):
        real, wanted = targets != -100, targets.clamp(min=0)[..., None]
        scores = [
            model(input_ids=inputs, use_cache=False).logits.double().log_softmax(-1)
            for model in models
        ]
        told_MBS = torch.stack([score.gather(-1, wanted)[..., 0] for score in scores])
        nats -= float(torch.logsumexp(told_MBS + posterior(told_MBS, top_k), 0)[real].sum())
    return nats / math.log(2) / text_bytes


def posterior(told_MBS: torch.Tensor, top_k: int) -> torch.Tensor:
    """Log weight of every model at every token, from the tokens before it; the top_k sum to one, the rest weigh nothing."""
    before = told_MBS.cumsum(-1) - told_MBS
    kept = before.topk(top_k, 0)
    return torch.full_like(before, -torch.inf).scatter(0, kept.indices, kept.values.log_softmax(0))
