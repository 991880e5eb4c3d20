"""Which build a rebuild tunes on from, and what that saves beside tuning from nothing.

In:  the catalogue's builds, a plan.  Out: the build, the router rows that it keeps, the tuning that
is ahead. Nothing is written here.
What a build has learnt of an expert stays in its shared parameters, also after the expert was taken
out. So a build that was withdrawn or is tainted is never tuned on from, and neither is one that was
made from it: that edge is in the lineage.
"""

from dataclasses import asdict, dataclass

from btx_core.training.recipes import TuneRecipe, growing
from pipelines.jobs.build_plan import Plan
from pipelines.workspace.recipe_reader import recipe
from pipelines.workspace.workspace import Workspace
from registry.governance.one_more import tokens_of
from registry.records.answers.building import TuningAnswer
from registry.records.base import JsonObject
from registry.records.facts import BuildFacts, BuildRecipe
from registry.records.kinds import UNUSABLE, Relation
from registry.records.version import Version

NOTHING = "nothing"


@dataclass(frozen=True)
class Growing:
    """A build that is tuned on from.

    Attributes:
        build: the newest one of the line that may be.
        kept: the router rows that stay: (row now, row there).
        joining: how many members it has not.
    """

    build: Version[BuildFacts]
    kept: tuple[tuple[int, int], ...]
    joining: int


def growing_from(workspace: Workspace, planned: Plan) -> Growing | None:
    """Return the build that the plan is tuned on from; None: it is tuned from nothing.

    It is the newest of the line's builds by the same recipe of the same seed that is in use and
    holds an expert of the plan: where the last one holds what was withdrawn, one from before may
    still do.

    Args:
        workspace: where the builds are.
        planned: what is composed.
    """
    settings = recipe(TuneRecipe, planned.ordered.tune)
    if not settings.grow or settings.mode == "none" or planned.resolved or planned.from_nothing:
        return None
    if settings.from_nothing_every and _chain(workspace, planned) >= settings.from_nothing_every:
        return None
    for build in reversed(_line(workspace, planned)):
        if _is_alike(planned, build) and workspace.catalog.status(build.ref) not in UNUSABLE:
            kept = _kept_rows(planned, build.facts)
            joining = len(planned.members) + _seed_rows(build.facts) - len(kept)
            # Beside nothing that stays, no router weights can be fitted to what joins.
            if kept:
                return Growing(build, kept, joining)
    return None


def is_grown(workspace: Workspace, build: Version[BuildFacts]) -> bool:
    """Return whether a build was tuned on from another."""
    edges = workspace.catalog.lineage(build.ref).edges
    return any(edge.from_ == build.ref and edge.relation == Relation.GROWN_FROM for edge in edges)


def recipe_ahead(planned: Plan, grown: Growing | None) -> TuneRecipe:
    """Return the recipe of the tuning that is ahead.

    Args:
        planned: what is composed.
        grown: what it is tuned on from.
    """
    whole = recipe(TuneRecipe, planned.ordered.tune)
    return whole if grown is None else growing(whole, joins=grown.joining > 0)


def tuning_of(planned: Plan, grown: Growing | None) -> TuningAnswer:
    """Return the tuning that is ahead, beside one from nothing.

    Args:
        planned: what is composed.
        grown: what it is tuned on from.
    """
    whole, ahead = recipe(TuneRecipe, planned.ordered.tune), recipe_ahead(planned, grown)
    fields: JsonObject = {
        "from": str(grown.build.ref) if grown else NOTHING,
        "steps": _steps(ahead),
        "tokens": tuning_tokens(ahead),
        "from_nothing_tokens": tuning_tokens(whole),
    }
    return TuningAnswer.model_validate(fields)


def with_flops(tuning: TuningAnswer, flops: float | None) -> TuningAnswer:
    """Return the tuning with what it took, or would take, and the same from nothing."""
    if not flops or not tuning.tokens:
        return tuning
    of_whole = flops * tuning.from_nothing_tokens / tuning.tokens
    return tuning.model_copy(update={"flops": flops, "from_nothing_flops": of_whole})


def tuning_tokens(settings: TuneRecipe) -> int:
    """Return how many tokens a tuning by these settings reads."""
    return tokens_of(asdict(settings), grows=False)


def _steps(settings: TuneRecipe) -> int:
    return 0 if settings.mode == "none" else settings.steps


def _line(workspace: Workspace, planned: Plan) -> list[Version[BuildFacts]]:
    builds = workspace.catalog.versions(BuildFacts)
    return [build for build in builds if build.facts.line == planned.line]


def _is_alike(planned: Plan, build: Version[BuildFacts]) -> bool:
    """Whether a build was composed by the plan's recipe, of its seed."""
    facts, given = build.facts, planned.given
    before = facts.given_recipe or facts.recipe
    same_recipe = (before.mix, _settings(before)) == (given.mix, _settings(given))
    return same_recipe and facts.seed == str(planned.seed.ref)


def _settings(given: BuildRecipe) -> JsonObject:
    """Return the settings of tuning, less that which says when to start from nothing."""
    return {key: value for key, value in given.tune.items() if key != "from_nothing_every"}


def _chain(workspace: Workspace, planned: Plan) -> int:
    """Return how many builds of the line there are since one was tuned from nothing, it included.

    Builds by another recipe count for nothing: they are not gone on from.
    """
    count = 0
    for build in reversed(_line(workspace, planned)):
        if not _is_alike(planned, build):
            continue
        count += 1
        if not is_grown(workspace, build):
            break
    return count


def _seed_rows(build: BuildFacts) -> int:
    return int(bool(build.architecture and build.architecture.seed_expert))


def _kept_rows(planned: Plan, before: BuildFacts) -> tuple[tuple[int, int], ...]:
    """Return which router rows are kept: (row now, row in the build before)."""
    # The seed's own row, where it has one, comes before the members'.
    first = _seed_rows(before)
    there = {(m.slot, m.digest): row for row, m in enumerate(before.members, first)}
    kept = [(0, 0)] if first else []
    for row, member in enumerate(planned.members, first):
        if member.key in there:
            kept.append((row, there[member.key]))
    return tuple(kept)
