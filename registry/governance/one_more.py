"""What one more expert would take, estimated from what was recorded of those before it.

In:  the builds of one seed, the experts that joined them, and the rebuild that is ahead.
Out: a branch as the median one was, and the newest rebuild that was measured, scaled to the one
     ahead. `btx rebuild --dry-run`, the overview and the release sheet all say this.
Seconds leave out what registering takes, which nothing records.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from registry.records.answers.building import Price
from registry.records.base import JsonObject
from registry.records.facts import BuildFacts, Spent
from registry.records.pages import JoinedExpert
from registry.records.version import Version

# What tuning writes anew, by what it trains: the groups in the names of weight files.
REWRITTEN: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "router": ("router",),
    "shared": ("router", "shared"),
    "all": ("",),
}


@dataclass(frozen=True)
class Ahead:
    """The rebuild that is ahead.

    Attributes:
        tokens: of its tuning.
        tuned: what the tuning trains: none, router, shared or all.
        averages: whether shared parameters are averaged over the members, and so written anew.
        texts: how many data versions it measures.
        links: whether files of the build before are linked where they stay the same.
    """

    tokens: int
    tuned: str
    averages: bool
    texts: int
    links: bool = True


def tokens_of(tune: JsonObject, *, grows: bool) -> int:
    """Return how many tokens the tuning reads of a build that one more expert joins.

    Args:
        tune: a recipe's settings of tuning, with every key.
        grows: whether it goes on from the build before, where the settings say `grow`.
    """
    if tune["mode"] == "none":
        return 0
    steps, batch = tune["steps"], tune["batch"]
    if grows and tune["grow"]:
        steps, batch = math.ceil(steps * tune["grow"]), math.ceil(batch * tune["grow_batch"])
    return int(steps * batch * tune["sequence"])


@dataclass(frozen=True)
class OneMore:
    """What one more expert would take.

    Attributes:
        trained: how many experts' trainings the branch is the median of.
        measured_on: the build whose times and cost were scaled.
        branch: training it.
        registered: bytes of its registered files.
        tuning: the rebuild's tuning.
        rebuild: the whole rebuild.
    """

    trained: int
    measured_on: Version[BuildFacts]
    branch: Spent
    registered: int
    tuning: Spent
    rebuild: Price

    def price(self, branches: int = 1) -> Price:
        """Return what so many branches, their registered files and the rebuild take."""

        def total(each: float | None, once: float | None) -> float | None:
            return None if each is None or once is None else branches * each + once

        return Price(
            tokens=branches * (self.branch.tokens or 0) + self.rebuild.tokens,
            flops=total(self.branch.flops, self.rebuild.flops),
            seconds=total(self.branch.wall_s, self.rebuild.seconds),
            bytes=branches * self.registered + self.rebuild.bytes,
        )


def estimate(
    past: Version[BuildFacts], experts: Sequence[JoinedExpert], ahead: Ahead
) -> OneMore | None:
    """Estimate what one more expert takes.

    Args:
        past: the build whose times and cost are scaled, with its files.
        experts: those that joined before.
        ahead: the rebuild that would have it.

    Returns:
        The estimate; None where no expert's training was reported.
    """
    timed_experts = [one for one in experts if one.training and one.training.wall_s is not None]
    trainings = [one.training for one in timed_experts if one.training]
    if not trainings:
        return None
    sizes = {file.path: file.bytes for file in past.files if file.path.endswith(".safetensors")}
    written = _written(past, sizes, ahead)
    seconds, cost = scaled(past, written, ahead.tokens, ahead.texts)
    registered = [one.bytes for one in timed_experts if one.bytes is not None]
    tuning = Spent(
        tokens=ahead.tokens,
        flops=cost.get("flops"),
        wall_s=seconds.get("tune"),
        processes=past.facts.cost.tune.processes,
    )
    return OneMore(
        trained=len(trainings),
        measured_on=past,
        branch=_median(trainings),
        registered=round(median(registered)) if registered else 0,
        tuning=tuning,
        rebuild=Price(
            tokens=ahead.tokens,
            flops=tuning.flops,
            seconds=seconds.get("total"),
            bytes=written,
        ),
    )


def timed(builds: Sequence[Version[BuildFacts]], tokens: int) -> list[Version[BuildFacts]]:
    """Return the builds that were timed; of those that tuned, where there is a tuning ahead.

    Args:
        builds: in order of their versions.
        tokens: of the tuning that is ahead.
    """
    measured = [build for build in builds if build.facts.cost.seconds.total is not None]
    tuned = [build for build in measured if build.facts.cost.tune.tokens]
    return tuned if tokens and tuned else measured


def scaled(
    past: Version[BuildFacts], written: int, tokens: int, texts: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return seconds by stage and the cost of tuning, scaled from a past build.

    Mixing scales with the bytes written, tuning with its tokens, evaluating with the data
    versions; starting and recording stay.

    Args:
        past: a build that was timed.
        written: bytes of weights that are to be written.
        tokens: of the tuning.
        texts: how many data versions are measured.
    """
    took, spent = past.facts.cost.seconds, past.facts.cost.tune
    if tokens and not spent.tokens:
        # The past build was not tuned: nothing says how long that takes.
        return {}, {"tokens": tokens}
    weights = [file for file in past.files if file.path.endswith(".safetensors")]
    wrote = sum(file.bytes for file in weights if not file.linked)
    share = tokens / spent.tokens if spent.tokens else 0.0
    seconds = {
        "mix": (took.mix or 0.0) * written / max(1, wrote),
        "tune": (spent.wall_s or 0.0) * share,
        "evaluate": (took.evaluate or 0.0) * texts / max(1, len(past.facts.results)),
    }
    seconds["overhead"] = took.overhead
    seconds["total"] = sum(seconds.values())
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return rounded, {"tokens": tokens, "flops": (spent.flops or 0.0) * share}


def _written(past: Version[BuildFacts], sizes: Mapping[str, int], ahead: Ahead) -> int:
    """Return the bytes of the files that a build with one more expert cannot link."""
    shards = [sizes[one.file] for one in past.facts.members if one.file and one.file in sizes]
    joining = round(fmean(shards)) if shards else 0
    if not ahead.links:
        return sum(sizes.values()) + joining
    # An average moves with every expert that joins.
    groups = {*REWRITTEN[ahead.tuned], "router", *(["shared"] if ahead.averages else [])}
    prefixes = tuple(f"model-{group}" for group in groups)
    return joining + sum(size for name, size in sizes.items() if name.startswith(prefixes))


def _median(trainings: Sequence[Spent]) -> Spent:
    def middle(values: Sequence[float | None]) -> float | None:
        reported = [value for value in values if value is not None]
        return median(reported) if reported else None

    return Spent(
        tokens=round(middle([one.tokens for one in trainings]) or 0),
        flops=middle([one.flops for one in trainings]),
        wall_s=middle([one.wall_s for one in trainings]),
        processes=round(median(one.processes or 1 for one in trainings)),
    )
