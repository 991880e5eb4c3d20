"""Take a folder in as one fixed version, hold it with DVC, and read it back unchanged.

In:  a file or folder anywhere.
Out: WORKSPACE/kind/NAME/VERSION, its .dvc file, and path, bytes and SHA-256 of every file.
DVC carries and caches (MD5 is its address); trust rests on the SHA-256 in the catalogue.
"""

import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

# Any: what DVC hands to its own progress bars.
from typing import Any

from dvc.repo import Repo
from dvc_data.hashfile._progress import QueryingProgress

from btx_core import texts
from btx_core.corpus_files import Reading
from btx_core.files import path_inside
from btx_core.texts import TextFolder
from pipelines.workspace import dvc_cache
from pipelines.workspace.bars import bar
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.orders import FolderOrder
from pipelines.workspace.workspace import Workspace, unfinished_mark
from registry.catalogue.checks import leads_out
from registry.digest import sha256_file, tensor_digests
from registry.errors import Damaged, Invalid, NotFound
from registry.records.facts import BuildFacts, DataFacts, DvcFolder, Facts, Held, TextReading
from registry.records.kinds import HeldOutRule
from registry.records.version import FileFact, Version, content_digest
from registry.urls import from_environment, in_words, without_secrets

# What DVC skips, or takes for its own, wherever it lies.
NOT_HELD = frozenset({".git", ".hg", ".dvc", ".dvcignore", "dvc.yaml", "dvc.lock"})
# DVC's progress bars format the path of the cache, in which a brace would name a value.
_start_bar: Callable[..., None] = QueryingProgress.__init__


def _start_bar_anywhere(
    self: QueryingProgress,
    iterable: Any = None,
    total: int | None = None,
    name: str | None = None,
    phase: str = "Querying",
) -> None:
    plain = name.replace("{", "{{").replace("}", "}}") if name else name
    _start_bar(self, iterable, total, plain, phase)


QueryingProgress.__init__ = _start_bar_anywhere  # type: ignore[method-assign]

# How a data version is divided, by what its row says.
RULES: Mapping[HeldOutRule | None, texts.HeldOutRule] = {
    None: "files",
    HeldOutRule.FILES: "files",
    HeldOutRule.DOCUMENTS: "documents",
    HeldOutRule.ALL: "all",
}
# Where token files are kept, for every stage and job.
TOKENS = Path("work/tokens")
# Hashing more bytes than this is worth a progress bar.
LONG = 1 << 30


def require_there(source: Path) -> None:
    """Raise NotFound where there is neither a file nor a folder."""
    if not source.exists():
        raise NotFound(
            str(source), found="nothing there", expected="a file or folder", next="check the path"
        )


@contextmanager
def incoming(
    source: Path | str, target: Path, *, taken: Mapping[str, Path] | None = None
) -> Iterator[Path]:
    """Copy `source` beside `target` and yield the copy.

    What DVC would not hold is left out, and said on stderr. A copy that was not accepted is gone
    when the context ends.

    Args:
        source: a file or folder here, or a URL that DVC can fetch: https, s3, gs, ssh and so on;
            with a secret in it, or `${NAME}` where the environment holds one.
        target: the version's folder.
        taken: the files to copy, by their path in the copy; None: everything.

    Raises:
        NotFound: for a missing source.
        Invalid: for an empty source, or one with a link that leaves it or a name that is no text;
            then nothing was copied.
    """
    if isinstance(source, Path):
        require_there(source)
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


@contextmanager
def placed(root: Path, copy: Path, target: Path, files: Sequence[FileFact]) -> Iterator[DvcFolder]:
    """Make the copy the version's folder, held by DVC, while its row is written.

    When the block raises, or DVC cannot hold the folder, neither it nor its .dvc file stays. What
    an attempt left there that was killed before its row was written is replaced.

    Args:
        root: the workspace.
        copy: what `incoming` yielded.
        target: the version's folder; nobody else's, as `Workspace.next_number` finds out.
        files: what it holds.

    Yields:
        What DVC holds.
    """
    mark = unfinished_mark(root, target)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        shutil.rmtree(target, ignore_errors=True)
        copy.rename(target)
        yield track(root, target, files)
    except BaseException:
        forget(root, target)
        mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


def forget(root: Path, target: Path) -> None:
    """Remove a version's folder, its .dvc file, and its line among what git leaves alone."""
    shutil.rmtree(target, ignore_errors=True)
    target.with_name(f"{target.name}.dvc").unlink(missing_ok=True)
    ignore = target.parent / ".gitignore"
    if ignore.is_file():
        lines = ignore.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line != f"/{target.name}"]
        if kept:
            ignore.write_text("\n".join(kept) + "\n", encoding="utf-8")
        else:
            ignore.unlink()
    with suppress(OSError):
        # Where nothing else of this name is registered.
        target.parent.rmdir()


def manifest(folder: Path) -> list[FileFact]:
    """Return every file below `folder`, in the order of their paths."""
    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=Path.as_posix)
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


