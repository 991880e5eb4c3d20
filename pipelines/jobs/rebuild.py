"""Compose the model of one frozen snapshot.

Choose members, ask the gate, let DVC run mix, tune and evaluate, record the build.

In:  the catalogue's usable experts, the workspace's recipes.
Out: builds/N, whole or not at all, and its rows.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from btx_core.files import replace_text
from btx_core.mixing.recipe import MixRecipe
from btx_core.mixing.weight_files import SEED_EXPERT, SHARED, expert_file
from btx_core.training.recipes import TuneRecipe, check_parts
from pipelines.jobs import collect_evidence, gates, state_facts, tell_lineage
from pipelines.jobs.build_plan import (
    Plan,
    Request,
    changes,
    plan,
    recipes_of,
    require_routing,
    require_settings_of_seed,
    tuning_need,
)
from pipelines.jobs.forecast import Forecast, Shards, forecast
from pipelines.jobs.growing import (
    Growing,
    growing_from,
    is_grown,
    recipe_ahead,
    tuning_of,
    with_flops,
)
from pipelines.jobs.price import price_of_one_more
from pipelines.jobs.state_facts import StatedFacts
from pipelines.stages import dvc_runs
from pipelines.stages.executors import EXECUTOR, Clusters, check, placed, require_memory
from pipelines.workspace import disk_need, fitted, folders, orders, reports
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.environment import environment
from pipelines.workspace.orders import BuildOrder, GrownFrom, MemberOrder
from pipelines.workspace.placement import ExecutorName, StageName
from pipelines.workspace.recipe_reader import EvaluateRecipe, recipe
from pipelines.workspace.reports import MeasuredReport, MixReport, TuneReport
from pipelines.workspace.workspace import Workspace
from registry.errors import Conflict
from registry.governance import gate, worth
from registry.records.answers.building import ForecastAnswer, PlannedStage, RebuildAnswer
from registry.records.events import StageRan
from registry.records.evidence import BuildEvidence
from registry.records.facts import (
    Architecture,
    BuildFacts,
    BuildRecipe,
    Cost,
    DvcFolder,
    Facts,
    Member,
    RoutedShare,
    Routing,
    SnapshotFacts,
    Spent,
    StageSeconds,
)
from registry.records.kinds import UNUSABLE, Gate, Kind, Relation, Status
from registry.records.references import parse
from registry.records.results import Result, Specialist, beside_seed, same_sample
from registry.records.version import FileFact, Version, content_digest

STAGES = ("mix", "tune", "evaluate")
# Mixing runs where the command does.
MIX = PlannedStage(stage="mix", executor="local", nodes=1, processes=1, gpus=0, threads=None)
PLACED: tuple[StageName, ...] = ("tune", "evaluate")
LINKED_AGAIN = (SHARED, expert_file(SEED_EXPERT))


@dataclass(frozen=True)
class Run:
    """One rebuild that is under way.

    Attributes:
        workspace: where it runs.
        planned: what it composes.
        number: of the build, unless another machine takes it meanwhile.
        asked: the digest of the event that logged the gate's verdict.
        started: on the monotonic clock, in seconds.
        shards: what earlier builds wrote of the members.
        snapshot: the frozen members.
        own: what is stated of the build.
        grown: the build that it is tuned on from; None: from nothing.
    """

    workspace: Workspace
    planned: Plan
    number: int
    asked: str
    started: float
    shards: Shards
    snapshot: Version[SnapshotFacts]
    own: StatedFacts
    grown: Growing | None


def rebuild(
    workspace: Workspace,
    request: Request | None = None,
    *,
    executor: ExecutorName | None = None,
    anyway: bool = False,
) -> RebuildAnswer:
    """Build what the plan says, or say "unchanged".

    Args:
        workspace: where the experts are registered.
        request: what is asked for beside what the workspace says.
        executor: local, ray or slurm; the settings' unless it is given.
        anyway: also where memory or disk seem too small.

    Returns:
        The build, what ran and what was reused.

    Raises:
        Unavailable: where memory is too small to tune it, or the disk to hold it.
        Invalid: for resources that an executor cannot honour, and for a member with another config.
        Unsupported: for a routing that no mixture of the seed's family has.
        Refused: when the gate says no.
        NotFound: when the seed or a member is not on this disk.
        Damaged: when a registered file on disk is not what was registered.
    """
    with workspace.writing("rebuild"):
        started = time.monotonic()
        own = state_facts.stated(workspace, Kind.BUILD)
        planned = plan(workspace, request or Request(), executor=executor)
        if _nothing_to_do(workspace, planned):
            if planned.previous:
                own.require_same(workspace, planned.previous)
            return _unchanged(planned)
        # What a stage would refuse is told before anything is written.
        recipes_of(planned)
        _require_here(workspace, planned)
        require_routing(workspace, planned)
        require_settings_of_seed(planned)
        grown = growing_from(workspace, planned)
        places = _places(workspace, planned, grown, executor)
        if not anyway:
            for place in places:
                require_memory("rebuild", place)
            lying = _shards(workspace, planned, proven=False)
            tokens = tuning_of(planned, grown).tokens
            written = _expected(workspace, planned, lying, tokens).size("write")
            # What an interrupted rebuild wrote is used again, or makes room.
            left = sum(path.stat().st_size for path in workspace.work.glob("mixed/*.safetensors"))
            what = "the shards of the build"
            disk_need.require("rebuild", workspace.root, written - left, what=what)
        # Nobody takes the number between its choice and the verdict that names it.
        with workspace.numbering(Kind.BUILD, "") as number:
            asked = _ask(workspace, planned, f"build/{number}", own, grown)
        shards = _shards(workspace, planned)
        snapshot = _freeze(workspace, planned)
        run = Run(
            workspace=workspace,
            planned=planned,
            number=number,
            asked=asked,
            started=started,
            shards=shards,
            snapshot=snapshot,
            own=own,
            grown=grown,
        )
        if planned.chosen and planned.scope:
            remark(f"tune: {fitted.sentence(planned.chosen, planned.scope)}")
        order = _order(run)
        replace_text(workspace.root / orders.SNAPSHOT, orders.build_text(order))

        done, build = _compose(run, order, executor)
    seconds = build.facts.cost.seconds.by_part()
    return RebuildAnswer(
        build=str(build.ref),
        status=str(build.facts.status),
        ran=tuple(done.ran),
        reused=(*done.skipped, *_reused(planned, shards)),
        bytes_written=build.written_bytes,
        bytes_linked=build.linked_bytes,
        seconds=seconds,
        tuning=with_flops(tuning_of(planned, run.grown), build.facts.cost.tune.flops),
    )


def _compose(
    run: Run, order: BuildOrder, executor: ExecutorName | None
) -> tuple[dvc_runs.Reproduced, Version[BuildFacts]]:
    """Run the stages and record the build, while the lineage server is told."""
    workspace, planned = run.workspace, run.planned
    variables = {EXECUTOR: executor} if executor else {}
    with tell_lineage.told(workspace, planned.line) as telling:

        def log(stage: str, ran: StageRan) -> None:
            workspace.catalog.event(ran, f"build/{run.number}")
            telling.stage(stage, ran)

        telling.starts([run.snapshot.ref, planned.seed.ref, *planned.refs, *planned.data])
        done = dvc_runs.reproduce(workspace.root, STAGES, log, variables, lambda: _withdrawn(run))
        build = _record(run, order)
        telling.made(build)
    return done, build


def look_ahead(
    workspace: Workspace,
    request: Request | None = None,
    *,
    executor: ExecutorName | None = None,
) -> ForecastAnswer:
    """Say what a rebuild would do; nothing is written.

    The arguments and the errors are those of `rebuild`.
    """
    own = state_facts.stated(workspace, Kind.BUILD)
    planned = plan(workspace, request or Request(), executor=executor)
    if _nothing_to_do(workspace, planned):
        if planned.previous:
            own.require_same(workspace, planned.previous)
        answer = _unchanged(planned)
        price = price_of_one_more(workspace, planned)
        return ForecastAnswer(**answer.to_json(), changes=tuple(changes(planned)), price=price)
    _require_here(workspace, planned)
    require_routing(workspace, planned)
    require_settings_of_seed(planned)
    grown = growing_from(workspace, planned)
    tuning, shards = tuning_of(planned, grown), _shards(workspace, planned, proven=False)
    expected = _expected(workspace, planned, shards, tuning.tokens)
    return ForecastAnswer(
        build=None,
        status="planned",
        ran=STAGES,
        reused=_reused(planned, shards),
        bytes_written=expected.size("write"),
        bytes_linked=expected.size("link"),
        free_bytes=disk_need.free(workspace.root),
        seconds=expected.seconds,
        line=planned.line,
        changes=tuple(changes(planned)),
        weights=tuple(expected.weights),
        cost=expected.cost,
        refused_by=_refusals(workspace, planned, own, grown),
        measured_on=expected.measured_on,
        stages=_places(workspace, planned, grown, executor),
        chosen=planned.chosen,
        tuning=with_flops(tuning, expected.cost.get("flops")),
        price=price_of_one_more(workspace, planned),
    )


def _require_here(workspace: Workspace, planned: Plan) -> None:
    """Raise NotFound where the seed or a member is not on this disk."""
    for version in (planned.seed, *(member.version for member in planned.members)):
        folders.require_here(folders.folder_of(workspace.root, version), str(version.ref))


def _expected(workspace: Workspace, planned: Plan, shards: Shards, tokens: int) -> Forecast:
    last = _last_of_seed(workspace, planned)
    previous = folders.build_folder(workspace.root, last) if last else None
    return forecast(workspace, planned, shards, previous, tokens)


def _places(
    workspace: Workspace, planned: Plan, grown: Growing | None, executor: ExecutorName | None
) -> tuple[PlannedStage, ...]:
    """Return where each stage runs.

    Raises:
        Invalid: for resources that cannot be honoured.
        WrongUsage: for a step that the processes cannot share.
    """
    settings, places = workspace.settings, [MIX]
    for stage in PLACED:
        resources = settings.resources(stage, executor)
        check(resources, Clusters.of(settings))
        needed = None
        if stage == "tune":
            ahead = recipe_ahead(planned, grown)
            if ahead.mode != "none":
                check_parts(ahead, resources.processes)
            needed = tuning_need(
                workspace, planned, resources, planned.chosen, grows=grown is not None
            )
        places.append(placed(stage, resources, needed))
    return tuple(places)


def _unchanged(planned: Plan) -> RebuildAnswer:
    build = str(planned.previous.ref) if planned.previous else None
    return RebuildAnswer(build=build, status="unchanged", reused=planned.refs)


def _nothing_to_do(workspace: Workspace, planned: Plan) -> bool:
    newest = planned.previous
    if not newest or newest.facts.content != planned.content or not _whole(workspace, newest):
        return False
    if planned.from_nothing and is_grown(workspace, newest):
        return False
    # It may have grown from a build that held what was withdrawn since.
    return workspace.catalog.status(newest.ref) not in UNUSABLE


def _whole(workspace: Workspace, build: Version[BuildFacts]) -> bool:
    """Whether every file of the build is in its folder, with its size.

    One that another machine holds, and git names here, is not built again.
    """
    folder = folders.build_folder(workspace.root, build)
    if not folder.exists():
        return folder.with_name(f"{folder.name}.dvc").is_file()
    for file in build.files:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.bytes:
            return False
    return True


def _ask(
    workspace: Workspace, planned: Plan, ref: str, own: StatedFacts, grown: Growing | None
) -> str:
    """Ask the gate, and return the digest of the event that logs its verdict."""
    asked = _candidate(workspace, planned, ref, own, grown)
    gates.ask(workspace, Gate.BUILD, ref, asked)
    return _last_verdict(workspace, ref)


def _candidate(
    workspace: Workspace, planned: Plan, ref: str, own: StatedFacts, grown: Growing | None
) -> BuildEvidence:
    members = [member.version for member in planned.members]
    seed = str(planned.seed.ref)
    catalog = workspace.catalog
    before = grown.build.facts.tuned_on if grown else ()
    asked = collect_evidence.of_candidate(catalog, ref, seed, members, planned.content, before)
    return asked.model_copy(update={"own": own.evidence, "line": planned.line})


def _refusals(
    workspace: Workspace, planned: Plan, own: StatedFacts, grown: Growing | None
) -> tuple[str, ...]:
    """Return the rules by which gate build would refuse the plan now; nothing is logged."""
    ref = f"build/{workspace.next_number(Kind.BUILD, '')}"
    asked = _candidate(workspace, planned, ref, own, grown)
    question = gates.question(workspace, Gate.BUILD, ref, asked)
    refused = gates.check(workspace.catalog, question).refusals()
    return tuple(f"{rule.name}: {rule.message}" for rule in refused)


def _last_verdict(workspace: Workspace, ref: str) -> str:
    # A refusal too: another workspace may have asked under this number.
    return gate.verdicts(workspace.catalog, ref, Gate.BUILD)[-1].digest


def _reused(planned: Plan, shards: Shards) -> tuple[str, ...]:
    return tuple(str(m.version.ref) for m in planned.members if m.key in shards)


def _shards(
    workspace: Workspace, planned: Plan, *, proven: bool = True
) -> dict[tuple[int, str], Path]:
    """Return the shards that earlier builds wrote, by slot and member digest.

    A damaged one is left out, so that it is written anew.
    """
    usable = workspace.store.verify if proven else workspace.store.has
    wanted = {member.key for member in planned.members}
    shards: dict[tuple[int, str], Path] = {}
    for build in workspace.catalog.versions(BuildFacts):
        if not _keeps_members(build.facts, planned):
            continue
        files = {file.path: file for file in build.files}
        for member in build.facts.members:
            key = (member.slot, member.digest or "")
            file = files.get(member.file or "")
            if key in wanted and key not in shards and file and usable(file.sha256):
                shards[key] = workspace.store.path(file.sha256)
    return shards


def _keeps_members(build: BuildFacts, planned: Plan) -> bool:
    """Whether a build's files hold its members as they came, laid out as the plan lays them out."""
    there, here = recipe(MixRecipe, build.recipe.mix), recipe(MixRecipe, planned.ordered.mix)
    # Some families have another layout for the softmax over all experts, which switch takes.
    layouts = [(one.split, one.blend, one.routing == "switch") for one in (there, here)]
    return layouts[0] == layouts[1] and build.tuned != "all"


