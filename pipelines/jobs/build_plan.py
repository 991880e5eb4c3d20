"""What a rebuild would compose, and what that would take: nothing is written here.

In:  the catalogue, the workspace's lines and recipes, the caller's wishes.  Out: a Plan; a forecast of bytes, seconds and cost.
A line is a named series of builds over one registry: `main` holds every expert, another line those that it names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btx_core.measuring import harness
from pipelines.workspace.recipes import EvaluateRecipe
from pipelines.workspace.recipes import recipe as typed
from pipelines.workspace.workspace import Recipes, Workspace
from registry.catalogue.catalog import Version
from registry.digest import sha256_file
from registry.errors import Invalid, NotFound
from registry.records.references import parse

if TYPE_CHECKING:
    from btx_core.mixing.mix import MixRecipe
    from btx_core.training.tune import TuneRecipe

BAD = ("withdrawn", "tainted")
STAGES = ("mix", "tune", "evaluate")
MAIN = "main"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the caller asks for beside what the workspace says."""

    line: str = MAIN
    with_: Sequence[str] = ()
    without: Sequence[str] = ()
    tune: str | None = None
    to: str | None = (
        None  # a build or snapshot whose members, slots and, for a build, recipe are taken over
    )
    recipes: Recipes | None = None  # instead of btx.toml's


@dataclass(frozen=True)
class Plan:
    """What a rebuild would do, before any byte is written."""

    line: str
    seed: Version
    members: list[tuple[int, Version]]  # by slot, ascending
    previous: Version | None  # the line's newest build
    recipe: dict[str, dict[str, Any]]
    resolved: Mapping[str, Any] = field(
        default_factory=dict
    )  # of a build that is gone back to: every key, as it was then

    @property
    def content(self) -> dict[str, Any]:
        """What fixes the composed model: same content, same build."""
        members = [[str(version.ref), slot, version.digest] for slot, version in self.members]
        return {
            "seed": [str(self.seed.ref), self.seed.digest],
            "members": members,
            "recipe": self.recipe,
        }


def plan(workspace: Workspace, wishes: Wishes) -> Plan:
    """Choose members, slots and recipe. Raises NotFound for names nobody registered, Invalid for members of several seeds."""
    catalog = workspace.catalog
    builds = catalog.list("build")
    own = [build for build in builds if build.facts.get("line", MAIN) == wishes.line]
    target = _target(workspace, wishes.to) if wishes.to else None
    chosen = (
        _members_of(workspace, target)
        if target
        else _standing(workspace, wishes, own[-1] if own else None)
    )
    for reference in wishes.with_:
        version = catalog.get(parse(reference, "expert"))
        chosen[version.ref.name] = version
    for reference in wishes.without:
        chosen.pop(catalog.get(parse(reference, "expert")).ref.name, None)
    if not chosen:
        raise NotFound(
            "experts",
            found="none in good standing",
            expected="at least one",
            next="btx train or btx register",
        )
    seeds = {version.facts["seed"] for version in chosen.values()}
    if len(seeds) > 1:
        named = ", ".join(sorted(seeds))
        raise Invalid(
            "members",
            found=f"branches of {named}",
            expected="one seed version",
            next="leave some out: --without EXPERT",
        )
    recipe, resolved = _recipe(workspace, wishes, target)
    recipe["mix"]["mode"] = (
        "full"
        if any(version.facts["mode"] == "full" for version in chosen.values())
        else "anchored"
    )
    history = [*builds, *own, *([target] if target else [])]
    return Plan(
        wishes.line,
        catalog.get(seeds.pop()),
        slots(history, chosen),
        own[-1] if own else None,
        recipe,
        resolved,
    )


def _target(workspace: Workspace, reference: str) -> Version:
    target = workspace.catalog.get(reference)
    if target.ref.kind not in ("build", "snapshot"):
        raise Invalid(
            f"--to {reference}",
            found=target.ref.kind,
            expected="a build or a snapshot",
            next="btx list builds",
        )
    return target


def _members_of(workspace: Workspace, target: Version) -> dict[str, Version]:
    versions = [workspace.catalog.get(member["ref"]) for member in target.facts["members"]]
    return {version.ref.name: version for version in versions}


