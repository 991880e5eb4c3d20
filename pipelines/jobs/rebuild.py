"""Job: compose the model of one frozen snapshot: choose members, ask the gate, let DVC run mix → tune → evaluate, record the build.

In:  the catalogue's experts in good standing, the workspace's recipes.  Out: builds/N, whole or not at all, and its rows.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.jobs import evidence, gates
from pipelines.jobs.build_plan import (
    BAD,
    MAIN,
    STAGES,
    Plan,
    Wishes,
    changes,
    forecast,
    plan,
    recipes_of,
)
from pipelines.stages import dvc_runs
from pipelines.workspace import folders
from pipelines.workspace.environment import environment
from pipelines.workspace.workspace import Recipes, Workspace
from registry.catalogue.catalog import FileFact, Version
from registry.digest import digest
from registry.errors import Conflict

LINKED_AGAIN = ("model-shared.safetensors", "model-expert-seed.safetensors")


def rebuild(
    workspace: Workspace,
    *,
    line: str = MAIN,
    with_: Sequence[str] = (),
    without: Sequence[str] = (),
    tune: str | None = None,
    to: str | None = None,
    recipes: Recipes | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Build what the plan says, or say "unchanged". Returns build, status, ran, reused, bytes_written, bytes_linked, seconds.

    to: a build or snapshot to go back to. dry_run: the answer is a forecast, and nothing is written.
    Raises Refused when the gate says no, Damaged when a registered file on disk is not what was registered.
    """
    wishes = Wishes(line=line, with_=with_, without=without, tune=tune, to=to, recipes=recipes)
    if dry_run:
        return _planned(workspace, plan(workspace, wishes))
    with workspace.writing("rebuild"):
        started = time.monotonic()
        planned = plan(workspace, wishes)
        if _nothing_to_do(workspace, planned):
            return _answer(
                str(planned.previous and planned.previous.ref), "unchanged", [], _refs(planned)
            )
        recipes_of(planned)  # what a stage would refuse is told before anything is written
        number = workspace.catalog.next_version("build", "")
        members = [version for _, version in planned.members]
        gates.ask(
            workspace,
            "build",
            f"build/{number}",
            evidence.of_build(workspace.catalog, f"build/{number}", str(planned.seed.ref), members),
        )
        shards = _shards(workspace, planned)
        snapshot = _freeze(workspace, planned)
        _write_snapshot(workspace, planned, snapshot, shards)

        def log(stage: str, state: str, body: Mapping[str, float]) -> None:
            workspace.catalog.event(
                "stage", f"build/{number}", {"stage": stage, "state": state, **body}
            )

        done = dvc_runs.reproduce(workspace.root, "evaluate", log)
        build = _record(workspace, planned, snapshot, number, started, shards)
        linked = sum(file.bytes for file in build.files if file.linked)
        reused = done.skipped + [
            str(version.ref)
            for slot, version in planned.members
            if (slot, version.digest) in shards
        ]
        written = sum(file.bytes for file in build.files) - linked
        return _answer(
            str(build.ref),
            build.facts["status"],
            done.ran,
            reused,
            written,
            linked,
            build.facts["cost"]["seconds"],
        )


def _nothing_to_do(workspace: Workspace, planned: Plan) -> bool:
    newest = planned.previous
    if (
        not newest
        or newest.facts["content"] != digest(planned.content)
        or not _whole(workspace, newest)
    ):
        return False
    return (
        workspace.catalog.status(newest.ref) not in BAD
    )  # grown from a build that held what was withdrawn since


def _refs(planned: Plan) -> list[str]:
    return [str(version.ref) for _, version in planned.members]


