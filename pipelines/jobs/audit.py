"""Job: audit one version and all that it was made from. Nothing is written.

The checks over rows, log, bytes and verdicts are the registry's; here they are given the folders, what each build says of its tensors,
and a judge. Folders that no row names are left by commands that did not end. With `recompute` every build is mixed again from
registered bytes and compared.
"""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.workspace.recipes import recipe
from pipelines.workspace.workspace import Workspace
from registry.catalogue.audit_log import check_kept, kept_heads, verify
from registry.catalogue.catalog import Catalog, Version
from registry.catalogue.checks import Check, Finding, Surroundings, row_findings
from registry.catalogue.checks import audit as examine
from registry.governance import people
from registry.governance.gate import judge_again, ungated
from registry.records.references import Reference

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

T = TypeVar("T")
_NUMBERED = re.compile(r"\.?(?P<number>\d+)(\.dvc|(?P<incoming>\.incoming))?")


def audit(
    workspace: Workspace,
    reference: str,
    *,
    recompute: bool = False,
    head: str | None = None,
    key: Path | None = None,
    heard: Callable[[Check], None] = lambda check: None,
) -> dict[str, Any]:
    """subject, checks[{name, ok, examined}], findings[{check, subject, found, expected, next}], head.

    head: a digest or a file of heads, which must still be in the log. key: PEM of who signed them; default: their actor's on the roll.
    heard: told of each check as far as it has come.
    """
    catalog = workspace.catalog
    versions = _unless_damaged(catalog, lambda: catalog.lineage(reference).nodes) or []
    builds = [version for version in versions if version.ref.kind == "build"]
    bare = Surroundings(store=workspace.store, stored=frozenset())
    surroundings = (
        _unless_damaged(catalog, lambda: _surroundings(workspace, versions, builds)) or bare
    )
    heads = kept_heads(head) if head else []
    kept = [
        partial(
            check_kept, kept=one, key=_unless_damaged(catalog, partial(_key, workspace, one, key))
        )
        for one in heads
    ]
    report = examine(catalog, reference, surroundings, signed=kept, heard=heard).to_json()
    past = _unless_damaged(
        catalog, lambda: [Finding("gates", *gap) for gap in ungated(catalog, reference)]
    )
    if past is not None:
        report["checks"].append(vars(Check("gates", not past, len(versions))))
        report["findings"] += [vars(finding) for finding in past]
    if unfinished := _unless_damaged(catalog, lambda: _unfinished(workspace)):
        examined, left = unfinished
        report["checks"].append(vars(Check("unfinished", not left, examined)))
        report["findings"] += [vars(finding) for finding in left]
    if recompute:
        again = [finding for build in builds for finding in _mixed_again(workspace, build, heard)]
        report["checks"].append(vars(Check("recompute", not again, len(builds))))
        report["findings"] += [vars(finding) for finding in again]
    return report


def _unless_damaged(catalog: Catalog, look: Callable[[], T]) -> T | None:
    """None where rows or events that are not what was written are in the way: the checks of rows and log name them."""
    try:
        return look()
    except Exception:
        with catalog.database.read() as rows:
            if not (row_findings(rows)[1] or verify(rows)[1]):
                raise
        return None


def _surroundings(
    workspace: Workspace, versions: list[Version], builds: list[Version]
) -> Surroundings:
    return Surroundings(
        store=workspace.store,
        folders={
            version.ref: folder for version in versions if (folder := _folder(workspace, version))
        },
        stored=frozenset(),  # on another machine DVC brought the folders, and the store fills with use; what it has is checked too
        sources=_sources(workspace, builds),
        tensors={
            version.ref: version.facts["tensors"]
            for version in versions
            if "tensors" in version.facts
        },
        judge=lambda event: judge_again(workspace.catalog, event).outcome,
    )


def _key(
    workspace: Workspace, kept: Mapping[str, Any], file: Path | None
) -> "Ed25519PublicKey | None":
    """A key of your own keeping is worth more: who can rewrite the log can rewrite the roll."""
    if file is not None:
        return people.Actor("", (), file.read_text()).key
    person = people.roll(workspace.catalog).get(str(kept.get("actor")))
    return person.key if person else None