def track(root: Path, folder: Path, files: Sequence[FileFact]) -> DvcFolder:
    """Put a folder under DVC, and make its files links into DVC's cache.

    Args:
        root: the workspace.
        folder: the folder.
        files: what it holds.

    Raises:
        Invalid: when DVC cannot hold the folder, or would not hold exactly these files.
    """
    relative = str(folder.relative_to(root))
    expected = "a folder that DVC can hold"
    with dvc_cache.opened(root, subject=relative, expected=expected) as repo:
        # Absolute: DVC reads a relative path from the current folder. It looks for ${...} in the
        # whole path, and a workspace may lie anywhere.
        (stage,) = repo.add([str(folder)])
        repo.checkout([f"{folder}.dvc"], relink=True, force=True)
        held = stage.outs[0].hash_info.value
        _require_same(repo, held, relative, files)
        return DvcFolder(path=relative, md5=held)


def _require_same(repo: Repo, md5: str, subject: str, files: Sequence[FileFact]) -> None:
    """Compare what DVC holds of a folder with the files: another machine gets no more than that."""
    objects = Path(repo.cache.local_cache_dir) / dvc_cache.OBJECTS
    held = set(dvc_cache.listed(objects, md5))
    different = sorted(held ^ {file.path for file in files})
    if different:
        raise Invalid(
            f"{subject}, {different[0]}",
            found="held by DVC" if different[0] in held else "not held by DVC",
            expected="exactly the registered files in DVC's cache",
            next="remove the file from the folder, or rename it, and run the command again",
        )


def collect(root: Path) -> None:
    """Delete from DVC's cache what no .dvc file and no stage of the workspace names."""
    with dvc_cache.opened(root, expected="a cache that DVC can clean") as repo:
        repo.gc(workspace=True)