def _planned(workspace: Workspace, planned: Plan) -> dict[str, Any]:
    """What would happen: the answer's keys, and beside them every member's change, every weight file, cost, and what was measured."""
    if _nothing_to_do(workspace, planned):
        return _answer(
            str(planned.previous and planned.previous.ref), "unchanged", [], _refs(planned)
        ) | {"changes": changes(planned)}
    shards = _shards(workspace, planned, proven=False)
    last = _last_of_seed(workspace, planned)
    expected = forecast(
        workspace, planned, shards, workspace.root / last.facts["folder"] if last else None
    )
    reused = [
        str(version.ref) for slot, version in planned.members if (slot, version.digest) in shards
    ]
    answer = _answer(
        None,
        "planned",
        list(STAGES),
        reused,
        expected.size("write"),
        expected.size("link"),
        expected.seconds,
    )
    details = {
        "line": planned.line,
        "changes": changes(planned),
        "weights": expected.weights,
        "cost": expected.cost,
    }
    return answer | details | {"measured_on": expected.measured_on}


def _answer(
    build: str | None,
    status: str,
    ran: list[str],
    reused: list[str],
    written: int = 0,
    linked: int = 0,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    sizes = {"bytes_written": written, "bytes_linked": linked}
    return {
        "build": build,
        "status": status,
        "ran": ran,
        "reused": reused,
        **sizes,
        "seconds": dict(seconds or {}),
    }


def _whole(workspace: Workspace, build: Version) -> bool:
    folder = workspace.root / build.facts["folder"]
    return all(
        (folder / file.path).is_file() and (folder / file.path).stat().st_size == file.bytes
        for file in build.files
    )


def _shards(
    workspace: Workspace, planned: Plan, *, proven: bool = True
) -> dict[tuple[int, str], Path]:
    """Shards that earlier builds wrote, by slot and member digest; a damaged one is left out, so that it is written anew."""
    there = workspace.store.verify if proven else workspace.store.has
    wanted = {(slot, version.digest) for slot, version in planned.members}
    found: dict[tuple[int, str], Path] = {}
    for build in workspace.catalog.list("build"):
        files = {file.path: file for file in build.files}
        for member in build.facts["members"]:
            key = (member["slot"], member["digest"])
            file = files.get(member["file"])
            if key in wanted and key not in found and file and there(file.sha256):
                found[key] = workspace.store.path(file.sha256)
    return found


def _freeze(workspace: Workspace, planned: Plan) -> Version:
    members = [
        {"ref": str(version.ref), "slot": slot, "digest": version.digest}
        for slot, version in planned.members
    ]
    parents = [
        (planned.seed.ref, "seed"),
        *((version.ref, "member") for _, version in planned.members),
    ]
    return workspace.catalog.register(
        "snapshot",
        planned.line,
        {"seed": str(planned.seed.ref), "mode": planned.recipe["mix"]["mode"], "members": members},
        parents=parents,
    )


def _write_snapshot(
    workspace: Workspace, planned: Plan, snapshot: Version, shards: Mapping[tuple[int, str], Path]
) -> None:
    """Write snapshot.json: all that the stages may know. Every folder in it has just been proven to hold its registered bytes."""

    def named(version: Version) -> dict[str, Any]:
        folder = folders.opened(workspace.root, version)
        return {
            "ref": str(version.ref),
            "path": _relative(workspace, folder),
            "digest": folders.files_digest(version.files),
        }

    members = []
    for slot, version in planned.members:
        shard = shards.get((slot, version.digest))
        item = {"name": version.ref.name, "slot": slot, "data": version.facts["data"]}
        members.append(
            named(version)
            | item
            | {
                "shard": _relative(workspace, shard) if shard else None,
                "tensors": version.facts["tensors"],
            }
        )
    data = {reference for _, version in planned.members for reference in version.facts["data"]}
    domains = {
        version.ref.name: named(version)
        for version in sorted((workspace.catalog.get(ref) for ref in data), key=lambda v: v.ref)
    }
    document = {
        "ref": str(snapshot.ref),
        "seed": named(planned.seed) | {"tensors": planned.seed.facts["tensors"]},
        "members": members,
        "domains": domains,
        "general": [named(workspace.catalog.get(ref)) for ref in planned.seed.facts["data"]],
        "previous": _previous_mix(workspace, planned),
        "grown_from": _grown_from(workspace, planned),
        "recipe": {**planned.recipe, **planned.resolved},
        "threads": workspace.settings.train.threads,
    }
    path = workspace.root / "snapshot.json"
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(document, indent=1) + "\n")
    aside.replace(path)