def _standing(workspace: Workspace, wishes: Wishes, newest: Version | None) -> dict[str, Version]:
    """The line's experts: those that btx.toml names for it; else for main all, for another line those of its newest build.

    Without a version the newest in good standing is meant.
    """
    catalog = workspace.catalog
    experts = catalog.list("expert")
    statuses = catalog.statuses(experts)
    standing = {
        version.ref.name: version for version in experts if statuses[version.ref] not in BAD
    }  # by number: the newest stays
    line = workspace.settings.line.get(wishes.line)
    if line is None and wishes.line == MAIN:
        return standing
    if line is None and newest is None and not wishes.with_:
        advice = f'--with EXPERT, or in btx.toml: [line.{wishes.line}] experts = ["EXPERT", ...]'
        raise NotFound(
            f"line {wishes.line}",
            found="no build and no setting",
            expected="its experts",
            next=advice,
        )
    names = (
        line.experts
        if line
        else [member["ref"].split("@")[0] for member in newest.facts["members"]]
        if newest
        else []
    )
    chosen: dict[str, Version] = {}
    for reference in (parse(name, "expert") for name in names):
        version = (
            catalog.get(reference)
            if reference.version
            else standing.get(reference.name) or catalog.get(reference)
        )
        if reference.version or statuses[version.ref] not in BAD:
            chosen[version.ref.name] = version
    return chosen


def _recipe(
    workspace: Workspace, wishes: Wishes, target: Version | None
) -> tuple[dict[str, dict[str, Any]], Mapping[str, Any]]:
    resolved: Mapping[str, Any] = {}
    if target and target.ref.kind == "build" and wishes.recipes is None:
        recipe = {name: dict(target.facts["recipe"][name]) for name in STAGES}
        resolved = target.facts["recipe"]["resolved"]
    else:
        recipes = wishes.recipes or workspace.settings.recipe
        recipe = {name: dict(getattr(recipes, name)) for name in STAGES}
    if wishes.tune:
        recipe["tune"]["mode"] = wishes.tune
        resolved = (
            {**resolved, "tune": {**resolved["tune"], "mode": wishes.tune}} if resolved else {}
        )
    if "tasks" in recipe["evaluate"]:
        recipe["evaluate"] = _frozen(workspace.root, recipe["evaluate"])
    return recipe, resolved


