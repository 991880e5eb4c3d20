"""Take a folder in as one fixed version, hold it with DVC, and read it back unchanged.

In:  a file or folder anywhere.
Out: WORKSPACE/kind/NAME/VERSION, its .dvc file, and path, bytes and SHA-256 of every file.
DVC carries and caches (MD5 is its address); trust rests on the SHA-256 in the catalogue.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from btx_core.files import path_inside
from pipelines.workspace.bars import bar
from registry.digest import digest, sha256_file, tensor_digests
from registry.errors import Damaged, Invalid, NotFound
from registry.records.facts import BuildFacts, DvcFolder, Facts, Held
from registry.records.version import FileFact, Version
from registry.urls import from_environment, in_words, without_secrets

# Hashing more bytes than this is worth a progress bar.
LONG = 1 << 30

# DVC would say what it does on stdout, which is for answers alone.
logging.getLogger("dvc").setLevel(logging.WARNING)


@contextmanager
def incoming(
    source: Path | str, target: Path, *, taken: Mapping[str, Path] | None = None
) -> Iterator[Path]:
    """Copy `source` beside `target` and yield the copy.

    A copy that was not accepted is gone when the context ends.

    Args:
        source: a file or folder here, or a URL that DVC can fetch: https, s3, gs, ssh and so on;
            with a secret in it, or `${NAME}` where the environment holds one.
        target: the version's folder.
        taken: the files to copy, by their path in the copy; None: everything.

    Raises:
        NotFound: for a missing source.
        Invalid: for an empty source, or one with a link that leaves it.
    """
    if isinstance(source, Path) and not source.exists():
        raise NotFound(
            str(source), found="nothing there", expected="a file or folder", next="check the path"
        )
    copy = target.with_name(f".{target.name}.incoming")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        if taken is not None:
            _copy_files(taken, copy)
        elif isinstance(source, Path):
            _copy(source, copy)
        else:
            _fetch(source, copy)
        if not any(path.is_file() for path in copy.rglob("*")):
            raise Invalid(
                str(source),
                found="no file",
                expected="at least one file",
                next="name a folder that holds the files",
            )
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        if target.parent.is_dir() and not any(target.parent.iterdir()):
            target.parent.rmdir()


def accept(copy: Path, target: Path) -> None:
    """Make the copy the version's folder.

    What an attempt left there that died before its row was written is replaced.
    """
    shutil.rmtree(target, ignore_errors=True)
    copy.rename(target)


def manifest(folder: Path) -> list[FileFact]:
    """Return every file below `folder`, in the order of their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        FileFact(path.relative_to(folder).as_posix(), path.stat().st_size, sha256)
        for path, sha256 in zip(paths, sha256_files(paths), strict=True)
    ]