def verify(folder: Path, files: Sequence[FileFact], subject: str) -> None:
    """Check that `folder` holds exactly `files`.

    Raises:
        NotFound: when it is not on this disk.
        Damaged: naming the first file that differs.
    """
    require_here(folder, subject)
    advice = "btx repair"
    if folder.is_symlink():
        raise Damaged(
            f"{subject}, {folder}",
            found=f"a link to {folder.readlink()}",
            expected="the folder itself",
            next=advice,
        )
    require_plain(folder, subject)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {file.path: file.sha256 for file in files}
    for path in sorted(found ^ set(expected)):
        state = "not registered" if path in found else "missing"
        raise Damaged(
            f"{subject}, {path}", found=state, expected="the registered files", next=advice
        )
    for path in expected:
        if leads_out(folder / path):
            raise Damaged(
                f"{subject}, {path}",
                found=f"a link to {(folder / path).readlink()}",
                expected="the file itself",
                next=advice,
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


def require_plain(folder: Path, subject: str) -> None:
    """Raise Damaged for a pipe, socket or device in a folder: DVC and loaders would wait for it."""
    for path in folder.rglob("*"):
        if not (path.is_file() or path.is_dir() or path.is_symlink()):
            raise Damaged(
                f"{subject}, {path}",
                found="no file and no folder",
                expected="the registered files",
                next=f"remove {path}",
            )


def require_here(folder: Path, subject: str) -> Path:
    """Return the folder of a version. Raises NotFound where it is not on this disk."""
    if folder.is_dir():
        return folder
    pointer = shlex.quote(f"{folder}.dvc")
    raise NotFound(
        subject,
        found="not on this disk",
        expected=f"the folder {folder}",
        next=f"dvc pull {pointer} (after git pull, where that file is missing too)",
    )


def verify_here(workspace: Workspace, version: Version[Facts]) -> None:
    """Check the files of a version where its folder is on this machine; elsewhere it may not be.

    Raises:
        Damaged: naming the first file that differs.
    """
    folder = workspace.folder(version.ref)
    if isinstance(version.facts, Held) and folder.is_dir():
        verify(folder, version.files, str(version.ref))


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


def order_of(root: Path, version: Version[Facts]) -> FolderOrder:
    """Return the order that names a version's folder, proven to hold its registered bytes."""
    data = version.facts if isinstance(version.facts, DataFacts) else None
    order = FolderOrder(
        ref=str(version.ref),
        path=opened(root, version).relative_to(root).as_posix(),
        digest=content_digest(version.files),
        held_out=data.held_out if data else None,
    )
    # Left out where no row says it, so that orders of before stay as they are.
    reading = data.reading if data else None
    return order if reading is None else order.model_copy(update={"reading": reading})


def opened_text(root: Path, version: Version[DataFacts]) -> TextFolder:
    """Return the text of a data version, its folder proven to hold its registered bytes."""
    how = HowRead(version.facts.held_out, version.facts.reading)
    return text_folder(opened(root, version), how, root / TOKENS)


@dataclass(frozen=True)
class HowRead:
    """How a data version's row says that its text is read.

    Attributes:
        held_out: the rule by which it is divided.
        reading: how its files are read; None: as before there was a choice.
    """

    held_out: HeldOutRule | None
    reading: TextReading | None

    @property
    def of_files(self) -> Reading:
        """How its files are read."""
        if self.reading is None:
            return Reading(older=True)
        return Reading(self.reading.text_field, whole=bool(self.reading.whole))


def text_as_stated(path: Path, facts: DataFacts) -> TextFolder:
    """Return a folder as the text that these facts say it is; no token files are kept of it."""
    return text_folder(path, HowRead(facts.held_out, facts.reading), None)


def text_folder(path: Path, how: HowRead, tokens: Path | None) -> TextFolder:
    """Return a data version's folder as text.

    Args:
        path: the folder.
        how: what its row says.
        tokens: where token files are kept; None: nowhere.
    """
    return TextFolder(path, RULES[how.held_out], tokens, how.of_files)


def _copy_files(taken: Mapping[str, Path], target: Path) -> None:
    for name, path in taken.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


@dataclass(frozen=True)
class _Contents:
    """What is taken in of a folder: its files by their paths in it, and what is left out."""

    files: Mapping[str, Path]
    left_out: Sequence[str]


def _copy(source: Path, target: Path) -> None:
    """Copy with the links resolved; refused before a byte is copied."""
    contents = _contents(source)
    _copy_files(contents.files, target)
    target.mkdir(parents=True, exist_ok=True)
    _say_left_out(source, contents.left_out)


def _contents(source: Path) -> _Contents:
    """List what is to be copied.

    Raises:
        Invalid: for a link that leads outside the folder, since its target is not what was named,
            or to nothing, and for a name that is no text.
    """
    if not source.is_dir():
        if not source.is_file():
            raise _refused(source, "no file or folder", "a file or folder", "name one")
        if source.name in NOT_HELD or source.suffix == ".dvc":
            advice = f"dvc pull {source}, and name what that brings"
            raise _refused(source, "a file of DVC or git, which holds no text", "text", advice)
        return _Contents({source.name: source}, ())
    files: dict[str, Path] = {}
    left_out: list[str] = []
    allowed = _link_targets(source)
    for folder, names, file_names in os.walk(source, onerror=_raise):
        here = Path(folder)
        for name in sorted(names):
            path = here / name
            _require_text(path)
            if path.is_symlink():
                _require_inside(path, allowed)
            if name in NOT_HELD or path.is_symlink():
                left_out.append(path.relative_to(source).as_posix())
        names[:] = sorted(name for name in names if name not in NOT_HELD)
        for name in sorted(file_names):
            path = here / name
            _require_text(path)
            if path.is_symlink():
                _require_inside(path, allowed)
            relative = path.relative_to(source).as_posix()
            if name in NOT_HELD or name.endswith(".dvc") or not path.is_file():
                left_out.append(relative)
            else:
                files[relative] = path
    return _Contents(dict(sorted(files.items())), left_out)


def _raise(error: OSError) -> None:
    """Raise what keeps a folder from being listed, which os.walk would pass over."""
    raise error


def _link_targets(source: Path) -> Sequence[Path]:
    """Return where links in a folder may lead.

    That is the folder itself; and of a snapshot in Hugging Face's cache, models--X/snapshots/Y, its
    files in models--X/blobs.
    """
    root = source.resolve()
    if root.parent.name == "snapshots":
        return (root, root.parents[1] / "blobs")
    return (root,)


def _require_inside(path: Path, allowed: Sequence[Path]) -> None:
    if not any(path.resolve().is_relative_to(root) for root in allowed):
        advice = "copy the file in, or remove the link"
        raise _refused(path, f"a link to {os.readlink(path)}", "files inside the folder", advice)
    if not path.exists():
        found = f"a link to {os.readlink(path)}, where nothing is"
        raise _refused(path, found, "files inside the folder", "remove the link")


def _require_text(path: Path) -> None:
    """Refuse a name that is no UTF-8, which neither DVC nor a row can hold."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        advice = "rename the file"
        raise _refused(
            ascii(str(path)), "a name that is no UTF-8", "a name in UTF-8", advice
        ) from None


def _refused(subject: object, found: str, expected: str, advice: str) -> Invalid:
    return Invalid(str(subject), found=found, expected=expected, next=advice)


def _say_left_out(source: Path | str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        remark(f"left out of {source}, since DVC holds no such files: {shown}")


def _leave_out(folder: Path, source: str) -> None:
    """Remove from a folder that was fetched what DVC would not hold."""
    left_out = _contents(folder).left_out
    for name in left_out:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    _say_left_out(source, left_out)


def _fetch(url: str, target: Path) -> None:
    target.mkdir(parents=True)
    address = from_environment(url)
    name = without_secrets(url).rstrip("/").rsplit("/", 1)[-1] or "content"
    try:
        Repo.get_url(address, str(target / name))
    except Exception as error:  # every transport has errors of its own
        # DVC says which package of its own it wants; only one of them is an extra here.
        wants_s3 = "dvc-s3" in str(error)
        raise NotFound(
            without_secrets(url),
            found=in_words(error, address)[:300],
            expected="a file or folder that DVC can fetch",
            next="pip install 'btx-registry[s3]'" if wants_s3 else "dvc get-url URL tries the same",
        ) from None
    _leave_out(target, without_secrets(url))
