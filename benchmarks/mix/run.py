"""Measure composing side by side: this engine, mergekit's two steps, and `cp` of the same bytes.

    .venv/bin/python benchmarks/mix/run.py --dir /var/tmp/btx-bench --repeats 2

In:  a scratch folder (--dir), shapes, numbers of experts.
Out: one line of JSON per measurement, then a table in Markdown.

Weights are random bfloat16. Every measurement is a process of its own, one at a time; the ways take
turns and are repeated. Inputs are read from wherever they are: nine experts of the 1.1B shape, and
what is written of them, are more than the page cache of a small machine holds. Written data is on
disk when a clock stops: this engine syncs by itself, `cp` is followed by `sync`; mergekit is not
asked to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 32_000
MERGEKIT = "mergekit==0.1.5"
# A seed and nine experts: eight, and one to be added.
EXPERTS = 9
# The program that each measurement or preparation runs.
PYTHON = (sys.executable, "-c")


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama; groups are its key-value heads."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    groups: int


SHAPES = {
    "160M": Shape(layers=12, width=768, feed_forward=2048, heads=12, groups=12),
    "1.1B": Shape(layers=22, width=2048, feed_forward=5632, heads=32, groups=4),
}

MAKE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

out, random_seed, vocabulary, shape = sys.argv[1:]
shape = json.loads(shape)
torch.manual_seed(int(random_seed))
config = LlamaConfig(
    vocab_size=int(vocabulary),
    hidden_size=shape["width"],
    intermediate_size=shape["feed_forward"],
    num_hidden_layers=shape["layers"],
    num_attention_heads=shape["heads"],
    num_key_value_heads=shape["groups"],
    max_position_embeddings=2048,
    dtype="bfloat16",
)
config.architectures = ["LlamaForCausalLM"]
config.save_pretrained(out)
with torch.device("meta"):
    empty = LlamaForCausalLM(config).state_dict()
weights = {
    name: torch.randn(tensor.shape, dtype=torch.bfloat16) * 0.02 for name, tensor in empty.items()
}
save_file(weights, Path(out) / "model.safetensors", metadata={"format": "pt"})
"""
TOKENIZER = """
import sys
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

out, vocabulary = sys.argv[1:]
vocabulary = {f"w{number}": number for number in range(int(vocabulary))}
PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w0")),
    unk_token="w0",
    eos_token="w2",
    bos_token="w1",
).save_pretrained(out)
"""
MIX = """
import json, sys, time
from pathlib import Path
from btx_core.mixing.mix import Known, Member, MixRecipe, mix

def path(text):
    return Path(text) if text else None

order = json.load(sys.stdin)
members = [
    Member(member["name"], member["slot"], Path(member["folder"]), path(member["shard"]))
    for member in order["members"]
]
known = Known(previous=path(order["previous"]), digests=order["digests"])
recipe = MixRecipe(mode=order["mode"])
# Importing them is not the work that `inner_s` measures; `wall_s` of the process includes it.
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, MixtralConfig

begin = time.perf_counter()
report = mix(Path(order["seed"]), members, recipe, Path(order["out"]), known=known)
answer = {
    "inner_s": time.perf_counter() - begin,
    "written": report.bytes_written,
    "linked": report.bytes_linked,
}
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Taken:
    """What one way took.

    Attributes:
        wall_s: seconds by the clock, the start of its processes included.
        inner_s: seconds of the work itself, where it is not all of that.
        peak_mib: the most private memory, in MiB; 0 where it was not measured.
        details: further figures of this way.
    """

    wall_s: float
    inner_s: float | None = None
    peak_mib: float = 0.0
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def work_s(self) -> float:
        """Seconds of the work itself."""
        return self.wall_s if self.inner_s is None else self.inner_s


@dataclass(frozen=True)
class Row:
    """One measurement: a way to compose so many experts of a shape."""

    shape: str
    experts: int
    what: str
    taken: Taken


@dataclass(frozen=True)
class Finished:
    """A process that ended well."""

    wall_s: float
    peak_mib: float
    output: str


@dataclass(frozen=True)
class Order:
    """What the engine is to mix.

    Attributes:
        folders: checkpoints, the seed's first.
        experts: how many of the others take part.
        mode: anchored or full.
        out: the folder to be made.
        previous: a build whose shards are linked.
        digests: of each tensor, as registration records them; what is missing is computed.
    """

    folders: Sequence[Path]
    experts: int
    mode: str
    out: Path
    previous: Path | None = None
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the order as the JSON text that the program `MIX` reads."""
        members = []
        for slot in range(1, self.experts + 1):
            shard = self.previous and self.previous / f"model-expert-m{slot}.safetensors"
            linked = str(shard) if shard and shard.exists() else None
            folder = str(self.folders[slot])
            members.append({"name": f"m{slot}", "slot": slot, "folder": folder, "shard": linked})
        return json.dumps(
            {
                "seed": str(self.folders[0]),
                "members": members,
                "mode": self.mode,
                "out": str(self.out),
                "previous": str(self.previous) if self.previous else None,
                "digests": self.digests,
            }
        )


