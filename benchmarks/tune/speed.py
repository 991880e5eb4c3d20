"""Tokens per second of tuning, mode by mode, beside a plain transformers.Trainer.

    .venv/bin/python benchmarks/tune/speed.py

In:  --hidden, --layers: the shape of a Llama, or --seed: a checkpoint folder; --dir: a scratch
     folder.
Out: a Markdown row per way: tokens per second and per CPU second (median and spread), and the ratio
     to the Trainer by CPU seconds, which other processes of the machine hardly change.

The ways take turns in one run, on the same mixture of the seed and three experts, with the same
batch, sequence length and text. benchmarks/btx_table and benchmarks/real say what they are worth in
quality.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer, Trainer, TrainingArguments

from btx_core.batches import Corpus, Mixture
from btx_core.machine import load
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob, domain_shares
from pipelines.story import corpora
from pipelines.story.small_seed import PretrainConfig, pretrain

CORPORA = {
    GENERAL: corpora.prose,
    "math": corpora.math,
    "code": corpora.code,
    "units": corpora.units,
}
EXPERTS = tuple(name for name in CORPORA if name != GENERAL)
TRAINER = "transformers.Trainer, all parameters"


class Sequences(Dataset[dict[str, torch.Tensor]]):
    """The mixture's sequences, as the Trainer reads them."""

    def __init__(self, mixture: Mixture, recipe: TuneRecipe) -> None:
        """Take the sequences of all steps of a recipe."""
        batches = [
            mixture.batch(step, recipe.batch, recipe.sequence)[0] for step in range(recipe.steps)
        ]
        self.sequences = [
            torch.from_numpy(sequence[:-1]) for batch in batches for sequence in batch
        ]

    def __len__(self) -> int:
        """Return how many sequences there are."""
        return len(self.sequences)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Return one sequence, as the input and as what is to be predicted."""
        return {"input_ids": self.sequences[number], "labels": self.sequences[number]}


@dataclass(frozen=True)
class Subject:
    """What every way tunes.

    Attributes:
        inputs: the mixture, its text, the experts' own domains and the seed.
        recipe: steps, batch and sequence length of every way.
        scratch: a folder for what the Trainer writes.
    """

    inputs: TuneInputs
    recipe: TuneRecipe
    scratch: Path


@dataclass(frozen=True)
class Took:
    """Seconds of a loop by the clock, and of CPU time."""

    wall_s: float
    cpu_s: float


def trained(subject: Subject) -> Took:
    """Run the Trainer's loop."""
    recipe, mixed = subject.recipe, subject.inputs.mixed
    tokenizer = AutoTokenizer.from_pretrained(mixed)
    texts = subject.inputs.texts
    mixture = Mixture(
        {name: Corpus.of(folders, tokenizer, 0) for name, folders in texts.items()},
        domain_shares(list(texts), recipe.general_share),
    )
    arguments = TrainingArguments(
        output_dir=str(subject.scratch),
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
        model=load(mixed, torch.float32),
        args=arguments,
        train_dataset=Sequences(mixture, recipe),
    )
    started = time.process_time()
    wall_s = float(trainer.train().metrics["train_runtime"])
    return Took(wall_s, time.process_time() - started)


def tuned(subject: Subject, recipe: TuneRecipe) -> Took:
    """Run btx's loop under a recipe."""
    job = TuneJob.load(subject.inputs, recipe)
    job.start_routers()
    report = job.run()
    return Took(report.wall_s, report.device_s)


def compose(scratch: Path, size: PretrainConfig, recipe: TuneRecipe, seed: Path | None) -> Subject:
    """Write text, a seed unless one is given, and a mixture of three copies of it."""
    texts = {name: [scratch / "text" / name] for name in CORPORA}
    for name, (folder,) in texts.items():
        CORPORA[name](folder)
    mixed = scratch / "mixed"
    if seed is None:
        seed = scratch / "seed"
        pretrain(size, texts[GENERAL], TrainRecipe(mode="full", steps=1), seed)
    members = [Member(name, slot, seed) for slot, name in enumerate(EXPERTS, 1)]
    mix(seed, members, MixRecipe(), mixed)
    own_experts = {name: OwnExpert(index, seed) for index, name in enumerate(CORPORA)}
    return Subject(TuneInputs(mixed, texts, own_experts, seed), recipe, scratch / "trainer")


def ways_to_tune(subject: Subject) -> dict[str, Callable[[], Took]]:
    """Return a function for every way that runs its loop."""
    router = replace(subject.recipe, mode="router")
    recipes = {
        "all": replace(subject.recipe, mode="all"),
        "shared": replace(subject.recipe, mode="shared"),
        "router": router,
        "router, without the KL divergence from the seed": replace(router, keep=0.0),
        "router, own-expert loss only": replace(router, text=0.0, keep=0.0, home=1.0),
    }
    ways: dict[str, Callable[[], Took]] = {TRAINER: partial(trained, subject)}
    for name, recipe in recipes.items():
        ways[name] = partial(tuned, subject, recipe)
    return ways


def measure(ways: dict[str, Callable[[], Took]], rounds: int) -> dict[str, list[Took]]:
    """Run the ways in turns; return what each round took but a first one."""
    measured: dict[str, list[Took]] = {name: [] for name in ways}
    # To warm up.
    for run in ways.values():
        run()
    for _ in range(rounds):
        for name, run in ways.items():
            measured[name].append(run())
    return measured


def middle_and_spread(rates: list[float]) -> str:
    """Return the median and, in brackets, the least and the most."""
    return f"{statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})"


def main() -> None:
    """Print the shape, then the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seed", type=Path, help="a checkpoint folder; default: a random Llama")
    parser.add_argument("--ways", nargs="+", help="only those whose name holds one of these")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-tune"))
    options = parser.parse_args()
    shutil.rmtree(options.dir, ignore_errors=True)
    options.dir.mkdir(parents=True)
    size = PretrainConfig(
        hidden=options.hidden, feed_forward=3 * options.hidden, layers=options.layers, heads=8
    )
    recipe = TuneRecipe(steps=options.steps, start="random", warmup_steps=2)
    subject = compose(options.dir, size, recipe, options.seed)
    ways = ways_to_tune(subject)
    if options.ways:
        ways = {
            name: way
            for name, way in ways.items()
            if name == TRAINER or any(part in name for part in options.ways)
        }
    tokens = recipe.steps * recipe.batch * recipe.sequence
    measured = measure(ways, options.rounds)
    shape = {"hidden": options.hidden, "layers": options.layers, "steps": options.steps}
    if options.seed:
        shape = {"seed": str(options.seed), "steps": options.steps}
    print(json.dumps(shape | {"threads": torch.get_num_threads()}))
    print("| way | tokens/s | tokens per CPU second | ratio |\n|---|---:|---:|---:|")
    trainer = statistics.median(took.cpu_s for took in measured[TRAINER])
    for name, runs in measured.items():
        by_clock = middle_and_spread([tokens / took.wall_s for took in runs])
        by_cpu = middle_and_spread([tokens / took.cpu_s for took in runs])
        ratio = trainer / statistics.median(took.cpu_s for took in runs)
        print(f"| {name} | {by_clock} | {by_cpu} | {ratio:.2f} |", flush=True)
    shutil.rmtree(options.dir)


if __name__ == "__main__":
    main()
