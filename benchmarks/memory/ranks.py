"""What each of several processes that share a model really holds: loading, steps, state, writing.

    .venv/bin/python benchmarks/memory/ranks.py [--processes 2 4] [--layers 4 12] [--runs NAME ...]

In:  nothing; models of random weights and text are made in a temporary folder.
Out: Markdown rows: by phase, how much the anonymous memory of the process that holds most grows
     with the model, as a share of what its part of weights, gradients and averages grows by; and
     what is left over, which does not depend on the size of the model.

Two models that differ in their number of layers alone are trained alike, so that libraries, the
layers that are whole while they compute, activations and text cancel out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
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
            time.sleep(0.002)

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
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "seed")
    for file in (ground / "tiny").glob("token*"):
        (folder / "seed" / file.name).write_bytes(file.read_bytes())
    members = [Member(f"e{slot}", slot, folder / "seed") for slot in range(1, EXPERTS)]
    mix(folder / "seed", members, MixRecipe(), folder / "mixed")


def compute(name: str, ground: Path, layers: int, out: Path, half: str) -> None:
    """Compute one half of a run as one of its processes, and write what it held."""
    run, folder, peaks = RUNS[name], ground / str(layers), Peaks()
    for module in (branch, tune):
        peaks.watched(module, "optimise", "steps")
    for module in (tune.TuneJob, branch, tune):
        for function in ("load", "load_branch"):
            if hasattr(module, function):
                peaks.watched(module, function, "load")
    peaks.watched(tune.TuneJob, "start_routers", "routers")
    peaks.watched(RunCheckpoints, "save", "save")
    peaks.watched(RunCheckpoints, "load", "resume")
    writers = {branch: "write_branch", tune: "write_tuned"}
    for module, writer in writers.items():
        peaks.watched(module, writer, "write")
        if half == "first":
            setattr(module, writer, stop)
    try:
        if isinstance(run.recipe, TrainRecipe):
            branch.train(folder / "seed", [ground / "math"], run.recipe, out / "made")
        else:
            own = {"seed": router_start.OwnExpert(0, folder / "seed")}
            own |= {"math": router_start.OwnExpert(1, folder / "seed")}
            texts = {"seed": [ground / "prose"], "math": [ground / "math"]}
            inputs = tune.TuneInputs(folder / "mixed", texts, own, folder / "seed")
            tune.tune(inputs, run.recipe, out / "made")
    except Stopped:
        pass
    (out / f"{half}-{here().rank}.json").write_text(json.dumps(peaks.bytes))


def stop(*_: object) -> None:
    raise Stopped


def measure(name: str, ground: Path, layers: int, processes: int) -> dict[str, int]:
    """Run both halves in new processes; return the most that one of these held, by phase."""
    out = Path(tempfile.mkdtemp(dir=ground))
    environment = os.environ | ALLOCATOR
    environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["BTX_EXPERT_PARALLEL"] = str(RUNS[name].expert_parallel)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    peaks: dict[str, int] = {}
    for half in ("first", "second"):
        order = ["--compute", name, str(ground), str(layers), str(out), half]
        command = [sys.executable, *(launch if processes > 1 else []), __file__, *order]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        for file in out.glob(f"{half}-*.json"):
            for phase, held in json.loads(file.read_text()).items():
                peaks[phase] = max(held, peaks.get(phase, 0))
    subprocess.run(["rm", "-r", out], check=True)
    return peaks


def share(name: str, ground: Path, layers: int, processes: int) -> int:
    """Return the bytes of a process's part of weights, gradients and averages."""
    run = RUNS[name]
    seed = ModelShape.of(read_json(ground / str(layers) / "seed/config.json"))
    tuned = isinstance(run.recipe, TuneRecipe)
    shape = RunShape(trains=run.trains, batch=BATCH, sequence=SEQUENCE, processes=processes)
    memory = memory_of(seed.mixed(EXPERTS) if tuned else seed, shape, seed if tuned else None)
    return memory.weights + memory.gradients + memory.averages + memory.teacher


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
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--layers", type=int, nargs=2, default=[4, 12])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--json", action="store_true", help="a JSON object a row")
    parser.add_argument("--compute", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.compute:
        name, ground, layers, out, half = asked.compute
        compute(name, Path(ground), int(layers), Path(out), half)
        return
    if not asked.json:
        print("| run | processes | share MB | peak MB | over 1.1 × share, MB |", *PHASES, sep=" | ")
        print("|---|---:|---:|---:|---:|" + "---:|" * len(PHASES))
    with tempfile.TemporaryDirectory() as folder:
        ground = Path(folder)
        for layers in asked.layers:
            prepare(ground, layers)
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
