"""The content store: files kept under the SHA-256 of their bytes, at root/ab/abcdef....

In:  a file.
Out: its digest, and the same bytes again by digest. A file is there whole or not at all, and
     read-only. Who may refer to an object is left to the catalogue.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from btx_core.files import copy_file, link_or_copy, put_in_place, temporary_path
from registry.digest import sha256_file
from registry.errors import Damaged, Invalid, NotFound, Unavailable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = 0o444


class Store:
    """Files by the SHA-256 of their bytes.

    Attributes:
        root: the store's folder, made on first use.
    """

    def __init__(self, root: Path) -> None:
        """Name the store's folder; nothing is read or made."""
        self.root = Path(root)

    def path(self, sha256: str) -> Path:
        """Return where an object lies, or would lie.

        Raises:
            Invalid: for what is no SHA-256.
        """
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise Invalid("digest", found=repr(sha256), expected="64 lower-case hexadecimal digits")
        return self.root / sha256[:2] / sha256

    def put(self, file: Path, sha256: str | None = None, *, copy: bool = False) -> str:
        """Take a file in and return its digest.

        Args:
            file: the file; a symbolic link is followed. On the same file system it is hard-linked,
                so that the given file becomes read-only too.
            sha256: the digest that its bytes must have; None: any.
            copy: whether the store gets bytes of its own in any case.

        Returns:
            The digest of the file's bytes.

        Raises:
            Damaged: when its bytes have another digest than `sha256`.
            Unavailable: when the disk is full; then nothing is left behind.
        """
        temporary_folder = self.root / "tmp"
        with self.holding(), _full_disk_in_words(self.root):
            temporary_folder.mkdir(parents=True, exist_ok=True)
            with temporary_path(temporary_folder) as temporary:
                if copy:
                    copy_file(file, temporary)
                else:
                    link_or_copy(file, temporary)
                    if not _protect(temporary):
                        # A file of another account's, who alone may make it read-only.
                        temporary.unlink()
                        copy_file(file, temporary)
                return self._take(temporary, str(file), sha256)

    def link(self, sha256: str, to: Path) -> None:
        """Make an object visible at a path: hard link, else shared blocks, else copy.

        Args:
            sha256: the object's digest.
            to: the path, where nothing may be yet.

        Raises:
            NotFound: when the store does not have the object.
            FileExistsError: when something is at the path.
            Unavailable: when the disk is full; then nothing is left behind.
        """
        source = self.path(sha256)
        if not source.exists():
            raise NotFound(
                f"object {sha256}",
                found="nothing",
                expected=str(source),
                next="restore it from a copy or a remote",
            )
        with _full_disk_in_words(to.parent):
            link_or_copy(source, to)

    def has(self, sha256: str) -> bool:
        """Say whether the store has an object; its bytes are not read."""
        return self.path(sha256).is_file()

    def verify(self, sha256: str) -> bool:
        """Say whether an object is there and its bytes have its digest."""
        path = self.path(sha256)
        return path.is_file() and not path.is_symlink() and sha256_file(path) == sha256

    def objects(self) -> Iterator[str]:
        """Yield the digests of all objects, in order."""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            yield from (path.name for path in sorted(folder.iterdir()) if len(path.name) == 64)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let nothing be swept while any process is inside.

        Wrap `put` and the registration that needs what was put.
        """
        with self._lock(fcntl.LOCK_SH):
            yield

    def unneeded(self, needed: Collection[str], *, grace_s: float) -> list[str]:
        """Return what a sweep would delete: what is not needed and was not touched for a while."""
        keep = frozenset(needed)
        return [
            sha256
            for sha256 in self.objects()
            if sha256 not in keep and _idle_s(self.path(sha256)) >= grace_s
        ]

    def sweep(self, needed: Callable[[], Collection[str]], *, grace_s: float = 3600.0) -> list[str]:
        """Delete every object that is not needed and was not touched for a while.

        Args:
            needed: returns the digests that must stay; asked inside the lock, after every
                registration under `holding` has ended.
            grace_s: seconds for which an object must have been left alone.

        Returns:
            The digests of the deleted objects, in order.
        """
        with self._lock(fcntl.LOCK_EX):
            old = self.unneeded(needed(), grace_s=grace_s)
            for sha256 in old:
                self.path(sha256).unlink()
            for left_over in self.root.glob("tmp/*"):
                if _idle_s(left_over) >= grace_s:
                    left_over.unlink()
            return old

    def _take(self, temporary: Path, name: str, expected: str | None) -> str:
        """Give a file in the store's folder its place by its digest."""
        _protect(temporary)
        sha256 = sha256_file(temporary)
        if expected is not None and sha256 != expected:
            raise Damaged(
                name,
                found=f"sha256 {sha256}",
                expected=f"sha256 {expected}",
                next="fetch or write the file again",
            )
        target = self.path(sha256)
        if target.exists() and sha256_file(target) == sha256:
            # Touched: a sweep leaves it to the registration under way.
            with contextlib.suppress(PermissionError):
                os.utime(target)
                return sha256
        # A damaged object is replaced by good bytes, one of another account by a new file.
        target.parent.mkdir(exist_ok=True)
        put_in_place(temporary, target, replace=True)
        return sha256

    @contextmanager
    def _lock(self, operation: int) -> Iterator[None]:
        with _full_disk_in_words(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, operation)
            yield
        finally:
            os.close(handle)


def _protect(file: Path) -> bool:
    """Make a file read-only; returns whether it is."""
    if stat.S_IMODE(file.stat().st_mode) == READ_ONLY:
        return True
    try:
        file.chmod(READ_ONLY)
    except PermissionError:
        return False
    return True


def _idle_s(path: Path) -> float:
    """Seconds since the file was last written, touched or linked."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return time.time() - max(status.st_mtime, status.st_ctime)
    return 0.0


@contextmanager
def _full_disk_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise Unavailable(
            str(folder),
            found=error.strerror or "no room",
            expected="room to write",
            next="make room and run the command again",
        ) from error
