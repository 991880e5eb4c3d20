"""Whether the disk has room for what a command is certain to write; nothing is loaded.

In:  a seed's folder and the recipes of its branches, or bytes.  Out: bytes, at the least: what is
certain to be written at one time; a refusal. What there is, the file system says.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from btx_core.training.memory import ADAM_AVERAGES, FLOAT32, Trains
from btx_core.training.recipes import TrainRecipe
from pipelines.workspace.memory_need import shape_of
from registry.errors import Unavailable
from registry.units import size

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


def require(named: str, folder: Path, needed: int, *, what: str, instead: str = "") -> None:
    """Refuse what the disk has no room for.

    Args:
        named: the command.
        folder: the workspace's.
        needed: the bytes that it writes.
        what: that is written.
        instead: how else less is written.

    Raises:
        Unavailable: with how to make room.
    """
    there = free(folder)
    if needed > there:
        raise Unavailable(
            named,
            found=f"{size(there)} free on the disk of {folder}",
            expected=f"at least {size(needed)}, for {what}",
            next=f"make room (btx registry gc, dvc gc --workspace){instead}; or --anyway",
        )


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
