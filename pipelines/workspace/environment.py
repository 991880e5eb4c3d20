"""What runs here: the programs and the code revision that make a version, for its provenance.

In:  nothing.  Out: plain facts; null for what cannot be known. Nothing is imported to ask for its version.
"""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def environment() -> dict[str, Any]:
    """python, platform, packages{name: version}, revision (git commit of this code), changed (whether files differ from it)."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        **_revision(Path(__file__).parents[2]),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision(root: Path) -> dict[str, Any]:
    """Of the checkout that this file lies in; an installed package has none, whatever repository it was installed below."""
    unknown: dict[str, Any] = {"revision": None, "changed": None}
    if not (root / ".git").exists():
        return unknown
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return unknown
    if done.returncode:
        return unknown
    revision, _, dirty = done.stdout.strip().partition("-")
    return {"revision": revision, "changed": bool(dirty)}
