"""Restore damaged and missing files from any whole copy, and prove it.

In:  a version and all that it was made from, or everything.
Out: what was restored, from where; what has no whole copy, and what must be made again for it.
Nothing is written in place: a damaged file may share its inode with many others, and each of them
gets a new one. A copy is whole when its bytes have the registered SHA-256; it is looked for in the
store, in the folders of other versions, in DVC's cache, and at last in DVC's remote.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from btx_core.files import copy_file, link_or_copy, put_in_place, temporary_path
from pipelines.workspace import dvc_cache
from pipelines.workspace.bars import Report
from pipelines.workspace.workspace import Workspace
from registry.catalogue import tombstones
from registry.catalogue.checks import leads_out
from registry.catalogue.store import READ_ONLY
from registry.digest import sha256_file
from registry.errors import Damaged, Invalid
from registry.records.answers.upkeep import LostFile, RepairAnswer, RepairedFile
from registry.records.facts import FACTS, Facts, Held
from registry.records.kinds import Kind
from registry.records.version import FileFact, Version

logger = logging.getLogger(__name__)

# Device and number.
Inode = tuple[str, int]

HELD = (Kind.DATA, Kind.SEED, Kind.EXPERT, Kind.BUILD)
STORED = (Kind.SEED, Kind.EXPERT, Kind.BUILD)
AGAIN = {
    Kind.DATA: "register it again from its source: btx data add",
    Kind.SEED: "register it again from its source: btx seed add",
    Kind.EXPERT: "train it again: btx train, then btx register",
    Kind.BUILD: "compose it again: btx rebuild --to",
}


def repair(
    workspace: Workspace, reference: str | None = None, progress: Report | None = None
) -> RepairAnswer:
    """Restore every file of a version and of its ancestors, or of everything.

    Args:
        workspace: whose folders, store and DVC cache are looked at.
        reference: the version; everything that is registered unless it is given.
        progress: called with each file.

    Returns:
        What was restored and proven, and what has no whole copy.
    """
    catalog = workspace.catalog
    if reference is not None:
        versions = [one for one in catalog.lineage(reference).nodes if one.ref.kind in HELD]
    else:
        versions = []
        for kind in HELD:
            versions += catalog.versions(FACTS[kind])
    with workspace.writing("repair"):
        objects = dvc_cache.objects_folder(workspace.root)
        work = _Repair(workspace, objects, _by_inode(objects))
        erased = tombstones.files(catalog.tombstones())
        total = sum(len(version.files) for version in versions)
        for version in versions:
            gone = erased.get(str(version.ref), frozenset())
            folder = workspace.folder(version.ref)
            if folder.is_symlink():
                # Its target may be exchanged later. Every file is restored in a folder of its own.
                folder.unlink()
            for file in version.files:
                if file.sha256 not in gone:
                    work.file(version, file)
                if progress:
                    progress(work.examined, total, str(version.ref))
    return RepairAnswer(
        subject=reference or "everything",
        examined=work.examined,
        repaired=tuple(work.repaired),
        lost=tuple(work.lost),
    )


@dataclass
class _Repair:
    """One repair that is under way.

    Attributes:
        workspace: what is repaired.
        objects: the folder of the objects of DVC's cache.
        cached: these objects by inode: they may share one with what is damaged.
        examined: how many files were looked at.
        repaired: what was restored.
        lost: what has no whole copy.
        digests: of every file that was read, by its inode.
    """

    workspace: Workspace
    objects: Path
    cached: Mapping[Inode, Sequence[Path]]
    examined: int = 0
    repaired: list[RepairedFile] = field(default_factory=list)
    lost: list[LostFile] = field(default_factory=list)
    digests: dict[Inode, str] = field(default_factory=dict)

    def file(self, version: Version[Facts], file: FileFact) -> None:
        """Look at one file wherever it should be, and restore it there."""
        self.examined += 1
        damaged = [path for path in self._paths(version, file) if not self._whole(path, file)]
        if not damaged:
            return
        good = self._good_copy(version, file)
        if good is None:
            kind = version.ref.kind
            again = f"{AGAIN[kind]} {version.ref}" if kind == Kind.BUILD else AGAIN[kind]
            for path in damaged:
                self.lost.append(LostFile(ref=str(version.ref), path=str(path), next=again))
            return
        beside = [path for one in damaged for path in self.cached.get(_inode(one), ())]
        whole: Path | None = None
        for path in dict.fromkeys([*damaged, *beside]):
            self._restore(path, whole or good, file.sha256, copy=whole is None)
            whole = whole or path
            self.repaired.append(
                RepairedFile(
                    ref=str(version.ref), path=str(path), source=str(good), sha256=file.sha256
                )
            )

    def _restore(self, path: Path, source: Path, sha256: str, *, copy: bool) -> None:
        """Put whole bytes at a path under a new inode, and prove them."""
        # Another file may get the inode of the one that goes.
        self.digests.pop(_inode(path), None)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_path(path.parent) as temporary:
            if copy:
                copy_file(source, temporary)
                temporary.chmod(READ_ONLY)
            else:
                link_or_copy(source, temporary)
            put_in_place(temporary, path, replace=True)
        now = sha256_file(path)
        if now != sha256:
            raise Damaged(
                str(path),
                found=f"sha256 {now} after it was restored",
                expected=f"sha256 {sha256}",
                next="look at the disk, then run btx repair again",
            )
        self.digests[_inode(path)] = now

    def _paths(self, version: Version[Facts], file: FileFact) -> Iterator[Path]:
        yield self.workspace.folder(version.ref) / file.path
        stored = self.workspace.store.path(file.sha256)
        if stored.exists() or version.ref.kind in STORED:
            yield stored

    def _whole(self, path: Path, file: FileFact) -> bool:
        if not path.is_file() or leads_out(path):
            return False
        inode = _inode(path)
        if inode not in self.digests:
            self.digests[inode] = sha256_file(path)
        return self.digests[inode] == file.sha256

    def _good_copy(self, version: Version[Facts], file: FileFact) -> Path | None:
        for path in self._copies(version, file):
            if self._whole(path, file):
                return path
        return None

    def _copies(self, version: Version[Facts], file: FileFact) -> Iterator[Path]:
        """Yield where a copy may be, the nearest first; the remote is asked at last."""
        workspace = self.workspace
        yield workspace.store.path(file.sha256)
        for ref, files in workspace.catalog.holders([file.sha256]).items():
            if ref.kind in HELD:
                folder = workspace.folder(ref)
                yield from (folder / one.path for one in files if one.sha256 == file.sha256)
        yield from self._in_cache(version, file)
        self._fetch(version, file)
        yield from self._in_cache(version, file)

    def _in_cache(self, version: Version[Facts], file: FileFact) -> Iterator[Path]:
        held = version.facts.dvc if isinstance(version.facts, Held) else None
        address = dvc_cache.listed(self.objects, held.md5 if held else None).get(file.path)
        if address is not None:
            yield dvc_cache.object_path(self.objects, address)

    def _fetch(self, version: Version[Facts], file: FileFact) -> None:
        """Ask DVC's remote, if there is one, after taking a damaged object out of the cache."""
        ref = version.ref
        folder = self.workspace.folder(ref)
        for path in self._in_cache(version, file):
            if path.is_file() and not self._whole(path, file):
                path.unlink()
        try:
            with dvc_cache.opened(self.workspace.root) as repo:
                repo.fetch(targets=[f"{folder}.dvc"])
        # One too where there is no remote.
        except Invalid as error:
            logger.info("nothing fetched for %s: %s", ref, error)


def _inode(path: Path) -> Inode:
    """Return what names a file's bytes on disk; of no file, what no other path has."""
    try:
        status = path.stat()
    except OSError:
        return str(path), 0
    return str(status.st_dev), status.st_ino


def _by_inode(cache: Path) -> dict[Inode, list[Path]]:
    found: dict[Inode, list[Path]] = {}
    for path in sorted(cache.glob("*/*")):
        found.setdefault(_inode(path), []).append(path)
    return found
