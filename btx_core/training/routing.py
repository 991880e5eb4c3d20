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
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from btx_core.machine import Machine
from btx_core.problems import Unsupported
from btx_core.routed import Router

Routing = Literal["top-k", "soft", "switch", "sample"]
# What a stock router returns: logits (T, E), and weight and index (T, K) of the experts taken.
RouterOutput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Together:
    """The sequences of one forward pass, which several processes compute together.

    Attributes:
        machine: the processes.
        sequences: B, of each.
    """

    machine: Machine = field(default_factory=Machine)
    sequences: int = 1

    def of_all(self, values_TX: torch.Tensor) -> torch.Tensor:
        """Return what belongs to the tokens of all processes, in the order of the step."""
        values_BSX = values_TX.reshape(self.sequences, -1, *values_TX.shape[1:])
        return self.machine.of_all(values_BSX).flatten(0, 1)

    def own(self, values_TX: torch.Tensor) -> torch.Tensor:
        """Return what belongs to this process's tokens, of what belongs to all."""
        sequences = self.machine.world * self.sequences
        values_BSX = values_TX.reshape(sequences, -1, *values_TX.shape[1:])
        return self.machine.own(values_BSX).flatten(0, 1)


ONE = Together()


@dataclass(frozen=True)
class RoutingInTraining:
    """How routers choose while they train.

    Attributes:
        routing: the routing of the mixture's recipe.
        capacity: routing switch: how many even shares of a batch one expert takes.
        temperature: routing sample: of the Gumbel softmax.
        together: whose sequences share the room of an expert and the draws.
    """

    routing: Routing
    capacity: float
    temperature: float
    together: Together = ONE

    @property
    def as_stock(self) -> bool:
        """Whether the routers choose as the stock model does."""
        return self.routing in ("top-k", "soft")

    def choose(self, output: RouterOutput) -> RouterOutput:
        """Return what is chosen instead of a stock router's output."""
        if self.routing == "switch":
            return within_capacity(output, self.capacity, self.together)
        return drawn(output, self.temperature, self.together)


def within_capacity(
    output: RouterOutput, capacity: float, together: Together = ONE
) -> RouterOutput:
    """Let an expert take no more tokens than it has room for.

    Tokens are served in their order. One that comes after its expert is full gets weight 0: only
    the residual stream goes on.

    Args:
        output: of a router that takes one expert a token.
        capacity: how many even shares, T / E tokens each, an expert has room for.
        together: whose tokens are served; T are those of all.

    Returns:
        The same logits and index, and the weights with zeros where a token was dropped.
    """
    logits_TE, weights_TK, index_TK = output
    all_TK, experts = together.of_all(index_TK), logits_TE.shape[1]
    taken_TE = all_TK.new_zeros(len(all_TK), experts).scatter(1, all_TK, 1)
    queue_TK = together.own(taken_TE.cumsum(0).gather(1, all_TK))
    room = math.ceil(capacity * len(all_TK) / experts)
    return logits_TE, weights_TK * (queue_TK <= room), index_TK


def drawn(output: RouterOutput, temperature: float, together: Together = ONE) -> RouterOutput:
    """Draw one expert a token by its probability.

    Args:
        output: of a router.
        temperature: of the Gumbel softmax; the lower, the nearer the weight is to 1.
        together: whose tokens are drawn for; every process draws for all and takes its own, so that
            it draws what one process would.

    Returns:
        The same logits, and as weight (T, 1) the drawn expert's share of the Gumbel softmax.
    """
    logits_TE = output[0].float()
    tokens, experts = logits_TE.shape
    all_TE = logits_TE.new_empty(tokens * together.machine.world, experts).exponential_()
    noise_TE = -together.own(all_TE).log()
    shares_TE = ((logits_TE + noise_TE) / temperature).softmax(-1)
    weights_TK, index_TK = shares_TE.max(-1, keepdim=True)
    return output[0], weights_TK.to(output[1].dtype), index_TK


@contextmanager
def routing_in_training(
    routers: Sequence[Router], how: Callable[[], RoutingInTraining]
) -> Iterator[None]:
    """Let the routers choose as in training in the forward passes of training inside the block.

    `RoutedModel.recording` cannot do this: it only listens, and these hooks replace what the
    routers return.

    Args:
        routers: the routers of a mixture.
        how: returns how they choose, asked in every forward pass.

    Raises:
        Unsupported: at the first forward pass, where the family's router does not return its
            choice.
    """

    # Any: what a stock router returns.
    def choosing(router: Router) -> Callable[[torch.nn.Module, Any, Any], RouterOutput | None]:
        def hook(module: torch.nn.Module, _: Any, output: Any) -> RouterOutput | None:
            if not module.training:
                return None
            whole_choice = isinstance(output, tuple) and len(output) == 3
            if whole_choice and output[0].shape[-1] == router.experts:
                return how().choose(output)
            raise Unsupported(
                f"routing {how().routing}",
                found=type(module).__name__,
                expected="a router that hands on logits, weights and index",
                next="choose routing top-k or soft for this family",
            )

        return hook

    changed = [] if how().as_stock else routers
    handles = [router.module.register_forward_hook(choosing(router)) for router in changed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
