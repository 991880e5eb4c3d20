"""Branch-Train-Merge, the baseline without a router.

Whole models vote at every token, each weighed by how well it predicted the text so far.

In:  dense models of one tokenizer, held-out text.  Out: bits per byte.
Shapes: M models, B sequences, S tokens.
Method: the domain posterior of Branch-Train-Merge (arXiv:2208.03306), with a uniform prior.
"""

import math
from collections.abc import Sequence

import torch

from btx_core.machine import device_of
from btx_core.measuring.samples import HeldOut, batches


@torch.inference_mode()
def bits_per_byte(
    models: Sequence[torch.nn.Module], heldout: HeldOut, *, top_k: int, batch_tokens: int = 4096
) -> float:
    """Measure the mixture of whole models on held-out text.

    Args:
        models: dense models of one tokenizer.
        heldout: the text.
        top_k: how many of the models speak at every token.
        batch_tokens: tokens in one forward pass.

    Returns:
        Bits per byte; lower is better.

    Raises:
        ValueError: for a top_k below 1 or above the number of models.
    """
    if not 1 <= top_k <= len(models):
        raise ValueError(f"top_k {top_k} of {len(models)} models")
    nats = 0.0
    for batch in batches(heldout, batch_tokens):
        device = device_of(models[0])
        wanted = batch.targets.to(device)
        targets = wanted.clamp(min=0)[..., None]
        by_model = []
        for model in models:
            logits = model(input_ids=batch.inputs.to(device), use_cache=False).logits
            scores = logits.double().log_softmax(-1)
            by_model.append(scores.gather(-1, targets)[..., 0])
        log_probabilities_MBS = torch.stack(by_model)
        mixed_BS = torch.logsumexp(
            log_probabilities_MBS + posterior(log_probabilities_MBS, top_k), 0
        )
        nats -= float(mixed_BS[batch.predicted].sum())
    return nats / math.log(2) / heldout.text_bytes


def posterior(log_probabilities_MBS: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return the log weight of every model at every token, from the tokens before it.

    Args:
        log_probabilities_MBS: of every token under every model (M, B, S).
        top_k: how many models weigh anything.

    Returns:
        Log weights (M, B, S); those of the top_k sum to one, the rest weigh nothing.
    """
    before_MBS = log_probabilities_MBS.cumsum(-1) - log_probabilities_MBS
    largest = before_MBS.topk(top_k, 0)
    nothing_MBS = torch.full_like(before_MBS, -torch.inf)
    return nothing_MBS.scatter(0, largest.indices, largest.values.log_softmax(0))
