"""Measure what a core does to a byte here, and predict the wall time of whole and incremental mixes of the largest sizes.

In:  --dir: a folder for scratch (about 3 GB).  Out: Markdown: rates per core, then predicted seconds on stated hardware.
A rate is bytes per CPU second, not per second: on a busy machine that is what stays true. A prediction is the larger of CPU work over
the cores that take part in it and bytes over the disk's bandwidth; the bytes come from the planner itself, run on ghosts (plan.py).
Run:  .venv/bin/python benchmarks/scale/predict.py --dir /var/tmp/btx-predict
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plan import SHAPES, ghost, tensors
from safetensors.torch import save_file

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.plan import plan_mix
from btx_core.mixing.seed_model import SeedModel
from btx_core.mixing.shards import file_layout
from btx_core.mixing.weight_files import SHARED
from registry.digest import sha256_file

SMALL = {"layers": 4, "width": 1024, "inner": 3584, "heads": 8, "groups": 2, "vocabulary": 32000}
HARDWARE = {  # name -> cores, disk bytes a second
    "2 cores, SSD 0.5 GB/s": (2, 0.5e9),
    "16 cores, NVMe 5 GB/s": (16, 5e9),
    "64 cores, NVMe RAID 20 GB/s": (64, 20e9),
}


def random_checkpoint(folder: Path, number: int) -> None:
    ghost(folder, SMALL, files=1)
    torch.manual_seed(number)
    made = {
        name: (torch.randn(shape) * 0.02).to(torch.bfloat16)
        for name, shape in tensors(**SMALL).items()
    }
    save_file(made, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})


def cpu_s(work: Callable[[], object], repeats: int = 3) -> float:
    """The least CPU seconds of several runs."""
    found = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return min(found)


def rates(scratch: Path) -> dict[str, float]:
    """Bytes per CPU second: hashing, taking an expert's blocks, averaging shared parameters (bytes of all sources)."""
    for number in range(4):
        random_checkpoint(scratch / f"c{number}", number)
    members = [Member(f"e{number}", number, scratch / f"c{number}") for number in (1, 2, 3)]
    out = scratch / "out"

    def mixed(mode: str) -> None:
        shutil.rmtree(out, ignore_errors=True)
        mix(scratch / "c0", members, MixRecipe(mode=mode), out)  # type: ignore[arg-type]

    anchored, full = cpu_s(lambda: mixed("anchored")), cpu_s(lambda: mixed("full"))
    shared = (out / SHARED).stat().st_size
    taken = sum(path.stat().st_size for path in out.glob("*.safetensors")) - shared
    large = max(out.glob("model-expert-*"), key=lambda path: path.stat().st_size)
    return {
        "sha256": large.stat().st_size / cpu_s(lambda: sha256_file(large)),
        "md5": large.stat().st_size
        / cpu_s(lambda: hashlib.file_digest(large.open("rb"), "md5").hexdigest()),
        "take": (taken + shared) / anchored,
        "average": 4 * shared / max(full - anchored * taken / (taken + shared), 1e-9),
    }


def volumes(scratch: Path, shape: str, experts: int) -> dict[str, int]:
    """Bytes of the shared shard and of one expert's shard, of a whole checkpoint, by the planner."""
    size = ghost(scratch / "ghost", SHAPES[shape])
    seed = SeedModel.open(scratch / "ghost", MixRecipe())
    members = [Member(f"e{number}", number, scratch / "ghost") for number in range(1, experts + 1)]
    plan = plan_mix(seed, members, MixRecipe())
    found = {}
    for shard in plan.shards:
        found["shared" if shard.file == SHARED else "router" if not shard.slots else "expert"] = (
            file_layout(shard.outputs).size
        )
    shutil.rmtree(scratch / "ghost")
    return found | {"checkpoint": size, "experts": experts}


THREADS = 8  # at most, of the mixer and of hashing; DVC's MD5 is counted on one core


def jobs(v: dict[str, int], r: dict[str, float]) -> dict[str, tuple[float, float, float]]:
    """Job -> CPU seconds that up to THREADS cores share, CPU seconds on one core, bytes through the disk."""
    sources, n = v["experts"] + 1, v["experts"]
    all_experts, averaged = sources * v["expert"], sources * v["shared"]
    return {
        "mix from nothing, full": (
            all_experts / r["take"] + averaged / r["average"],
            0.0,
            2 * all_experts + averaged + v["shared"],
        ),
        "mix from nothing, anchored": (
            (all_experts + v["shared"]) / r["take"],
            0.0,
            2 * (all_experts + v["shared"]),
        ),
        "mix with one expert more, full": (
            v["expert"] / r["take"] + averaged / r["average"],
            0.0,
            2 * v["expert"] + averaged + v["shared"],
        ),
        "mix with one expert more, anchored": (v["expert"] / r["take"], 0.0, 2 * v["expert"]),
        "prove every checkpoint once (SHA-256)": (
            (n + 1) * v["checkpoint"] / r["sha256"],
            0.0,
            (n + 1) * v["checkpoint"],
        ),
        "take the build in (SHA-256 of files and of tensors, DVC's MD5)": (
            2 * (all_experts + v["shared"]) / r["sha256"],
            (all_experts + v["shared"]) / r["md5"],
            3 * (all_experts + v["shared"]),
        ),
    }


def spelt(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-predict"))
    scratch = options.parse_args().dir
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    found = rates(scratch)
    print(
        f"Rates on one core of {os.uname().machine}, GB per CPU second: "
        + json.dumps({k: round(v / 1e9, 2) for k, v in found.items()})
    )
    for shape, experts in (("8B", 8), ("70B", 64)):
        planned = jobs(volumes(scratch, shape, experts), found)
        print(
            f"\n| {shape} × {experts} | CPU s on one core | bytes through the disk | {' | '.join(HARDWARE)} |"
        )
        print("|---|---|---|" + "---|" * len(HARDWARE))
        for name, (shared, alone, moved) in planned.items():
            walls = [
                spelt(max(shared / min(cores, THREADS) + alone, moved / disk))
                for cores, disk in HARDWARE.values()
            ]
            print(f"| {name} | {shared + alone:.0f} | {moved / 1e9:.0f} GB | {' | '.join(walls)} |")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
