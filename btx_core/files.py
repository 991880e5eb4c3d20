"""Put files in place: a folder whole or not at all, a file linked rather than copied, JSON in one form."""

from __future__ import annotations

import json
import os
import shutil
import threading
from fcntl import ioctl
from pathlib import Path
from typing import Any

from btx_core.problems import WrongUsage

FICLONE = 0x40049409  # linux/fs.h: share another file's blocks


class whole_folder:
    """A folder that appears under its name only when it is complete and on disk."""

    def __init__(self, out: Path) -> None:
        self.out = Path(os.path.abspath(out))
        self.aside = (
            self.out.parent / f".{self.out.name}.partial-{os.getpid()}-{threading.get_ident()}"
        )

    def __enter__(self) -> Path:
        if os.path.lexists(self.out):
            raise WrongUsage(
                self.out,
                found="something there already",
                expected="a new folder",
                next="choose another, or remove it first",
            )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.aside.mkdir()
        return self.aside

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        try:
            if kind is None:
                for path in (*self.aside.iterdir(), self.aside):
                    fsync(path)
                os.rename(self.aside, self.out)
                fsync(self.out.parent)
        finally:
            shutil.rmtree(self.aside, ignore_errors=True)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def link(source: Path, target: Path) -> bool:
    """Hard link, else share the blocks, else copy. True if no data was written."""
    try:
        os.link(source.resolve(), target)
        return True
    except OSError:  # another file system, or one without links
        with open(source, "rb") as read, open(target, "xb") as write:
            try:
                ioctl(write.fileno(), FICLONE, read.fileno())
                return True
            except OSError:
                left = os.fstat(read.fileno()).st_size
                while left:
                    left -= os.copy_file_range(read.fileno(), write.fileno(), left)
                return False


def replace_text(path: Path, text: str) -> None:
    """Write the text to a temporary file, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
