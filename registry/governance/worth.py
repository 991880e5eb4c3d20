"""What each build gained and cost, and what one more expert would: for who decides about it.

In:  the catalogue, and the price of an hour of one GPU, where it is known.
Out: records of `records.pages`. Reads only. What nobody reported is in no sum.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from registry.catalogue.catalog import Catalog
from registry.governance.one_more import Ahead, OneMore, estimate, timed, tokens_of
from registry.records.facts import BuildFacts, ExpertFacts, Spent
from registry.records.kinds import Mode
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
    expert = catalog.get(ref, ExpertFacts)
    own = [
        result.gain
        for result in build.facts.results
        if result.data in expert.facts.data and result.gain is not None
    ]
    report = expert.facts.train
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
        bytes=sum(file.bytes for file in expert.files),
    )


def one_more(
    catalog: Catalog,
    builds: Sequence[Version[BuildFacts]],
    seed: str | None,
    ahead: Ahead | None = None,
) -> OneMore | None:
    """Estimate what one more expert of a seed takes, from those that joined its last builds.

    Args:
        catalog: where they are registered.
        builds: oldest first, of any seed.
        seed: the seed that it would be a branch of.
        ahead: the rebuild that would have it; None: one by the recipe of the newest that was tuned.

    Returns:
        The estimate; None where no expert's training was reported, or no build was measured.
    """
    of_seed = [build for build in builds if build.facts.seed == seed]
    measured = _measured(of_seed, ahead)
    if not measured:
        return None
    past = catalog.get(measured[-1].ref, BuildFacts)
    experts = joined(catalog, of_seed, max(0, len(of_seed) - LOOKED_BACK))
    return estimate(past, experts, ahead or _like(past.facts))


def _measured(
    builds: Sequence[Version[BuildFacts]], ahead: Ahead | None
) -> list[Version[BuildFacts]]:
    if ahead:
        return timed(builds, ahead.tokens)
    tuned = [build for build in builds if build.facts.cost.tune.wall_s]
    return timed(tuned, 1) or tuned


def _like(past: BuildFacts) -> Ahead:
    """Return a rebuild by the same recipe, of one text more, that grows where the recipe says."""
    tune = past.recipe.tune
    # Older builds have no recipe with every key.
    known = {"mode", "steps", "batch", "sequence", "grow", "grow_batch"} <= tune.keys()
    return Ahead(
        tokens=tokens_of(tune, grows=True) if known else past.cost.tune.tokens or 0,
        tuned=past.tuned or "all",
        averages=past.recipe.mix.get("mode") == Mode.FULL,
        texts=len(past.results) + 1,
    )


def next_expert(
    catalog: Catalog,
    builds: Sequence[Version[BuildFacts]],
    experts: Sequence[JoinedExpert],
    price: GpuPrice | None,
) -> NextExpert | None:
    """Estimate what one more expert takes and brings, by the recipe of the newest tuned build.

    It is of the newest build's seed, and nothing of another seed is looked at. What it brings lies
    between what the least and the most of those before gained on their own text: nothing says more
    of a domain that nobody has trained on yet.

    Args:
        catalog: where they are registered.
        builds: oldest first.
        experts: those that joined the last of them, of any seed.
        price: of an hour of one GPU, where it is known.

    Returns:
        The estimate; None where no expert's training was reported, or no build was tuned.
    """
    seed = builds[-1].facts.seed if builds else None
    one = one_more(catalog, builds, seed)
    if not one:
        return None
    takes = one.price()
    devices = [one.branch, one.tuning]
    of_seed = {str(build.ref) for build in builds if build.facts.seed == seed}
    joining = [expert for expert in experts if expert.build in of_seed]
    gains = [expert.gain for expert in joining if expert.gain is not None]
    return NextExpert(
        trained=one.trained,
        tuned_as=str(one.measured_on.ref),
        takes=Spent(tokens=takes.tokens, flops=takes.flops, wall_s=takes.seconds),
        hours=hours(devices),
        money=money(devices, price),
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
        next_expert=next_expert(catalog, until, experts, price),
    )
