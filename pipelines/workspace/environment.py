"""What runs here: the programs and the code revision that make a version, for its provenance.

In:  nothing.  Out: an environment record; None for what cannot be known.
Nothing is imported to ask for its version.
"""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    except FileNotFoundError:
        return None, None
    if done.returncode:
        return None, None
    revision, _, dirty = done.stdout.strip().partition("-")
    return revision, bool(dirty)
