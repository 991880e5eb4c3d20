"""The parts of the run that need the tensor half alone: every stage once, and their speed.

In:  stages | speed-135m | speed-1.1b; a scratch folder; a file for the rows.
Out: a row of JSON for each thing that was tried, written as soon as it is known. One that fails
     says so in its row, and the next one is tried.

Seeds are random models of the named shape, their text is this Python's own library.
"""

import argparse
import gc
import json
import resource
import shutil
import sysconfig
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from btx_core.measuring import harness
from btx_core.measuring.attribution import Reader
from btx_core.measuring.evaluation import evaluate
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.routed import experts_computing_in
from btx_core.training.branch import train
from btx_core.training.loop import UNWATCHED, Watch
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.tune import TuneInputs, tune
from pipelines.story.small_seed import byte_tokenizer

DOMAINS = ("code", "prose")
CUDA = torch.cuda.is_available()


@dataclass(frozen=True)
class Shape:
    """Of a random llama, and of what is measured with it.

    Attributes:
        hidden, feed_forward, layers, heads, key_value_heads, vocabulary: of the model.
        batch, sequence: of a step.
        steps: of a run.
        first: steps at its beginning that do not count.
    """

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    batch: int = 16
    sequence: int = 1024
    steps: int = 20
    first: int = 5


TINY = Shape(64, 128, 2, 4, 2, 1024, batch=4, sequence=64, steps=2, first=1)
SHAPES = {
    "stages": Shape(256, 768, 4, 8, 4, 4096, batch=8, sequence=256),
    "speed-135m": Shape(576, 1536, 30, 9, 3, 49152),
    "speed-1.1b": Shape(2048, 5632, 22, 32, 4, 32000, batch=8, steps=10, first=3),
}


class Rows:
    """Writes a row for each thing that is tried."""

    def __init__(self, file: Path) -> None:
        """Write to this file."""
        self.file = file

    # Any: a JSON object.
    def attempt(self, what: str, action: Callable[[], dict[str, Any]]) -> None:
        """Run an action, and write what it measured or how it failed."""
        row: dict[str, Any] = {"what": what}
        if CUDA:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            # What an attempt before has left, which counts in this one's peak.
            row["held_before_bytes"] = torch.cuda.memory_allocated()
        started = time.monotonic()
        try:
            row |= action()
            # A stage that should run on the card and never touched it is a fault.
            if CUDA and torch.cuda.max_memory_allocated() < 1 << 20:
                row["note"] = "ran on the CPU"
        except Exception as error:
            traceback.print_exc()
            row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        row["seconds"] = round(time.monotonic() - started, 2)
        row.setdefault("peak_bytes", peak_bytes())
        with self.file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(row)


def peak_bytes() -> int:
    """Return the most memory held: of the card where there is one, else of this process."""
    if CUDA:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Setup:
    """Text, a random seed and a mixture of it and copies of it."""

    def __init__(self, scratch: Path, shape: Shape) -> None:
        """Write them."""
        self.scratch, self.shape = scratch, shape
        self.texts = {name: scratch / "text" / name for name in (GENERAL, *DOMAINS)}
        library = Path(sysconfig.get_paths()["stdlib"])
        sources = [path.read_text("utf-8", "ignore") for path in sorted(library.glob("*.py"))]
        documents = {GENERAL: list(topics.values()), "code": sources[::2], "prose": sources[1::2]}
        for name, folder in self.texts.items():
            (folder / "heldout").mkdir(parents=True)
            lines = [json.dumps({"text": text}) + "\n" for text in documents[name]]
            (folder / "heldout/text.jsonl").write_text("".join(lines[:5]))
            (folder / "text.jsonl").write_text("".join(lines[5:]))
        self.seed, self.mixed = scratch / "seed", scratch / "mixed"
        tokenizer = byte_tokenizer(documents[GENERAL], min(shape.vocabulary, 1024))
        tokenizer.save_pretrained(self.seed)
        random_llama(shape, tokenizer.eos_token_id).save_pretrained(self.seed)
        members = [Member(name, slot, self.seed) for slot, name in enumerate(DOMAINS, 1)]
        mix(self.seed, members, MixRecipe(), self.mixed)

    def train(self, recipe: TrainRecipe, name: str, watch: Watch = UNWATCHED) -> dict[str, Any]:
        """Train a branch; return its tokens, seconds and memory."""
        texts, general, out = [self.texts["code"]], [self.texts[GENERAL]], self.scratch / name
        report = train(self.seed, texts, recipe, out, general=general, watch=watch)
        return {"tokens": report.tokens, "wall_s": report.wall_s, "peak_bytes": report.peak_bytes}

    def tune(
        self,
        recipe: TuneRecipe,
        name: str,
        grown: Grown | None = None,
        watch: Watch = UNWATCHED,
    ) -> dict[str, Any]:
        """Tune the mixture; return its tokens, seconds and memory."""
        own = {GENERAL: OwnExpert(0, self.seed)}
        own |= {name: OwnExpert(index, self.seed) for index, name in enumerate(DOMAINS, 1)}
        texts = {name: [folder] for name, folder in self.texts.items()}
        inputs = TuneInputs(self.mixed, texts, own, self.seed, grown)
        report = tune(inputs, recipe, self.scratch / name, watch)
        if report is None:
            return {}
        return {"tokens": report.tokens, "wall_s": report.wall_s, "peak_bytes": report.peak_bytes}