def _freeze(workspace: Workspace, planned: Plan) -> Version[SnapshotFacts]:
    members = []
    parents = [(planned.seed.ref, Relation.SEED)]
    for planned_member in planned.members:
        version = planned_member.version
        member = Member(ref=str(version.ref), slot=planned_member.slot, digest=version.digest)
        members.append(member)
        parents.append((version.ref, Relation.MEMBER))
    facts = SnapshotFacts(seed=str(planned.seed.ref), mode=planned.mode, members=tuple(members))
    return workspace.catalog.register(planned.line, facts, parents=parents)


def _order(run: Run) -> BuildOrder:
    """Return all that the stages may know.

    Every folder in it has just been proven to hold its registered bytes.
    """
    workspace, planned = run.workspace, run.planned
    catalog = workspace.catalog
    order_of = partial(folders.order_of, workspace.root)
    seed = order_of(planned.seed)
    return BuildOrder(
        ref=str(run.snapshot.ref),
        seed=seed.model_copy(update={"tensors": planned.seed.facts.tensors}),
        members=_member_orders(run),
        domains={ref: order_of(catalog.get(ref)) for ref in planned.data},
        general=tuple(order_of(catalog.get(ref)) for ref in planned.seed.facts.data),
        evaluation=tuple(order_of(catalog.get(ref)) for ref in planned.evaluation),
        previous=_previous_mix(run),
        grown_from=_grown_order(run),
        recipe=planned.ordered,
        threads=workspace.settings.resources("tune").threads,
        processes=workspace.settings.resources("tune").processes,
    )


