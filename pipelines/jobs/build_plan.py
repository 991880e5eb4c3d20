"""What a rebuild would compose: members, slots, recipe. Nothing is written here.

In:  the catalogue, the workspace's lines and recipes, the caller's request.  Out: a plan.
A line is a named series of builds over one registry: `main` holds every expert, another line those
that it names. What a plan would cost is `forecast`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from btx_core.checkpoints.families import find_family, require_experts
from btx_core.measuring import harness
from btx_core.mixing.recipe import Member, MixRecipe, check_members
from btx_core.training.fitting import Scope, for_tuning, in_parts
from btx_core.training.recipes import TuneRecipe, check_shares, check_taught
from pipelines.stages.executors import available, resolved
from pipelines.workspace import fitted, folders, memory_need
from pipelines.workspace.general import general_data
from pipelines.workspace.placement import ExecutorName, Resources
from pipelines.workspace.recipe_reader import EvaluateRecipe, complete, recipe
from pipelines.workspace.settings_file import Recipes
from pipelines.workspace.workspace import Workspace
from registry.digest import digest, sha256_file
from registry.errors import Invalid, NotFound
from registry.records.answers.building import MemberChange
from registry.records.base import JsonObject
from registry.records.facts import (
    BuildFacts,
    BuildRecipe,
    DataFacts,
    ExpertFacts,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.kinds import UNUSABLE, Kind, Mode
from registry.records.references import parse, require_name
from registry.records.version import Version

MAIN = "main"

# A build or a snapshot: both hold members in slots.
Composed = Version[BuildFacts] | Version[SnapshotFacts]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the caller of a rebuild asks for, beside what the workspace says.

    Attributes:
        line: the product line.
        with_: experts to take in, with or without a version.
        without: experts to leave out.
        tune: what tuning trains, instead of the recipe's mode.
        to: a build or snapshot whose members, slots and, of a build, recipe are taken over.
        recipes: instead of those in btx.toml.
        from_nothing: tune from nothing, also where the recipe would go on from a build before.
    """

    line: str = MAIN
    with_: Sequence[str] = ()
    without: Sequence[str] = ()
    tune: str | None = None
    to: str | None = None
    recipes: Recipes | None = None
    from_nothing: bool = False


@dataclass(frozen=True)
class PlannedMember:
    """An expert version in the slot that it would take."""

    slot: int
    version: Version[ExpertFacts]

    @property
    def key(self) -> tuple[int, str]:
        """What a shard is known by: a shard carries its slot, so both must be the same."""
        return self.slot, self.version.digest


@dataclass(frozen=True)
class Plan:
    """What a rebuild would do, before any byte is written.

    Attributes:
        line: the product line.
        seed: the seed of every member.
        members: by slot, ascending.
        previous: the newest build of the line that was no mistake.
        mode: anchored, unless a member is a full branch.
        given: the recipe as the settings write it; what is not named keeps its default.
        resolved: of a build that is gone back to: its recipe with every key, as it was then.
        general: data versions that show what the seed could do.
        scope: what tuning is fitted to.
        chosen: what `given` leaves open of tuning.
        from_nothing: tuning goes on from no build, whatever the recipe says.
    """

    line: str
    seed: Version[SeedFacts]
    members: Sequence[PlannedMember]
    previous: Version[BuildFacts] | None
    mode: Mode
    given: BuildRecipe
    resolved: BuildRecipe | None = None
    general: tuple[str, ...] = ()
    scope: Scope | None = None
    chosen: Mapping[str, int | float] = field(default_factory=dict)
    from_nothing: bool = False

    @property
    def content(self) -> str:
        """Digest of what fixes the composed model: same content, same build."""
        members = [[str(m.version.ref), m.slot, m.version.digest] for m in self.members]
        seed = [str(self.seed.ref), self.seed.digest]
        fixed = {"seed": seed, "members": members, "recipe": self.given.to_json()}
        return digest(fixed | ({"evaluation": self.evaluation} if self.evaluation else {}))

    @property
    def ordered(self) -> BuildRecipe:
        """The recipe that the stages are told."""
        tune = complete(self.given.tune, self.chosen)
        return self.resolved or self.given.model_copy(update={"tune": tune})

    @property
    def refs(self) -> tuple[str, ...]:
        """The members' references."""
        return tuple(str(member.version.ref) for member in self.members)

    @property
    def data(self) -> tuple[str, ...]:
        """Every data version that a member was trained on, by reference."""
        named = {ref for member in self.members for ref in member.version.facts.data}
        return tuple(sorted(named, key=lambda ref: parse(ref)))

    @property
    def evaluation(self) -> tuple[str, ...]:
        """Every data version that the build is only measured on."""
        trained_on = {*self.data, *self.seed.facts.data}
        return tuple(ref for ref in self.general if ref not in trained_on)

    @property
    def measured(self) -> tuple[str, ...]:
        """Every data version that the build is measured on."""
        return tuple(dict.fromkeys((*self.data, *self.seed.facts.data, *self.evaluation)))


