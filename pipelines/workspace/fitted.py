"""What recipes leave open, fitted to what is registered of the seed and the text.

In:  registered versions, the settings as written.  Out: the open settings, chosen, and a sentence
about them. The rules are `btx_core.training.fitting`'s; that a choice is kept is the orders'.
"""

from collections.abc import Mapping, Sequence

from btx_core.training.fitting import Scope
from pipelines.workspace import folders
from pipelines.workspace.memory_need import config_of
from pipelines.workspace.orders import BranchOrder
from pipelines.workspace.workspace import Workspace
from registry.records.base import JsonObject
from registry.records.facts import DataFacts, SeedFacts
from registry.records.version import Version
from registry.units import size


def scope(
    workspace: Workspace,
    seed: Version[SeedFacts],
    texts: Sequence[Version[DataFacts]],
    processes: int,
) -> Scope:
    """Return what a run of this seed on these texts is fitted to.

    Args:
        workspace: where the seed lies.
        seed: the seed.
        texts: the data versions that are trained on.
        processes: that compute the run together.
    """
    config = config_of(folders.folder_of(workspace.root, seed))
    return Scope(
        parameters=seed.facts.parameters or 0,
        text_bytes=sum(map(_text_bytes, texts)),
        positions=_whole(config, "max_position_embeddings") or None,
        processes=processes,
    )


def kept(before: BranchOrder | None, order: BranchOrder) -> BranchOrder:
    """Return the order, or the one before where they differ at most in what was chosen.

    What was chosen once stays, on whatever machine the order is given again; but for a batch that
    its processes cannot share, which no training takes.
    """
    if before is None or before.model_copy(update={"chosen": order.chosen}) != order:
        return order
    batch = (before.chosen or {}).get("batch", 0)
    return order if batch % (before.processes or 1) else before


def sentence(chosen: Mapping[str, int | float], scope: Scope) -> str:
    """Say what was chosen, and by what."""
    values = ", ".join(f"{key} {value:g}" for key, value in chosen.items())
    text = size(scope.text_bytes)
    return f"{values} (auto: {scope.parameters / 1e6:.3g} M parameters, {text} of text)"


def _text_bytes(version: Version[DataFacts]) -> int:
    """Return the bytes of text, else those of the files, which may be compressed."""
    counts = version.facts.counts
    return counts.text_bytes if counts else sum(file.bytes for file in version.files)


def _whole(config: JsonObject, key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) else 0
