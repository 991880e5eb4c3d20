"""Jobs: carry the whole registry out as plain files and in again; remove what no registered version needs.

The rows' form is registry/archive.py's. Here the objects get their folders and DVC files back.
"""

from pathlib import Path
from typing import Any

from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.catalogue import dump as archive
from registry.catalogue.catalog import Version
from registry.errors import Damaged

KINDS = ("data", "seed", "expert", "build")


def dump(workspace: Workspace, folder: Path) -> dict[str, Any]:
    """Write rows, log and every registered file into the new `folder`: head, rows{table: count}, objects. Raises Damaged, Conflict."""
    visible = {
        file.sha256: where / file.path
        for version, where in _versions(workspace)
        for file in version.files
    }
    with workspace.writing(f"registry dump {folder}"):
        return {
            "folder": str(folder.resolve()),
            **archive.dump(workspace.catalog, workspace.store, folder.resolve(), visible),
        }


def load(workspace: Workspace, folder: Path) -> dict[str, Any]:
    """Fill this new, empty workspace with what `dump` wrote; every version's folder stands again, under DVC where it stood so."""
    with workspace.writing(f"registry load {folder}"):
        about = archive.load(folder.resolve(), workspace.catalog, workspace.store)
        for version, where in _versions(workspace):
            _show(workspace, version, where)
    return about


def collect(
    workspace: Workspace, *, dry_run: bool = False, grace_s: float = 3600.0
) -> dict[str, Any]:
    """Delete stored objects that no version needs, withdrawn ones included in the needed, then let DVC do the same with its cache.

    DVC keeps what a .dvc file names: one that was lost is written again first. Returns deleted[], restored[].
    """
    with workspace.writing("registry gc"):
        lost = [
            (version, where)
            for version, where in _versions(workspace)
            if not _dvc_file(where).is_file() and "dvc" in version.facts
        ]
        if dry_run:
            keep = _needed(workspace)
            return {
                "deleted": [one for one in workspace.store.objects() if one not in keep],
                "restored": [str(one.ref) for one, _ in lost],
            }
        for version, where in lost:
            if not where.is_dir():
                _show(workspace, version, where)
            folders.verify(where, version.files, str(version.ref))
            folders.track(workspace.root, where)
        deleted = workspace.store.sweep(lambda: _needed(workspace), grace_s=grace_s)
        folders.collect(workspace.root)
    return {"deleted": deleted, "restored": [str(version.ref) for version, _ in lost]}


def _needed(workspace: Workspace) -> set[str]:
    """What the rows name; and what the mix before the tuning wrote, which the next mix links."""
    mixed = {
        file["sha256"] for build in workspace.catalog.list("build") for file in build.facts["mixed"]
    }
    return mixed | workspace.catalog.needed().sha256


def _versions(workspace: Workspace) -> list[tuple[Version, Path]]:
    versions = [version for kind in KINDS for version in workspace.catalog.list(kind)]
    return [
        (one, workspace.folder(one.ref.kind, one.ref.name, one.ref.version or 0))
        for one in versions
    ]


def _show(workspace: Workspace, version: Version, where: Path) -> None:
    for file in version.files:
        (where / file.path).parent.mkdir(parents=True, exist_ok=True)
        if not (where / file.path).exists():
            workspace.store.link(file.sha256, where / file.path)
    if "dvc" in version.facts:
        held = folders.track(workspace.root, where)
        if held["md5"] != version.facts["dvc"]["md5"]:
            raise Damaged(
                str(version.ref),
                found=f"DVC's {held['md5']}",
                expected=version.facts["dvc"]["md5"],
                next="dump it again",
            )


def _dvc_file(where: Path) -> Path:
    return where.with_name(f"{where.name}.dvc")
