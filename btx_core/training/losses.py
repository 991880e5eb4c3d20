"""What training and tuning make small: the next token's cross-entropy, and the distance to another model's predictions.

In:  a model, rows of packed documents, each led by the end token.  Out: logits, means in nats per token.
Shapes: B rows, S tokens a row (a row holds one more), V vocabulary.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div


def next_token_loss(model: Any, rows: torch.Tensor, end: int) -> torch.Tensor:
    """rows: (B, S + 1). Mean over all B × S targets, nats per token."""
    return cross_entropy(next_token_scores(model, rows, end).flatten(0, 1), rows[:, 1:].flatten())


def next_token_scores(model: Any, rows: torch.Tensor, end: int) -> torch.Tensor:
    """rows: (B, S + 1). Logits (B, S, V), float32."""
    inputs = rows[:, :-1]
    output = model(input_ids=inputs, attention_mask=alone(inputs, end), use_cache=False)
    logits: torch.Tensor = output.logits
    return logits.float()


def alone(inputs: torch.Tensor, end: int) -> torch.Tensor:
    """(B, 1, S, S): 0 where a token may look, lowest elsewhere. Each packed document sees itself alone, begun by the end token before it."""
    document = (inputs == end).cumsum(1)
    seen = (document[:, :, None] == document[:, None, :]).tril()
    return torch.zeros(seen.shape, device=inputs.device).masked_fill(
        ~seen, torch.finfo(torch.float32).min
    )[:, None]


def distance(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(B, S, V) each. Kullback-Leibler divergence from what is wanted, mean over (B, S), nats per token."""
    found, held = scores.log_softmax(-1).flatten(0, 1), wanted.log_softmax(-1).flatten(0, 1)
    return kl_div(found, held, log_target=True, reduction="batchmean")
