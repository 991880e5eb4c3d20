"""What one more expert would cost, by what the registry recorded: nothing is written here.

In:  a plan, the builds and experts that were measured.
Out: tokens, FLOPs, seconds and bytes of one more expert of the plan's kind: its branch, its
registered files and a rebuild with it; beside them the same of every branch and a tuning from
nothing.
The branch is the plan's members' on average; the rebuild is the newest measured one, scaled as
`forecast` scales it. Seconds leave out what registering takes, which nothing records.
"""

from collections.abc import Sequence
from statistics import fmean

from btx_core.training.recipes import TuneRecipe, growing
from pipelines.jobs.build_plan import Plan
from pipelines.jobs.forecast import REWRITTEN, scaled, timed
from pipelines.workspace.recipe_reader import recipe
from pipelines.workspace.workspace import Workspace
from registry.records.answers import Price, PriceOfOneMore
from registry.records.facts import BuildFacts, Spent
from registry.records.kinds import Mode
from registry.records.version import Version


def price_of_one_more(workspace: Workspace, planned: Plan) -> PriceOfOneMore | None:
    """Say what one more expert like the plan's members would cost.

    Args:
        workspace: whose builds were measured.
        planned: the build that it would join.

    Returns:
        The price; None until a branch and a build like the plan were measured.
    """
    whole = recipe(TuneRecipe, planned.ordered.tune)
    builds = workspace.catalog.versions(BuildFacts)
    of_seed = [build for build in builds if build.facts.seed == str(planned.seed.ref)]
    measured = [build for build in timed(of_seed, _tokens(whole)) if _shards(build)]
    spent = [m.version.facts.train for m in planned.members if m.version.facts.train]
    if not measured or not spent:
        return None
    past, count = measured[-1], len(planned.members) + 1
    branch = _branch(spent, fmean(_registered_bytes(planned)))
    grows = bool(whole.grow) and whole.mode != "none" and not planned.from_nothing
    ahead = growing(whole, joins=True) if grows else whole
    sizes = _weights(past)
    again = _written_again(whole.mode, planned.mode, sizes)
    shard = round(fmean(sizes[name] for name in _shards(past)))
    texts = len(planned.data) + 1
    return PriceOfOneMore(
        experts=count,
        grown=grows,
        measured_on=str(past.ref),
        one_more=_with(branch, 1, _rebuild(past, _tokens(ahead), again + shard, texts)),
        from_nothing=_with(
            branch, count, _rebuild(past, _tokens(whole), sum(sizes.values()) + shard, texts)
        ),
    )


def _tokens(tune: TuneRecipe) -> int:
    return 0 if tune.mode == "none" else tune.steps * tune.batch * tune.sequence


def _branch(spent: Sequence[Spent], registered: float) -> Price:
    """Return what a branch took on average; None where not every one of them reported it."""

    def mean(values: Sequence[float | None]) -> float | None:
        reported = [value for value in values if value is not None]
        return fmean(reported) if len(reported) == len(values) else None

    return Price(
        tokens=round(mean([one.tokens for one in spent]) or 0),
        flops=mean([one.flops for one in spent]),
        seconds=mean([one.wall_s for one in spent]),
        bytes=round(registered),
    )


def _registered_bytes(planned: Plan) -> list[int]:
    return [sum(file.bytes for file in member.version.files) for member in planned.members]


def _weights(build: Version[BuildFacts]) -> dict[str, int]:
    return {file.path: file.bytes for file in build.files if file.path.endswith(".safetensors")}


def _shards(build: Version[BuildFacts]) -> list[str]:
    return [member.file for member in build.facts.members if member.file]


def _written_again(tune: str, mode: Mode, sizes: dict[str, int]) -> int:
    """Return the bytes of the files that a build with one more expert cannot link."""
    # The average of full branches moves with every one that joins.
    groups = {*REWRITTEN[tune], "router", *(["shared"] if mode == "full" else [])}
    prefixes = tuple(f"model-{group}" for group in groups)
    return sum(size for name, size in sizes.items() if name.startswith(prefixes))


def _rebuild(past: Version[BuildFacts], tokens: int, written: int, texts: int) -> Price:
    seconds, cost = scaled(past, written, tokens, texts)
    return Price(
        tokens=tokens, flops=cost.get("flops"), seconds=seconds.get("total"), bytes=written
    )


def _with(branch: Price, branches: int, rebuild: Price) -> Price:
    """Return the price of some branches and a rebuild."""

    def total(each: float | None, once: float | None) -> float | None:
        return None if each is None or once is None else branches * each + once

    return Price(
        tokens=branches * branch.tokens + rebuild.tokens,
        flops=total(branch.flops, rebuild.flops),
        seconds=total(branch.seconds, rebuild.seconds),
        bytes=branches * branch.bytes + rebuild.bytes,
    )