def run(command: Sequence[str], stdin: IO[str] | None = None) -> Finished:
    """Run one process to its end; SystemExit where it fails."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    begin, peak_kib = time.perf_counter(), 0
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    while True:
        try:
            output, errors = process.communicate(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            peak_kib = max(peak_kib, private_kib(process.pid))
    wall_s = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {errors[-2000:]}")
    return Finished(wall_s, peak_kib / 1024, output)


def private_kib(pid: int) -> int:
    """Return a process's private memory in KiB; pages of mapped files are the kernel's to drop."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(text.split()[1]) for text in fields if text.startswith(("RssAnon", "RssShmem")))


def checkpoints(root: Path, shape: str, count: int) -> list[Path]:
    """Write a seed and `count` experts of random weights, as far as they are missing."""
    folders = [root / shape / f"m{number}" for number in range(count + 1)]
    for number, folder in enumerate(folders):
        if not (folder / "model.safetensors").exists():
            form = json.dumps(asdict(SHAPES[shape]))
            run([*PYTHON, MAKE, str(folder), str(number), str(VOCABULARY), form])
            run([*PYTHON, TOKENIZER, str(folder), str(VOCABULARY)])
    return folders


def btx(order: Order) -> Taken:
    """Mix with this engine, in a process of its own."""
    with tempfile.TemporaryFile("w+") as stdin:
        stdin.write(order.to_json())
        stdin.seek(0)
        finished = run([*PYTHON, MIX], stdin)
    answer = json.loads(finished.output.strip().splitlines()[-1])
    inner_s = answer.pop("inner_s")
    return Taken(finished.wall_s, inner_s, finished.peak_mib, answer)