def _previous_mix(workspace: Workspace, planned: Plan) -> str | None:
    """A folder of links to what the last mix of this very seed wrote and no member can change, so that it is linked again."""
    folder = workspace.work / "previous"
    shutil.rmtree(folder, ignore_errors=True)
    build = _last_of_seed(workspace, planned)
    if build is None:
        return None
    folder.mkdir(parents=True)
    for file in build.facts["mixed"]:
        if file["path"] in LINKED_AGAIN and workspace.store.verify(file["sha256"]):
            workspace.store.link(file["sha256"], folder / file["path"])
    return _relative(workspace, folder)


def _grown_from(workspace: Workspace, planned: Plan) -> dict[str, Any] | None:
    """The line's newest build, where tuning may go on from it, and which of its router rows are kept: [place now, place there].

    Never from one in bad standing: what was learnt from withdrawn data would live on.
    """
    build, tuning = planned.previous, planned.recipe["tune"]
    if (
        not build
        or not tuning.get("grow")
        or planned.resolved
        or workspace.catalog.status(build.ref) in BAD
    ):
        return None
    same = {name: build.facts["recipe"][name] for name in ("mix", "tune")} == {
        name: planned.recipe[name] for name in ("mix", "tune")
    }
    if not same or build.facts["seed"] != str(planned.seed.ref):
        return None
    first = int(planned.recipe["mix"].get("seed_expert", True))
    there = {
        (member["slot"], member["digest"]): place
        for place, member in enumerate(build.facts["members"], first)
    }
    here = [(slot, version.digest) for slot, version in planned.members]
    kept = [[0, 0]][:first] + [
        [place, there[key]] for place, key in enumerate(here, first) if key in there
    ]
    folder = workspace.root / build.facts["folder"]
    return {
        "ref": str(build.ref),
        "path": _relative(workspace, folder),
        "digest": folders.files_digest(build.files),
        "kept": kept,
    }


def _last_of_seed(workspace: Workspace, planned: Plan) -> Version | None:
    """The newest build of this very seed, of any line."""
    builds = [
        build
        for build in workspace.catalog.list("build")
        if build.facts["seed"] == str(planned.seed.ref)
    ]
    return builds[-1] if builds else None


def _relative(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.root).as_posix()


def _record(
    workspace: Workspace,
    planned: Plan,
    snapshot: Version,
    number: int,
    started: float,
    shards: Mapping[tuple[int, str], Path],
) -> Version:
    """Take the tuned folder in as builds/N and write its row. Raises Conflict if a member was withdrawn while the stages ran."""
    catalog = workspace.catalog
    for _, version in planned.members:
        if catalog.status(version.ref) in BAD:
            raise Conflict(
                str(version.ref),
                found="withdrawn while the stages ran",
                expected="members in good standing",
                next="btx rebuild",
            )
    tuned, folder = workspace.work / "tuned", workspace.folder("build", "", number)
    files = _taken_in(
        workspace, tuned, folder, {shard.stat().st_ino: shard.name for shard in shards.values()}
    )
    workspace.store.put(
        workspace.work / "mixed" / "model-shared.safetensors"
    )  # the tuned one may differ; the next mix links this
    reports = {
        name: json.loads((workspace.work / "tuned" / f"btx-{name}.json").read_text())
        for name in ("mix", "tune")
    }
    measured = json.loads((workspace.work / "evaluation.json").read_text())
    members = [
        {
            "ref": str(version.ref),
            "slot": slot,
            "digest": version.digest,
            "file": f"model-expert-{version.ref.name}.safetensors",
        }
        for slot, version in planned.members
    ]
    tuned_on = {
        *planned.seed.facts["data"],
        *(reference for _, version in planned.members for reference in version.facts["data"]),
    }
    data = sorted(tuned_on) if reports["tune"]["recipe"]["mode"] != "none" else []
    facts = {
        "line": planned.line,
        "snapshot": str(snapshot.ref),
        "seed": str(planned.seed.ref),
        "members": members,
        "content": digest(planned.content),
        "recipe": planned.recipe
        | {"resolved": {name: report["recipe"] for name, report in reports.items()}},
        "folder": _relative(workspace, folder),
        "dvc": folders.track(workspace.root, folder),
        "tensors": folders.tensors(folder),
        "status": "evaluated",
        "evaluation": _evaluation(planned, measured),
        **({"tasks": measured["tasks"]} if "tasks" in measured else {}),
        "routing": {
            "shares": measured["routing"],
            "dead": measured["dead"],
            "dominant": measured["dominant"],
        },
        "cost": _cost(planned, reports, measured, started),
        "mixed": reports["mix"]["files"],
        "previous": planned.previous.facts["evaluation"] if planned.previous else None,
        "tuned_on": data,
        "registrar": catalog.actor,
        "environment": environment(),
    }
    parents = [
        (snapshot.ref, "composed_from"),
        *((catalog.get(ref).ref, "tuned_on") for ref in data),
    ]
    if grown := json.loads((workspace.root / "snapshot.json").read_text())["grown_from"]:
        parents.append((catalog.get(grown["ref"]).ref, "grown_from"))
    return catalog.register("build", "", facts, files=files, version=number, parents=parents)