def plan(workspace: Workspace, request: Request, *, executor: ExecutorName | None = None) -> Plan:
    """Choose members, slots and recipe.

    Args:
        workspace: where the experts are registered.
        request: what is asked for beside what the workspace says.
        executor: that is to tune; the settings' unless it is given.

    Raises:
        NotFound: for names that nobody registered.
        Invalid: for members of several seeds, and for what is no name of a line.
    """
    require_name("line", request.line)
    catalog = workspace.catalog
    builds = catalog.versions(BuildFacts)
    own = [build for build in builds if build.facts.line == request.line]
    mistaken = catalog.retired()
    newest = next((one for one in reversed(own) if str(one.ref) not in mistaken), None)
    target = _target(workspace, request.to) if request.to else None
    chosen = _members_of(workspace, target) if target else _usable(workspace, request, newest)
    for reference in request.with_:
        version = catalog.get_usable(catalog.reference(reference, Kind.EXPERT), ExpertFacts)
        chosen[version.ref.name] = version
    for reference in request.without:
        chosen.pop(catalog.get(catalog.reference(reference, Kind.EXPERT)).ref.name, None)
    seed = _one_seed(chosen.values())
    given, resolved = _recipe(workspace, request, target)
    modes = {version.facts.mode for version in chosen.values()}
    mode = Mode.FULL if Mode.FULL in modes else Mode.ANCHORED
    given = given.model_copy(update={"mix": {**given.mix, "mode": str(mode)}})
    history: list[Composed] = [*builds, *own, *([target] if target else [])]
    base = catalog.get(seed, SeedFacts)
    members = slots(history, chosen)
    general = tuple(str(version.ref) for version in general_data(workspace, base))
    planned = Plan(
        line=request.line,
        seed=base,
        members=members,
        previous=newest,
        mode=mode,
        given=given,
        resolved=resolved,
        general=general,
        from_nothing=request.from_nothing,
    )
    return planned if resolved else _fitted(workspace, planned, executor)


