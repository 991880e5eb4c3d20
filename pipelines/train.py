"""Job: train a branch of a seed on one data version, as the DVC stage train@EXPERT. Registering the branch is register.py's job."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines import dvc_runs
from pipelines import versioned_folders as folders
from pipelines.workspace import Workspace
from registry.catalog import Version
from registry.errors import Invalid


@dataclass(frozen=True)
class Branch:
    folder: Path
    ran: list[str]
    seed: Version
    data: Version


def train(workspace: Workspace, expert: str, *, data: str, seed: str | None = None, mode: str | None = None) -> Branch:
    """Train, or find trained already, the branch EXPERT. Raises Refused for withdrawn data, Damaged for data that changed on disk."""
    catalog = workspace.catalog
    with workspace.writing(f"train {expert}"):
        seed_version, data_version = catalog.get(seed or newest_seed(workspace)), catalog.get(data)
        for version in (seed_version, data_version):
            status = catalog.status(version.ref)
            if status in ("withdrawn", "tainted"):
                raise Invalid(str(version.ref), found=status, expected="a version in good standing", next="train on another version")
        recipe = workspace.settings.recipe.train | ({"mode": mode} if mode else {})
        general = [catalog.get(ref) for ref in seed_version.facts["data"]]
        order = {
            "seed": _named(workspace, seed_version),
            "data": _named(workspace, data_version),
            "general": [_named(workspace, version) for version in general],
            "recipe": recipe,
        }
        path = workspace.root / "branches.yaml"
        branches = yaml.safe_load(path.read_text())
        branches["branches"][expert] = order
        aside = path.with_suffix(".new")
        aside.write_text(yaml.safe_dump(branches, sort_keys=True))
        aside.replace(path)
        done = dvc_runs.reproduce(workspace.root, f"train@{expert}", alone=True)
    return Branch(workspace.work / "branches" / expert, done.ran, seed_version, data_version)


def newest_seed(workspace: Workspace) -> str:
    """The one seed name there is. Raises Invalid where the choice is the caller's."""
    names = {version.ref.name for version in workspace.catalog.list("seed")}
    if len(names) != 1:
        raise Invalid(
            "--seed", found=f"{len(names)} seeds: {', '.join(sorted(names)) or 'none'}", expected="one", next="name it: --seed seed/NAME"
        )
    return f"seed/{names.pop()}"


def _named(workspace: Workspace, version: Version) -> dict[str, Any]:
    folder = folders.opened(workspace.root, version)
    return {"ref": str(version.ref), "path": folder.relative_to(workspace.root).as_posix(), "digest": folders.files_digest(version.files)}
