"""Register a dense checkpoint as a seed."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.families import find_family
from btx_core.mixing.distances import all_finite
from pipelines.jobs import collect_evidence, gates
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.governance import seen_before
from registry.records.facts import DataFacts, SeedFacts
from registry.records.kinds import Gate, Kind, Relation
from registry.records.version import Version


def add_seed(
    workspace: Workspace,
    name: str,
    source: Path,
    *,
    data: Sequence[str] = (),
    license: str | None = None,
) -> Version[SeedFacts]:
    """Register a checkpoint folder as the next version of `seed/NAME`.

    Args:
        workspace: where it is registered.
        name: the seed's name.
        source: a dense checkpoint in Hugging Face format.
        data: the data versions that it was trained on, where they are registered.
        license: SPDX.

    Returns:
        The version; the newest one where it holds the same files and data.

    Raises:
        Unsafe: for what cannot be read safely.
        Unsupported: for a family that cannot be mixed.
        Refused: when a policy says no; then no byte stays.
    """
    catalog = workspace.catalog
    with workspace.writing(f"seed add {name}"):
        number = catalog.next_version(Kind.SEED, name)
        ref, target = f"seed/{name}@{number}", workspace.folder(Kind.SEED, name, number)
        parents = [catalog.get(reference, DataFacts) for reference in data]
        if source.exists():
            # Where it lies first: a refusal names the caller's path, and comes before the copy.
            Checkpoint.open(source)
        with folders.incoming(source, target) as incoming:
            checkpoint = Checkpoint.open(incoming)
            files = folders.manifest(incoming)
            facts = SeedFacts(
                model_type=checkpoint.model_type,
                family=find_family(checkpoint.config).name,
                parameters=sum(prod(tensor.shape) for tensor in checkpoint.tensors.values()),
                license=license,
                data=tuple(str(parent.ref) for parent in parents),
                finite=all_finite(checkpoint),
                tensors=folders.tensors(incoming),
            )
            if number > 1:
                newest = catalog.get(f"seed/{name}", SeedFacts)
                same_files = folders.files_digest(newest.files) == folders.files_digest(files)
                if same_files and newest.facts.data == facts.data:
                    return replace(newest, created=False)
            seen = seen_before.of_weights(catalog, facts.tensors)
            asked = collect_evidence.of_seed(ref, facts, files, seen)
            gates.ask(workspace, Gate.REGISTER, ref, asked)
            folders.accept(incoming, target)
        held = folders.track(workspace.root, target)
        for file in files:
            workspace.store.put(target / file.path, file.sha256)
        return catalog.register(
            name,
            facts.model_copy(update={"dvc": held}),
            files=files,
            version=number,
            parents=[(parent.ref, Relation.TRAINED_ON) for parent in parents],
        )
