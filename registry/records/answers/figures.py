"""Figures on held-out text as they are printed: of versions, comparisons and demonstrations."""

from collections.abc import Mapping, Sequence

from registry.records.answers.answer import Answer, WithoutNulls
from registry.records.facts import Routing
from registry.records.results import Result, Specialist, labels, worst_of


class BenchRow(Answer):
    """One line of the comparison for one random seed."""

    name: str
    random_seed: int
    bits_per_byte: Mapping[str, float]  # by domain
    tokens: int  # of all training after the seed's
    flops: float
    routing: Mapping[str, tuple[tuple[float, ...], ...]] | None = None


class DemoDomain(Answer):
    """The figures of one domain in the demonstration, in bits per byte."""

    new_to_seed: bool | None
    seed: float | None
    specialist: float | None
    builds: Mapping[str, float | None]
    kept: Mapping[str, float | None]  # share of the specialist's gain, by build


class DemoAnswer(Answer):
    """What the demonstration made."""

    workspace: str
    builds: tuple[str, ...]
    table: Mapping[str, DemoDomain]
    minutes: float


class DomainFigures(WithoutNulls):
    """The figures of one domain; `accuracy` only where answers can be checked.

    The specialist's are those of the best member; `specialists` names all.
    """

    data: str | None = None
    bits_per_byte: float | None = None
    tokens: int | None = None
    accuracy: float | None = None
    answers: int | None = None
    seed_bits_per_byte: float | None = None
    seed_accuracy: float | None = None
    new_to_seed: bool | None = None
    specialist: str | None = None
    specialist_bits_per_byte: float | None = None
    specialist_accuracy: float | None = None
    specialists: tuple[Specialist, ...] | None = None


class ExpertEvaluation(DomainFigures):
    """The figures of an expert's worst data version, and under `domains` those of each."""

    domains: Mapping[str, DomainFigures] = {}


class RoutingShares(Answer):
    """Which experts are used: for each domain and layer the share of every expert."""

    shares: Mapping[str, tuple[tuple[float, ...], ...]] = {}
    dead: tuple[str, ...] = ()
    dominant: tuple[str, ...] = ()


def evaluation_of(results: Sequence[Result]) -> dict[str, DomainFigures]:
    """Return figures by domain: the `evaluation` of `btx show build/N --json`.

    A domain that stands for two versions of one data name has an entry for each, named like
    `legal@2`. The specialist's figures are those of the best member; `specialists` names all.
    """
    named = labels(results)
    return {named[result.data]: figures_of(result) for result in results}


def figures_of(result: Result) -> DomainFigures:
    """Return the figures of one result, with those of its best specialist beside them."""
    figures = result.model_dump(exclude={"domain", "specialists"})
    best = result.specialist
    if best is None:
        return DomainFigures(**figures)
    figures["specialist_bits_per_byte"] = best.bits_per_byte
    figures["specialist_accuracy"] = best.accuracy
    if best.ref is not None:
        figures["specialist"] = best.ref
        figures["specialists"] = result.specialists
    return DomainFigures(**figures)


def expert_evaluation_of(results: Sequence[Result]) -> ExpertEvaluation | None:
    """Return the figures of the worst data version, and those of each by its label."""
    worst = worst_of(results)
    if worst is None:
        return None
    return ExpertEvaluation(**{**figures_of(worst).to_json(), "domains": evaluation_of(results)})


def routing_of(routing: Routing, results: Sequence[Result]) -> RoutingShares:
    """Return where tokens went, by the names that `evaluation_of` gives the results."""
    named = labels(results)
    shares = {named.get(share.data, share.domain): share.layers for share in routing.shares}
    return RoutingShares(shares=shares, dead=routing.dead, dominant=routing.dominant)
