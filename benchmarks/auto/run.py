"""A branch of a real seed by the chosen recipe and by a tiny model's: held-out bits per byte.

    python benchmarks/auto/run.py SEED DATA --dir SCRATCH [--steps 20] [--kinds auto tiny]

SEED is a dense checkpoint folder, DATA a data folder. Both recipes run the same few steps of
4 × 128 tokens; the learning rate and its warm-up differ. Prints one JSON line a measurement.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors import safe_open

from btx_core.measuring.evaluation import evaluate
from btx_core.training.branch import train
from btx_core.training.fitting import Scope, for_training
from btx_core.training.recipes import TrainRecipe

BATCH, SEQUENCE = 4, 128


def main() -> None:
    """Measure the seed, then a branch by each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=3000)
    parser.add_argument("--kinds", nargs="+", choices=["auto", "tiny"], default=["auto", "tiny"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(options, options.seed, "seed", {})
    recipes = {"auto": chosen(options), "tiny": TrainRecipe(steps=options.steps)}
    for kind in options.kinds:
        recipe, out = recipes[kind], options.dir / kind
        report = train(options.seed, [options.data], recipe, out)
        losses = [round(loss, 3) for _, loss in report.curve]
        rate = {"learning_rate": recipe.learning_rate, "warmup_steps": recipe.warmup_steps}
        figures = {**rate, "losses": losses, "device_s": report.device_s}
        measure(options, out, kind, figures)


def chosen(options: argparse.Namespace) -> TrainRecipe:
    """Return the recipe that a workspace chooses, with the steps and their size given."""
    parameters = 0
    for file in options.seed.glob("*.safetensors"):
        with safe_open(file, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                parameters += size
    text = sum(file.stat().st_size for file in options.data.rglob("*") if file.is_file())
    given = {"steps": options.steps, "batch": BATCH, "sequence": SEQUENCE}
    return TrainRecipe(**given, **for_training(Scope(parameters, text), given))


def measure(options: argparse.Namespace, folder: Path, name: str, figures: dict) -> None:
    """Print the bits per byte of a checkpoint."""
    started = time.process_time()
    result = evaluate(folder, {"text": options.data}, max_tokens=options.max_tokens)
    bits = round(result.domains["text"].bits_per_byte, 4)
    seconds = round(time.process_time() - started)
    printed = {"model": name, "bits_per_byte": bits, "measured_s": seconds, **figures}
    print(json.dumps(printed), flush=True)


if __name__ == "__main__":
    main()
