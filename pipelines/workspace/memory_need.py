"""What memory a stage would need, from its seed's config and its recipe; nothing is loaded.

In:  registered versions, recipes, resources.  Out: bytes of one process, or None where the config
does not say enough. The formula is `btx_core.training.memory`'s; what there is, the executor's.
"""

from collections.abc import Sequence
from pathlib import Path

from btx_core.checkpoints.strict_json import read_json
from btx_core.mixing.recipe import MixRecipe
from btx_core.problems import Unsupported
from btx_core.training.memory import LOGITS_AT_ONCE, ModelShape, RunShape, Trains, memory_of
from btx_core.training.recipes import Optimisation, TrainRecipe, TuneRecipe, growing
from pipelines.workspace.placement import Resources
from registry.records.base import JsonObject

# The libraries, and what an allocator leaves unused, on the CPU and on a GPU.
LIBRARIES, LIBRARIES_ON_GPU = 1 << 30, 4 << 30


def of_training(seed: Path, recipe: TrainRecipe, resources: Resources) -> int | None:
    """Return the bytes that a process of a training needs.

    Args:
        seed: the seed's folder.
        recipe: every key resolved.
        resources: of the stage.
    """
    shape = shape_of(seed)
    if shape is None:
        return None
    trains: Trains = "feed-forward" if recipe.mode == "anchored" else "all"
    # Beside the seed a frozen copy of its blocks runs.
    return _need(shape, trains, recipe, resources, [shape] if recipe.beside else [])


def of_tuning(
    seed: Path,
    experts: int,
    recipes: tuple[MixRecipe, TuneRecipe],
    resources: Resources,
    *,
    grows: bool = False,
) -> int | None:
    """Return the bytes that a process of a tuning needs.

    Args:
        seed: the seed's folder.
        experts: of the mixture, the seed's own among them.
        recipes: how it is mixed and tuned, every key resolved.
        resources: of the stage.
        grows: whether it may go on from a build before, by more sequences and with that build
            beside it.
    """
    mixed, tuned = recipes
    shape = shape_of(seed)
    if shape is None or tuned.mode == "none":
        return None
    model = shape.mixed(experts, experts if mixed.routing == "soft" else mixed.top_k)
    teachers = [shape] if tuned.keep else []
    teachers += [model] if grows and tuned.grow_keep else []
    run = growing(tuned, joins=True) if grows else tuned
    return _need(model, tuned.mode, run, resources, teachers)


def config_of(seed: Path) -> JsonObject:
    """Return the config of a seed's folder; empty where the folder is not on this disk."""
    file = seed / "config.json"
    return read_json(file) if file.is_file() else {}


def worst(needs: Sequence[int | None]) -> int | None:
    """Return the largest of several needs; None where one is not known."""
    known = [need for need in needs if need is not None]
    return max(known) if known and len(known) == len(needs) else None


def _need(
    shape: ModelShape,
    trains: Trains,
    recipe: Optimisation,
    resources: Resources,
    teachers: Sequence[ModelShape],
) -> int:
    lora_rank = recipe.lora_rank if isinstance(recipe, TrainRecipe) else 0
    # With an adapter on the head, which a tied one has not, a part's logits are there all at once.
    adapted_head = lora_rank > 0 and trains == "all" and not shape.tied
    run = RunShape(
        trains=trains,
        batch=recipe.batch,
        sequence=recipe.sequence,
        accumulate=recipe.accumulate,
        bfloat16=recipe.precision == "bfloat16",
        recompute=resources.recompute,
        logits_chunk=0 if adapted_head else max(1, LOGITS_AT_ONCE // shape.vocabulary),
        processes=resources.processes,
        expert_parallel=resources.expert_parallel,
        lora_rank=lora_rank,
    )
    libraries = LIBRARIES_ON_GPU if resources.gpus else LIBRARIES
    return memory_of(shape, run, teachers).total + libraries


def shape_of(seed: Path) -> ModelShape | None:
    """Return the sizes of a seed's model; None where its config does not say them."""
    try:
        return ModelShape.of(config_of(seed))
    except (Unsupported, KeyError, TypeError, ValueError):
        return None
