"""What each build gained and cost, and what one more expert would: for who decides about it.

In:  the catalogue, and the price of an hour of one GPU, where it is known.
Out: records of `records.pages`. Reads only. What nobody reported is in no sum.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from registry.catalogue.catalog import Catalog
from registry.records.facts import BuildFacts, ExpertFacts, Spent
from registry.records.pages import GpuPrice, JoinedExpert, NextExpert
from registry.records.version import Version

SECONDS_IN_AN_HOUR = 3600
# Builds whose joining experts an estimate is made from.
LOOKED_BACK = 12


def spent_on(build: BuildFacts, new: Iterable[JoinedExpert]) -> list[Spent]:
    """Return what tuning a build took, and training each expert that no build had before."""
    return [build.cost.tune, *(one.training for one in new if one.training)]


def total(spent: Sequence[Spent]) -> Spent:
    """Add up tokens, FLOPs and seconds."""
    return Spent(
        tokens=sum(one.tokens or 0 for one in spent),
        flops=sum(one.flops or 0 for one in spent),
        wall_s=sum(one.wall_s or 0 for one in spent),
    )


def hours(spent: Iterable[Spent]) -> float:
    """Return the hours of one device each: four GPUs that ran for an hour are four."""
    return sum((one.wall_s or 0) * (one.processes or 1) for one in spent) / SECONDS_IN_AN_HOUR


def money(spent: Sequence[Spent], price: GpuPrice | None) -> float | None:
    """Return what that many hours cost; None where no price is known."""
    return hours(spent) * price.gpu_hour if price else None


def joined(
    catalog: Catalog, builds: Sequence[Version[BuildFacts]], first: int
) -> list[JoinedExpert]:
    """Return the experts that joined, with what each gained on its own data when it did.

    Args:
        catalog: where they are registered.
        builds: every build, oldest first.
        first: the number in `builds` from which on experts are looked at.
    """
    experts: list[JoinedExpert] = []
    ever: set[str] = set()
    for number, build in enumerate(builds):
        members = {member.ref for member in build.facts.members}
        if number >= first:
            experts += [_joined(catalog, build, ref) for ref in sorted(members - ever)]
        ever |= members
    return experts


def _joined(catalog: Catalog, build: Version[BuildFacts], ref: str) -> JoinedExpert:
    expert = catalog.get(ref, ExpertFacts).facts
    own = [
        result.gain
        for result in build.facts.results
        if result.data in expert.data and result.gain is not None
    ]
    report = expert.train
    training = None
    if report:
        training = Spent(
            tokens=report.tokens,
            flops=report.flops,
            wall_s=report.wall_s,
            processes=report.processes,
        )
    return JoinedExpert(
        ref=ref,
        build=str(build.ref),
        gain=sum(own) / len(own) if own else None,
        training=training,
    )


def next_expert(
    builds: Sequence[Version[BuildFacts]], experts: Sequence[JoinedExpert], price: GpuPrice | None
) -> NextExpert | None:
    """Estimate what one more expert takes and brings, from those that joined before.

    It takes the median of what training these took, and one tuning like the newest. What it brings
    lies between what the least and the most of them gained on their own text: nothing says more of
    a domain that nobody has trained on yet.

    Returns:
        The estimate; None where no expert's training was reported, or no build was tuned.
    """
    reported = [one for one in experts if one.training and one.training.wall_s is not None]
    tuned = [build for build in builds if build.facts.cost.tune.wall_s]
    if not reported or not tuned:
        return None
    trainings = [one.training for one in reported if one.training]
    training = Spent(
        tokens=round(median(one.tokens or 0 for one in trainings)),
        flops=median(one.flops or 0 for one in trainings),
        wall_s=median(one.wall_s or 0 for one in trainings),
        processes=round(median(one.processes or 1 for one in trainings)),
    )
    tuning = tuned[-1].facts.cost.tune
    gains = [one.gain for one in experts if one.gain is not None]
    return NextExpert(
        trained=len(reported),
        tuned_as=str(tuned[-1].ref),
        takes=total([training, tuning]),
        hours=hours([training, tuning]),
        money=money([training, tuning], price),
        least_gain=min(gains, default=None),
        median_gain=median(gains) if gains else None,
        most_gain=max(gains, default=None),
    )


@dataclass(frozen=True)
class BuildWorth:
    """What one build took and brought, beside those before it.

    Attributes:
        spent: its tuning, and the training of experts that no build had before.
        hours: of one device.
        money: what these cost; None where no price is known.
        price: of an hour of one GPU.
        joined: the experts that it was the first to have.
        next_expert: what one more would take and bring.
    """

    spent: Spent
    hours: float
    money: float | None
    price: GpuPrice | None
    joined: tuple[JoinedExpert, ...]
    next_expert: NextExpert | None


def of_build(catalog: Catalog, build: Version[BuildFacts], price: GpuPrice | None) -> BuildWorth:
    """Return what a build took and brought, and the estimate as it stood when it was made."""
    until = [one for one in catalog.versions(BuildFacts, files=False) if one.ref <= build.ref]
    experts = joined(catalog, until, max(0, len(until) - LOOKED_BACK))
    own = tuple(one for one in experts if one.build == str(build.ref))
    spent = spent_on(build.facts, own)
    return BuildWorth(
        spent=total(spent),
        hours=hours(spent),
        money=money(spent, price),
        price=price,
        joined=own,
        next_expert=next_expert(until, experts, price),
    )
