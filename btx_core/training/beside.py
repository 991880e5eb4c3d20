"""Train an expert beside the seed model's own block.

So it can share a mixture with experts that it never meets.

In:  an anchored branch in memory, sequences of its domain and of general text.
Out: the same branch. While it trains, each feed-forward block runs beside a frozen copy of itself,
and a learnt router divides some of the tokens between the two, as a mixture's router will.
On general text the pair is held to the seed model's predictions: where a mixture's router errs, the
expert does little harm. The pair's router learns to tell the domain's text from general text, and
so each block learns to leave in the residual stream what later routers choose by.
Shapes: B sequences of S tokens, D model width.  After FlexOlmo (arXiv:2507.07024).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy, linear

from btx_core.checkpoints.dense import feed_forward_blocks
from btx_core.machine import Machine, device_of
from btx_core.training.losses import Predictions, predict
from btx_core.training.objectives import Batch

# The domain of a branch's training that stands for general text.
GENERAL = "general"


class BlockPair(torch.nn.Module):
    """A feed-forward block, the seed model's copy of it, and the router between the two.

    Attributes:
        own: the block that trains.
        seed: the frozen copy, or the seed model's own block.
        machine: the processes that train together.
        router_weight: (2, D): of general text, of the domain's.
        routed_share: share of tokens that the router divides. Only the block computes the rest, so
            that the branch stays a model by itself.
        computes_seed: compute what the seed model computes.
        router_logits_BS2: of the last forward pass.
    """

    def __init__(
        self,
        block: torch.nn.Module,
        seed_block: torch.nn.Module,
        width: int,
        routed_share: float,
        machine: Machine,
    ) -> None:
        """Put a block of width D beside the seed model's."""
        super().__init__()
        self.own = block
        self.seed = seed_block.requires_grad_(False)
        self.router_weight = torch.nn.Parameter(torch.zeros(2, width, device=machine.device))
        self.routed_share = routed_share
        self.machine = machine
        self.computes_seed = False
        self.router_logits_BS2 = torch.empty(0)

    def forward(self, hidden_BSD: torch.Tensor) -> torch.Tensor:
        """Return the two blocks' outputs (B, S, D), in the shares that the router gives them."""
        seed_BSD: torch.Tensor
        if self.computes_seed:
            seed_BSD = self.seed(hidden_BSD)
            return seed_BSD
        self.router_logits_BS2 = linear(hidden_BSD, self.router_weight).float()
        share = self.router_logits_BS2.softmax(-1)[..., 1:].to(hidden_BSD.dtype)
        share = torch.where(self._drawn_as(share) < self.routed_share, share, 1.0)
        seed_BSD = self.seed(hidden_BSD)
        return torch.lerp(seed_BSD, self.own(hidden_BSD), share)

    def _drawn_as(self, share: torch.Tensor) -> torch.Tensor:
        """Draw a number for each token of all processes, and return those of this one's."""
        sequences, *rest = share.shape
        drawn = torch.rand(
            self.machine.world * sequences, *rest, dtype=share.dtype, device=share.device
        )
        return self.machine.own(drawn)


@contextmanager
def beside_seed(
    branch: torch.nn.Module,
    routed_share: float,
    *,
    machine: Machine | None = None,
    seed_blocks: Sequence[torch.nn.Module] = (),
) -> Iterator[list[BlockPair]]:
    """Let every feed-forward block of a branch run beside the seed model's inside the block.

    Args:
        branch: an anchored branch, as yet equal to its seed model.
        routed_share: share of tokens that the routers divide.
        machine: the processes that train together; this process alone unless given.
        seed_blocks: the seed model's blocks in layer order; copies of the branch's unless given,
            which several processes that share its parameters cannot make.

    Yields:
        The pairs in layer order. Afterwards each feed-forward block is by itself again.
    """
    blocks = feed_forward_blocks(branch)
    # Any model of transformers has a config; LoRA's wrapper hands it on.
    width: int = branch.config.hidden_size  # type: ignore[union-attr, assignment]
    alone = Machine(device=device_of(branch))
    pairs = {}
    for number, (name, block) in enumerate(blocks.items()):
        seed_block = seed_blocks[number] if seed_blocks else copy.deepcopy(block)
        pairs[name] = BlockPair(block, seed_block, width, routed_share, machine or alone)
    for name, pair in pairs.items():
        branch.set_submodule(name, pair)
    try:
        yield list(pairs.values())
    finally:
        for name, pair in pairs.items():
            branch.set_submodule(name, pair.own)


@dataclass(frozen=True, eq=False)
class BesideSeed:
    """The loss of a branch that trains beside its seed model.

    The next token's cross-entropy on the domain's sequences, the KL divergence from the seed model
    on general ones, and the routers' cross-entropy of telling the two apart, summed over layers.

    Attributes:
        pairs: the blocks of the branch and their copies.
        end: the id of the end token.
        keep: weight of the KL divergence.
        tag: weight of the routers' cross-entropy.
        machine: the processes that train together.
    """

    pairs: Sequence[BlockPair]
    end: int
    keep: float
    tag: float
    machine: Machine = field(default_factory=Machine)

    @property
    def trains_through_model(self) -> bool:
        """Always."""
        return True

    def attached(self) -> AbstractContextManager[None]:
        """The pairs are in the model already."""
        return nullcontext()

    def __call__(self, model: torch.nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        """Return the weighted sum, nats per token."""
        ids = batch.ids
        predictions = predict(model, ids, self.end, batch.begins)
        general_B = torch.tensor([name == GENERAL for name in batch.domains], device=ids.device)
        loss = self.tag * self._router_loss(general_B)
        if not general_B.all():
            own_B = ~general_B
            weights = None if batch.weights is None else batch.weights[own_B]
            text = predictions.of(own_B).cross_entropy(ids[own_B, 1:], weights)
            loss = loss + text * own_B.float().mean()
        several = self.machine.world > 1
        if several:
            # Every process goes back through the whole model, whatever its sequences are.
            loss = loss + 0.0 * predictions.cross_entropy(ids[:, 1:])
        if several or general_B.any():
            # Several processes compute every forward pass together.
            read = general_B if general_B.any() else slice(0, 1)
            begins = None if batch.begins is None else batch.begins[read]
            target = predict_as_seed(model, self.pairs, Batch(ids[read], (), begins), self.end)
        if general_B.any():
            divergence = predictions.of(general_B).kl_divergence(target)
            loss = loss + self.keep * divergence * general_B.float().mean()
        return loss

    def _router_loss(self, general_B: torch.Tensor) -> torch.Tensor:
        logits = [pair.router_logits_BS2 for pair in self.pairs]
        targets = (~general_B).long()[:, None].expand(logits[0].shape[:2]).flatten()
        losses = [cross_entropy(logits_BS2.flatten(0, 1), targets) for logits_BS2 in logits]
        return torch.stack(losses).sum()


@torch.no_grad()
def predict_as_seed(
    model: torch.nn.Module, pairs: Sequence[BlockPair], batch: Batch, end: int
) -> Predictions:
    """Return what the seed model predicts: all but the pairs is its own in an anchored branch.

    Args:
        model: the running branch.
        pairs: its blocks and their copies.
        batch: token ids (B, S + 1), and where documents begin.
        end: the id of the end token.

    Returns:
        Predictions of B × S tokens, without a gradient.
    """
    for pair in pairs:
        pair.computes_seed = True
    try:
        return predict(model, batch.ids, end, batch.begins)
    finally:
        for pair in pairs:
            pair.computes_seed = False
