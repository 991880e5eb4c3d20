"""Compose a seed and its experts into one mixture-of-experts checkpoint.

In:  checkpoint folders, the members' slots, a recipe.
Out: a new folder that stock transformers loads, whole or not at all.
Byte ranges are streamed: no model object is built, and memory stays flat in the number of experts
and in their size. What is known to be unchanged is hard-linked. Training is left to
`training.tune`, router weights other than small random ones to `training.router_start`.
Shapes: E experts, D model width.  Method: Branch-Train-MiX (arXiv:2403.07816).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from btx_core.checkpoints.contents import INDEX
from btx_core.checkpoints.tokenizer_files import copy_tokenizer
from btx_core.files import whole_folder, write_json
from btx_core.mixing.plan import Plan, plan_mix
from btx_core.mixing.provenance import provenance
from btx_core.mixing.recipe import Member, MixRecipe
from btx_core.mixing.seed_model import SeedModel, mixture_config
from btx_core.mixing.shards import FileWritten, write_shards
from btx_core.mixing.weight_files import PROVENANCE, SEED_EXPERT, index_of
from btx_core.problems import ShapeMismatch
from btx_core.progress import Progress

if TYPE_CHECKING:
    import torch

# A recipe and its members are what a caller of `mix` needs.
__all__ = ["Known", "Member", "MixRecipe", "MixReport", "mix"]


@dataclass(frozen=True)
class Known:
    """What a caller has already, so that it need not be made or computed again.

    Attributes:
        router: layer -> weights [E, D] in order of slots, instead of random ones.
        previous: an earlier build of this very seed; what does not depend on the members
            (anchored: shared parameters, the seed's expert) is linked from it.
        digests: member (or "seed") -> tensor -> SHA-256, where the caller has just proven that the
            folder holds these; what is absent is hashed.
    """

    router: Mapping[int, torch.Tensor] | None = None
    previous: Path | None = None
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


NOTHING_KNOWN = Known()


@dataclass(frozen=True)
class MixReport:
    """What a mix wrote.

    Attributes:
        files: every file of the new folder.
    """

    files: tuple[FileWritten, ...]

    @property
    def bytes_written(self) -> int:
        """Bytes of the files that were written."""
        return sum(file.bytes for file in self.files if not file.linked)

    @property
    def bytes_linked(self) -> int:
        """Bytes of the files that were linked."""
        return sum(file.bytes for file in self.files if file.linked)


def mix(
    seed: Path,
    members: Sequence[Member],
    recipe: MixRecipe,
    out: Path,
    *,
    known: Known = NOTHING_KNOWN,
    progress: Progress | None = None,
) -> MixReport:
    """Write the mixture of a seed and its members to a new folder.

    When anything is refused or fails, nothing is left behind.

    Args:
        seed: the dense checkpoint that the members were branched from.
        members: the experts; their order counts for nothing, their slots do.
        recipe: how they are composed.
        out: the new folder.
        known: what need not be made again.
        progress: called before each file, and at the end.

    Returns:
        The files, written or linked.

    Raises:
        WrongUsage: for members, a recipe or a folder that make no sense.
        Unsafe: for a folder that must not be read.
        Unsupported: for a model or weights without a faithful mixture.
        ShapeMismatch: for a member that is no branch of the seed, or for what is known and is not.
        NotFinite: for weights that hold NaN or infinity.
    """
    opened = SeedModel.open(seed, recipe, known.digests.get(SEED_EXPERT))
    plan = plan_mix(opened, members, recipe, known.previous, known.digests)
    config = mixture_config(opened, len(plan.experts), recipe)
    if known.router is None:
        router = random_router(plan, recipe)
    else:
        router = given_router(plan, known.router)
    with whole_folder(out) as temporary:
        files, records = write_shards(plan, temporary, recipe, router, progress)
        write_json(temporary / "config.json", config)
        write_json(temporary / INDEX, index_of(file_names(plan)))
        copy_tokenizer(opened.checkpoint.folder, temporary, any_model=True)
        write_json(temporary / PROVENANCE, provenance(plan, members, recipe, records))
        written = {file.path for file in files}
        for path in sorted(temporary.rglob("*")):
            name = path.relative_to(temporary).as_posix()
            if path.is_file() and name not in written:
                files.append(FileWritten(name, path.stat().st_size, linked=False))
    return MixReport(tuple(files))


def file_names(plan: Plan) -> dict[str, str]:
    """Return which file holds each tensor of a plan."""
    return {output.name: shard.file for shard in plan.shards for output in shard.outputs}


def random_router(plan: Plan, recipe: MixRecipe) -> dict[int, np.ndarray]:
    """Return small random router weights.

    An expert's weights depend on its name alone: others may come and go.

    Args:
        plan: the experts and the routers' shapes.
        recipe: its random seed and standard deviation.

    Returns:
        Layer -> weights [E, D], in order of slots.
    """
    return {
        output.layer: np.stack(
            [_random_weights(recipe, output.layer, name, output.shape[1]) for name in plan.experts]
        )
        for output in plan.routers()
    }


def _random_weights(recipe: MixRecipe, layer: int, name: str, width: int) -> np.ndarray:
    """One expert's weights [D] in one layer."""
    text = f"{recipe.random_seed}/{layer}/{name}"
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    weights: np.ndarray = generator.standard_normal(width) * recipe.router_std
    return weights


def given_router(plan: Plan, router: Mapping[int, torch.Tensor]) -> dict[int, np.ndarray]:
    """Return given router weights in float64.

    Args:
        plan: the routers' shapes.
        router: layer -> weights [E, D], in order of slots.

    Raises:
        ShapeMismatch: naming the first layer whose weights are missing or of another shape.
    """
    weights = {layer: tensor.detach().double().cpu().numpy() for layer, tensor in router.items()}
    for output in plan.routers():
        shape = weights[output.layer].shape if output.layer in weights else None
        if shape != output.shape:
            raise ShapeMismatch(
                f"router weights, layer {output.layer}",
                found=shape,
                expected=output.shape,
                next="give one row for each expert, in order of slots",
            )
    return weights
