"""Put files in place: whole or not at all, linked rather than copied, JSON in one form.

In:  a path that a caller wants to fill.
Out: a temporary path beside it, which takes the wanted name once everything in it is on disk; and
     links, shared blocks or copies of files that exist already.
What the files hold, and what a full disk means to a person, is left to the callers. Plain Python:
the registry imports this module too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from btx_core.problems import Unsafe, WrongUsage

# The request number of Linux's ioctl that shares another file's blocks (linux/fs.h).
FICLONE = 0x40049409
COPY_BYTES = 1 << 20
# Of a path, in characters: what Linux takes.
LONGEST_PATH = 4096
# Another file system, one without links, or one that allows no more of them: copying helps.
CANNOT_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES}
)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Fill a new folder that appears under its name only when it is complete and on disk.

    When the block raises, nothing is left behind.

    Args:
        out: the folder to make; its parents are made too.

    Yields:
        An empty temporary folder beside `out`, to be filled.

    Raises:
        WrongUsage: when something exists at `out` already.
    """
    out = Path(os.path.abspath(out))
    if os.path.lexists(out):
        raise WrongUsage(
            out,
            found="something there already",
            expected="a new folder",
            next="choose another, or remove it first",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(out.parent, out.name) as temporary:
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        os.rename(temporary, out)
        fsync(out.parent)


@contextmanager
def whole_file(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Write a file that appears under its name only when it is complete and on disk.

    When the block raises, nothing is left behind and an earlier file is untouched.

    Args:
        path: the file to make; its folder must exist.
        replace: whether a file at `path` is replaced.

    Yields:
        The path of a temporary file beside `path`, to be written by the caller.

    Raises:
        FileExistsError: when something exists at `path` and `replace` is false.
    """
    with temporary_path(path.parent, path.name) as temporary:
        yield temporary
        put_in_place(temporary, path, replace=replace)


@contextmanager
def temporary_path(folder: Path, name: str = "file") -> Iterator[Path]:
    """Yield an unused hidden path in `folder`; what still lies there at the end is removed.

    Args:
        folder: where the temporary file or folder is to lie.
        name: the name that it stands for, for whoever finds it after a crash.
    """
    temporary = folder / f".{name}.partial-{uuid.uuid4().hex}"
    try:
        yield temporary
    finally:
        if temporary.is_dir() and not temporary.is_symlink():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path, *, replace: bool = False) -> None:
    """Give a finished temporary file its name, once its bytes are on disk.

    Args:
        temporary: the finished file, on the same file system as `path`.
        path: its name from now on.
        replace: whether a file at `path` is replaced.

    Raises:
        FileExistsError: when something exists at `path` and `replace` is false.
    """
    fsync(temporary)
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    os.rename(temporary, path)
    fsync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a small text file whole, in place of the one that may be there.

    A reader at any moment sees the old text or the new one.
    """
    with whole_file(path, replace=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a JSON value in the one form of this project: indented, keys sorted, UTF-8.

    The file is written where it lies; a caller that needs it whole writes it inside `whole_folder`.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> bool:
    """Make a file visible under a second name: hard link, else shared blocks, else a copy.

    A symbolic link is followed. A copy appears whole and has the source's permissions, as a link
    would.

    Args:
        source: the file that exists.
        target: the new name, in a folder that exists.

    Returns:
        Whether no data was written: the file was linked, or its blocks are shared.

    Raises:
        FileExistsError: when something exists at `target`.
    """
    source = source.resolve()
    try:
        os.link(source, target)
        return True
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
    with whole_file(target) as temporary:
        shared = copy_file(source, temporary)
        shutil.copymode(source, temporary)
    return shared


def copy_file(source: Path, target: Path) -> bool:
    """Copy a file's bytes to a new file, sharing blocks where the file system can.

    Returns:
        Whether blocks are shared, so that no data was written.

    Raises:
        FileExistsError: when something exists at `target`.
    """
    with source.open("rb") as reading, target.open("xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
            return True
        except OSError:
            shutil.copyfileobj(reading, writing, COPY_BYTES)
            return False


# A parsed JSON value may be anything; every caller checks what it reads.
def any_json(text: str | bytes) -> Any:
    """Parse JSON of any depth and with any digits: every fault is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists and objects too deep inside each other") from None


def stays_inside(path: str) -> bool:
    """Say whether a relative path, as a row or a file from outside names it, leaves no folder.

    It has to be written plainly: no empty part, no `.` and no `..`.
    """
    if not path or "\0" in path or len(path) > LONGEST_PATH:
        return False
    return not any(part in ("", ".", "..") for part in path.split("/"))


def path_inside(folder: Path, path: str, subject: object) -> Path:
    """Return the path of a file or folder that a row, a dump or a manifest names.

    The last part may be a link, since DVC may hold files by links. No folder on the way may be one
    that leads out.

    Args:
        folder: what it must lie in.
        path: relative to the folder, as it is named.
        subject: who names it, for the error message.

    Raises:
        Unsafe: for a path that leads out of the folder; nothing is read or written then.
    """
    if stays_inside(path):
        whole = folder / path
        if whole.parent.resolve().is_relative_to(folder.resolve()):
            return whole
    raise Unsafe(
        subject,
        found=f"the path {path[:160]!r}",
        expected=f"a path inside {folder}",
        next="do not use what names it, and ask whoever made it",
    )


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    """Put a folder on disk, from the deepest files up."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            fsync(Path(root) / name)
        fsync(Path(root))
