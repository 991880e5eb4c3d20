"""Job: register a dense checkpoint as a seed."""

from dataclasses import replace
from math import prod
from pathlib import Path

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.families import family
from btx_core.mixing.preflight import all_finite
from pipelines.jobs import evidence, gates
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Version


def add_seed(
    workspace: Workspace,
    name: str,
    source: Path,
    *,
    data: list[str] | None = None,
    license: str | None = None,
) -> Version:
    """Register the checkpoint folder `source` as seed/NAME@next. data: the data versions it was trained on, where they are registered.

    Raises the checkpoint's own errors for what cannot be read safely or cannot be mixed, Refused when a policy says no.
    """
    catalog = workspace.catalog
    with workspace.writing(f"seed add {name}"):
        number = catalog.next_version("seed", name)
        ref, target = f"seed/{name}@{number}", workspace.folder("seed", name, number)
        parents = [catalog.get(reference) for reference in data or []]
        if source.exists():
            Checkpoint.open(
                source
            )  # where it lies first: a refusal names the caller's path, and comes before anything large is copied
        with folders.incoming(source, target) as aside:
            checkpoint = Checkpoint.open(aside)
            files = folders.manifest(aside)
            facts = {
                "model_type": checkpoint.config["model_type"],
                "family": family(checkpoint.config).name,
                "parameters": sum(prod(tensor.shape) for tensor in checkpoint.tensors.values()),
                "license": license,
                "data": [str(parent.ref) for parent in parents],
                "finite": all_finite(checkpoint),
                "tensors": folders.tensors(aside),
            }
            if number > 1:
                newest = catalog.get(f"seed/{name}")
                if (
                    folders.files_digest(newest.files) == folders.files_digest(files)
                    and newest.facts["data"] == facts["data"]
                ):
                    return replace(newest, created=False)
            gates.ask(workspace, "register", ref, evidence.of_seed(ref, name, facts))
            folders.accept(aside, target)
        held = folders.track(workspace.root, target)
        for file in files:
            workspace.store.put(target / file.path, file.sha256)
        return catalog.register(
            "seed",
            name,
            facts | {"dvc": held},
            files=files,
            version=number,
            parents=[(parent.ref, "trained_on") for parent in parents],
        )
