"""The models that every recipe of one random seed starts from, and how any model is measured.

In:  a scratch folder, a random seed.
Out: the seed model, its branches, builds that were tuned from nothing; bits per byte on both
held-out texts; what it all cost in floating point operations, teachers' passes counted.
What is there from an earlier run is used. How a build grows is left to `growing`.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from texts import GENERAL, Domain
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from btx_core.machine import load
from btx_core.measuring.evaluation import evaluate_model
from btx_core.measuring.samples import Limits
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.weight_files import ROUTER, SHARED
from btx_core.routed import RoutedModel, parameter_counts
from btx_core.training import objectives
from btx_core.training.branch import train
from btx_core.training.loop import flops_per_token
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import SEQUENCES, OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob
from btx_core.training.write_back import write_tuned
from pipelines.story.small_seed import PretrainConfig, pretrain

# Small, so that one recipe takes seconds of one core. All else is the demonstration's.
SIZE = PretrainConfig(vocabulary=512, hidden=32, feed_forward=96, layers=2, heads=2)
SEED = TrainRecipe(mode="full", steps=500, learning_rate=4e-3)
BRANCHES = {
    "anchored": TrainRecipe(steps=250, learning_rate=3e-3),
    "trained longer": TrainRecipe(steps=400, learning_rate=3e-3),
    "full": TrainRecipe(mode="full", steps=250, learning_rate=3e-3),
}
TUNE = TuneRecipe(steps=400)
# All held-out text is measured.
LIMITS = Limits(1 << 30)

# Bits per byte by domain.
Bits = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """A model's bits per byte on both held-out texts, and what its tuning took.

    Attributes:
        chosen_on: by domain, on the text that recipes are chosen on.
        reported: by domain, on the other.
        steps: of the tuning.
        tokens: read in all steps.
        flops: of the tuning, with its router start and its teachers' passes.
    """

    chosen_on: Bits
    reported: Bits
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Models:
    """What all recipes of one random seed start from.

    Attributes:
        folder: of these models.
        random_seed: of weights and of the order of the text.
        texts: by domain.
    """

    folder: Path
    random_seed: int
    texts: Mapping[str, Domain]

    @cached_property
    def seed(self) -> Path:
        """The seed model, which knows the general text alone."""
        path = self.folder / "seed"
        if not path.is_dir():
            recipe = replace(SEED, seed=self.random_seed)
            pretrain(SIZE, [self.texts[GENERAL].folder], recipe, path)
        return path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The seed model's tokenizer."""
        return AutoTokenizer.from_pretrained(self.seed)

    def branch(self, domain: str, kind: str = "anchored") -> Path:
        """Return a branch of the seed model; trained where it is missing."""
        path = self.folder / kind / domain
        if not path.is_dir():
            recipe = replace(BRANCHES[kind], seed=self.random_seed)
            general = [self.texts[GENERAL].folder] if recipe.replay else []
            train(self.seed, [self.texts[domain].folder], recipe, path, general=general)
        return path

    def branch_flops(self, domain: str, kind: str) -> float:
        """Return what a branch took to train."""
        notes = json.loads((self.branch(domain, kind) / "btx-train.json").read_text())
        return float(notes["report"]["flops"])

    def mixed(self, members: Sequence[str], kinds: Mapping[str, str]) -> Path:
        """Mix the seed model with branches, in this order; nothing is tuned."""
        out = self.folder / "mixed"
        shutil.rmtree(out, ignore_errors=True)
        full = "full" in kinds.values()
        slots = [
            Member(name, slot, self.branch(name, kinds.get(name, "anchored")))
            for slot, name in enumerate(members, 1)
        ]
        mix(self.seed, slots, MixRecipe(mode="full" if full else "anchored"), out)
        return out

    def inputs(self, members: Sequence[str], kinds: Mapping[str, str]) -> TuneInputs:
        """Return what a tuning of these members is given."""
        own = {
            tuned_as(name): OwnExpert(index, self.branch(name, kinds.get(name, "anchored")))
            for index, name in enumerate(members, 1)
        }
        texts = {tuned_as(name): [self.texts[name].folder] for name in members}
        return TuneInputs(self.mixed(members, kinds), texts, own, self.seed)

    def from_nothing(
        self,
        name: str,
        members: Sequence[str],
        kinds: Mapping[str, str] | None = None,
        steps: int = TUNE.steps,
    ) -> tuple[Path, Measured]:
        """Return a build that was tuned from nothing, and its figures."""
        folder, figures = self.folder / "builds" / name, self.folder / "builds" / f"{name}.json"
        if figures.exists():
            return folder, Measured(**json.loads(figures.read_text()))
        recipe = replace(TUNE, seed=self.random_seed, steps=steps)
        job = TuneJob.load(self.inputs(members, kinds or {}), recipe)
        job.start_routers()
        report = job.run()
        dense = parameter_counts(load(self.seed)).total
        start = 2 * dense * len(members) * SEQUENCES * recipe.sequence
        teacher = 2 * dense * recipe.general_share * report.tokens
        measured = self.measured(job.routed, report.tokens, report.flops + start + teacher, steps)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        write_tuned(job.routed, self.folder / "mixed", (ROUTER, SHARED), folder)
        figures.write_text(json.dumps(asdict(measured)))
        return folder, measured

    def measured(
        self, model: RoutedModel, tokens: int = 0, flops: float = 0.0, steps: int = 0
    ) -> Measured:
        """Measure a model on all held-out text of every domain."""
        chosen_on = {name: domain.folder for name, domain in self.texts.items()}
        reported = {name: domain.reported for name, domain in self.texts.items()}
        bits = [
            {
                name: result.bits_per_byte
                for name, result in evaluate_model(
                    model, self.tokenizer, folders, LIMITS
                ).domains.items()
            }
            for folders in (chosen_on, reported)
        ]
        return Measured(*bits, steps=steps, tokens=tokens, flops=flops)

    def dense(self, path: Path, name: str) -> Measured:
        """Measure a dense model."""
        figures = self.folder / f"{name}.json"
        if not figures.exists():
            measured = self.measured(RoutedModel(load(path, torch.float32)))
            figures.write_text(json.dumps(asdict(measured)))
        return Measured(**json.loads(figures.read_text()))


def started(about: str) -> argparse.Namespace:
    """Return what the command line says: the scratch folder and the random seeds.

    The order of float additions, and so every figure, depends on the number of threads: it is one.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    torch.set_num_threads(1)
    return parser.parse_args()


def tuned_as(domain: str) -> str:
    """Return the name under which a tuning knows a domain."""
    return objectives.GENERAL if domain == GENERAL else domain


__all__ = ["Bits", "Measured", "Models", "flops_per_token", "started", "tuned_as"]
