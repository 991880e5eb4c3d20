"""Train an expert beside the seed's own block, so that it can share a mixture with experts that it never meets.

In:  an anchored branch in memory, general text.  Out: the same branch; while it trains, each feed-forward block stands beside a frozen copy of
itself, and a gate of two rows divides some of the tokens between them, as a mixture's router will. On general text the pair is held to the
seed's predictions: where a router errs, the expert does little harm. The gate's rows learn to tell the domain's text from general text, and
so each block learns to leave in the residual stream what later routers choose by.
Shapes: B rows, S tokens a row, D model width.  After FlexOlmo (arXiv:2507.07024).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from btx_core.checkpoints.dense import feed_forward_blocks
from btx_core.training.losses import distance, next_token_scores


class Beside(torch.nn.Module):
    """A feed-forward block, the seed's, and the gate."""

    def __init__(self, block: Any, width: int, gated: float) -> None:
        super().__init__()
        self.own, self.seed = block, copy.deepcopy(block).requires_grad_(False)
        self.gate = torch.nn.Parameter(torch.zeros(2, width))  # rows: general text, the domain's
        self.gated = gated  # share of tokens that the gate divides; the rest are the expert's alone, which is also a model by itself
        self.off = False  # compute what the seed computes
        self.scores_BS2 = torch.empty(0)  # of the last forward pass

    def forward(self, hidden_BSD: torch.Tensor) -> torch.Tensor:
        if self.off:
            return self.seed(hidden_BSD)  # type: ignore[no-any-return]
        self.scores_BS2 = linear(hidden_BSD, self.gate).float()
        share = self.scores_BS2.softmax(-1)[..., 1:].to(hidden_BSD.dtype)
        share = torch.where(torch.rand_like(share) < self.gated, share, 1.0)
        return torch.lerp(self.seed(hidden_BSD), self.own(hidden_BSD), share)


@contextmanager
def beside_seed(model: Any, gated: float) -> Iterator[list[Beside]]:
    """Inside the block, every feed-forward block of the model computes beside its frozen copy; after it, alone as before."""
    pairs = {
        name: Beside(block, model.config.hidden_size, gated)
        for name, block in feed_forward_blocks(model).items()
    }
    for name, pair in pairs.items():
        model.set_submodule(name, pair)
    try:
        yield list(pairs.values())
    finally:
        for name, pair in pairs.items():
            model.set_submodule(name, pair.own)


def pair_loss(
    pairs: Sequence[Beside], end: int, *, keep: float, tag: float
) -> Callable[[Any, torch.Tensor, Sequence[str], float], torch.Tensor]:
    """Next token on the domain's rows; keep × the distance to the seed on general ones; tag × the gates' cross-entropy, summed over layers."""

    def loss(running: Any, rows: torch.Tensor, names: Sequence[str], done: float) -> torch.Tensor:
        scores = next_token_scores(running, rows, end)
        gates = [pair.scores_BS2 for pair in pairs]
        general = torch.tensor([name == "general" for name in names], device=rows.device)
        wanted = (~general).long()[:, None].expand(gates[0].shape[:2]).flatten()
        value = (
            tag * torch.stack([cross_entropy(gate.flatten(0, 1), wanted) for gate in gates]).sum()
        )
        if not general.all():
            value = (
                value
                + cross_entropy(scores[~general].flatten(0, 1), rows[~general, 1:].flatten())
                * (~general).float().mean()
            )
        if general.any():
            value = (
                value
                + keep
                * distance(scores[general], seed_scores(running, pairs, rows[general], end))
                * general.float().mean()
            )
        return value

    return loss


@torch.no_grad()
def seed_scores(
    running: Any, pairs: Sequence[Beside], rows: torch.Tensor, end: int
) -> torch.Tensor:
    """(B, S, V): what the seed predicts; all but the pairs is the seed's own in an anchored branch."""
    for pair in pairs:
        pair.off = True
    try:
        return next_token_scores(running, rows, end)
    finally:
        for pair in pairs:
            pair.off = False
