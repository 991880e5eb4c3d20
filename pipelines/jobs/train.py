"""Job: train branches of a seed, one a data version. Registering them is register.py's job.

DVC says which of the stages train@EXPERT are stale, an executor runs those, DVC takes the result in. Not `dvc repro`: upstream of
a stage it commits a damaged data version anew, as if somebody had edited it on purpose.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from btx_core.training.loop import TrainRecipe
from pipelines.stages import dvc_runs
from pipelines.stages.executors import Log, Needs, execute
from pipelines.workspace import folders
from pipelines.workspace.recipes import recipe
from pipelines.workspace.workspace import Workspace, check_expert_name
from registry.catalogue.catalog import Version
from registry.errors import Invalid, Refused


@dataclass(frozen=True)
class Branch:
    folder: Path
    seed: Version
    data: Version
    ran: bool  # False: trained already, from these very inputs


def train(
    workspace: Workspace,
    experts: Mapping[str, str],
    *,
    seed: str | None = None,
    mode: str | None = None,
    executor: str = "local",
) -> dict[str, Branch]:
    """Train, or find trained already, a branch for every expert name -> data reference.

    Raises Refused for withdrawn data, Damaged for data that changed on disk, StageFailed for a training that did not end.
    """
    for name in experts:
        check_expert_name(name)  # hours later, at the registration, would be too late
    catalog = workspace.catalog

    def log(name: str, state: str, body: Mapping[str, Any]) -> None:
        catalog.event("stage", f"train@{name}", {"state": state, **body})

    with workspace.writing(f"train {' '.join(experts)}"):
        base = catalog.get(seed or newest_seed(workspace))
        corpora = {name: catalog.get(data) for name, data in experts.items()}
        for version in (base, *corpora.values()):
            status = catalog.status(version.ref)
            if status in ("withdrawn", "tainted"):
                raise Refused(
                    str(version.ref),
                    found=status,
                    expected="a version in good standing",
                    next="train on another version",
                )
        settings = workspace.settings
        chosen = settings.recipe.train | ({"mode": mode} if mode else {})
        recipe(TrainRecipe, chosen)  # a wrong key is told before anything starts
        shared = {
            "seed": _named(workspace, base),
            "general": [_named(workspace, catalog.get(ref)) for ref in base.facts["data"]],
            "recipe": chosen,
            "threads": settings.train.threads,
            **({"processes": settings.train.processes} if settings.train.processes > 1 else {}),
        }
        _order(
            workspace.root / "branches.yaml",
            {
                name: shared | {"data": _named(workspace, corpus)}
                for name, corpus in corpora.items()
            },
        )
        targets = {f"train@{name}": name for name in experts}
        stale = dvc_runs.stale(workspace.root, list(targets))
        _run(workspace, {target: targets[target] for target in stale}, executor, log)
    folder = workspace.work / "branches"
    return {
        name: Branch(folder / name, base, corpora[name], f"train@{name}" in stale)
        for name in experts
    }


def _run(workspace: Workspace, stale: Mapping[str, str], executor: str, log: Log) -> None:
    """Train the branches of these stages anew. What ended well is DVC's, whatever became of the others."""
    folders_of = {target: workspace.work / "branches" / name for target, name in stale.items()}
    for folder in folders_of.values():
        shutil.rmtree(folder, ignore_errors=True)  # of an order that has changed since
    settings = workspace.settings
    own = {"ray": settings.ray, "slurm": settings.slurm}.get(executor, {})
    needs = Needs(settings.train.threads, settings.train.gpus, settings.train.processes, own)
    try:
        execute(executor, workspace.root, list(stale.values()), needs, log)
    finally:
        dvc_runs.commit(
            workspace.root, [target for target, folder in folders_of.items() if folder.is_dir()]
        )


def _order(path: Path, orders: Mapping[str, Any]) -> None:
    """Write the orders into branches.yaml beside those of other branches."""
    document = yaml.safe_load(path.read_text())
    document["branches"].update(orders)
    aside = path.with_suffix(".new")
    aside.write_text(yaml.safe_dump(document, sort_keys=True))
    aside.replace(path)


def newest_seed(workspace: Workspace) -> str:
    """The one seed name there is. Raises Invalid where the choice is the caller's."""
    names = {version.ref.name for version in workspace.catalog.list("seed")}
    if len(names) != 1:
        raise Invalid(
            "--seed",
            found=f"{len(names)} seeds: {', '.join(sorted(names)) or 'none'}",
            expected="one",
            next="name it: --seed seed/NAME",
        )
    return f"seed/{names.pop()}"


def _named(workspace: Workspace, version: Version) -> dict[str, Any]:
    folder = folders.opened(workspace.root, version)
    return {
        "ref": str(version.ref),
        "path": folder.relative_to(workspace.root).as_posix(),
        "digest": folders.files_digest(version.files),
    }