def recorded_digests(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return each tensor's digest by checkpoint, as registering the folders records it."""
    from registry.digest import tensor_digests

    names = ["seed", *(folder.name for folder in folders[1:])]
    digests = {}
    for name, folder in zip(names, folders, strict=True):
        tensors = tensor_digests(folder / "model.safetensors")
        digests[name] = {tensor: digest.sha256 for tensor, digest in tensors.items()}
    return digests


def copy(build: Path, out: Path) -> Taken:
    """Copy a build's weights with cp, and wait until they are on disk: the floor."""
    out.mkdir()
    files = [str(file) for file in sorted(build.glob("*.safetensors"))]
    begin = time.perf_counter()
    subprocess.run(["cp", *files, str(out)], check=True)
    subprocess.run(["sync", *map(str, out.iterdir())], check=True)
    return Taken(time.perf_counter() - begin)


def read_and_write(folders: Sequence[Path], build: Path, out: Path) -> Taken:
    """Read every source's shared parameters and write one shared shard: the floor of averaging."""
    from btx_core.checkpoints.checkpoint import Checkpoint

    out.mkdir()
    begin = time.perf_counter()
    for folder in folders:
        for info in Checkpoint.open(folder).tensors.values():
            if ".mlp." not in info.name:
                read_range(info.file, info.start, info.bytes)
    subprocess.run(["cp", str(build / "model-shared.safetensors"), str(out)], check=True)
    subprocess.run(["sync", str(out / "model-shared.safetensors")], check=True)
    return Taken(time.perf_counter() - begin)


def read_range(path: Path, start: int, size_bytes: int) -> None:
    """Read a part of a file past Python's buffers."""
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        left_bytes = size_bytes
        while left_bytes:
            left_bytes -= len(file.read(min(left_bytes, 1 << 21)))


def install_mergekit(root: Path) -> Path:
    """Install mergekit into a virtual environment of its own; return the folder of its programs."""
    venv = root / "mergekit"
    if not (venv / "bin/mergekit-moe").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin/pip"), "install", "-q", MERGEKIT], check=True)
    return venv / "bin"


def mergekit(programs: Path, folders: Sequence[Path], out: Path) -> Taken:
    """Do mergekit's equivalent: a linear merge of everything, then mergekit-moe on top of it."""
    out.mkdir()
    models = [f"  - model: {folder}\n    parameters: {{weight: 1.0}}\n" for folder in folders]
    (out / "linear.yaml").write_text(
        f"merge_method: linear\ndtype: bfloat16\nmodels:\n{''.join(models)}"
    )
    experts = [f"  - source_model: {folder}\n    positive_prompts: ['x']\n" for folder in folders]
    (out / "moe.yaml").write_text(
        f"base_model: {out / 'base'}\ngate_mode: random\ndtype: bfloat16\n"
        f"experts:\n{''.join(experts)}"
    )
    merge = [str(programs / "mergekit-yaml"), str(out / "linear.yaml"), str(out / "base")]
    linear = run([*merge, "--lazy-unpickle"])
    stack = [str(programs / "mergekit-moe"), str(out / "moe.yaml"), str(out / "moe")]
    moe = run([*stack, "--trust-remote-code"])
    return Taken(
        linear.wall_s + moe.wall_s,
        peak_mib=max(linear.peak_mib, moe.peak_mib),
        details={"linear_s": linear.wall_s, "moe_s": moe.wall_s},
    )


def remove(*folders: Path) -> None:
    """Remove folders, whether or not they exist."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def compose(
    scratch: Path, folders: Sequence[Path], programs: Path | None
) -> Iterator[tuple[str, Taken]]:
    """Compose from nothing, each way once.

    Args:
        scratch: an empty folder for what is written.
        folders: the checkpoints that take part, the seed's first.
        programs: mergekit's, or None to leave it out.

    Yields:
        A way's name and what it took.
    """
    count = len(folders) - 1
    for mode in ("full", "anchored"):
        yield f"btx {mode}", btx(Order(folders, count, mode, scratch / mode))
    remove(scratch / "anchored")
    yield "cp", copy(scratch / "full", scratch / "cp")
    remove(scratch / "full", scratch / "cp")
    if programs:
        yield "mergekit", mergekit(programs, folders, scratch / "mergekit")


def grow(scratch: Path, folders: Sequence[Path], repeats: int) -> Iterator[tuple[str, Taken]]:
    """Add one expert to eight; an earlier build has cut the shards of all nine.

    Mode full is measured twice: with the digests that registration recorded, and hashing every
    source anew.

    Args:
        scratch: an empty folder for what is written.
        folders: the seed's checkpoint and nine experts'.
        repeats: how often.

    Yields:
        A way's name and what it took.
    """
    digests = recorded_digests(folders)
    out, floor = scratch / "grown", scratch / "floor"
    for mode in ("anchored", "full"):
        previous = scratch / f"known-{mode}"
        btx(Order(folders, EXPERTS, mode, previous))
        for _ in range(repeats):
            order = Order(folders, EXPERTS, mode, out, previous, digests)
            yield f"add to 8, {mode}", btx(order)
            remove(out)
            if mode == "full":
                yield "read shared, write one", read_and_write(folders, previous, floor)
                unknown = Order(folders, EXPERTS, mode, out, previous)
                yield "add to 8, full, hashing all", btx(unknown)
            remove(out, floor)
        remove(previous)


def table(rows: Iterable[Row]) -> str:
    """Return the measurements as a table in Markdown, a printed line for each way."""
    groups: dict[tuple[str, int, str], list[Taken]] = {}
    for row in rows:
        groups.setdefault((row.shape, row.experts, row.what), []).append(row.taken)
    lines = [
        "| shape | experts | what | median s | spread s | whole process s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for (shape, experts, what), runs in groups.items():
        work_s = [taken.work_s for taken in runs]
        whole_s = statistics.median(taken.wall_s for taken in runs)
        peak_mib = max(taken.peak_mib for taken in runs)
        spread = f"{min(work_s):.2f} to {max(work_s):.2f}"
        lines.append(
            f"| {shape} | {experts} | {what} | {statistics.median(work_s):.2f} | {spread} "
            f"| {whole_s:.2f} | {peak_mib:.0f} |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Make an empty folder, and remove it when the context ends."""
    remove(folder)
    folder.mkdir(parents=True)
    yield folder
    remove(folder)


def measure(options: argparse.Namespace, on_row: Callable[[Row], None]) -> None:
    """Measure every shape and number of experts, and call back with each row."""
    programs = install_mergekit(options.dir) if options.mergekit else None
    for shape in options.shapes:
        folders = checkpoints(options.dir, shape, EXPERTS)
        for _ in range(options.repeats):
            for count in options.experts:
                rival = programs if f"{shape}:{count}" in options.mergekit else None
                with emptied(options.dir / "out") as scratch:
                    for what, taken in compose(scratch, folders[: count + 1], rival):
                        on_row(Row(shape, count, what, taken))
        with emptied(options.dir / "grow") as scratch:
            for what, taken in grow(scratch, folders, options.repeats):
                on_row(Row(shape, EXPERTS, what, taken))
        if not options.keep:
            remove(options.dir / shape)


def main() -> None:
    """Print the measurements as they come, then the machine and the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--experts", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--mergekit",
        nargs="*",
        default=["160M:2", "160M:4", "160M:8", "1.1B:4"],
        help="SHAPE:EXPERTS measured with mergekit too",
    )
    parser.add_argument("--keep", action="store_true", help="keep the random checkpoints")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    options.dir.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []

    def print_row(row: Row) -> None:
        rows.append(row)
        figures = asdict(row.taken) | dict(row.taken.details)
        del figures["details"]
        named = {"shape": row.shape, "experts": row.experts, "what": row.what}
        print(json.dumps(named | figures), flush=True)

    measure(options, print_row)
    processor = platform.processor() or platform.machine()
    machine = f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"\n{machine}, Python {platform.python_version()}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
