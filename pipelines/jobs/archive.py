"""Carry the whole registry out as plain files and in again; remove what no version needs.

The form of the rows is the catalogue's. Here the objects get their folders and DVC files back.
"""

from collections.abc import Sequence
from pathlib import Path

from btx_core.files import path_inside
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.catalogue import dump as plain_files
from registry.errors import Damaged
from registry.records.answers import CollectAnswer, DumpAnswer, LoadAnswer
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    Facts,
    Held,
    SeedFacts,
)
from registry.records.version import Version

IN_FOLDERS: Sequence[type[Facts]] = (DataFacts, SeedFacts, ExpertFacts, BuildFacts)


def dump(workspace: Workspace, folder: Path) -> DumpAnswer:
    """Write rows, log and every registered file into the new `folder`.

    Returns:
        The folder, the rows of each table, and the files that nothing held any more.

    Raises:
        Damaged: for a file that is not what was registered.
        Conflict: when the folder exists.
    """
    visible = {}
    for version, where in _versions(workspace):
        visible.update({file.sha256: where / file.path for file in version.files})
    target = folder.resolve()
    with workspace.writing(f"registry dump {folder}"):
        written = plain_files.dump(workspace.catalog, workspace.store, target, visible)
    return DumpAnswer(folder=str(target), **written.to_json())


def load(workspace: Workspace, folder: Path) -> LoadAnswer:
    """Fill this new, empty workspace with what `dump` wrote.

    Every version's folder is there again, under DVC where it was so before.

    Raises:
        Conflict: when the registry holds something already.
        Damaged: for a row or file that is not what was dumped.
    """
    with workspace.writing(f"registry load {folder}"):
        about = plain_files.load(folder.resolve(), workspace.catalog, workspace.store)
        for version, where in _versions(workspace):
            _show(workspace, version, where)
    return LoadAnswer(**about.to_json())


def collect(
    workspace: Workspace, *, dry_run: bool = False, grace_s: float = 3600.0
) -> CollectAnswer:
    """Delete stored objects that no version needs, then let DVC do the same with its cache.

    What withdrawn versions hold is needed too. DVC keeps what a .dvc file names: one that was lost
    is written again first.

    Args:
        workspace: whose store is swept.
        dry_run: only say what would be deleted.
        grace_s: seconds for which an object that nothing needs is left alone.
    """
    with workspace.writing("registry gc"):
        lost = [
            (version, where)
            for version, where in _versions(workspace)
            if not _dvc_file(where).is_file() and _held_md5(version) is not None
        ]
        restored = tuple(str(version.ref) for version, _ in lost)
        if dry_run:
            keep = _needed(workspace)
            unneeded = tuple(one for one in workspace.store.objects() if one not in keep)
            return CollectAnswer(deleted=unneeded, restored=restored)
        for version, where in lost:
            if not where.is_dir():
                _show(workspace, version, where)
            folders.verify(where, version.files, str(version.ref))
            folders.track(workspace.root, where, version.files)
        deleted = workspace.store.sweep(lambda: _needed(workspace), grace_s=grace_s)
        folders.collect(workspace.root)
    return CollectAnswer(deleted=tuple(deleted), restored=restored)


def _needed(workspace: Workspace) -> set[str]:
    """Return what the rows name, and what a mix before tuning wrote: the next mix links it."""
    needed = set(workspace.catalog.needed().sha256)
    for build in workspace.catalog.versions(BuildFacts):
        needed.update(file.sha256 for file in build.facts.mixed)
    return needed


def _versions(workspace: Workspace) -> list[tuple[Version[Facts], Path]]:
    """Return every version that has a folder, with that folder."""
    found = []
    for kind in IN_FOLDERS:
        for version in workspace.catalog.versions(kind):
            ref = version.ref
            found.append((version, workspace.folder(ref.kind, ref.name, ref.version or 0)))
    return found


def _show(workspace: Workspace, version: Version[Facts], where: Path) -> None:
    for file in version.files:
        path = path_inside(where, file.path, version.ref)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            workspace.store.link(file.sha256, path)
    recorded = _held_md5(version)
    if recorded is None:
        return
    held = folders.track(workspace.root, where, version.files)
    if held.md5 != recorded:
        raise Damaged(
            str(version.ref),
            found=f"DVC's {held.md5}",
            expected=recorded,
            next="dump it again",
        )


def _held_md5(version: Version[Facts]) -> str | None:
    facts = version.facts
    return facts.dvc.md5 if isinstance(facts, Held) and facts.dvc else None


def _dvc_file(where: Path) -> Path:
    return where.with_name(f"{where.name}.dvc")