def _member_orders(run: Run) -> tuple[MemberOrder, ...]:
    members = []
    for member in run.planned.members:
        version, shard = member.version, run.shards.get(member.key)
        folder = folders.order_of(run.workspace.root, version)
        members.append(
            MemberOrder(
                ref=folder.ref,
                path=folder.path,
                digest=folder.digest,
                name=version.ref.name,
                slot=member.slot,
                data=version.facts.data,
                shard=_relative(run.workspace, shard) if shard else None,
                tensors=version.facts.tensors,
            )
        )
    return tuple(members)


def _previous_mix(run: Run) -> str | None:
    """Link what the last mix of this very seed wrote and no member can change.

    Returns:
        The folder of links, relative to the workspace; None where there was no such mix.
    """
    workspace = run.workspace
    folder = workspace.work / "previous"
    shutil.rmtree(folder, ignore_errors=True)
    build = _last_of_seed(workspace, run.planned)
    if build is None:
        return None
    folder.mkdir(parents=True)
    for file in build.facts.mixed:
        if file.path in LINKED_AGAIN and workspace.store.verify(file.sha256):
            workspace.store.link(file.sha256, folder / file.path)
    return _relative(workspace, folder)


def _grown_order(run: Run) -> GrownFrom | None:
    """Return the build that tuning goes on from, as the stages are told it."""
    if run.grown is None:
        return None
    build = run.grown.build
    return GrownFrom(
        ref=str(build.ref),
        path=_relative(run.workspace, folders.build_folder(run.workspace.root, build)),
        digest=content_digest(build.files),
        kept=run.grown.kept,
    )


