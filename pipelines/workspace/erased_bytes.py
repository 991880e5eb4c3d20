"""Delete the bytes of erased files wherever this workspace keeps them.

In:  the parts of data versions that are erased, by digests.
Out: the files are gone from their folders, DVC's cache and remotes, the store, the token files and
what trainings left in work/; which remotes could not be reached.
Files of equal bytes anywhere else below the workspace go too, such as the source of a corpus. Where
nobody here can look (clones, backups, dumps) is left to people.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

# Any: DVC's object databases have no types.
from typing import Any

from dvc.repo import Repo

from pipelines.workspace import dvc_cache, folders, orders
from pipelines.workspace.workspace import Workspace
from registry.digest import sha256_file
from registry.errors import Damaged
from registry.records.events import ErasedPart
from registry.records.facts import DataFacts
from registry.records.version import Version

logger = logging.getLogger(__name__)

# Weights are never text: what is in these folders is registered by other digests.
NOT_SWEPT = ("seeds", "experts", "builds", ".git")


def md5s(workspace: Workspace, version: Version[DataFacts]) -> dict[str, str]:
    """Return what DVC addresses the files of a data version by, as far as it is known here."""
    folder, held = _folder(workspace, str(version.ref)), version.facts.dvc
    objects = dvc_cache.objects_folder(workspace.root)
    known = dvc_cache.listed(objects, held.md5 if held else None)
    for file in version.files:
        path = folder / file.path
        if file.path not in known and path.is_file():
            with path.open("rb") as stream:
                known[file.path] = hashlib.file_digest(stream, "md5").hexdigest()
    return known


def unreached(workspace: Workspace) -> tuple[str, ...]:
    """Return the remotes of DVC that cannot be reached from here, with the reason."""
    reasons = []
    with dvc_cache.opened(workspace.root) as repo:
        for name in repo.config["remote"]:
            try:
                _exists(repo, name, "00")
            # DVC's file systems have no common base of errors.
            except Exception as error:
                reasons.append(f"remote {name}: {type(error).__name__}: {error}"[:200])
    return tuple(reasons)


def still_here(workspace: Workspace, part: ErasedPart) -> list[Path]:
    """Return where files of an erased part still lie, by their names: folder, store and cache."""
    folder, objects = _folder(workspace, part.ref), dvc_cache.objects_folder(workspace.root)
    needed = workspace.catalog.needed().sha256
    found = []
    for file in part.files:
        paths = [folder / file.path]
        if file.sha256 not in needed:
            paths.append(workspace.store.path(file.sha256))
        if file.md5:
            paths.append(dvc_cache.object_path(objects, file.md5))
        found += [path for path in paths if path.is_file()]
    return found


def remove(workspace: Workspace, parts: Sequence[ErasedPart]) -> None:
    """Delete the bytes of these parts; what is gone already is passed over.

    The caller holds the write lock.

    Raises:
        Damaged: for a file that is still there afterwards.
    """
    erased = {file.sha256: file.bytes for part in parts for file in part.files}
    for part in parts:
        _remove_visible(workspace, part)
    addresses = set(_addresses(workspace, parts))
    objects = dvc_cache.objects_folder(workspace.root)
    for md5 in addresses:
        dvc_cache.object_path(objects, md5).unlink(missing_ok=True)
    _remove_remote(workspace, addresses)
    needed = workspace.catalog.needed().sha256
    for sha256 in erased.keys() - needed:
        workspace.store.path(sha256).unlink(missing_ok=True)
    _remove_work(workspace, {part.ref for part in parts})
    for path in _equal_files(workspace, erased):
        path.unlink()
    for path in _equal_files(workspace, erased):
        raise Damaged(
            str(path),
            found="the bytes of a file that is erased",
            expected="nothing",
            next="see what writes it, and run the command again",
        )


def _remove_visible(workspace: Workspace, part: ErasedPart) -> None:
    """Delete the files of a version from its folder, and the .dvc file that would bring them."""
    folder = _folder(workspace, part.ref)
    if part.whole:
        folders.forget(workspace.root, folder)
        return
    for file in part.files:
        (folder / file.path).unlink(missing_ok=True)
    # Its line in .gitignore stays: git must not take the rest in.
    folder.with_name(f"{folder.name}.dvc").unlink(missing_ok=True)


def _addresses(workspace: Workspace, parts: Sequence[ErasedPart]) -> Iterator[str]:
    """Yield the MD5 of every file that goes, and of the listings that name them."""
    for part in parts:
        yield from (file.md5 for file in part.files if file.md5)
        held = workspace.catalog.get(part.ref, DataFacts).facts.dvc
        if held and held.md5:
            yield held.md5


def _remove_remote(workspace: Workspace, addresses: Iterable[str]) -> None:
    with dvc_cache.opened(workspace.root) as repo:
        for name in repo.config["remote"]:
            try:
                for md5 in addresses:
                    _remove_object(repo, name, md5)
            # DVC's file systems have no common base of errors; `unreached` names the remote.
            except Exception as error:
                logger.warning("nothing erased in remote %s: %s", name, error)


def _remove_object(repo: Repo, remote: str, md5: str) -> None:
    if _exists(repo, remote, md5):
        database = _database(repo, remote)
        database.fs.remove(database.oid_to_path(md5))


def _exists(repo: Repo, remote: str, md5: str) -> bool:
    database = _database(repo, remote)
    return bool(database.fs.exists(database.oid_to_path(md5)))


def _database(repo: Repo, remote: str) -> Any:
    return repo.cloud.get_remote_odb(name=remote)


def _remove_work(workspace: Workspace, refs: set[str]) -> None:
    """Delete token files, which are written again when they are needed, and unfinished trainings.

    Trained branches and mixtures of what is erased go too: their checkpoints are no versions.
    """
    shutil.rmtree(workspace.root / folders.TOKENS, ignore_errors=True)
    branches = workspace.work / "branches"
    if (workspace.root / orders.BRANCHES).is_file():
        for name, order in orders.read_branches(workspace.root).items():
            if refs & {order.data.ref, *(one.ref for one in order.general)}:
                _remove_run(branches / name)
    if not (workspace.root / orders.SNAPSHOT).is_file():
        return
    build = orders.read_build(workspace.root)
    if refs & {*build.domains, *(one.ref for one in (*build.general, *build.evaluation))}:
        for name in ("mixed", "tuned", "previous"):
            _remove_run(workspace.work / name)


def _remove_run(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for hidden in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(hidden, ignore_errors=True)


def _equal_files(workspace: Workspace, erased: Mapping[str, int]) -> Iterator[Path]:
    """Yield the files below the workspace that have the bytes of an erased one."""
    sizes = set(erased.values())
    for top in sorted(workspace.root.iterdir()):
        if top.name in NOT_SWEPT:
            continue
        for path in [top, *top.rglob("*")]:
            is_file = path.is_file() and not path.is_symlink()
            if is_file and path.stat().st_size in sizes and sha256_file(path) in erased:
                yield path


def _folder(workspace: Workspace, ref: str) -> Path:
    return workspace.folder(workspace.catalog.get(ref).ref)
