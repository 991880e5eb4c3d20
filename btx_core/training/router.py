"""First rows of the routers, before any tuning: fitted to what each router will see; a joining expert's to the rows that are there.

In:  for every expert its dense folder and the text that is its home.  Out: per layer one row an expert.
Statistics are sums over one expert's own states, so another expert adds its own and leaves the rest as they are. They hold as long as the
shared parameters do: an expert's states are those of its own dense model, which anchored branches share with the mixture.
Shapes: L layers, E experts, D model width, T tokens.  Method: ridge regression on router inputs, as DUME does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from btx_core.checkpoints.dense import feed_forward_blocks
from btx_core.texts import Corpus, end_token
from btx_core.training.losses import alone

Start = Literal["fitted", "centroid", "random"]
SCALE = 4.0  # of a state's score for its own expert: sharp enough to choose, soft enough to be tuned (benchmarks/btx_table)
RIDGE = 1e-3  # of the mean square of a state's entries
ROWS = 60  # of text per expert


@dataclass(frozen=True)
class Statistics:
    """Sums over T states of one expert, per layer. float64."""

    tokens: int
    total_LD: torch.Tensor
    outer_LDD: torch.Tensor

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.tokens + other.tokens,
            self.total_LD + other.total_LD,
            self.outer_LDD + other.outer_LDD,
        )


@torch.no_grad()
def statistics(
    dense: Any, tokenizer: Any, corpus: Corpus, sequence: int, rows: int = ROWS
) -> Statistics:
    """One pass of the expert's own dense model over its own text; what enters each feed-forward block is what its router sees."""
    seen: list[torch.Tensor] = []
    listen = [
        (block, lambda _, given: seen.append(given[0].flatten(0, -2).double()))
        for block in feed_forward_blocks(dense).values()
    ]
    handles = [block.register_forward_pre_hook(hook) for block, hook in listen]
    try:
        ids = torch.from_numpy(
            np.stack([corpus.row(number, sequence)[:-1] for number in range(rows)])
        )
        dense(input_ids=ids, attention_mask=alone(ids, end_token(tokenizer)), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    states_LTD = torch.stack(seen)
    return Statistics(states_LTD.shape[1], states_LTD.sum(1), states_LTD.mT @ states_LTD)


def rows(experts: Mapping[int, Statistics], count: int, start: Start) -> torch.Tensor:
    """(L, E, D) rows; those of places that no statistics name are zero.

    fitted: the ridge solution that scores an expert's own states SCALE and others' 0, every expert weighing the same.
    centroid: each expert's mean state less the mean of all, at length 1.
    """
    means = {place: found.total_LD / found.tokens for place, found in experts.items()}
    first = next(iter(means.values()))
    out = torch.zeros(first.shape[0], count, first.shape[1], dtype=torch.float64)
    if start == "centroid":
        middle = torch.stack(list(means.values())).mean(0)
        for place, mean in means.items():
            out[:, place] = torch.nn.functional.normalize(mean - middle, dim=-1)
        return out
    for place, mean in means.items():
        out[:, place] = mean
    outer = torch.stack([found.outer_LDD / found.tokens for found in experts.values()]).sum(0)
    size = outer.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    fitted: torch.Tensor = torch.linalg.solve(
        outer + RIDGE * size * torch.eye(outer.shape[-1], dtype=torch.float64), out.mT
    ).mT
    return SCALE * fitted


def joining_row(
    own_TD: torch.Tensor, others_TD: torch.Tensor, kept_ED: torch.Tensor
) -> torch.Tensor:
    """(D,) The row of an expert that joins rows which stay: it scores its own states above all kept rows together, and others' below.

    Logistic regression of own against others, both weighing the same, with the kept rows' log-sum-exp as offset: what the softmax over all
    rows makes of the new one. Convex; float64.
    """
    states = torch.cat([own_TD, others_TD]).double()
    offset = (states @ kept_ED.double().T).logsumexp(-1)
    wanted = torch.cat([torch.ones(len(own_TD)), torch.zeros(len(others_TD))]).double()
    weight = torch.where(wanted > 0, 0.5 / len(own_TD), 0.5 / len(others_TD))
    row = torch.zeros(states.shape[1], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([row], max_iter=200, line_search_fn="strong_wolfe")

    def cost() -> torch.Tensor:
        search.zero_grad()
        told = binary_cross_entropy_with_logits(
            states @ row - offset, wanted, weight, reduction="sum"
        )
        value = told + 0.5 * RIDGE * states.square().mean() * row.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        search.step(cost)  # type: ignore[no-untyped-call]
    return row.detach()