def _last_of_seed(workspace: Workspace, planned: Plan) -> Version[BuildFacts] | None:
    """Return the newest build of this very seed, of any line."""
    seed = str(planned.seed.ref)
    builds = [one for one in workspace.catalog.versions(BuildFacts) if one.facts.seed == seed]
    return builds[-1] if builds else None


def _relative(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.root).as_posix()


def _record(run: Run, order: BuildOrder) -> Version[BuildFacts]:
    """Take the tuned folder in as builds/N and write its row.

    Where another machine took the number while the stages ran, it is the next one, under which the
    gate is asked again.

    Raises:
        Conflict: if a member was withdrawn while the stages ran.
    """
    workspace = run.workspace
    with workspace.numbering(Kind.BUILD, "") as number:
        ref = f"build/{number}"
        if number != run.number:
            remark(f"build/{run.number} was taken meanwhile: this is {ref}")
        # A verdict speaks of one candidate, and another one may have asked under this number too.
        if number != run.number or _last_verdict(workspace, ref) != run.asked:
            asked = _ask(workspace, run.planned, ref, run.own, run.grown)
            run = replace(run, number=number, asked=asked)
        return _record_numbered(run, order)


def _record_numbered(run: Run, order: BuildOrder) -> Version[BuildFacts]:
    workspace = run.workspace
    withdrawn = _withdrawn(run)
    if withdrawn is not None:
        raise withdrawn
    tuned = workspace.work / "tuned"
    folder = workspace.folder(f"build/{run.number}")
    known = {shard.stat().st_ino: shard.name for shard in run.shards.values()}
    incoming = folder.with_name(f".{folder.name}.incoming")
    try:
        files = _linked(workspace, tuned, incoming, known)
        # The tuned one may differ; the next mix links this one.
        workspace.store.put(workspace.work / "mixed" / SHARED)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    parents = [(run.snapshot.ref, Relation.COMPOSED_FROM)]
    if order.grown_from:
        parents.append((parse(order.grown_from.ref), Relation.GROWN_FROM))
    catalog = workspace.catalog
    with folders.placed(workspace.root, incoming, folder, files) as held:
        facts = run.own.on(_facts(run, order, folder, held))
        run.own.keep(workspace)
        parents += [(parse(ref), Relation.TUNED_ON) for ref in facts.tuned_on]
        return catalog.register("", facts, files=files, version=run.number, parents=parents)