def random_llama(shape: Shape, end: int) -> LlamaForCausalLM:
    """Return a random model in bfloat16, made on the card where there is one."""
    with torch.device("cuda" if CUDA else "cpu"):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.feed_forward,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.key_value_heads,
                max_position_embeddings=2048,
                tie_word_embeddings=True,
                bos_token_id=end,
                eos_token_id=end,
            )
        )
    return model.to("cpu", torch.bfloat16)


def stages(setup: Setup, rows: Rows) -> None:
    """Run every stage and mode once, each by its default recipe but for size and steps."""
    shape = setup.shape
    small = {"steps": 3, "batch": shape.batch, "sequence": shape.sequence, "warmup_steps": 1}
    branches = {
        "anchored": {},
        "full": {"mode": "full"},
        "lora": {"lora_rank": 4},
        "beside": {"beside": 0.7, "replay": 0.5},
        "bfloat16": {"precision": "bfloat16"},
    }
    for name, settings in branches.items():
        recipe = replace(TrainRecipe(), **small | settings)
        rows.attempt(f"train {name}", partial(setup.train, recipe, f"branch-{name}"))
    for mode in ("none", "router", "shared", "all"):
        recipe = replace(TuneRecipe(), **small | {"mode": mode})
        rows.attempt(f"tune {mode}", partial(setup.tune, recipe, f"tuned-{mode}"))
    # The last expert joins: the build before is read as if it knew the first two alone.
    grown = Grown(setup.scratch / "tuned-shared", {0: 0, 1: 1})
    recipe = replace(TuneRecipe(), **small | {"mode": "shared", "grow": 0.5})
    rows.attempt("tune grow", partial(setup.tune, recipe, "tuned-grown", grown))
    build = setup.scratch / "tuned-shared"
    rows.attempt("evaluate", partial(measure, build, setup.texts["code"]))
    rows.attempt("explain", lambda: {"tokens": len(Reader.open(build).read("import os\n").tokens)})
    rows.attempt("harness", partial(run_task, build, setup.scratch))


def measure(build: Path, text: Path) -> dict[str, Any]:
    """Return the figures of a build on one domain's held-out text."""
    measured = evaluate(build, {"code": text}, max_tokens=2000)
    return {"note": f"{measured.domains['code'].bits_per_byte:.2f} bits per byte"}


