"""How a router chooses while it trains, where that differs from what the stock model computes.

In:  a mixture's routers and the routing of its recipe.  Out: inside a block the
routers choose as below, outside it as the stock model does.

top-k
    A token takes K experts, weighed by a softmax over the K; in training the same.
soft
    A token takes every expert; in training the same.
switch
    A token takes the likeliest expert, weighed by the softmax over all. In training an expert takes
    at most `capacity` even shares of a batch, and the other tokens pass it by.
sample
    A token takes the likeliest expert, with weight 1. In training it takes the largest of a Gumbel
    softmax whose temperature falls from 1; that softmax's other values are dropped.

Each loads as its family's stock mixture (soft: K = E, sample: K = 1). Switch loads as one with
norm_topk_prob false, where the family has one; `btx_core.checkpoints.families` refuses the others
by name. No stock model limits an expert's capacity, so no token is dropped outside training.
Shapes: T tokens, E experts, K experts that one token takes.
Methods: Switch (arXiv:2101.03961); Gumbel softmax (arXiv:1611.01144) as Branch-Train-MiX uses it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from btx_core.problems import Unsupported
from btx_core.routed import Router

Routing = Literal["top-k", "soft", "switch", "sample"]
# What a stock router returns: logits (T, E), and weight and index (T, K) of the experts taken.
RouterOutput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class RoutingInTraining:
    """How routers choose while they train.

    Attributes:
        routing: the routing of the mixture's recipe.
        capacity: routing switch: how many even shares of a batch one expert takes.
        temperature: routing sample: of the Gumbel softmax.
    """

    routing: Routing
    capacity: float
    temperature: float

    @property
    def as_stock(self) -> bool:
        """Whether the routers choose as the stock model does."""
        return self.routing in ("top-k", "soft")

    def choose(self, output: RouterOutput) -> RouterOutput:
        """Return what is chosen instead of a stock router's output."""
        if self.routing == "switch":
            return within_capacity(output, self.capacity)
        return drawn(output, self.temperature)


def within_capacity(output: RouterOutput, capacity: float) -> RouterOutput:
    """Let an expert take no more tokens than it has room for.

    Tokens are served in their order. One that comes after its expert is full gets weight 0: only
    the residual stream goes on.

    Args:
        output: of a router that takes one expert a token.
        capacity: how many even shares, T / E tokens each, an expert has room for.

    Returns:
        The same logits and index, and the weights with zeros where a token was dropped.
    """
    logits_TE, weights_TK, index_TK = output
    tokens, experts = logits_TE.shape
    taken_TE = torch.zeros_like(logits_TE, dtype=torch.long).scatter(1, index_TK, 1)
    queue_TK = taken_TE.cumsum(0).gather(1, index_TK)
    room = math.ceil(capacity * tokens / experts)
    return logits_TE, weights_TK * (queue_TK <= room), index_TK


def drawn(output: RouterOutput, temperature: float) -> RouterOutput:
    """Draw one expert a token by its probability.

    Args:
        output: of a router.
        temperature: of the Gumbel softmax; the lower, the nearer the weight is to 1.

    Returns:
        The same logits, and as weight (T, 1) the drawn expert's share of the Gumbel softmax.
    """
    logits_TE = output[0].float()
    noise_TE = -torch.empty_like(logits_TE).exponential_().log()
    shares_TE = ((logits_TE + noise_TE) / temperature).softmax(-1)
    weights_TK, index_TK = shares_TE.max(-1, keepdim=True)
    return output[0], weights_TK.to(output[1].dtype), index_TK


@contextmanager
def routing_in_training(
    routers: Sequence[Router], how: Callable[[], RoutingInTraining]
) -> Iterator[None]:
    """Let the routers choose as in training in the forward passes inside the block.

    `RoutedModel.recording` cannot do this: it only listens, and these hooks replace what the
    routers return.

    Args:
        routers: the routers of a mixture.
        how: returns how they choose, asked in every forward pass.

    Raises:
        Unsupported: at the first forward pass, where the family's router does not return its
            choice.
    """

    def hook(module: torch.nn.Module, _: object, output: object) -> RouterOutput:
        experts = len(module.get_parameter("weight"))
        if isinstance(output, tuple) and len(output) == 3 and output[0].shape[-1] == experts:
            return how().choose(output)
        raise Unsupported(
            f"routing {how().routing}",
            found=type(module).__name__,
            expected="a router that hands on logits, weights and index",
            next="choose routing top-k or soft for this family",
        )

    changed = [] if how().as_stock else routers
    handles = [router.module.register_forward_hook(hook) for router in changed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
