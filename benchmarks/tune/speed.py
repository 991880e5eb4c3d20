"""Tokens a second of tuning, mode by mode, beside a plain transformers.Trainer over all parameters of the same model, in turns in one run.

In:  --hidden, --layers: a Llama shape; --dir: a folder for scratch.  Out: a Markdown row per way: tokens a second, median and spread, ratio.
Three experts and the seed; the batch, the length and the text are the same everywhere. What a second buys in quality: benchmarks/btx_table.
Run:  .venv/bin/python benchmarks/tune/speed.py
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer, Trainer, TrainingArguments

from btx_core.machine import load
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.texts import Corpus, Mixture
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob, domain_shares
from pipelines.story.small_seed import PretrainConfig, pretrain

NAMES = ("math", "code", "units")
DOMAINS = (GENERAL, *NAMES)


class Rows(Dataset[dict[str, Any]]):
    """The mixture's rows, as Trainer wants them."""

    def __init__(self, mixture: Mixture, count: int, recipe: TuneRecipe) -> None:
        steps = [mixture.batch(step, recipe.batch, recipe.sequence)[0] for step in range(count)]
        self.rows = [torch.from_numpy(row[:-1]) for step in steps for row in step]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"input_ids": self.rows[number], "labels": self.rows[number]}


def plain(folder: Path, mixture: Mixture, recipe: TuneRecipe, scratch: Path) -> float:
    """Seconds of the loop, as Trainer tells them."""
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=load(folder, torch.float32),
        args=arguments,
        train_dataset=Rows(mixture, recipe.steps, recipe),
    )
    return float(trainer.train().metrics["train_runtime"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--layers", type=int, default=6)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-tune"))
    given = options.parse_args()
    shutil.rmtree(given.dir, ignore_errors=True)
    (given.dir / "text").mkdir(parents=True)
    folders = {name: [texts(given.dir / "text" / name, name)] for name in DOMAINS}
    size = PretrainConfig(
        hidden=given.hidden, feed_forward=3 * given.hidden, layers=given.layers, heads=8
    )
    seed = given.dir / "seed"
    pretrain(size, folders[GENERAL], TrainRecipe(mode="full", steps=1), seed)
    mixed = given.dir / "mixed"
    mix(seed, [Member(name, slot, seed) for slot, name in enumerate(NAMES, 1)], MixRecipe(), mixed)
    recipe = TuneRecipe(steps=given.steps, start="random", warmup_steps=2)
    tokenizer = AutoTokenizer.from_pretrained(mixed)
    mixture = Mixture(
        {name: Corpus.of(where, tokenizer, 0) for name, where in folders.items()},
        domain_shares(list(folders), recipe.general_share),
    )

    own_experts = {name: OwnExpert(index, seed) for index, name in enumerate(DOMAINS)}
    inputs = TuneInputs(mixed, folders, own_experts, seed)

    def tuned(**changes: Any) -> Callable[[], float]:
        def run() -> float:
            job = TuneJob.load(inputs, replace(recipe, **changes))
            job.start_routers()
            job.freeze()
            return job.run().wall_s

        return run

    ways: dict[str, Callable[[], float]] = {
        "transformers.Trainer, all parameters": lambda: plain(
            mixed, mixture, recipe, given.dir / "trainer"
        ),
        "all": tuned(mode="all"),
        "shared": tuned(mode="shared"),
        "router": tuned(mode="router"),
        "router, without the distance to the seed": tuned(mode="router", keep=0.0),
        "router, by home alone": tuned(mode="router", text=0.0, keep=0.0, home=1.0),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(given.rounds + 1):
        for name, run in ways.items():
            seconds = run()
            if round_:  # the first warms
                taken[name].append(given.steps * recipe.batch * recipe.sequence / seconds)
    base = statistics.median(taken["transformers.Trainer, all parameters"])
    print(
        json.dumps(
            {
                "hidden": given.hidden,
                "layers": given.layers,
                "steps": given.steps,
                "threads": torch.get_num_threads(),
            }
        )
    )
    print("| way | tokens/s, median (spread) | ratio |\n|---|---|---|")
    for name, rates in taken.items():
        middle = statistics.median(rates)
        print(
            f"| {name} | {middle:.0f} ({min(rates):.0f}–{max(rates):.0f}) | {middle / base:.2f} |"
        )
    shutil.rmtree(given.dir)


def texts(folder: Path, name: str) -> Path:
    from pipelines.story import corpora

    {GENERAL: corpora.prose, "math": corpora.math, "code": corpora.code, "units": corpora.units}[
        name
    ](folder)
    return folder


if __name__ == "__main__":
    main()
