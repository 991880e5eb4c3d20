"""What `btx rebuild` costs as a command where nothing changed, and what one expert more runs, with many experts.

In:  --experts 10 100, --dir: a folder for scratch.  Out: a Markdown row per number: seconds of --repeats commands, stages that ran.
CPU seconds stand beside wall seconds: on a busy machine they are what stays true.
Experts are real: the tiny seed with other feed-forward weights, registered through the gate as any checkpoint is.
Run:  .venv/bin/python benchmarks/scale/noop.py --experts 10 100
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from btx_core.training.recipes import TrainRecipe
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.register import register
from pipelines.story import corpora
from pipelines.story.small_seed import PretrainConfig, pretrain
from pipelines.workspace.workspace import Workspace, create
from registry.records.facts import DataStatement

SETTINGS = '[recipe.tune]\nmode = "none"\n[recipe.evaluate]\nmax_tokens = 200\n'
BTX = str(Path(sys.executable).with_name("btx"))


@contextmanager
def silent(label: str) -> Iterator[Any]:
    yield lambda done, total, text: None


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(root: Path, *arguments: str) -> tuple[float, float, dict[str, Any]]:
    """Wall seconds, CPU seconds, answer."""
    began, before = time.monotonic(), children_s()
    done = subprocess.run(
        [BTX, *arguments, "--json"],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    took, worked = time.monotonic() - began, children_s() - before
    if done.returncode:
        raise SystemExit(done.stderr)
    return took, worked, json.loads(done.stdout)


def begin(scratch: Path) -> Workspace:
    corpora.math(scratch / "math", size=30_000, heldout=3_000)
    size = PretrainConfig(vocabulary=384, hidden=32, feed_forward=64, layers=2, heads=2)
    pretrain(
        size,
        [scratch / "math"],
        TrainRecipe(mode="full", steps=2, batch=2, sequence=32),
        scratch / "seed",
    )
    workspace = create(scratch / "workspace")
    (workspace.root / "btx.toml").write_text(SETTINGS)
    for policy in workspace.policies.glob("*.yaml"):
        if policy.stem == "quality":  # experts of chance are no better than their seed
            policy.unlink()
    workspace = Workspace.find(workspace.root)
    statement = DataStatement(
        license="CC0-1.0", source="generated", holder="nobody", purpose="measuring"
    )
    add_data(workspace, "math", scratch / "math", statement)
    add_seed(workspace, "base", scratch / "seed", license="CC0-1.0")
    return workspace


def one_more(workspace: Workspace, scratch: Path, number: int) -> None:
    folder = scratch / "candidate"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(scratch / "seed", folder)
    torch.manual_seed(number)
    tensors = load_file(folder / "model.safetensors")
    moved = {
        name: tensor + 0.01 * torch.randn_like(tensor)
        for name, tensor in tensors.items()
        if ".mlp." in name
    }
    save_file(tensors | moved, folder / "model.safetensors", metadata={"format": "pt"})
    register(workspace, f"e{number:03}", folder, data=["data/math"], seed="seed/base", show=silent)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--experts", type=int, nargs="+", default=[10, 100])
    options.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-noop"))
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    shutil.rmtree(given.dir, ignore_errors=True)
    given.dir.mkdir(parents=True)
    workspace, number = begin(given.dir), 0
    print(
        "| experts | no-op `btx rebuild`, median (spread) s | its CPU s | one more: stages that ran | shards linked | s | CPU s |"
    )
    print("|---|---|---|---|---|---|---|")
    for experts in given.experts:
        while number < experts:
            number += 1
            one_more(workspace, given.dir, number)
        command(workspace.root, "rebuild")
        runs = [command(workspace.root, "rebuild") for _ in range(given.repeats)]
        assert {answer["status"] for _, _, answer in runs} == {"unchanged"}
        number += 1
        one_more(workspace, given.dir, number)
        took, worked, answer = command(workspace.root, "rebuild")
        linked = sum(name.startswith("expert/") for name in answer["reused"])
        walls, cpus = [spread([run[at] for run in runs]) for at in (0, 1)]
        ran = ", ".join(answer["ran"])
        print(
            f"| {experts} | {walls} | {cpus} | {ran} | {linked} of {number} | {took:.1f} | {worked:.1f} |",
            flush=True,
        )


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


if __name__ == "__main__":
    main()