def _withdrawn(run: Run) -> Conflict | None:
    """Say which of the versions that the build is made from was withdrawn since it began."""
    planned, catalog = run.planned, run.workspace.catalog
    versions: list[Version[Facts]] = [planned.seed, *(one.version for one in planned.members)]
    versions += [catalog.get(ref) for ref in (*planned.seed.facts.data, *planned.data)]
    return gates.withdrawn_meanwhile(run.workspace, versions, "btx rebuild")


def _facts(run: Run, order: BuildOrder, folder: Path, held: DvcFolder) -> BuildFacts:
    workspace, planned = run.workspace, run.planned
    tuned = workspace.work / "tuned"
    mix, tune = reports.mix_report(tuned), reports.tune_report(tuned)
    measured = reports.measured_report(workspace.work)
    tuned_with = recipe(TuneRecipe, tune.recipe).mode
    used = {*planned.seed.facts.data, *planned.data} if tuned_with != "none" else set()
    if run.grown is not None:
        used |= {*run.grown.build.facts.tuned_on}
    evaluate = asdict(recipe(EvaluateRecipe, planned.ordered.evaluate))
    members = tuple(
        Member(
            ref=one.ref,
            slot=one.slot,
            digest=member.version.digest,
            file=expert_file(one.name),
        )
        for one, member in zip(order.members, planned.members, strict=True)
    )
    facts = BuildFacts(
        line=planned.line,
        snapshot=str(run.snapshot.ref),
        seed=str(planned.seed.ref),
        members=members,
        content=planned.content,
        recipe=BuildRecipe(mix=mix.recipe, tune=tune.recipe, evaluate=evaluate),
        given_recipe=planned.given,
        architecture=_architecture(
            recipe(MixRecipe, mix.recipe), measured, len(members)
        ).model_copy(update={"context_length": _context_length(tuned)}),
        tuned=tuned_with,
        folder=_relative(workspace, folder),
        dvc=held,
        tensors=folders.tensors(folder),
        status=Status.EVALUATED,
        results=_results(planned, measured),
        routing=_routing(measured),
        texts_apart=measured.texts_apart,
        texts_parted=measured.texts_parted,
        cost=_cost(run, mix, tune, measured),
        mixed=mix.files,
        tuned_on=tuple(sorted(used)),
        registrar=workspace.catalog.actor,
        environment=environment(),
    )
    return facts.model_copy(update={"tasks": measured.tasks}) if measured.tasks else facts


