"""Run stages through DVC and tell what ran.

In:  a workspace root and stage names.  Out: the stages that DVC ran and those it found unchanged, from its own report.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import RegistryError

_RAN = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
_SKIPPED = re.compile(r"^Stage '([^']+)' didn't change", re.MULTILINE)


class StageFailed(RegistryError):
    """A stage ended with an error, which it has told on stderr itself."""


@dataclass(frozen=True)
class Reproduced:
    ran: list[str]
    skipped: list[str]


def reproduce(root: Path, target: str) -> Reproduced:
    """`dvc repro TARGET` in `root`. The stages' progress and errors go to stderr as they come. Raises StageFailed, naming the stage."""
    # Stages call `python`: it must be the one that runs now, whether or not its environment is activated.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "BTX_WORKSPACE": str(root)}
    command = [sys.executable, "-m", "dvc", "repro", target]
    # With the write lock inherited: killed alone, this process leaves DVC running, and the next command must wait for it.
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, close_fds=False)
    ran, skipped = _RAN.findall(done.stdout), _SKIPPED.findall(done.stdout)
    if done.returncode:
        at = ran[-1] if ran else target
        raise StageFailed(
            f"stage {at}",
            found=f"exit status {done.returncode}",
            expected="0",
            next="mend what the lines above name, then run the command again",
        )
    return Reproduced(ran, skipped)


def stale(root: Path, targets: Sequence[str]) -> list[str]:
    """Those targets that DVC would run now."""
    report = json.loads(_dvc(root, "status", "--json", *targets))
    return [target for target in targets if target in report]


def commit(root: Path, targets: Sequence[str]) -> None:
    """Tell DVC that these stages have run: their outputs as they stand belong to their inputs as they stand."""
    if targets:
        _dvc(root, "commit", "--force", "--quiet", *targets)


def _dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise StageFailed(
            f"dvc {' '.join(arguments)}", found=(done.stderr or done.stdout).strip(), expected="exit status 0", next="mend what DVC names"
        )
    return done.stdout
