"""Make DVC's side of a workspace and open it: its cache, and what its list of a folder names.

In:  a workspace, and what a row says that DVC addresses a folder or a file by.
Out: DVC's repository; paths in the cache, and the address of every file of a folder.
The lists are files in the cache, which anybody may have written: what is no address leads nowhere.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from btx_core.files import any_json
from btx_core.problems import BtxError
from registry.errors import Invalid
from registry.records.addresses import is_address

OBJECTS = Path("files/md5")
LIST = ".dir"

# DVC would say what it does on stdout, which is for answers alone.
logging.getLogger("dvc").setLevel(logging.WARNING)


def make_project(root: Path, *, below: bool, shared: bool) -> None:
    """Make a folder a DVC project.

    Args:
        root: the folder.
        below: whether the git repository is that of a folder around it.
        shared: whether a group works in it.

    Raises:
        Invalid: with what DVC said.
    """
    try:
        with Repo.init(str(root), subdir=below) as made, made.config.edit("repo") as settings:
            settings["core"]["analytics"] = "false"
            # Hard links first: only then does DVC keep a file's inode when it takes it in.
            # Not core.autostage: killed while it writes to git, DVC leaves lock files there, which
            # stop every command after it.
            settings["cache"]["type"] = "hardlink,reflink,copy"
            if shared:
                settings["cache"]["shared"] = "group"
    except DvcException as error:
        raise Invalid(
            f"dvc init {root}",
            found=str(error),
            expected="exit status 0",
            next="fix what it names",
        ) from None


@contextmanager
def opened(root: Path, *, subject: str = "", expected: str = "a DVC project") -> Iterator[Repo]:
    """Open a workspace as DVC's repository.

    Args:
        root: the workspace.
        subject: what DVC is asked about, for an error message; the workspace unless it is given.
        expected: what it should have been.

    Raises:
        Invalid: for any error of DVC's, there and in what the caller does.
    """
    try:
        with Repo(str(root)) as repo:
            yield repo
    except BtxError:
        raise
    # DVC and its parts have no common base of errors.
    except Exception as error:
        raise Invalid(
            subject or str(root),
            found=f"{type(error).__name__}: {error}"[:300],
            expected=expected,
            next="fix what DVC names",
        ) from error


def objects_folder(root: Path) -> Path:
    """Return where the cache of a workspace keeps its objects."""
    with opened(root) as repo:
        return Path(repo.cache.local_cache_dir) / OBJECTS


def object_path(objects: Path, address: str) -> Path:
    """Return where an object lies, if it does.

    Args:
        objects: the folder of all of them.
        address: an MD5; a folder's ends in `.dir`.
    """
    return objects / address[:2] / address[2:]


def listed(objects: Path, address: str | None) -> dict[str, str]:
    """Return the address of each file of a folder, by its path.

    Nothing where the cache has no list of it that can be read.
    """
    if address is None or not address.endswith(LIST):
        return {}
    try:
        entries = any_json(object_path(objects, address).read_bytes())
        named = {entry["relpath"]: entry["md5"] for entry in entries}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return {path: md5 for path, md5 in named.items() if is_address(md5)}
