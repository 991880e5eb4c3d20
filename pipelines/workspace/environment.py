"""What runs here: the programs and the code revision that make a version, for its provenance.

In:  nothing.  Out: an environment record; None for what cannot be known; and the environment and
     the umask of what runs in a workspace.
Nothing is imported to ask for its version.
"""

import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipelines.workspace.git import git
from registry.records.facts import Environment

PACKAGES = (
    "btx-registry",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "peft",
    "numpy",
    "dvc",
)


def child_environment() -> dict[str, str]:
    """Return the environment for Python programs that are started in a workspace.

    Nothing is imported from the folder that they run in: one called `pipelines` or a file
    `tokenizers.py` there would stand in for the real one, and a stranger's would be executed. DVC
    sends no report about its use and does not look for newer versions.
    """
    # DVC has no variable of its own against the second.
    return {**os.environ, "PYTHONSAFEPATH": "1", "DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}


@contextmanager
def shared_as(root: Path) -> Iterator[None]:
    """Let the group write what is made meanwhile, if it may write to this folder itself.

    Programs that are started inside inherit that.
    """
    if not is_shared(root):
        yield
        return
    before = os.umask(0)
    os.umask(before & ~stat.S_IRWXG)
    try:
        yield
    finally:
        os.umask(before)


def is_shared(folder: Path) -> bool:
    """Say whether the group may write to a folder, as where several accounts work in it."""
    return bool(folder.stat().st_mode & stat.S_IWGRP)


def environment() -> Environment:
    """Return the programs that run here, and the git commit of this code."""
    revision, changed = _revision(Path(__file__).parents[2])
    found = {name: _version(name) for name in PACKAGES}
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: number for name, number in found.items() if number},
        revision=revision,
        changed=changed,
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that this file lies in, and whether files differ from it.

    An installed package has none, whatever repository it was installed below.
    """
    if not (root / ".git").exists():
        return None, None
    try:
        done = git(root, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except FileNotFoundError:
        return None, None
    if done.returncode:
        return None, None
    revision, _, dirty = done.stdout.strip().partition("-")
    return revision, bool(dirty)
