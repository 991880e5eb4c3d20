"""How a router chooses while it trains, where that is not what the stock model computes; and what each choice exports to.

In:  a mixture's routers, the routing of its recipe.  Out: nothing kept: the routers choose so inside a block, and as stock outside it.

| routing | a token takes | while it trains |
|---|---|---|
| top-k | K experts, weighed by a softmax over the K | the same |
| soft | every expert | the same |
| switch | the likeliest, weighed by the softmax over all | an expert takes `capacity` even shares of a batch at most; the rest pass it by |
| sample | the likeliest, weight 1 | the largest of a Gumbel softmax, whose temperature falls from 1; its other values are dropped |

All load as the family's stock mixture (soft: K = E, sample: K = 1), but switch: as one with norm_topk_prob false, where the family has one
(families.py refuses the others by name). No stock model limits an expert's capacity, so nothing is dropped outside training.
Shapes: T tokens, E experts.  Methods: Switch (arXiv:2101.03961); Gumbel softmax (arXiv:1611.01144) as Branch-Train-MiX uses it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

from btx_core.problems import Unsupported

Routing = Literal["top-k", "soft", "switch", "sample"]
Choice = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor
]  # logits (T, E), weight (T, K) and index (T, K) of what is kept


def within_capacity(choice: Choice, capacity: float) -> Choice:
    """In the order of the tokens: who comes after an expert is full gets weight 0, and only the residual stream goes on."""
    logits_TE, weights, places = choice
    tokens, experts = logits_TE.shape
    queue = torch.nn.functional.one_hot(places[:, 0], experts).cumsum(0).gather(1, places)
    return logits_TE, weights * (queue <= math.ceil(capacity * tokens / experts)), places


def drawn(choice: Choice, temperature: float) -> Choice:
    """One expert a token, drawn by its probability; its weight is its share of the Gumbel softmax."""
    logits_TE = choice[0].float()
    noise_TE = -torch.empty_like(logits_TE).exponential_().log()
    weights, places = ((logits_TE + noise_TE) / temperature).softmax(-1).max(-1, keepdim=True)
    return choice[0], weights.to(choice[1].dtype), places


@contextmanager
def in_training(
    routers: Mapping[str, Any], routing: Routing, *, capacity: float, temperature: float
) -> Iterator[None]:
    """Inside the block the routers choose as in training. Raises Unsupported where the family's router does not hand its choice on."""
    ways: dict[Routing, Callable[[Choice], Choice]] = {
        "switch": lambda choice: within_capacity(choice, capacity),
        "sample": lambda choice: drawn(choice, temperature),
    }

    def hook(router: Any, _: Any, choice: Any) -> Choice:
        if not (
            isinstance(choice, tuple)
            and len(choice) == 3
            and choice[0].shape[-1] == len(router.weight)
        ):
            found = type(router).__name__
            raise Unsupported(
                f"routing {routing}",
                found=found,
                expected="a router that hands on logits, weights and index",
                next="choose routing top-k or soft for this family",
            )
        return ways[routing](choice)

    handles = (
        [router.register_forward_hook(hook) for router in routers.values()]
        if routing in ways
        else []
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