def _frozen(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the SHA-256, as of now, of every file that a task reads: a changed file is a changed recipe."""
    tasks = {
        path: {file: sha256_file(root / file) for file in harness.files(path, root)}
        for path in typed(EvaluateRecipe, settings).tasks
    }
    return {key: value for key, value in settings.items() if key != "tasks"} | (
        {"tasks": tasks} if tasks else {}
    )


def recipes_of(planned: Plan) -> "tuple[MixRecipe, TuneRecipe]":
    """What the stages will read. Raises Invalid or WrongUsage, naming the key, for what one of them would refuse."""
    from btx_core.mixing.mix import (  # here: a rebuild with nothing to do needs no torch
        Member,
        MixRecipe,
        check_members,
    )
    from btx_core.training.tune import TuneRecipe

    settings = {**planned.recipe, **planned.resolved}
    mix, tune = typed(MixRecipe, settings["mix"]), typed(TuneRecipe, settings["tune"])
    check_members(
        [Member(version.ref.name, slot, Path()) for slot, version in planned.members], mix
    )
    if typed(EvaluateRecipe, settings["evaluate"]).tasks:
        harness.check_installed()
    return mix, tune


def slots(history: Sequence[Version], chosen: Mapping[str, Version]) -> list[tuple[int, Version]]:
    """Slot 0 is the seed's. An expert keeps the slot it last had, if that is free; another takes the next number above all.

    history: builds and snapshots, oldest first; the last one's slots go before those of any other.
    """
    held: dict[str, int] = {}
    for version in reversed(history):
        for member in version.facts["members"]:
            name = parse(member["ref"]).name
            if name in chosen and name not in held and member["slot"] not in held.values():
                held[name] = member["slot"]
    for name in chosen:
        held.setdefault(name, max([0, *held.values()]) + 1)
    return sorted((held[name], chosen[name]) for name in chosen)


def changes(planned: Plan) -> list[dict[str, Any]]:
    """Per expert what becomes of it against the line's newest build: added, kept, replaced (from which version) or removed."""
    before = (
        {parse(member["ref"]).name: member["ref"] for member in planned.previous.facts["members"]}
        if planned.previous
        else {}
    )
    found: list[dict[str, Any]] = []
    for slot, version in planned.members:
        was, ref = before.pop(version.ref.name, None), str(version.ref)
        found.append(
            {
                "ref": ref,
                "slot": slot,
                "change": "added" if was is None else "kept" if was == ref else "replaced",
                "before": was,
            }
        )
    return found + [
        {"ref": was, "slot": None, "change": "removed", "before": was} for was in before.values()
    ]


@dataclass(frozen=True)
class Forecast:
    """weights: every weight file of the build, with its size and whether it is written or linked."""

    weights: list[dict[str, Any]]
    seconds: dict[str, float]
    cost: dict[str, float]
    measured_on: (
        str | None
    )  # the build whose times and cost were scaled; None: there is none to learn from

    def size(self, action: str) -> int:
        return sum(int(file["bytes"]) for file in self.weights if file["action"] == action)


def forecast(
    workspace: Workspace,
    planned: Plan,
    shards: Mapping[tuple[int, str], Path],
    previous: Path | None,
) -> Forecast:
    """What the plan would write, by the planner that mixes, from headers alone; how long that took before, scaled.

    Mixing scales with the bytes written, tuning with its tokens, evaluating with the domains; starting and recording stay.
    """
    from btx_core.mixing.shards import (
        layout,  # here: only a forecast and the stages need the weights' side
    )

    mix, tune = recipes_of(planned)
    tokens = 0 if tune.mode == "none" else tune.steps * tune.batch * tune.sequence
    rewritten = {"none": (), "router": ("router",), "shared": ("router", "shared"), "all": ("",)}[
        tune.mode
    ]
    weights = []
    for shard in _mixture(workspace, planned, mix, shards, previous).shards:
        linked = shard.link is not None and not any(
            shard.file.startswith(f"model-{part}") for part in rewritten
        )
        weights.append(
            {
                "file": shard.file,
                "bytes": layout(shard.outputs)[2],
                "action": "link" if linked else "write",
            }
        )
    past = next(
        (
            build
            for build in reversed(workspace.catalog.list("build"))
            if "total" in build.facts["cost"]["seconds"]
        ),
        None,
    )
    written = sum(file["bytes"] for file in weights if file["action"] == "write")
    seconds, cost = _scaled(past, written, tokens, _domains(planned.members)) if past else ({}, {})
    return Forecast(weights, seconds, cost, str(past.ref) if past else None)


def _mixture(
    workspace: Workspace,
    planned: Plan,
    recipe: "MixRecipe",
    shards: Mapping[tuple[int, str], Path],
    previous: Path | None,
) -> Any:
    from btx_core.checkpoints.checkpoint import Checkpoint
    from btx_core.checkpoints.families import family
    from btx_core.mixing.mix import Member, dense_config, plan_mix

    def folder(version: Version) -> Path:
        return workspace.root / str(version.facts["dvc"]["path"])

    seed = Checkpoint.open(folder(planned.seed))
    dense = dense_config(seed)
    members = [
        Member(v.ref.name, slot, folder(v), shards.get((slot, v.digest)))
        for slot, v in planned.members
    ]
    return plan_mix(
        seed, family(dense, raw=recipe.routing == "switch"), dense, members, recipe, previous
    )


def _domains(members: Sequence[tuple[int, Version]]) -> int:
    return len({reference for _, version in members for reference in version.facts["data"]})


def _scaled(
    past: Version, written: int, tokens: int, domains: int
) -> tuple[dict[str, float], dict[str, float]]:
    took, spent = past.facts["cost"]["seconds"], past.facts["cost"]["tune"]
    if tokens and not spent["tokens"]:
        return {}, {
            "tokens": tokens
        }  # the past build was not tuned: nothing says how long that takes
    wrote = sum(
        file.bytes for file in past.files if not file.linked and file.path.endswith(".safetensors")
    )
    share = tokens / spent["tokens"] if tokens else 0.0
    seconds = {
        "mix": took["mix"] * written / max(1, wrote),
        "tune": (spent["wall_s"] or 0.0) * share,
        "evaluate": took["evaluate"] * domains / max(1, len(past.facts["evaluation"])),
    }
    total = sum(seconds.values()) + took["total"] - sum(took[stage] or 0.0 for stage in STAGES)
    return {name: round(value, 2) for name, value in {**seconds, "total": total}.items()}, {
        "tokens": tokens,
        "flops": (spent["flops"] or 0.0) * share,
    }
