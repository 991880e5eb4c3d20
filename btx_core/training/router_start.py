"""The first weights of the routers, before any tuning.

In:  a mixture, text by domain, and which expert each text trained.
Out: the mixture with its routers set: fitted to what each router will see; or taken from the build
before, with weights for the experts that join it.
Statistics are sums over one expert's own states, so that another expert adds its own and leaves the
rest as they are. They hold as long as the shared parameters do: an expert's states are those of its
own dense model, which anchored branches share with the mixture.
Shapes: L layers, E experts, D model width, T tokens.
Method: ridge regression on router inputs, as DUME does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from btx_core.batches import Corpus
from btx_core.checkpoints.dense import feed_forward_blocks
from btx_core.machine import assign, device_of, load, release, whole
from btx_core.routed import RoutedModel, is_expert_parameter, recorded_inputs
from btx_core.training.openings import Openings
from btx_core.training.packing import run_packed
from btx_core.training.recipes import RouterStart

# What a fitted router scores a state for its own expert: sharp enough to choose, soft enough to be
# tuned (benchmarks/btx_table).
SCALE = 4.0
# Of the mean square of a state's entries.
RIDGE = 1e-3
# Sequences of text per domain that statistics are made of.
SEQUENCES = 60
# States of a sequence, evenly spread, that a joining expert's router weights are fitted to.
STATES = 128
EVERY = slice(None)


@dataclass(frozen=True)
class OwnExpert:
    """The expert that a domain's text trained.

    Attributes:
        index: its index among the experts that the routers choose from.
        folder: its dense checkpoint.
    """

    index: int
    folder: Path


@dataclass(frozen=True)
class Grown:
    """A tuned build of the same seed model to go on from.

    A build that only lost experts keeps the rest of its router weights as they are; one that gained
    some is tuned for a share of the steps.

    Attributes:
        folder: the tuned build.
        index_before: of every expert that stays: index now -> index in that build.
    """

    folder: Path
    index_before: Mapping[int, int]


@dataclass(frozen=True)
class Statistics:
    """Sums over T states of one expert, for some layers, in float64, where its model computed.

    Attributes:
        tokens: T.
        total_LD: the sum of the states.
        outer_LDD: the sum of their outer products.
    """

    tokens: int
    total_LD: torch.Tensor
    outer_LDD: torch.Tensor

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both texts together."""
        return Statistics(
            self.tokens + other.tokens,
            self.total_LD + other.total_LD,
            self.outer_LDD + other.outer_LDD,
        )


@torch.no_grad()
def statistics(
    dense: torch.nn.Module,
    corpus: Corpus,
    length: int,
    sequences: int,
    layers: slice = EVERY,
    openings: Openings | None = None,
) -> Statistics:
    """Run an expert's own dense model over its own text and sum up what its routers will see.

    What enters a feed-forward block of the dense model is what that layer's router sees.

    Args:
        dense: the expert's dense model.
        corpus: its text.
        length: tokens of one sequence.
        sequences: how many sequences are read.
        layers: whose states are summed up.
        openings: whose states are none of the expert's own; None: all states are.

    Returns:
        The statistics of length × sequences tokens, less those of openings.
    """
    blocks, device = dict([*feed_forward_blocks(dense).items()][layers]), device_of(dense)
    sums, tokens = {name: _Sums() for name in blocks}, 0
    for number in range(sequences):
        ids = torch.from_numpy(corpus.sequence(number, length)[:-1])[None].to(device)
        own = _own(corpus, number, length, openings).to(device)
        tokens += len(own)

        def add(name: str, hidden_TD: torch.Tensor, own: torch.Tensor = own) -> torch.Tensor:
            return sums[name].add(hidden_TD[own])

        with recorded_inputs(blocks, {}, reduce=add):
            begins = _begins(corpus, [number], length, device)
            run_packed(dense, ids, corpus.end, begins=begins, logits_to_keep=1)
    if not sums:
        # Any model of transformers has a config.
        width: int = dense.config.hidden_size  # type: ignore[union-attr, assignment]
        return Statistics(tokens, torch.zeros(0, width), torch.zeros(0, width, width))
    return Statistics(
        tokens,
        torch.stack([each.total_D for each in sums.values()]),
        torch.stack([each.outer_DD for each in sums.values()]),
    )


def _begins(
    corpus: Corpus, numbers: Iterable[int], length: int, device: torch.device
) -> torch.Tensor | None:
    """Return where documents begin in sequences (B, S); None: with each end token."""
    if not corpus.is_partly_learnt:
        return None
    begins = [corpus.marks(number, length).begins[:-1] for number in numbers]
    return torch.from_numpy(np.stack(begins)).to(device)


def _own(corpus: Corpus, number: int, length: int, openings: Openings | None) -> torch.Tensor:
    """Return the positions in a sequence whose states are the domain's own; of none, all."""
    every = torch.arange(length)
    if openings is None or not corpus.is_partly_learnt:
        return every
    ids = corpus.sequence(number, length)[:-1]
    shared = openings.within(ids, corpus.marks(number, length).begins[:-1])
    return every if shared.all() else every[torch.from_numpy(~shared)]


