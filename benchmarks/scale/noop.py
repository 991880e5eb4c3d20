"""What `btx rebuild` costs as a command where nothing changed, and what one more expert runs.

    .venv/bin/python benchmarks/scale/noop.py --experts 10 100

In:  --experts: numbers of experts; --dir: a scratch folder.
Out: a Markdown row per number: seconds of --repeats commands, and the stages that ran.

CPU seconds are printed beside wall seconds: other work on the machine does not change them. The
experts are real checkpoints, registered through the gate: the tiny seed with other feed-forward
weights.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from btx_core.progress import Progress
from btx_core.training.recipes import TrainRecipe
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.register import register
from pipelines.story import corpora
from pipelines.story.small_seed import PretrainConfig, pretrain
from pipelines.workspace.workspace import Workspace, create
from registry.records.answers.building import RebuildAnswer
from registry.records.facts import DataStatement

SETTINGS = '[recipe.tune]\nmode = "none"\n[recipe.evaluate]\nmax_tokens = 200\n'
BTX = str(Path(sys.executable).with_name("btx"))
COLUMNS = (
    "experts",
    "no-op `btx rebuild`, median (spread) s",
    "its CPU s",
    "one more: stages that ran",
    "shards linked",
    "s",
    "CPU s",
)


@dataclass(frozen=True)
class Rebuilt:
    """A `btx rebuild` as a command: what it took, and its answer."""

    wall_s: float
    cpu_s: float
    answer: RebuildAnswer


@contextmanager
def silent(label: str) -> Iterator[Progress]:
    """Show no progress."""
    yield lambda done, total, text: None


def children_s() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rebuild(root: Path) -> Rebuilt:
    """Run `btx rebuild` in a workspace; SystemExit where it fails."""
    started, before = time.monotonic(), children_s()
    finished = subprocess.run(
        [BTX, "rebuild", "--json"],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wall_s, cpu_s = time.monotonic() - started, children_s() - before
    if finished.returncode:
        raise SystemExit(finished.stderr)
    answer = RebuildAnswer.from_text(finished.stdout, "btx rebuild")
    return Rebuilt(wall_s, cpu_s, answer)


def make_workspace(scratch: Path) -> Workspace:
    """Return a workspace with a tiny seed and one data version."""
    corpora.math(scratch / "math", size=30_000, heldout=3_000)
    size = PretrainConfig(vocabulary=384, hidden=32, feed_forward=64, layers=2, heads=2)
    recipe = TrainRecipe(mode="full", steps=2, batch=2, sequence=32)
    pretrain(size, [scratch / "math"], recipe, scratch / "seed")
    workspace = create(scratch / "workspace")
    (workspace.root / "btx.toml").write_text(SETTINGS)
    # Experts with random changes are no better than their seed.
    (workspace.policies / "quality.yaml").unlink()
    workspace = Workspace.find(workspace.root)
    statement = DataStatement(
        license="CC0-1.0", source="generated", holder="nobody", purpose="measuring", pii="none"
    )
    add_data(workspace, "math", scratch / "math", statement)
    add_seed(workspace, "base", scratch / "seed", license="CC0-1.0")
    return workspace


def add_expert(workspace: Workspace, scratch: Path, number: int) -> None:
    """Register a copy of the seed whose feed-forward weights differ a little."""
    folder = scratch / "candidate"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(scratch / "seed", folder)
    torch.manual_seed(number)
    tensors = load_file(folder / "model.safetensors")
    changed = {
        name: tensor + 0.01 * torch.randn_like(tensor)
        for name, tensor in tensors.items()
        if ".mlp." in name
    }
    save_file(tensors | changed, folder / "model.safetensors", metadata={"format": "pt"})
    register(workspace, f"e{number:03}", folder, data=["data/math"], seed="seed/base", show=silent)


def spread(seconds: Sequence[float]) -> str:
    """Write the median, the least and the most."""
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


def main() -> None:
    """Print the table, a row for each number of experts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-noop"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    shutil.rmtree(options.dir, ignore_errors=True)
    options.dir.mkdir(parents=True)
    workspace, registered = make_workspace(options.dir), 0
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for experts in options.experts:
        while registered < experts:
            registered += 1
            add_expert(workspace, options.dir, registered)
        rebuild(workspace.root)
        runs = [rebuild(workspace.root) for _ in range(options.repeats)]
        assert {run.answer.status for run in runs} == {"unchanged"}
        registered += 1
        add_expert(workspace, options.dir, registered)
        grown = rebuild(workspace.root)
        linked = sum(name.startswith("expert/") for name in grown.answer.reused)
        cells = (
            str(experts),
            spread([run.wall_s for run in runs]),
            spread([run.cpu_s for run in runs]),
            ", ".join(grown.answer.ran),
            f"{linked} of {registered}",
            f"{grown.wall_s:.1f}",
            f"{grown.cpu_s:.1f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