def sha256_files(paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of every file, in their order.

    As many are hashed at once as there are cores, since hashing releases the interpreter lock. A
    progress bar is shown where it takes more than a moment.
    """
    files = list(paths)
    sizes = [path.stat().st_size for path in files]
    total, done = sum(sizes), 0
    digests = []
    shown = bar("hash, MB") if total > LONG else nullcontext(lambda done, total, text: None)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, shown as progress:
        for size, sha256 in zip(sizes, pool.map(sha256_file, files), strict=True):
            digests.append(sha256)
            done += size
            progress(done >> 20, total >> 20, "")
    return digests


def tensors(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every tensor in the folder's own weight files, by name.

    With them an audit can name what a flipped byte belongs to.
    """
    files = sorted(folder.glob("*.safetensors"))
    digests: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for read in pool.map(tensor_digests, files):
            digests |= {name: tensor.sha256 for name, tensor in read.items()}
    return digests


def files_digest(files: Sequence[FileFact]) -> str:
    """Return one digest for a folder's content: its paths and their SHA-256."""
    return digest([[file.path, file.sha256] for file in files])


def track(root: Path, folder: Path) -> DvcFolder:
    """Put a folder under DVC, and make its files links into DVC's cache."""
    relative = str(folder.relative_to(root))
    try:
        with Repo(str(root)) as repo:
            # Absolute: DVC reads a relative path from the current folder.
            (stage,) = repo.add([str(folder)])
            repo.checkout([f"{folder}.dvc"], relink=True, force=True)
            return DvcFolder(path=relative, md5=stage.outs[0].hash_info.value)
    except DvcException as error:
        raise Invalid(
            relative,
            found=str(error),
            expected="a folder that DVC can hold",
            next="fix what DVC names",
        ) from error


def collect(root: Path) -> None:
    """Delete from DVC's cache what no .dvc file and no stage of the workspace names."""
    try:
        with Repo(str(root)) as repo:
            repo.gc(workspace=True)
    except DvcException as error:
        raise Invalid(
            str(root),
            found=str(error),
            expected="a cache that DVC can clean",
            next="fix what DVC names",
        ) from error


def verify(folder: Path, files: Sequence[FileFact], subject: str) -> None:
    """Check that `folder` holds exactly `files`.

    Raises:
        Damaged: naming the first file that differs.
    """
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {file.path: file.sha256 for file in files}
    advice = f"dvc checkout --force {folder}.dvc"
    for path in sorted(found ^ set(expected)):
        state = "not registered" if path in found else "missing"
        raise Damaged(
            f"{subject}, {path}", found=state, expected="the registered files", next=advice
        )
    digests = sha256_files(folder / path for path in expected)
    for (path, registered), now in zip(expected.items(), digests, strict=True):
        if now != registered:
            raise Damaged(
                f"{subject}, {path}",
                found=f"sha256 {now}",
                expected=f"sha256 {registered}",
                next=advice,
            )


def build_folder(root: Path, build: Version[BuildFacts]) -> Path:
    """Return the folder of a build. Raises Invalid where its row names none."""
    if not build.facts.folder:
        raise Invalid(
            str(build.ref),
            found="no folder",
            expected="a build that names its folder",
            next=f"btx show {build.ref}",
        )
    return path_inside(root, build.facts.folder, build.ref)


def folder_of(root: Path, version: Version[Facts]) -> Path:
    """Return the folder that DVC holds for a registered version.

    Raises:
        Invalid: for a version that has no such folder.
    """
    facts = version.facts
    held = facts.dvc if isinstance(facts, Held) else None
    if held is None:
        raise Invalid(
            str(version.ref),
            found="no folder of its own",
            expected="a version whose files DVC holds",
            next=f"btx show {version.ref}",
        )
    return path_inside(root, held.path, version.ref)


def opened(root: Path, version: Version[Facts]) -> Path:
    """Return the folder of a registered version, proven to hold its registered bytes."""
    folder = folder_of(root, version)
    verify(folder, version.files, str(version.ref))
    return folder


def _copy_files(taken: Mapping[str, Path], target: Path) -> None:
    for name, path in taken.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _copy(source: Path, target: Path) -> None:
    """Copy with the links resolved.

    A link that leads outside the folder is refused: its target is not what was named.
    """
    target.mkdir(parents=True)
    if source.is_file():
        shutil.copyfile(source, target / source.name)
        return
    root = source.resolve()
    for path in sorted(source.rglob("*")):
        if not path.resolve().is_relative_to(root):
            raise Invalid(
                str(path),
                found=f"a link to {os.readlink(path)}",
                expected="files inside the folder",
                next="copy the file in, or remove the link",
            )
        if path.is_dir():
            (target / path.relative_to(source)).mkdir(exist_ok=True)
        else:
            shutil.copyfile(path, target / path.relative_to(source))


def _fetch(url: str, target: Path) -> None:
    target.mkdir(parents=True)
    address = from_environment(url)
    name = without_secrets(url).rstrip("/").rsplit("/", 1)[-1] or "content"
    try:
        Repo.get_url(address, str(target / name))
    except Exception as error:  # every transport has errors of its own
        raise NotFound(
            without_secrets(url),
            found=in_words(error, address)[:300],
            expected="a file or folder that DVC can fetch",
            next="dvc get-url URL tries the same",
        ) from None
