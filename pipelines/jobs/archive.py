"""Carry the registry out as plain files and in again; back it up; remove what no version needs.

The form of the rows is the catalogue's. Here the objects get their folders and DVC files back.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from btx_core.files import path_inside
from pipelines.workspace import dvc_cache, folders
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.workspace import Workspace
from registry.catalogue import dump as plain_files
from registry.catalogue import ledger, tombstones
from registry.catalogue.catalog import Catalog
from registry.errors import Conflict, Damaged, NotFound
from registry.governance import private_words
from registry.records.answers.upkeep import CollectAnswer, DumpAnswer, LoadAnswer, RestoreAnswer
from registry.records.answers.withdrawing import ShreddedAnswer
from registry.records.events import Contested, Erased, ErasureAsked
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    Facts,
    Held,
    SeedFacts,
)
from registry.records.version import Version
from registry.urls import without_secrets

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
    erased = tombstones.every_file(workspace.catalog.tombstones())
    return DumpAnswer(folder=str(target), erased=len(erased), **written.to_json())


def load(workspace: Workspace, folder: Path) -> LoadAnswer:
    """Fill this new, empty workspace with what `dump` wrote.

    Every version's folder is there again, under DVC where it was so before.

    Raises:
        Conflict: when the registry holds something already.
        Damaged: for a row or file that is not what was dumped.
    """
    with workspace.writing(f"registry load {folder}"):
        about = plain_files.load(folder.resolve(), workspace.catalog_to_fill, workspace.store)
        for version, where in _whole_versions(workspace):
            _show(workspace, version, where)
    return LoadAnswer(**about.to_json())


def backup(workspace: Workspace, folder: Path) -> DumpAnswer:
    """Write rows and log of one moment into the new `folder`; the registry may be in use.

    The bytes are left to `dvc push`, and to copies of the store.

    Raises:
        Conflict: when the folder exists.
        Damaged: for rows that are not what was registered.
    """
    target = folder.resolve()
    written = plain_files.dump(workspace.catalog, None, target)
    erased = tombstones.every_file(workspace.catalog.tombstones())
    return DumpAnswer(folder=str(target), erased=len(erased), **written.to_json())


def restore(workspace: Workspace, folder: Path) -> RestoreAnswer:
    """Fill this workspace's empty registry with what `backup` wrote; no folder is touched.

    Returns:
        What was read, and the folders here that are newer than the backup: their numbers are not
        given again.

    Raises:
        Conflict: when the registry holds something already.
        Damaged: for a row that is not what was written.
    """
    with workspace.writing(f"registry restore {folder}"):
        about = plain_files.load(folder.resolve(), workspace.catalog_to_fill, workspace.store)
    return RestoreAnswer(newer=_without_rows(workspace), **about.to_json())


def read_ledger(workspace: Workspace, head: str | None = None) -> RestoreAnswer:
    """Bring this workspace's registry the events of its ledger that it lacks.

    Args:
        workspace: whose registry it is; empty, or behind the ledger.
        head: of a fork, the start of the digest of the newest event that is kept. A registry of the
            other side is set aside first, as a file beside it.

    Returns:
        What was read; the folders here that no row names; and what the other side of a fork had
        registered.

    Raises:
        NotFound: for a ledger without events.
        Conflict: for a fork without a head, and a registry of the other side on a server.
        Damaged: for a file that is not what was written.
    """
    with workspace.writing("registry restore"):
        catalog = workspace.catalog_to_fill
        if head is not None and ledger.has_other(workspace.ledger, catalog, head):
            _set_aside(workspace, catalog)
        about = ledger.restore(workspace.ledger, catalog, head)
    return RestoreAnswer(
        format=plain_files.FORMAT,
        head=about.head,
        rows=about.rows,
        newer=_without_rows(workspace),
        again=about.again,
        acts=about.acts,
    )


def _set_aside(workspace: Workspace, catalog: Catalog) -> None:
    """Rename the workspace's own database, so that another takes its place."""
    path = workspace.own_registry
    if path is None:
        raise Conflict(
            without_secrets(workspace.registry_url),
            found="the other side of the fork, in a registry that others may share",
            expected="a registry in this workspace, or an empty one",
            next="keep the side of this registry, or name another: export BTX_REGISTRY_URL=...",
        )
    aside = path.with_name(f"{path.stem}-{catalog.head()[:12]}{path.suffix}")
    catalog.close()
    # With what a reader elsewhere may keep SQLite from folding into the file.
    for end in ("-wal", "-shm", ""):
        if path.with_name(path.name + end).exists():
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    remark(f"the registry of the other side is kept as {aside}")
    catalog.database.migrate()


def _without_rows(workspace: Workspace) -> tuple[str, ...]:
    """Return the folders of versions that lie here and that no row names."""
    known = {where for _, where in _versions(workspace)}
    held = [(workspace.root / name).with_suffix("") for name in workspace.held_here()]
    return tuple(path.relative_to(workspace.root).as_posix() for path in held if path not in known)


