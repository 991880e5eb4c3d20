"""Predict the wall time of whole and incremental mixes of the largest sizes.

    .venv/bin/python benchmarks/scale/predict.py --dir /var/tmp/btx-predict

In:  --dir: a scratch folder (about 3 GB).
Out: Markdown: rates measured on one core, then predicted times on stated hardware.

A rate is bytes per CPU second, which other work on the machine does not change. A prediction is the
larger of two times: CPU work over the cores that take part in it, and bytes over the disk's
bandwidth. The bytes come from the planner itself, run on ghosts (plan.py).
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from plan import SHAPES, Shape, ghost, tensors
from safetensors.torch import save_file

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.plan import plan_mix
from btx_core.mixing.seed_model import SeedModel
from btx_core.mixing.shards import file_layout
from btx_core.mixing.weight_files import SHARED
from registry.digest import sha256_file
from registry.units import duration

SMALL = Shape(layers=4, width=1024, feed_forward=3584, heads=8, groups=2, vocabulary=32000)
# At most, of the mixer and of hashing.
THREADS = 8


@dataclass(frozen=True)
class Hardware:
    """A machine that is predicted for."""

    name: str
    cores: int
    disk_bytes_per_s: float


HARDWARE = (
    Hardware("2 cores, SSD 0.5 GB/s", 2, 0.5e9),
    Hardware("16 cores, NVMe 5 GB/s", 16, 5e9),
    Hardware("64 cores, NVMe RAID 20 GB/s", 64, 20e9),
)


@dataclass(frozen=True)
class Rates:
    """Bytes that one core handles in a CPU second.

    Attributes:
        sha256: hashing with SHA-256.
        md5: hashing with MD5.
        take: taking an expert's blocks over.
        average: averaging shared parameters; the bytes of all sources count.
    """

    sha256: float
    md5: float
    take: float
    average: float


@dataclass(frozen=True)
class Volumes:
    """Bytes of a mixture's parts, by the planner.

    Attributes:
        experts: how many, without the seed's own.
        expert: of one expert's shard.
        shared: of the shared shard.
        checkpoint: of a whole dense checkpoint.
    """

    experts: int
    expert: int
    shared: int
    checkpoint: int


@dataclass(frozen=True)
class Work:
    """What a job takes.

    Attributes:
        shared_cpu_s: CPU seconds that up to `THREADS` cores share.
        disk_bytes: through the disk.
        single_cpu_s: CPU seconds on one core.
    """

    shared_cpu_s: float
    disk_bytes: float
    single_cpu_s: float = 0.0

    def wall_s(self, hardware: Hardware) -> float:
        """Predict the seconds on a machine."""
        cpu_s = self.shared_cpu_s / min(hardware.cores, THREADS) + self.single_cpu_s
        return max(cpu_s, self.disk_bytes / hardware.disk_bytes_per_s)


def random_checkpoint(folder: Path, random_seed: int) -> None:
    """Write a small checkpoint of random weights."""
    ghost(folder, SMALL, files=1)
    torch.manual_seed(random_seed)
    weights = {
        name: (torch.randn(sizes) * 0.02).to(torch.bfloat16)
        for name, sizes in tensors(SMALL).items()
    }
    save_file(weights, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})


def cpu_s(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the least CPU seconds of several runs."""
    taken_s = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        taken_s.append(time.process_time() - before)
    return min(taken_s)


def md5_file(path: Path) -> str:
    """Return a file's MD5, as DVC computes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def measured_rates(scratch: Path) -> Rates:
    """Mix three small experts and hash a file, and return the rates of one core."""
    for number in range(4):
        random_checkpoint(scratch / f"c{number}", number)
    members = [Member(f"e{number}", number, scratch / f"c{number}") for number in (1, 2, 3)]
    out = scratch / "out"

    def mix_anew(mode: Literal["anchored", "full"]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        mix(scratch / "c0", members, MixRecipe(mode=mode), out)

    anchored_s = cpu_s(lambda: mix_anew("anchored"))
    full_s = cpu_s(lambda: mix_anew("full"))
    shared = (out / SHARED).stat().st_size
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    # What mode full takes beyond taking the experts' blocks over is averaging four sources.
    averaging_s = max(full_s - anchored_s * (written - shared) / written, 1e-9)
    large = max(out.glob("model-expert-*"), key=lambda path: path.stat().st_size)
    size_bytes = large.stat().st_size
    return Rates(
        sha256=size_bytes / cpu_s(lambda: sha256_file(large)),
        md5=size_bytes / cpu_s(lambda: md5_file(large)),
        take=written / anchored_s,
        average=4 * shared / averaging_s,
    )


def planned_volumes(scratch: Path, shape: str, experts: int) -> Volumes:
    """Plan a mixture of ghosts, and return the bytes of its parts."""
    folder = scratch / "ghost"
    checkpoint = ghost(folder, SHAPES[shape])
    seed = SeedModel.open(folder, MixRecipe())
    members = [Member(f"e{number}", number, folder) for number in range(1, experts + 1)]
    plan = plan_mix(seed, members, MixRecipe())
    shared = expert = 0
    for shard in plan.shards:
        if shard.file == SHARED:
            shared = file_layout(shard.outputs).size
        elif shard.slots:
            expert = file_layout(shard.outputs).size
    shutil.rmtree(folder)
    return Volumes(experts, expert, shared, checkpoint)


def predicted_work(volumes: Volumes, rates: Rates) -> dict[str, Work]:
    """Return what each job takes, by its name."""
    sources = volumes.experts + 1
    expert, shared = volumes.expert, volumes.shared
    all_experts, averaged = sources * expert, sources * shared
    whole = all_experts + shared
    averaging_s = averaged / rates.average
    return {
        "mix from nothing, full": Work(
            all_experts / rates.take + averaging_s, 2 * all_experts + averaged + shared
        ),
        "mix from nothing, anchored": Work(whole / rates.take, 2 * whole),
        "mix with one expert more, full": Work(
            expert / rates.take + averaging_s, 2 * expert + averaged + shared
        ),
        "mix with one expert more, anchored": Work(expert / rates.take, 2 * expert),
        "check every checkpoint once (SHA-256)": Work(
            sources * volumes.checkpoint / rates.sha256, sources * volumes.checkpoint
        ),
        # DVC computes MD5 on one core.
        "register the build (SHA-256 of files and of tensors, DVC's MD5)": Work(
            2 * whole / rates.sha256, 3 * whole, single_cpu_s=whole / rates.md5
        ),
    }


def main() -> None:
    """Print the rates, then the predictions for two sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-predict"))
    scratch = parser.parse_args().dir
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    rates = measured_rates(scratch)
    in_gb = {name: round(rate / 1e9, 2) for name, rate in asdict(rates).items()}
    print(f"Rates on one core of {os.uname().machine}, GB per CPU second: {json.dumps(in_gb)}")
    machines = " | ".join(hardware.name for hardware in HARDWARE)
    for shape, experts in (("8B", 8), ("70B", 64)):
        works = predicted_work(planned_volumes(scratch, shape, experts), rates)
        print(
            f"\n| {shape} × {experts} | CPU s on one core | bytes through the disk | {machines} |"
        )
        print("|---|---|---|" + "---|" * len(HARDWARE))
        for name, work in works.items():
            cells = [
                name,
                f"{work.shared_cpu_s + work.single_cpu_s:.0f}",
                f"{work.disk_bytes / 1e9:.0f} GB",
                *(duration(work.wall_s(hardware)) for hardware in HARDWARE),
            ]
            print(f"| {' | '.join(cells)} |")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
