"""Where branches are trained: several processes on this machine, or workers of a Ray cluster. One interface.

In:  a workspace root and names of branches.yaml.  Out: work/branches/NAME for each; what failed is named, what ended stays.
A branch's bytes depend on its order alone (the order fixes the thread count), so it does not matter where or beside what it ran.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.dvc_runs import StageFailed

Executor = Callable[[Path, Sequence[str]], None]


def local(root: Path, names: Sequence[str]) -> None:
    """As many branches at once as there are cores, a process each. Raises StageFailed, naming every branch that did not end well."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        statuses = dict(zip(names, pool.map(lambda name: run_branch(root, name), names), strict=True))
    check(statuses)


def run_branch(root: Path, name: str) -> int:
    """Train one branch in a process of its own; returns its exit status."""
    command = [sys.executable, "-m", "pipelines.stages", "train", name]
    return subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL, close_fds=False).returncode  # inherits the write lock


def check(statuses: dict[str, int]) -> None:
    failed = {name: status for name, status in statuses.items() if status}
    if failed:
        raise StageFailed(
            "training of " + ", ".join(failed),
            found="exit status " + ", ".join(str(status) for status in failed.values()),
            expected="0",
            next="mend what the lines above name, then run the command again: what ended well is kept",
        )


EXECUTORS: dict[str, Executor] = {"local": local}
