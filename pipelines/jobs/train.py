"""Train branches of a seed, one a data version. Registering them is `register`.

DVC says which of the stages `train@EXPERT` are stale, an executor runs those, DVC takes the result
in. Not `dvc repro`: upstream of a stage it commits a damaged data version anew, as if somebody had
edited it on purpose.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from btx_core.files import replace_text
from btx_core.training.fitting import for_training, in_parts
from btx_core.training.recipes import TrainRecipe, check_beside, check_parts, check_shares
from pipelines.jobs import gates, state_facts
from pipelines.jobs.ask_ahead import Intent, require_admissible, require_readable
from pipelines.stages import dvc_runs
from pipelines.stages.executors import (
    Clusters,
    available,
    check,
    execute,
    holding,
    placed,
    require_memory,
    resolved,
)
from pipelines.stages.monitor import Log
from pipelines.stages.task import Task
from pipelines.workspace import disk_need, fitted, folders, memory_need, orders
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.general import refuse_evaluation_data
from pipelines.workspace.orders import BranchOrder
from pipelines.workspace.placement import ExecutorName, Resources
from pipelines.workspace.recipe_reader import complete, recipe
from pipelines.workspace.workspace import Workspace, check_expert_name
from registry.catalogue.reading import FIRST
from registry.errors import Conflict, Invalid, Refused
from registry.records.answers.building import PlannedBranch, PlannedStage, TrainForecastAnswer
from registry.records.base import JsonObject
from registry.records.events import StageRan
from registry.records.facts import DataFacts, Facts, SeedFacts
from registry.records.kinds import UNUSABLE, Kind
from registry.records.references import parse
from registry.records.version import Version

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Branch:
    """A trained branch that is not registered yet.

    Attributes:
        folder: its checkpoint.
        seed: what it was branched from.
        data: what it was trained on.
        ran: False where it was trained already, from these very inputs.
    """

    folder: Path
    seed: Version[SeedFacts]
    data: Version[DataFacts]
    ran: bool


def train(
    workspace: Workspace,
    experts: Mapping[str, str],
    *,
    seed: str | None = None,
    mode: str | None = None,
    executor: ExecutorName | None = None,
    anyway: bool = False,
) -> dict[str, Branch]:
    """Train a branch for every expert, or find it trained already.

    Args:
        workspace: where the seed and the data are registered.
        experts: the expert's name to the data version that it is trained on; of a name alone it is
            the newest that may be used.
        seed: the seed version, likewise; of the only seed unless it is given.
        mode: anchored or full; the recipe's unless it is given.
        executor: local, ray or slurm; the settings' unless it is given.
        anyway: train also what the gate would refuse whatever training brings, and where memory or
            disk seem too small.

    Returns:
        The branches, by expert.

    Raises:
        Invalid: for resources that the executor cannot honour.
        Unavailable: where memory or disk are too small for it.
        Refused: for withdrawn data, and where the gate would refuse every branch of this data.
        Unreadable: for conversations that the seed's chat template does not take.
        Damaged: for data that changed on disk.
        Conflict: when the seed or data is withdrawn while a branch trains; it stops.
        StageFailed: for a training that did not end.
    """
    for name in experts:
        # At the registration, hours later, would be too late.
        check_expert_name(name)
    state_facts.stated(workspace, Kind.EXPERT)
    resources = workspace.settings.resources("train", executor)
    check(resources, Clusters.of(workspace.settings))
    catalog = workspace.catalog

    def log(name: str, ran: StageRan) -> None:
        catalog.event(ran, f"train@{name}")

    with workspace.writing(f"train {' '.join(experts)}"):
        base, corpora = _inputs(workspace, experts, seed)
        ordered = _orders(workspace, base, corpora, mode, resources)
        _write(workspace.root, ordered)
        targets = {f"train@{name}": name for name in experts}
        stale = dvc_runs.stale(workspace.root, list(targets))
        logger.info("%d of %d branches are stale", len(stale), len(targets))

        def withdrawn() -> Conflict | None:
            versions: list[Version[Facts]] = [base, *corpora.values()]
            versions += [catalog.get(ref) for ref in base.facts.data]
            return gates.withdrawn_meanwhile(workspace, versions, "btx train on other data")

        intents = [Intent(targets[one], base, corpora[targets[one]]) for one in stale]
        require_readable(workspace, intents, keep=True)
        stale_orders = {targets[one]: ordered[targets[one]] for one in stale}
        needed = _most_needed(workspace, base, stale_orders, resources)
        if not anyway:
            require_admissible(workspace, intents)
            _require_room(workspace, base, stale_orders, placed("train", resources, needed))
        branches = {target: targets[target] for target in stale}
        _run(workspace, branches, holding(resources, needed), log, withdrawn)
    folder = workspace.work / "branches"
    return {
        name: Branch(folder / name, base, corpora[name], f"train@{name}" in stale)
        for name in experts
    }


def look_ahead(
    workspace: Workspace,
    experts: Mapping[str, str],
    *,
    seed: str | None = None,
    mode: str | None = None,
    executor: ExecutorName | None = None,
    anyway: bool = False,
) -> TrainForecastAnswer:
    """Say which branches `train` would train, and where; nothing is written.

    The arguments and the errors are those of `train`.
    """
    for name in experts:
        check_expert_name(name)
    state_facts.stated(workspace, Kind.EXPERT)
    resources = workspace.settings.resources("train", executor)
    clusters = Clusters.of(workspace.settings)
    check(resources, clusters)
    base, corpora = _inputs(workspace, experts, seed)
    ordered = _orders(workspace, base, corpora, mode, resources)
    before = orders.read_branches(workspace.root)
    # DVC knows only of the orders that are written.
    same = [name for name in experts if before.get(name) == ordered[name]]
    stale = dvc_runs.stale(workspace.root, [f"train@{name}" for name in same]) if same else []
    branches = []
    for name, corpus in corpora.items():
        reused = name in same and f"train@{name}" not in stale
        branches.append(
            PlannedBranch(
                expert=name,
                seed=str(base.ref),
                data=str(corpus.ref),
                action="reuse" if reused else "train",
            )
        )
    intents = [
        Intent(branch.expert, base, corpora[branch.expert])
        for branch in branches
        if branch.action == "train"
    ]
    require_readable(workspace, intents, keep=False)
    if not anyway:
        require_admissible(workspace, intents)
        stale_orders = {one.name: ordered[one.name] for one in intents}
        place = placed("train", resources, _most_needed(workspace, base, stale_orders, resources))
        _require_room(workspace, base, stale_orders, place)
    needed = _most_needed(workspace, base, ordered, resources)
    return TrainForecastAnswer(branches=tuple(branches), place=placed("train", resources, needed))


def _require_room(
    workspace: Workspace,
    base: Version[SeedFacts],
    ordered: Mapping[str, BranchOrder],
    place: PlannedStage,
) -> None:
    """Refuse, before anything trains, what neither memory nor disk can hold."""
    names = f"train {' '.join(ordered)}"
    require_memory(names, place)
    recipes = [recipe(TrainRecipe, complete(one.recipe, one.chosen)) for one in ordered.values()]
    if not recipes:
        return
    seed = folders.folder_of(workspace.root, base)
    needed = disk_need.of_training(seed, recipes)
    instead, what = ", or train fewer", ", ".join(ordered)
    disk_need.require(names, workspace.root, needed, what=what, instead=instead)


def newest_seed(workspace: Workspace) -> str:
    """Return the newest usable version of the one seed there is.

    Raises Invalid where the choice is the caller's.
    """
    statuses = workspace.catalog.statuses(workspace.catalog.versions(SeedFacts, files=False))
    # In the order of their numbers, so the newest of each name stays.
    newest = {ref.name: str(ref) for ref in statuses if statuses[ref] not in UNUSABLE}
    if len(newest) != 1:
        raise Invalid(
            "--seed",
            found=f"{len(newest)} seeds: {', '.join(newest) or 'none'}",
            expected="one",
            next="name it: --seed seed/NAME" if newest else FIRST[Kind.SEED],
        )
    return next(iter(newest.values()))


def _inputs(
    workspace: Workspace, experts: Mapping[str, str], seed: str | None
) -> tuple[Version[SeedFacts], dict[str, Version[DataFacts]]]:
    """Return the seed, and by expert the data; refused if one of them may not be used."""
    # Without what computes with weights no stage could; torch itself would take seconds to load.
    import_module("safetensors")
    catalog = workspace.catalog
    base = catalog.get_usable(seed or newest_seed(workspace), SeedFacts)
    corpora = {name: catalog.get_usable(data, DataFacts) for name, data in experts.items()}
    refuse_evaluation_data(corpora.values())
    for version in (base, *corpora.values()):
        _check_usable(workspace, version)
    for ref in (base.ref, *(one.ref for one in corpora.values()), *map(parse, base.facts.data)):
        folders.require_plain(workspace.folder(ref), str(ref))
    return base, corpora


def _check_usable(workspace: Workspace, version: Version[Facts]) -> None:
    status = workspace.catalog.status(version.ref)
    if status in UNUSABLE:
        raise Refused(
            str(version.ref),
            found=status,
            expected="a version that may be used",
            next="train on another version",
        )


def _orders(
    workspace: Workspace,
    base: Version[SeedFacts],
    corpora: Mapping[str, Version[DataFacts]],
    mode: str | None,
    resources: Resources,
) -> dict[str, BranchOrder]:
    order_of = partial(folders.order_of, workspace.root)
    general = tuple(order_of(workspace.catalog.get(ref)) for ref in base.facts.data)
    shared: dict[str, Any] = {
        "seed": order_of(base),
        "general": general,
        "threads": resources.threads,
    }
    if resources.processes > 1:
        shared["processes"] = resources.processes
    recipes = workspace.settings.recipe
    own = {"mode": mode} if mode else {}
    given_by_name = {name: recipes.of_expert(name) | own for name in corpora}
    # A wrong key is told before anything starts.
    for given in given_by_name.values():
        recipe(TrainRecipe, given)
    ordered, before = {}, orders.read_branches(workspace.root)
    for name, corpus in corpora.items():
        given = given_by_name[name]
        scope = fitted.scope(workspace, base, [corpus], resources.processes)
        chosen = for_training(scope, given)
        needs = partial(_need, workspace, base, given, resources)
        rows = recipe(TrainRecipe, complete(given, chosen)).batch
        chosen = in_parts(chosen, -(-rows // resources.processes), needs, available(resources))
        order = BranchOrder(data=order_of(corpus), recipe=given, chosen=chosen, **shared)
        order = fitted.kept(before.get(name), order)
        settled = recipe(TrainRecipe, complete(given, order.chosen))
        check_shares(settled)
        check_parts(settled, resources.processes)
        # On the seed's own text nothing is told apart.
        if str(corpus.ref) not in base.facts.data:
            check_beside(settled, has_general=bool(general and settled.replay))
        if order.chosen:
            remark(f"{name}: {fitted.sentence(order.chosen, scope)}")
        ordered[name] = order
    return ordered


def _most_needed(
    workspace: Workspace,
    base: Version[SeedFacts],
    ordered: Mapping[str, BranchOrder],
    resources: Resources,
) -> int | None:
    """Return the bytes that a process of the largest of several trainings needs."""
    return memory_need.worst(
        [_need(workspace, base, one.recipe, resources, one.chosen) for one in ordered.values()]
    )


def _need(
    workspace: Workspace,
    base: Version[SeedFacts],
    given: JsonObject,
    resources: Resources,
    chosen: JsonObject | None,
) -> int | None:
    """Return the bytes that a process of a training needs."""
    seed = folders.folder_of(workspace.root, base)
    ordered = recipe(TrainRecipe, complete(given, chosen))
    return memory_need.of_training(seed, ordered, resolved(resources))


def _write(root: Path, ordered: Mapping[str, BranchOrder]) -> None:
    """Write the orders into `branches.yaml`, beside those of other branches."""
    every = {**orders.read_branches(root), **ordered}
    replace_text(root / orders.BRANCHES, orders.branches_text(every))


def _run(
    workspace: Workspace,
    stale: Mapping[str, str],
    resources: Resources,
    log: Log,
    reason_to_stop: Callable[[], Conflict | None],
) -> None:
    """Train the branches of these stages anew.

    What ended well is DVC's, whatever became of the others.
    """
    folders_of = {target: workspace.work / "branches" / name for target, name in stale.items()}
    for folder in folders_of.values():
        # Of an order that has changed since.
        shutil.rmtree(folder, ignore_errors=True)
    tasks, clusters = (
        [Task("train", name) for name in stale.values()],
        Clusters.of(workspace.settings),
    )
    try:
        if tasks:
            execute(workspace.root, tasks, resources, clusters, log, reason_to_stop)
    finally:
        ended = [target for target, folder in folders_of.items() if folder.is_dir()]
        dvc_runs.commit(workspace.root, ended)