class _Sums:
    """The sums of one layer: products in float32, added up in float64, one sequence at a time."""

    total_D: torch.Tensor
    outer_DD: torch.Tensor

    def __init__(self) -> None:
        self.empty = True

    def add(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        states_TD = hidden_TD.float()
        total_D, outer_DD = states_TD.double().sum(0), (states_TD.T @ states_TD).double()
        if self.empty:
            self.total_D, self.outer_DD, self.empty = total_D, outer_DD, False
        else:
            self.total_D += total_D
            self.outer_DD += outer_DD
        # Nothing of the states themselves is kept.
        return total_D


def first_weights(
    experts: Iterable[tuple[int, Statistics]], count: int, start: RouterStart
) -> torch.Tensor:
    """Compute router weights from the experts' statistics.

    The sums are gigabytes for each expert of a large model, so they are taken one at a time, and
    held where the CPU's memory is. Several processes divide the layers among them.

    Args:
        experts: the index of each expert once, and its statistics.
        count: E, how many experts the routers choose from.
        start: "fitted": the ridge solution that scores an expert's own states SCALE and all others'
            0, every expert weighing the same; "centroid": each expert's mean state less the mean of
            all, at length 1.

    Returns:
        Weights (L, E, D), float64, on the CPU; zero for an expert without statistics.
    """
    means: dict[int, torch.Tensor] = {}
    outers = None
    for index, sums in experts:
        means[index] = (sums.total_LD / sums.tokens).cpu()
        if start == "fitted":
            outer_LDD = (sums.outer_LDD / sums.tokens).cpu()
            outers = outer_LDD if outers is None else outers.add_(outer_LDD)
    layers, width = next(iter(means.values())).shape
    weights_LED = torch.zeros(layers, count, width, dtype=torch.float64)
    if start == "centroid":
        middle_LD = torch.stack(list(means.values())).mean(0)
        for index, mean_LD in means.items():
            weights_LED[:, index] = torch.nn.functional.normalize(mean_LD - middle_LD, dim=-1)
        return weights_LED
    for index, mean_LD in means.items():
        weights_LED[:, index] = mean_LD
    assert outers is not None
    for weights_ED, outer_DD in zip(weights_LED, outers, strict=True):
        outer_DD.diagonal().add_(RIDGE * outer_DD.diagonal().mean())
        # Not a general solver: with several threads the LU of some builds of torch never ends.
        factor_DD = torch.linalg.cholesky(outer_DD)
        weights_ED.copy_(SCALE * torch.cholesky_solve(weights_ED.mT, factor_DD).mT)
    return weights_LED


def joining_weight(
    own_TD: torch.Tensor, others_TD: torch.Tensor, staying_ED: torch.Tensor
) -> torch.Tensor:
    """Fit the weight of an expert that joins others whose weights stay as they are.

    It scores its own states above all experts that stay together, and others' states below. This is
    a logistic regression of own against others, both weighing the same, with the log-sum-exp of the
    logits that stay as offset, which is what the softmax over all experts makes of the new one. It
    is convex, and solved in float64.

    Args:
        own_TD: states of the text that the expert was trained on.
        others_TD: states of all other text.
        staying_ED: the router's weights of the experts that stay.

    Returns:
        The weight (D,), float64.
    """
    states = torch.cat([own_TD, others_TD]).double()
    offset = (states @ staying_ED.double().T).logsumexp(-1)
    targets = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    targets[: len(own_TD)] = 1
    sample_weights = torch.where(targets > 0, 0.5 / len(own_TD), 0.5 / len(others_TD))
    weight = torch.zeros_like(states[0], requires_grad=True)
    search = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def cost() -> torch.Tensor:
        search.zero_grad()
        logits = states @ weight - offset
        fit = binary_cross_entropy_with_logits(logits, targets, sample_weights, reduction="sum")
        value = fit + 0.5 * RIDGE * states.square().mean() * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        search.step(cost)  # type: ignore[no-untyped-call]
    return weight.detach()


def start_from_statistics(
    routed: RoutedModel,
    own_experts: Mapping[str, OwnExpert],
    corpora: Mapping[str, Corpus],
    start: RouterStart,
    length: int,
    openings: Openings | None = None,
) -> None:
    """Set every router to what one pass of each expert over its own text gives.

    Every process runs its share of each model, and makes the weights of its share of the layers.

    Args:
        routed: the mixture; its routers are changed in place.
        own_experts: by domain, the expert that its text trained.
        corpora: the text of these domains.
        start: how weights are made of the statistics.
        length: tokens of one sequence.
        openings: whose states only the seed model's expert has for its own.
    """
    machine, domains = routed.machine, dict[int, list[str]]()
    for domain, expert in own_experts.items():
        domains.setdefault(expert.index, []).append(domain)

    def of_domain(dense: torch.nn.Module, domain: str) -> Statistics:
        skipped = openings and openings.of_others(domain)
        corpus = corpora[domain]
        return statistics(dense, corpus, length, SEQUENCES, layers=machine.part, openings=skipped)

    def each() -> Iterator[tuple[int, Statistics]]:
        for index, own in domains.items():
            dense = load(own_experts[own[0]].folder, torch.float32, machine=machine)
            sums = of_domain(dense, own[0])
            for domain in own[1:]:
                sums = sums + of_domain(dense, domain)
            del dense
            release()
            yield index, sums

    experts, width = routed.routers[0].weight.shape
    weights_LED = torch.zeros(len(routed.routers), experts, width, dtype=torch.float64)
    weights_LED[machine.part] = first_weights(each(), experts, start)
    weights_LED = machine.sum(weights_LED)
    for router, weights_ED in zip(routed.routers, weights_LED, strict=True):
        assign(router.weight, weights_ED)


@torch.no_grad()
def take_over(routed: RoutedModel, grown: Grown, *, shared: bool) -> None:
    """Take what a build was tuned to: the router weights of the experts that stay, and the rest.

    Args:
        routed: the mixture; it is changed in place.
        grown: the build, and which expert is which.
        shared: whether shared parameters are tuned. Else the build has them as they were mixed, and
            so will this one.
    """
    build = load(grown.folder, torch.float32, machine=routed.machine)
    before = dict(build.named_parameters())
    routers = {router.name for router in routed.routers}
    for name, parameter in routed.network.named_parameters():
        if name.removesuffix(".weight") in routers:
            weights_ED, before_ED = whole(parameter).clone(), whole(before[name])
            for index, index_before in grown.index_before.items():
                weights_ED[index] = before_ED[index_before]
            assign(parameter, weights_ED)
        elif shared and not is_expert_parameter(name):
            parameter.copy_(before[name])
    del build, before
    release()


@torch.no_grad()
def router_states(
    routed: RoutedModel,
    corpora: Mapping[str, Corpus],
    length: int,
    openings: Openings | None = None,
) -> dict[str, dict[str, torch.Tensor]]:
    """Return some of what each router of a mixture sees of each domain's text.

    Several processes divide the layers among them: for the others' there are no states.

    Args:
        routed: the mixture.
        corpora: text by domain.
        length: tokens of one sequence.
        openings: whose states only the seed model's own text has.

    Returns:
        States (T, D) by domain and router name, in main memory.
    """
    device, own = device_of(routed.network), _own_routers(routed)
    spread = torch.linspace(0, length - 1, min(STATES, length)).long()

    states: dict[str, dict[str, torch.Tensor]] = {}
    for domain, corpus in corpora.items():
        found: dict[str, list[torch.Tensor]] = {router.name: [] for router in routed.routers}
        skipped = openings and openings.of_others(domain)
        for number in range(SEQUENCES):
            ids = torch.from_numpy(corpus.sequence(number, length)[:-1])[None].to(device)
            begins = _begins(corpus, [number], length, device)
            taken = _own(corpus, number, length, skipped)
            positions = spread[torch.isin(spread, taken)]

            def reduce(
                name: str, hidden_TD: torch.Tensor, positions: torch.Tensor = positions
            ) -> torch.Tensor:
                return hidden_TD[positions if name in own else []].cpu()

            with routed.recording(inputs=True, reduce=reduce) as recording:
                run_packed(routed.network, ids, corpus.end, begins=begins, logits_to_keep=1)
            for name, states_TD in recording.inputs.items():
                found[name].append(states_TD)
        states[domain] = {name: torch.cat(each) for name, each in found.items()}
    return states


def _own_routers(routed: RoutedModel) -> set[str]:
    """Return the names of the routers whose weights this process makes."""
    return {router.name for router in routed.routers[routed.machine.part]}


def join(
    routed: RoutedModel,
    grown: Grown,
    own_experts: Mapping[str, int],
    states: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Set the router weights of every expert that joins a build.

    Its states are the tuned mixture's, whose shared parameters are not the seed model's any more.
    An expert that no text, or all text, trained keeps the weights it has: nothing tells it apart.

    Args:
        routed: the mixture, as `take_over` left it; its routers are changed in place.
        grown: the build that it goes on from.
        own_experts: by domain, the index of the expert that its text trained.
        states: as `router_states` returns them.
    """
    staying, device = sorted(grown.index_before), device_of(routed.network)
    for index in sorted(set(own_experts.values()) - grown.index_before.keys()):
        own = [by_name for domain, by_name in states.items() if own_experts.get(domain) == index]
        others = [by_name for domain, by_name in states.items() if own_experts.get(domain) != index]
        if not own or not others:
            continue
        weights_LED = torch.stack([whole(one.weight).detach().cpu() for one in routed.routers])
        joining_LD = torch.zeros_like(weights_LED[:, index], dtype=torch.float64)
        for router in routed.routers[routed.machine.part]:
            joining_LD[router.layer] = joining_weight(
                torch.cat([by_name[router.name] for by_name in own]).to(device),
                torch.cat([by_name[router.name] for by_name in others]).to(device),
                weights_LED[router.layer, staying].to(device),
            )
        weights_LED[:, index] = routed.machine.sum(joining_LD)
        for router, weights_ED in zip(routed.routers, weights_LED, strict=True):
            assign(router.weight, weights_ED)
        staying.append(index)
