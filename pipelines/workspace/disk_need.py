"""What disk a training writes, from its seed's files and its recipe; nothing is loaded.

In:  a seed's folder, recipes.  Out: bytes, at the least: what is certain to be written at one time.
What there is, the file system says.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from btx_core.training.memory import ADAM_AVERAGES, FLOAT32, Trains
from btx_core.training.recipes import TrainRecipe
from pipelines.workspace.memory_need import shape_of

# The branch, and the copy of it that is registered.
COPIES = 2


def of_training(seed: Path, recipes: Sequence[TrainRecipe]) -> int:
    """Return the bytes that branches write at one time, the last one with its checkpoint.

    Args:
        seed: the seed's folder; a branch has the same weights.
        recipes: of the branches, every key resolved.
    """
    weights = sum(path.stat().st_size for path in seed.glob("*.safetensors"))
    return len(recipes) * COPIES * weights + max(_checkpoint(seed, one) for one in recipes)


def free(folder: Path) -> int:
    """Return the bytes that are free where a folder lies."""
    return shutil.disk_usage(folder).free


def _checkpoint(seed: Path, recipe: TrainRecipe) -> int:
    """What trains and its averages, in float32; nothing for a run that saves none."""
    if recipe.steps <= recipe.save_every:
        return 0
    shape = shape_of(seed)
    if shape is None:
        return 0
    trains: Trains = "feed-forward" if recipe.mode == "anchored" else "all"
    trained = shape.adapters(trains, recipe.lora_rank) or shape.trained(trains)
    return trained * FLOAT32 * (1 + ADAM_AVERAGES)
