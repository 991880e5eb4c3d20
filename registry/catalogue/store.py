"""The content store: files kept under the SHA-256 of their bytes, at root/ab/abcdef....

In:  a file.  Out: its digest, and the same bytes again by digest.  A file is there whole or not at all: written aside, made
durable, renamed. Objects are read-only; who may refer to them is the catalogue's to know.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.digest import sha256_file
from registry.errors import Damaged, Invalid, NotFound, Unavailable

_FICLONE = 0x40049409  # Linux: share a file's blocks, copy when one side is written
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, sha256: str) -> Path:
        """Where the object lies, or would lie."""
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise Invalid("digest", found=repr(sha256), expected="64 lower-case hexadecimal digits")
        return self.root / sha256[:2] / sha256

    def put(self, file: Path, sha256: str | None = None, *, copy: bool = False) -> str:
        """Take a file in and return its digest; with `sha256`, raises Damaged unless its bytes have that digest.

        Hard-linked when on the same file system, so the given file becomes read-only too; with `copy`, bytes of its own.
        """
        with self.holding(), _room(self.root):
            aside = self.root / "tmp" / uuid.uuid4().hex
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                (_copy if copy else _link)(file, aside)
                return self._take(aside, str(file), sha256)
            finally:
                aside.unlink(missing_ok=True)

    def link(self, sha256: str, to: Path) -> None:
        """Make the object visible at `to`: hard link, else shared blocks, else copy. `to` must not exist."""
        source = self.path(sha256)
        if not source.exists():
            raise NotFound(
                f"object {sha256}",
                found="nothing",
                expected=str(source),
                next="restore it from a copy or a remote",
            )
        with _room(to.parent):
            _link(source, to)

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def verify(self, sha256: str) -> bool:
        """True when the object is there and its bytes have its digest."""
        path = self.path(sha256)
        return path.is_file() and not path.is_symlink() and sha256_file(path) == sha256

    def objects(self) -> Iterator[str]:
        """Digests of all objects."""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            yield from (path.name for path in sorted(folder.iterdir()) if len(path.name) == 64)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Nothing is swept while any process is inside: wrap `put` and the registration that needs what was put."""
        with self._lock(fcntl.LOCK_SH):
            yield

    def sweep(self, needed: Callable[[], Collection[str]], *, grace_s: float = 3600.0) -> list[str]:
        """Delete every object that is not needed and was not touched for `grace_s`; returns what was deleted.

        needed is asked inside the lock, after every registration under `holding` has ended.
        """
        with self._lock(fcntl.LOCK_EX):
            keep = frozenset(needed())
            old = [
                sha256
                for sha256 in self.objects()
                if sha256 not in keep and _idle_s(self.path(sha256)) >= grace_s
            ]
            for sha256 in old:
                self.path(sha256).unlink()
            for aside in self.root.glob("tmp/*"):
                if _idle_s(aside) >= grace_s:
                    aside.unlink()
            return old

    def _take(self, aside: Path, name: str, expected: str | None) -> str:
        aside.chmod(0o444)
        found = sha256_file(aside)
        if expected is not None and found != expected:
            raise Damaged(
                name,
                found=f"sha256 {found}",
                expected=f"sha256 {expected}",
                next="fetch or write the file again",
            )
        target = self.path(found)
        if not (
            target.exists() and sha256_file(target) == found
        ):  # a damaged object is replaced by good bytes
            _make_durable(aside)
            target.parent.mkdir(exist_ok=True)
            os.replace(aside, target)
            _make_durable(target.parent)
        else:
            os.utime(target)  # touched: a sweep leaves it to the registration under way
        return found

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        with _room(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)


def _link(source: Path, to: Path) -> None:
    try:
        os.link(source, to, follow_symlinks=True)
        return
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
    _copy(source, to)


def _copy(source: Path, to: Path) -> None:
    """Copied aside, then renamed; shares blocks where the file system can."""
    aside = to.with_name(f".{to.name}.{uuid.uuid4().hex}")
    try:
        with source.open("rb") as reading, aside.open("xb") as writing:
            try:
                fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
            except OSError:
                shutil.copyfileobj(reading, writing, 1 << 20)
        aside.chmod(0o444)
        _make_durable(aside)
        if to.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(to))
        os.rename(aside, to)
    finally:
        aside.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _idle_s(path: Path) -> float:
    """Seconds since the file was last written, touched or linked."""
    with contextlib.suppress(FileNotFoundError):
        seen = path.stat()
        return time.time() - max(seen.st_mtime, seen.st_ctime)
    return 0.0


@contextmanager
def _room(where: Path) -> Iterator[None]:
    """A full disk in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        advice = "make room and run the command again"
        raise Unavailable(
            str(where), found=error.strerror or "no room", expected="room to write", next=advice
        ) from error
