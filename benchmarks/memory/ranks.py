"""What each of several processes that share a model really holds: loading, steps, state, writing.

    .venv/bin/python benchmarks/memory/ranks.py [--processes 2 4] [--layers 6 12] [--runs RUN ...]

In:  nothing; models of random weights and text are made in a temporary folder.
Out: Markdown rows: by phase, how much the anonymous memory of the process that holds most grows
     with the model, as a share of what its part of weights, gradients and averages grows by; and
     the largest peak less 1.1 times that part: a constant that does not depend on the size.

Two models that differ in their number of layers alone are trained alike, so that libraries, text
and the layers that are whole while they compute cancel out. Activations are computed again.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from btx_core.checkpoints.strict_json import read_json
from btx_core.machine import here
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.training import branch, router_start, tune
from btx_core.training.memory import ModelShape, RunShape, Trains, memory_of
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.run_state import RunCheckpoints
from pipelines.story import corpora
from pipelines.story.small_seed import PretrainConfig, pretrain

STEPS, BATCH, SEQUENCE, EXPERTS = 2, 4, 32, 4
TRAIN = TrainRecipe(steps=STEPS, batch=BATCH, sequence=SEQUENCE, warmup_steps=1, save_every=1)
TUNE = TuneRecipe(steps=STEPS, batch=BATCH, sequence=SEQUENCE, warmup_steps=1, save_every=1)
# Memory that is free again goes back to the system at once, so that what is measured is held.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
# What loads a model to be trained, or a teacher.
LOADERS = ((branch, "load_branch"), (tune.TuneJob, "load"), (tune, "load"))
PHASES = ("load", "routers", "steps", "save", "resume", "write")


@dataclass(frozen=True)
class Run:
    """A way to train.

    Attributes:
        recipe: of a branch, or of a tuning of four experts.
        trains: what does, as the formula names it.
        expert_parallel: processes that divide the experts; the rest of them share each matrix.
    """

    recipe: TrainRecipe | TuneRecipe
    trains: Trains
    expert_parallel: int = 1


RUNS = {
    "branch, anchored": Run(TRAIN, "feed-forward"),
    "branch, full": Run(TrainRecipe(**TRAIN.__dict__ | {"mode": "full"}), "all"),
    "tune router": Run(TuneRecipe(**TUNE.__dict__ | {"mode": "router"}), "router"),
    "tune shared": Run(TUNE, "shared"),
    "tune all": Run(TuneRecipe(**TUNE.__dict__ | {"mode": "all"}), "all"),
    "tune all, experts divided by 2": Run(
        TuneRecipe(**TUNE.__dict__ | {"mode": "all"}), "all", expert_parallel=2
    ),
}


@dataclass(frozen=True)
class Half:
    """The part of a run up to its last saved state, or the part that goes on from there.

    Attributes:
        name: first or second.
        out: where both leave the run's state and result, and what they held.
    """

    name: str
    out: Path

    def file(self, rank: int) -> Path:
        """Return where a process says what it held."""
        return self.out / f"{self.name}-{rank}.json"


class Stopped(Exception):
    """The first half of a run ends here, with its state on disk."""


class Peaks:
    """The most anonymous memory that this process held, by phase."""

    def __init__(self) -> None:
        self.phase, self.bytes = "", {}
        threading.Thread(target=self._sample, daemon=True).start()

    def look(self) -> None:
        held = 1024 * next(
            int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("RssAnon")
        )
        self.bytes[self.phase] = max(held, self.bytes.get(self.phase, 0))

    def _sample(self) -> None:
        while True:
            self.look()
            time.sleep(0.004)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.look()
            self.phase = before

    # Any of the functions that a phase is.
    def watched(self, owner: object, name: str, phase: str) -> None:
        """Count what a function holds as a phase of its own."""
        plain: Callable[..., object] = getattr(owner, name)

        def measured(*arguments: object, **named: object) -> object:
            with self.during(phase):
                return plain(*arguments, **named)

        setattr(owner, name, measured)


def prepare(ground: Path, layers: int) -> None:
    """Make a seed of random weights, a mixture of it, and text."""
    folder = ground / str(layers)
    for make in (corpora.prose, corpora.math):
        if not (ground / make.__name__).exists():
            make(ground / make.__name__, size=60_000, heldout=6_000)
    if not (ground / "tiny").exists():
        size = PretrainConfig(vocabulary=384, hidden=32, feed_forward=64, layers=1, heads=2)
        pretrain(size, [ground / "prose"], TRAIN, ground / "tiny")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(
        ground / "tiny",
        hidden_size=256,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "seed")
    for file in (ground / "tiny").glob("token*"):
        (folder / "seed" / file.name).write_bytes(file.read_bytes())
    members = [Member(f"e{slot}", slot, folder / "seed") for slot in range(1, EXPERTS)]
    mix(folder / "seed", members, MixRecipe(), folder / "mixed")


def compute(name: str, ground: Path, layers: int, half: Half) -> None:
    """Compute one half of a run as one of its processes, and write what it held."""
    run, folder, peaks = RUNS[name], ground / str(layers), Peaks()
    for module in (branch, tune):
        peaks.watched(module, "optimise", "steps")
    for owner, function in LOADERS:
        peaks.watched(owner, function, "load")
    peaks.watched(tune.TuneJob, "start_routers", "routers")
    peaks.watched(RunCheckpoints, "save", "save")
    peaks.watched(RunCheckpoints, "load", "resume")
    for module, writer in ((branch, "write_branch"), (tune, "write_tuned")):
        peaks.watched(module, writer, "write")
        if half.name == "first":
            setattr(module, writer, stop)
    # More text for the first router weights takes time alone.
    router_start.SEQUENCES = 4
    with suppress(Stopped):
        if isinstance(run.recipe, TrainRecipe):
            branch.train(folder / "seed", [ground / "math"], run.recipe, half.out / "made")
        else:
            own = {"seed": router_start.OwnExpert(0, folder / "seed")}
            own |= {"math": router_start.OwnExpert(1, folder / "seed")}
            texts = {"seed": [ground / "prose"], "math": [ground / "math"]}
            inputs = tune.TuneInputs(folder / "mixed", texts, own, folder / "seed")
            tune.tune(inputs, run.recipe, half.out / "made")
    half.file(here().rank).write_text(json.dumps(peaks.bytes))


def stop(*_: object) -> None:
    raise Stopped


def in_processes(variables: list[dict[str, str]], work: Callable[[], None]) -> None:
    """Do the same in several processes, forked from this one, which has imported what they need."""

    def process(environment: dict[str, str]) -> None:
        os.environ |= environment
        work()

    context = multiprocessing.get_context("fork")
    started = [context.Process(target=process, args=(each,)) for each in variables]
    for each in started:
        each.start()
    for each in started:
        each.join()
        if each.exitcode:
            sys.exit(f"a process ended with {each.exitcode}")


def measure(name: str, ground: Path, layers: int, processes: int) -> dict[str, int]:
    """Run both halves in new processes; return the most that one of these held, by phase."""
    peaks: dict[str, int] = {}
    out = Path(tempfile.mkdtemp(dir=ground))
    for half in (Half("first", out), Half("second", out)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {
            "ACCELERATE_USE_CPU": "true",
            "BTX_EXPERT_PARALLEL": str(RUNS[name].expert_parallel),
            "BTX_RECOMPUTE": "1",
        }
        if processes > 1:
            common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            common |= {"WORLD_SIZE": str(processes)}
        variables = [
            common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
            for rank in range(processes)
        ]
        in_processes(variables, partial(compute, name, ground, layers, half))
        for rank in range(processes):
            for phase, held in json.loads(half.file(rank).read_text()).items():
                peaks[phase] = max(held, peaks.get(phase, 0))
    shutil.rmtree(out)
    return peaks


def share(name: str, ground: Path, layers: int, processes: int) -> int:
    """Return the bytes of a process's part of weights, gradients and averages."""
    run = RUNS[name]
    seed = ModelShape.of(read_json(ground / str(layers) / "seed/config.json"))
    tuned = isinstance(run.recipe, TuneRecipe)
    shape = RunShape(trains=run.trains, batch=BATCH, sequence=SEQUENCE, processes=processes)
    memory = memory_of(seed.mixed(EXPERTS) if tuned else seed, shape, [seed] if tuned else [])
    return memory.weights + memory.gradients + memory.averages + memory.teachers