def run_task(build: Path, root: Path) -> dict[str, Any]:
    """Run a task of the lm-evaluation-harness with two questions."""
    harness.check_installed()
    asked = [
        {"q": "1 + 1 =", "c": ["2", "3"], "right": 0},
        {"q": "a, b,", "c": ["c", "q"], "right": 0},
    ]
    (root / "task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    (root / "task.yaml").write_text(TASK)
    figures = harness.run(build, ["task.yaml"], root)
    return {"note": f"acc {next(iter(figures.values()))['acc']}"}


TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: task.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: "{{c}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc}]
"""


class Packed(Dataset[dict[str, torch.Tensor]]):
    """Text as sequences of one length, as the Trainer reads them."""

    def __init__(self, folder: Path, text: Path, shape: Shape) -> None:
        """Read as many sequences as a run takes."""
        lines = (text / "text.jsonl").read_text().splitlines()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        count = shape.steps * shape.batch
        ids: list[int] = []
        while len(ids) < count * shape.sequence:
            for line in lines:
                ids += tokenizer(json.loads(line)["text"])["input_ids"]
        self.sequences = torch.tensor(ids[: count * shape.sequence]).view(count, shape.sequence)

    def __len__(self) -> int:
        """Return how many sequences there are."""
        return len(self.sequences)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Return one sequence, as the input and as what is to be predicted."""
        return {"input_ids": self.sequences[number], "labels": self.sequences[number]}


class StepTimes(TrainerCallback):
    """When each step of a run ended, of the Trainer's and of ours."""

    def __init__(self) -> None:
        """Begin with none."""
        self.ends: list[float] = []

    # Any: what the Trainer hands to a callback.
    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the end of a step of the Trainer, once the card has done it."""
        if CUDA:
            torch.cuda.synchronize()
        self.note(len(self.ends), {})

    def note(self, _: int, __: Mapping[str, float]) -> None:
        """Note the end of a step of ours, which has read its loss from the card."""
        self.ends.append(time.monotonic())

    @property
    def watch(self) -> Watch:
        """What notes the steps of a run of ours."""
        return Watch(report=self.note)


def trainer(setup: Setup, folder: Path, times: StepTimes, *, halves: bool = False) -> None:
    """Train all parameters of a model by a plain Trainer.

    Args:
        setup: what is trained on.
        folder: the model's.
        times: notes the steps.
        halves: compute experts in bfloat16, which autocast does not reach.
    """
    shape = setup.shape
    arguments = TrainingArguments(
        output_dir=str(setup.scratch / "trainer"),
        max_steps=shape.steps,
        per_device_train_batch_size=shape.batch,
        bf16=CUDA,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not CUDA,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    data = Packed(folder, setup.texts["code"], shape)
    experts = experts_computing_in(model, torch.bfloat16) if halves else nullcontext()
    with experts:
        Trainer(model=model, args=arguments, train_dataset=data, callbacks=[times]).train()


def speed(setup: Setup, rows: Rows) -> None:
    """Measure branch, router and shared beside the Trainer."""
    shape = setup.shape
    size = {"steps": shape.steps, "batch": shape.batch, "sequence": shape.sequence}
    size |= {"warmup_steps": 1, "learning_rate": 1e-5}
    # Any: settings of a recipe.
    settings: dict[str, Any] = size | ({"precision": "bfloat16"} if CUDA else {})
    branch = TrainRecipe(**settings)
    tuning = TuneRecipe(**settings, start="random")
    router = replace(tuning, mode="router")
    own = replace(router, text=0.0, keep=0.0, home=1.0)

    ways: dict[str, Callable[[StepTimes], object]] = {
        "Trainer, the seed": partial(trainer, setup, setup.seed),
        "branch, anchored": lambda times: setup.train(branch, "branch", times.watch),
        "Trainer, the mixture": partial(trainer, setup, setup.mixed),
        "Trainer, the mixture, experts in bfloat16": partial(
            trainer, setup, setup.mixed, halves=True
        ),
        "tune router": lambda times: setup.tune(router, "tuned", watch=times.watch),
        "tune router, own-expert loss": lambda times: setup.tune(own, "tuned", watch=times.watch),
        "tune shared": lambda times: setup.tune(
            replace(tuning, mode="shared"), "tuned", watch=times.watch
        ),
    }
    for name, way in ways.items():
        rows.attempt(name, partial(timed, setup, way))


def timed(setup: Setup, way: Callable[[StepTimes], object]) -> dict[str, Any]:
    """Return the speed of the steps after the first ones."""
    times, shape = StepTimes(), setup.shape
    way(times)
    for folder in ("branch", "tuned", "trainer"):
        shutil.rmtree(setup.scratch / folder, ignore_errors=True)
    seconds = times.ends[-1] - times.ends[shape.first - 1]
    tokens = (shape.steps - shape.first) * shape.batch * shape.sequence
    return {"tokens_per_s": round(tokens / seconds, 1)}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=SHAPES)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    setup = Setup(options.dir, TINY if options.tiny else SHAPES[options.part])
    measured = stages if options.part == "stages" else speed
    measured(setup, Rows(options.rows))


if __name__ == "__main__":
    main()
