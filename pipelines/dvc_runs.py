"""Run stages through DVC and tell what ran.

In:  a workspace root and stage names.  Out: the stages that DVC ran and those it found unchanged, from its own report.
"""

import os
import re
import subprocess
import sys
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


def reproduce(root: Path, target: str, *, alone: bool = False) -> Reproduced:
    """`dvc repro TARGET` in `root`. The stage's progress and errors go to stderr as they come.

    alone: leave upstream alone. A damaged data version would otherwise be committed anew by DVC as if it had been edited on purpose.
    Raises StageFailed, naming the stage.
    """
    # Stages call `python`: it must be the one that runs now, whether or not its environment is activated.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "BTX_WORKSPACE": str(root)}
    command = [sys.executable, "-m", "dvc", "repro", *(["--single-item"] if alone else []), target]
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
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