def row(name: str, ground: Path, layers: list[int], processes: int) -> dict[str, object]:
    """Return what a run takes of each phase, as a share of what the formula says it holds."""
    small, large = (measure(name, ground, count, processes) for count in layers)
    shares = [share(name, ground, count, processes) for count in layers]
    grown = shares[1] - shares[0]
    ratios = {
        phase: round((large[phase] - small[phase]) / grown, 3) for phase in PHASES if phase in large
    }
    peak = max(held for phase, held in large.items())
    return {
        "run": name,
        "processes": processes,
        "share_mb": round(shares[1] / 1e6),
        "peak_mb": round(peak / 1e6),
        "constant_mb": round((peak - 1.1 * shares[1]) / 1e6),
        "growth": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--layers", type=int, nargs=2, default=[6, 12])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--json", action="store_true", help="a JSON object a row")
    asked = parser.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    torch.set_num_threads(1)
    if not asked.json:
        head = "| run | processes | share MB | peak MB | over 1.1 × share, MB |"
        print(head, *PHASES, sep=" | ")
        print("|---|---:|---:|---:|---:|" + "---:|" * len(PHASES))
    with tempfile.TemporaryDirectory() as folder:
        ground = Path(folder)
        for layers in asked.layers:
            in_processes([{}], partial(prepare, ground, layers))
        for name in asked.runs:
            for processes in asked.processes:
                if processes % RUNS[name].expert_parallel:
                    continue
                made = row(name, ground, asked.layers, processes)
                if asked.json:
                    print(json.dumps(made), flush=True)
                    continue
                growth = made.pop("growth")
                assert isinstance(growth, dict)
                cells = [*made.values(), *(growth.get(phase, "") for phase in PHASES)]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