def shred(workspace: Workspace, number: int) -> ShreddedAnswer:
    """Forget the words behind an event, such as why an erasure was asked for.

    Raises:
        NotFound: for an event without such words, and where they are not kept on this machine.
    """
    for event in workspace.catalog.events():
        if event.seq == number and isinstance(event.body, ErasureAsked | Erased | Contested):
            private_words.shred(workspace.private, event.body.private)
            return ShreddedAnswer(number=number, ref=event.subject, digest=event.body.private)
    raise NotFound(
        f"event {number}",
        found="no words outside the log",
        expected="an erasure that was asked for, or a withdrawal that was contested",
        next="btx serve shows the log with its numbers",
    )


def collect(
    workspace: Workspace, *, dry_run: bool = False, grace_s: float = 3600.0
) -> CollectAnswer:
    """Delete stored objects that no version needs, then let DVC do the same with its cache.

    What withdrawn versions hold is needed too, what was erased is not, and what other machines hold
    is left to them. DVC
    keeps what a .dvc file names: one that was lost is written again first. A store or cache outside
    the workspace may serve other workspaces, which nobody here knows: it is left as it is.

    Args:
        workspace: whose store is swept.
        dry_run: only say what would be deleted.
        grace_s: seconds for which an object that nothing needs is left alone.
    """
    with workspace.writing("registry gc"):
        lost = _lost(workspace)
        restored = tuple(str(version.ref) for version, _ in lost)
        store, skipped = workspace.store, []
        if not store.root.resolve().is_relative_to(workspace.root):
            skipped.append(_shared("the store", store.root.resolve()))
        if skipped:
            deleted: tuple[str, ...] = ()
        elif dry_run:
            deleted = tuple(store.unneeded(_needed(workspace), grace_s=grace_s))
        else:
            for version, where in lost:
                if not where.is_dir():
                    _show(workspace, version, where)
                folders.verify(where, version.files, str(version.ref))
                folders.track(workspace.root, where, version.files)
            deleted = tuple(store.sweep(lambda: _needed(workspace), grace_s=grace_s))
        reason = _why_not_dvc(workspace, restored)
        if reason:
            skipped.append(reason)
        elif not dry_run:
            folders.collect(workspace.root)
    return CollectAnswer(deleted=deleted, restored=restored, skipped=tuple(skipped))


def _lost(workspace: Workspace) -> list[tuple[Version[Facts], Path]]:
    """Return the versions whose bytes are here and whose .dvc file is not."""
    lost = []
    for version, where in _whole_versions(workspace):
        if _dvc_file(where).is_file() or _held_md5(version) is None:
            continue
        if where.is_dir() or all(workspace.store.has(file.sha256) for file in version.files):
            lost.append((version, where))
    return lost


def _why_not_dvc(workspace: Workspace, restored: Sequence[str]) -> str | None:
    """Say why DVC's cache is left as it is; None where it may be cleaned.

    Args:
        workspace: whose cache it is.
        restored: the versions whose .dvc files are written again, or would be.
    """
    objects = dvc_cache.objects_folder(workspace.root)
    if not objects.resolve().is_relative_to(workspace.root):
        return _shared("DVC's cache", objects)
    for version, where in _whole_versions(workspace):
        md5 = _held_md5(version)
        if md5 is None or str(version.ref) in restored:
            continue
        listing = dvc_cache.object_path(objects, md5)
        if _dvc_file(where).is_file() and not listing.is_file():
            pointer = shlex.quote(str(_dvc_file(where)))
            return (
                f"DVC's cache lacks {version.ref}, so DVC cannot tell what it needs: "
                f"dvc pull {pointer}, or dvc commit --force {pointer}"
            )
        if not _dvc_file(where).is_file() and listing.is_file():
            return (
                f"DVC's cache holds {version.ref}, which no .dvc file here names: "
                "git pull brings that file"
            )
    return None


def _shared(what: str, where: Path) -> str:
    return f"{what} lies outside the workspace, in {where}: others may need what it holds"


def _needed(workspace: Workspace) -> set[str]:
    """Return what the rows name, and what a mix before tuning wrote: the next mix links it."""
    needed = set(workspace.catalog.needed().sha256)
    for build in workspace.catalog.versions(BuildFacts):
        needed.update(file.sha256 for file in build.facts.mixed)
    return needed


def _versions(workspace: Workspace) -> list[tuple[Version[Facts], Path]]:
    """Return every version that has a folder, with that folder."""
    return [
        (version, workspace.folder(version.ref))
        for kind in IN_FOLDERS
        for version in workspace.catalog.versions(kind)
    ]


def _whole_versions(workspace: Workspace) -> list[tuple[Version[Facts], Path]]:
    """Return every version that has a folder and of which nothing was erased."""
    erased = workspace.catalog.tombstones()
    return [one for one in _versions(workspace) if str(one[0].ref) not in erased]


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