def _architecture(mixed: MixRecipe, measured: MeasuredReport, members: int) -> Architecture:
    """Return how the build works on a token, from the recipe that it was mixed by."""
    at_work = {"top-k": mixed.top_k, "soft": members + int(mixed.seed_expert)}
    return Architecture(
        top_k=at_work.get(mixed.routing, 1),
        routing=mixed.routing,
        seed_expert=mixed.seed_expert,
        active_parameters=measured.active_parameters,
        total_parameters=measured.total_parameters,
    )


def _context_length(model: Path) -> int | None:
    """Return how many tokens a model reads and writes at most, as its config says."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    length = config.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _linked(
    workspace: Workspace, source: Path, incoming: Path, proven: Mapping[int, str]
) -> list[FileFact]:
    """Put every file into the store and show it in a new folder by link.

    Args:
        workspace: whose store it is.
        source: the folder that the stages wrote.
        incoming: the new folder; one that an attempt left there is replaced.
        proven: inode to digest of objects that were read a moment ago; a link to one is not read
            again.

    Returns:
        The files; `linked` where the store had these very bytes before.
    """
    shutil.rmtree(incoming, ignore_errors=True)
    files = []
    for path, sha256 in _digests(source, proven).items():
        relative = path.relative_to(source)
        linked = workspace.store.has(sha256)
        if path.stat().st_ino not in proven:
            workspace.store.put(path, sha256)
        (incoming / relative).parent.mkdir(parents=True, exist_ok=True)
        workspace.store.link(sha256, incoming / relative)
        size = path.stat().st_size
        files.append(FileFact(relative.as_posix(), size, sha256, linked=linked))
    return files


def _digests(source: Path, proven: Mapping[int, str]) -> dict[Path, str]:
    """Return the SHA-256 of every file below `source`, by path."""
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    unread = [path for path in paths if path.stat().st_ino not in proven]
    read = dict(zip(unread, folders.sha256_files(unread), strict=True))
    return {path: read.get(path) or proven[path.stat().st_ino] for path in paths}


def _results(planned: Plan, measured: MeasuredReport) -> tuple[Result, ...]:
    """Return the build's figures, one result a data version.

    Beside them stand those of the seed, measured with the build, and of every member that was
    trained on this data, as they were measured when it was registered; none that was measured on
    another part of the text.
    """
    results = []
    for data, figures in measured.domains.items():
        seed, recorded = measured.seed.get(data), _own_results(planned, data)
        own = [(ref, one) for ref, one in recorded if same_sample(one, figures)]
        specialists = tuple(
            Specialist(ref=ref, bits_per_byte=one.bits_per_byte, accuracy=one.accuracy)
            for ref, one in own
        )
        results.append(
            Result(
                data=data,
                domain=parse(data).name,
                **figures.to_json(),
                **beside_seed(figures, seed),
                specialists=specialists,
                new_to_seed=planned.seed.facts.is_new(data),
                general=data in planned.general,
            )
        )
    return tuple(results)


def _own_results(planned: Plan, data: str) -> Sequence[tuple[str, Result]]:
    """Return what each member trained on this data was measured to do on it."""
    own: list[tuple[str, Result]] = []
    for member in planned.members:
        ref, results = str(member.version.ref), member.version.facts.results
        own += [(ref, result) for result in results if result.data == data]
    return own


def _routing(measured: MeasuredReport) -> Routing:
    shares = tuple(
        RoutedShare(data=data, domain=parse(data).name, layers=layers)
        for data, layers in (measured.routing or {}).items()
    )
    return Routing(shares=shares, dead=measured.dead, dominant=measured.dominant)


def _cost(run: Run, mix: MixReport, tune: TuneReport, measured: MeasuredReport) -> Cost:
    """Return what this build took, and what all its members took to train."""
    members = [member.version for member in run.planned.members]
    trained = [member.facts.train for member in members]
    unreported = tuple(str(member.ref) for member in members if member.facts.train is None)
    tuned = Spent(tokens=tune.tokens, flops=tune.flops, wall_s=tune.wall_s)
    if tune.processes is not None:
        tuned = tuned.model_copy(update={"processes": tune.processes})
    spent: list[Spent] = [tune, *(report for report in trained if report)]
    seconds = StageSeconds(
        mix=mix.wall_s,
        tune=tune.wall_s,
        evaluate=measured.wall_s,
        total=round(time.monotonic() - run.started, 2),
    )
    cost = Cost(
        tune=tuned,
        total=worth.total(spent),
        seconds=seconds,
        tokens_per_s=measured.tokens_per_s,
        active_parameters=measured.active_parameters,
        total_parameters=measured.total_parameters,
    )
    return cost.model_copy(update={"unreported": unreported}) if unreported else cost
