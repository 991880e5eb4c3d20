"""Ask git about a folder that may be somebody else's.

In:  a folder, git's arguments.  Out: how git ended and what it said.
A repository's own settings name programs that git runs: a monitor of files, hooks, what signatures
are checked with, what connects to a server for objects that it lacks. None of them is obeyed here.
"""

import os
import subprocess
from pathlib import Path

_OBEYS_NOTHING = (
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "log.showSignature=false"),
)


def git(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run git in a folder, by itself: it starts no program and connects to nothing.

    Args:
        root: the folder.
        arguments: the command and what it takes.

    Returns:
        The status and what was said; bytes that are no text stand as their escapes.
    """
    # By the environment: the settings of one protocol go before those of all.
    environment = {**os.environ, "GIT_ALLOW_PROTOCOL": "", "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(
        ["git", *_OBEYS_NOTHING, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
    )