def _taken_in(
    workspace: Workspace, source: Path, folder: Path, proven: Mapping[int, str]
) -> list[FileFact]:
    """Put every file into the store and show it in `folder` by link. linked: the store had these very bytes before.

    proven: inode -> digest of objects that were read a moment ago; a link to one is not read again.
    """
    aside = folder.with_name(f".{folder.name}.incoming")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that died before its row was written
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    unread = [path for path in paths if path.stat().st_ino not in proven]
    read, files = dict(zip(unread, folders.sha256_files(unread), strict=True)), []
    for path in paths:
        relative, sha256 = path.relative_to(source), read.get(path) or proven[path.stat().st_ino]
        linked = workspace.store.has(sha256)
        if path in read:
            workspace.store.put(path, sha256)
        (aside / relative).parent.mkdir(parents=True, exist_ok=True)
        workspace.store.link(sha256, aside / relative)
        files.append(FileFact(relative.as_posix(), path.stat().st_size, sha256, linked=linked))
    os.rename(aside, folder)
    return files


def _evaluation(planned: Plan, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The build's figures per domain beside the seed's and the specialist's, as these were measured at their registration."""
    known = set(json.dumps(planned.seed.facts["data"]).split('"'))
    result: dict[str, Any] = {}
    for _, version in planned.members:
        for reference, (domain, own) in zip(
            version.facts["data"], version.facts["evaluation"]["domains"].items(), strict=True
        ):
            result[domain] = measured["domains"][domain] | {
                "seed_bits_per_byte": own["seed_bits_per_byte"],
                "specialist_bits_per_byte": own["bits_per_byte"],
                "new_to_seed": reference not in known,
            }
            for name, source in (
                ("seed_accuracy", "seed_accuracy"),
                ("specialist_accuracy", "accuracy"),
            ):
                if source in own:
                    result[domain][name] = own[source]
    return result


def _cost(
    planned: Plan, reports: Mapping[str, Any], measured: Mapping[str, Any], started: float
) -> dict[str, Any]:
    """What this build took, and what all its members took to train: tokens, FLOPs, wall seconds."""
    trained = [version.facts["train"] for _, version in planned.members if version.facts["train"]]
    spent = [reports["tune"], *trained]
    stages = {
        "mix": reports["mix"]["wall_s"],
        "tune": reports["tune"].get("wall_s"),
        "evaluate": measured["wall_s"],
    }
    return {
        "tune": {key: reports["tune"].get(key) for key in ("tokens", "flops", "wall_s")},
        "total": {
            key: sum(report.get(key) or 0 for report in spent)
            for key in ("tokens", "flops", "wall_s")
        },
        "seconds": stages | {"total": round(time.monotonic() - started, 2)},
        **{key: measured[key] for key in ("active_parameters", "total_parameters", "tokens_per_s")},
    }