def _folder(workspace: Workspace, version: Version) -> Path | None:
    if version.ref.kind == "build":
        return workspace.root / str(version.facts["folder"])
    if (
        version.ref.kind == "export"
    ):  # where it was written; what was carried on from there is not ours to see
        folder = Path(str(version.facts["folder"]))
        return folder if folder.is_dir() else None
    return workspace.root / str(version.facts["dvc"]["path"]) if "dvc" in version.facts else None


def _unfinished(workspace: Workspace) -> tuple[int, list[Finding]]:
    """Version folders and .dvc files that no row names. While a command writes they are its own, and not looked at."""
    kinds = {"data": "data", "seed": "seeds", "expert": "experts", "build": "builds"}
    there = sorted(
        path
        for kind in kinds
        for path in (workspace.root / kinds[kind]).glob("*" if kind == "build" else "*/*")
    )
    if workspace.being_written:  # asked before the rows: what ended meanwhile has its row
        return 0, []
    known = {
        workspace.folder(one.ref.kind, one.ref.name, one.ref.version or 0)
        for kind in kinds
        for one in workspace.catalog.list(kind)
    }
    numbered = {path: found for path in there if (found := _NUMBERED.fullmatch(path.name))}
    odd = [
        path
        for path, found in numbered.items()
        if found["incoming"] or path.with_name(found["number"]) not in known
    ]
    advice = "run the command that did not end again, or remove it"
    subjects = [str(path.relative_to(workspace.root)) for path in odd]
    return len(numbered), [
        Finding("unfinished", subject, "no row", "a registered version", advice)
        for subject in subjects
    ]


def _sources(
    workspace: Workspace, builds: list[Version]
) -> dict[Reference, dict[str, tuple[str, str]]]:
    """For each build, where each of its experts' tensors was taken from, byte for byte."""
    sources = {}
    for build in builds:
        path = workspace.root / build.facts["folder"] / "provenance.json"
        try:
            recorded = json.loads(path.read_text())["tensors"]
        except (OSError, ValueError, KeyError):
            continue  # the check of files names it
        members = {
            member["ref"].split("/")[1].split("@")[0]: member["ref"]
            for member in build.facts["members"]
        }
        members["seed"] = build.facts["seed"]
        experts = {
            name: entry
            for name, entry in recorded.items()
            if entry["file"].startswith("model-expert-") and entry["rule"] == "take"
        }
        sources[build.ref] = {
            name: (members[entry["sources"][0]["member"]], entry["sources"][0]["tensor"])
            for name, entry in experts.items()
        }
    return sources


def _mixed_again(
    workspace: Workspace, build: Version, heard: Callable[[Check], None]
) -> list[Finding]:
    """Mix the build's snapshot from its registered checkpoints and compare every file of `mixed`."""
    from btx_core.mixing.mix import (  # only here: an audit without it runs without torch
        Member,
        MixRecipe,
        mix,
    )
    from btx_core.problems import BtxError
    from pipelines.workspace import folders

    def opened(ref: str) -> Path:
        return folders.opened(workspace.root, workspace.catalog.get(ref))

    advice = "btx audit without --recompute names the damaged file; else compare the versions of btx and its libraries"
    try:
        members = [
            Member(item["ref"].split("/")[1].split("@")[0], item["slot"], opened(item["ref"]))
            for item in build.facts["members"]
        ]
        seed = opened(build.facts["seed"])
    except BtxError as error:
        return [Finding("recompute", error.subject, error.found, error.expected, error.next)]
    workspace.work.mkdir(exist_ok=True)  # a clone has none yet
    with tempfile.TemporaryDirectory(dir=workspace.work) as scratch:
        out = Path(scratch) / "mixed"
        chosen = recipe(MixRecipe, build.facts["recipe"]["resolved"]["mix"])
        mix(
            seed,
            members,
            chosen,
            out,
            progress=lambda done, total, file: heard(Check("recompute", True, done)),
        )
        found = {file.path: file.sha256 for file in folders.manifest(out)}
    return [
        Finding(
            "recompute",
            f"{build.ref}, {file['path']}",
            f"sha256 {found.get(file['path'])}",
            f"sha256 {file['sha256']}",
            advice,
        )
        for file in build.facts["mixed"]
        if found.get(file["path"]) != file["sha256"]
    ]
