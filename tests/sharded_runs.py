"""Runs for tests that start several processes: `python sharded_runs.py GROUND OUT STOP NAME ...`.

Each name is a way to train or tune tiny models, in the folders that `prepare` makes. Its result
goes to OUT/NAME and its losses to OUT/NAME.json. With a STOP above 0 the process dies after that
step.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from btx_core.machine import here
from btx_core.measuring.evaluation import evaluate
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.training.branch import train
from btx_core.training.loop import Watch
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.routing import Routing
from btx_core.training.tune import TuneInputs, tune

TRAIN = TrainRecipe(steps=5, batch=4, sequence=16, warmup_steps=2, save_every=2)
TUNE = TuneRecipe(steps=5, batch=4, sequence=16, warmup_steps=2, save_every=2)
BRANCHES = {
    "anchored": TRAIN,
    "full": replace(TRAIN, mode="full"),
    "parts": replace(TRAIN, accumulate=2),
    "lora": replace(TRAIN, lora_rank=2),
    "beside": replace(TRAIN, beside=0.7, replay=0.5),
    "beside-lora": replace(TRAIN, beside=0.7, replay=0.5, lora_rank=2),
}
TUNINGS = {
    "router": replace(TUNE, mode="router"),
    "own": replace(TUNE, mode="router", text=0.0, keep=0.0, home=1.0),
    "shared": TUNE,
    "all": replace(TUNE, mode="all"),
    "grow": replace(TUNE, grow=0.8),
}
# Routings that a training limits or draws.
ROUTINGS = {
    "switch": replace(TUNE, capacity=1.0, accumulate=2),
    "sample": TUNE,
}
# Of the seed and three experts, so that the experts divide by two.
FOUR = {
    "four-shared": TUNE,
    "four-all": replace(TUNE, mode="all"),
    "four-switch": replace(TUNE, capacity=1.0),
    "four-sample": TUNE,
    # From a build of three, which they do not divide.
    "four-grow": replace(TUNE, grow=0.8),
}
# Mixtures: how many experts beside the seed's, and how they are chosen.
MIXTURES: dict[str, tuple[int, Routing]] = {
    "mixed": (2, "top-k"),
    "four": (3, "top-k"),
    "switch": (3, "switch"),
    "sample": (3, "sample"),
}


def prepare(seed: Path, corpora: Path, ground: Path) -> None:
    """Make the branches, mixtures and build that the runs start from."""
    (ground / "seed").symlink_to(seed)
    (ground / "text").symlink_to(corpora)
    for name in ("math", "units"):
        train(seed, [corpora / name], TRAIN, ground / name)
    folders = {"math": "math", "units": "units", "third": "math"}
    for name, (count, routing) in MIXTURES.items():
        members = [
            Member(member, slot, ground / folder)
            for slot, (member, folder) in enumerate(list(folders.items())[:count], 1)
        ]
        mix(seed, members, MixRecipe(routing=routing), ground / name)
    bare = TuneInputs(ground / "mixed", {"math": [corpora / "math"]})
    tune(bare, replace(TUNE, start="random"), ground / "before")


def run(
    name: str,
    ground: Path,
    out: Path,
    stop: int = 0,
    on_step: Callable[[int], object] = lambda step: None,
) -> None:
    """Train, tune or measure by name."""
    losses: list[float] = []
    first: list[int] = []
    held: list[int] = []

    def report(step: int, measured: dict[str, float]) -> None:
        first.append(step)
        losses.append(measured["loss"])
        on_step(step)
        if len(losses) == 2:
            held.append(held_bytes())
        if step == stop:
            os._exit(9)

    # What a run before this one in the same process held is no part of this one's.
    gc.collect()
    exchanged = counted(dist, "reduce_scatter_single")
    watch, text = Watch(report=report), ground / "text"
    if name == "measured":
        measured = evaluate(ground / "four", {"math": text / "math"}, max_tokens=200)
        losses.append(measured.domains["math"].bits_per_byte)
        first.append(0)
    elif name in BRANCHES:
        recipe = BRANCHES[name]
        train(
            ground / "seed",
            [text / "math"],
            recipe,
            out / name,
            general=[text / "prose"],
            watch=watch,
        )
    else:
        texts = {GENERAL: [text / "prose"], "math": [text / "math"], "units": [text / "units"]}
        own = {GENERAL: OwnExpert(0, ground / "seed")} | {
            domain: OwnExpert(index, ground / domain)
            for index, domain in enumerate(("math", "units"), 1)
        }
        plain, routing = "four" if name in FOUR else "mixed", name.removeprefix("four-")
        mixed = ground / (routing if routing in ROUTINGS else plain)
        grown = Grown(ground / "before", {0: 0, 1: 1})
        inputs = TuneInputs(mixed, texts, own, ground / "seed", grown)
        tune(inputs, (TUNINGS | ROUTINGS | FOUR)[name], out / name, watch)
    if here().is_main:
        done = {"losses": losses, "first": first[0], "exchanged": len(exchanged), "held": held}
        (out / f"{name}.json").write_text(json.dumps(done))


def held_bytes() -> int:
    """Return the bytes of all tensors that this process holds, of a divided one its share."""
    sizes: dict[int, int] = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor) and type(one) is not DTensor and not one.is_meta:
            storage = one.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


# Any: a module.
def counted(module: Any, name: str) -> list[str]:
    """Return a list that grows by one with each call of a function."""
    calls: list[str] = []
    plain = getattr(module, name)

    def called(*arguments: object, **named: object) -> object:
        calls.append(name)
        return plain(*arguments, **named)

    setattr(module, name, called)
    return calls


if __name__ == "__main__":
    torch.set_num_threads(1)
    ground, out, stop, *names = sys.argv[1:]
    for each in names:
        run(each, Path(ground), Path(out), int(stop))