def _fitted(workspace: Workspace, planned: Plan, executor: ExecutorName | None) -> Plan:
    """Return the plan with what its recipe leaves open of tuning, chosen."""
    catalog = workspace.catalog
    refs = {*planned.seed.facts.data, *planned.data}
    texts = [catalog.get(ref, DataFacts) for ref in sorted(refs)]
    resources = workspace.settings.resources("tune", executor)
    scope = fitted.scope(workspace, planned.seed, texts, resources.processes)
    chosen = for_tuning(scope, planned.given.tune)
    tuned = recipe(TuneRecipe, complete(planned.given.tune, chosen))
    grows = bool(tuned.grow) and planned.previous is not None and not planned.from_nothing
    needs = partial(tuning_need, workspace, planned, resources, grows=grows)
    chosen = in_parts(chosen, -(-tuned.batch // resources.processes), needs, available(resources))
    return replace(planned, scope=scope, chosen=chosen)


def tuning_need(
    workspace: Workspace,
    planned: Plan,
    resources: Resources,
    chosen: Mapping[str, int | float],
    *,
    grows: bool,
) -> int | None:
    """Return the bytes that a process of the tuning needs.

    Args:
        workspace: where the seed lies.
        planned: what is tuned.
        resources: of the stage.
        chosen: what the recipe leaves open.
        grows: whether it may go on from a build before.
    """
    ordered = replace(planned, chosen=chosen).ordered
    mixed, tuned = recipe(MixRecipe, ordered.mix), recipe(TuneRecipe, ordered.tune)
    experts = len(planned.members) + int(mixed.seed_expert)
    seed = folders.folder_of(workspace.root, planned.seed)
    return memory_need.of_tuning(seed, experts, (mixed, tuned), resolved(resources), grows=grows)


def slots(
    history: Sequence[Composed], chosen: Mapping[str, Version[ExpertFacts]]
) -> list[PlannedMember]:
    """Give every expert its slot. Slot 0 is the seed's.

    An expert keeps the slot that it last had, if that is free; another takes the next number above
    all of them.

    Args:
        history: builds and snapshots, oldest first; the last one's slots go before any other's.
        chosen: the experts, by name.
    """
    held: dict[str, int] = {}
    for version in reversed(history):
        for member in version.facts.members:
            name = parse(member.ref).name
            if name in chosen and name not in held and member.slot not in held.values():
                held[name] = member.slot
    for name in chosen:
        held.setdefault(name, max([0, *held.values()]) + 1)
    members = [PlannedMember(held[name], version) for name, version in chosen.items()]
    return sorted(members, key=lambda member: member.slot)


def changes(planned: Plan) -> list[MemberChange]:
    """Say what becomes of each expert against the line's newest build."""
    before = {}
    if planned.previous:
        before = {parse(one.ref).name: one.ref for one in planned.previous.facts.members}
    found = []
    for member in planned.members:
        ref = str(member.version.ref)
        was = before.pop(member.version.ref.name, None)
        change = MemberChange(ref=ref, slot=member.slot, change=_change(was, ref), before=was)
        found.append(change)
    gone = [
        MemberChange(ref=was, slot=None, change="removed", before=was) for was in before.values()
    ]
    return found + gone


def recipes_of(planned: Plan) -> tuple[MixRecipe, TuneRecipe]:
    """Return what the stages will read.

    Raises:
        Invalid: naming the key, for what one of the stages would refuse.
        WrongUsage: for settings that contradict each other or the members.
    """
    ordered = planned.ordered
    mix, tune = recipe(MixRecipe, ordered.mix), recipe(TuneRecipe, ordered.tune)
    members = [Member(m.version.ref.name, m.slot, Path()) for m in planned.members]
    check_members(members, mix)
    _require_whole_experts(mix, tune)
    check_taught(tune)
    check_shares(tune)
    if recipe(EvaluateRecipe, ordered.evaluate).tasks:
        harness.check_installed()
    return mix, tune


def _require_whole_experts(mix: MixRecipe, tune: TuneRecipe) -> None:
    """Require that what a tuning asks of each member's expert can be asked of it.

    An expert that is split or blended has no router weights of its own, and one that trains is not
    the member's any more.

    Raises:
        Invalid: naming the setting.
    """
    if tune.mode == "none":
        return
    divided = mix.split > 1 or mix.blend
    needs = [
        ("start", '"random"', divided and tune.start != "random"),
        ("home", "0", divided and tune.home > 0),
        ("grow", "0", (divided or tune.mode == "all") and tune.grow > 0),
    ]
    for key, needed, is_wrong in needs:
        if is_wrong:
            other = f"split = {mix.split}, blend = {mix.blend}" if divided else 'mode = "all"'
            raise Invalid(
                f"[recipe.tune] {key}",
                found=f"{getattr(tune, key)!r} with {other.lower()}",
                expected=needed,
                next=f"{key} = {needed} in btx.toml",
            )


def require_settings_of_seed(planned: Plan) -> None:
    """Require members whose configs compute as the seed's, as they were measured.

    Raises:
        Invalid: naming the setting by which mixing would refuse a member.
    """
    for member in planned.members:
        version = member.version
        weights = version.facts.preflight
        if weights is None or weights.config_match is not False:
            continue
        found = [f"{one.subject} {one.found}" for one in weights.config_problems]
        expected = [one.expected for one in weights.config_problems]
        raise Invalid(
            str(version.ref),
            found="; ".join(found) or "another config than the seed's",
            expected=f"{'; '.join(expected) or 'the same'}, as in {planned.seed.ref}",
            next=f"btx rebuild --without {version.ref.name}",
        )


def require_routing(workspace: Workspace, planned: Plan) -> None:
    """Require that the seed's family has a mixture that routes as the recipe says.

    Raises:
        Unsupported: naming the family; also where its routers need more experts.
    """
    config = memory_need.config_of(folders.folder_of(workspace.root, planned.seed))
    mixed = recipe(MixRecipe, planned.ordered.mix)
    family = find_family(config, full_softmax=mixed.routing == "switch")
    require_experts(family, (len(planned.members) + mixed.seed_expert) * mixed.split)


def _change(was: str | None, ref: str) -> Any:  # one of MemberChange's words
    if was is None:
        return "added"
    return "kept" if was == ref else "replaced"


def _one_seed(chosen: Any) -> str:  # the values of a mapping of expert versions
    experts = list(chosen)
    if not experts:
        raise NotFound(
            "experts",
            found="none that may be used",
            expected="at least one",
            next="btx train or btx register",
        )
    seeds = {version.facts.seed for version in experts}
    if len(seeds) > 1:
        raise Invalid(
            "members",
            found=f"branches of {', '.join(sorted(seeds))}",
            expected="one seed version",
            next="leave some out: --without EXPERT",
        )
    return str(seeds.pop())


def _target(workspace: Workspace, reference: str) -> Composed:
    target = workspace.catalog.get(reference)
    if target.ref.kind == BuildFacts.kind:
        return target.of(BuildFacts)
    if target.ref.kind == SnapshotFacts.kind:
        return target.of(SnapshotFacts)
    raise Invalid(
        f"--to {reference}",
        found=target.ref.kind,
        expected="a build or a snapshot",
        next="btx list builds",
    )


def _members_of(workspace: Workspace, target: Composed) -> dict[str, Version[ExpertFacts]]:
    members = target.facts.members
    versions = [workspace.catalog.get(member.ref, ExpertFacts) for member in members]
    return {version.ref.name: version for version in versions}


def _usable(
    workspace: Workspace, request: Request, newest: Version[BuildFacts] | None
) -> dict[str, Version[ExpertFacts]]:
    """Return the experts of the line, each in the newest version that may be used.

    The experts are those that btx.toml names for the line. Where it names none, they are all
    experts for `main`, and those of the newest build for another line.
    """
    catalog = workspace.catalog
    experts = catalog.versions(ExpertFacts)
    statuses = catalog.statuses(experts)
    # In the order of their numbers, so the newest of each name stays.
    usable = {one.ref.name: one for one in experts if statuses[one.ref] not in UNUSABLE}
    line = workspace.settings.line.get(request.line)
    if line is None and request.line == MAIN:
        return usable
    if line is None and newest is None and not request.with_:
        raise NotFound(
            f"line {request.line}",
            found="no build and no setting",
            expected="its experts",
            next=f'--with EXPERT, or in btx.toml: [line.{request.line}] experts = ["EXPERT", ...]',
        )
    chosen: dict[str, Version[ExpertFacts]] = {}
    for reference in _line_experts(line.experts if line else None, newest):
        wanted = catalog.reference(reference, Kind.EXPERT)
        version = usable.get(wanted.name)
        if wanted.version or version is None:
            version = catalog.get(wanted, ExpertFacts)
        if wanted.version or statuses[version.ref] not in UNUSABLE:
            chosen[version.ref.name] = version
    return chosen


def _line_experts(named: Sequence[str] | None, newest: Version[BuildFacts] | None) -> Sequence[str]:
    if named is not None:
        return named
    return [f"expert/{parse(m.ref).name}" for m in newest.facts.members] if newest else []


def _recipe(
    workspace: Workspace, request: Request, target: Composed | None
) -> tuple[BuildRecipe, BuildRecipe | None]:
    """Return the recipe as it is given, and of a build that is gone back to with every key."""
    resolved = None
    facts = target.facts if target else None
    if isinstance(facts, BuildFacts) and request.recipes is None:
        given = facts.given_recipe or facts.recipe
        resolved = facts.recipe
    else:
        settings = request.recipes or workspace.settings.recipe
        given = BuildRecipe(mix=settings.mix, tune=settings.tune, evaluate=settings.evaluate)
    if request.tune:
        given = _with_tuning(given, request.tune)
        resolved = _with_tuning(resolved, request.tune) if resolved else None
    if "tasks" in given.evaluate:
        evaluate = _frozen(workspace.root, given.evaluate)
        given = given.model_copy(update={"evaluate": evaluate})
        resolved = resolved.model_copy(update={"evaluate": evaluate}) if resolved else None
    return given, resolved


def _with_tuning(chosen: BuildRecipe, mode: str) -> BuildRecipe:
    return chosen.model_copy(update={"tune": {**chosen.tune, "mode": mode}})


def _frozen(root: Path, settings: JsonObject) -> JsonObject:
    """Return the settings with the SHA-256, as of now, of every file that a task reads.

    So a changed file is a changed recipe.
    """
    tasks = {}
    for path in recipe(EvaluateRecipe, settings).tasks:
        tasks[path] = {file: sha256_file(root / file) for file in harness.files(path, root)}
    others = {key: value for key, value in settings.items() if key != "tasks"}
    return {**others, "tasks": tasks} if tasks else others
