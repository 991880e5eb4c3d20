"""Measure composing side by side: this engine, mergekit's two steps, and `cp` of the bytes that must be written.

In:  a folder for scratch (--dir), shapes, numbers of experts.  Out: one JSON line per measurement, then a table in Markdown.
Weights are random, bfloat16. Everything runs in processes of its own, one at a time, the ways in turns and repeated. Inputs are read from
wherever they are: nine experts of the 1.1B shape and what is written of them are more than the page cache of a small machine holds.
Written data is on disk when a clock stops (this engine syncs by itself, `cp` is followed by `sync`; mergekit is not asked to).
Run:  .venv/bin/python benchmarks/mix/run.py --dir /var/tmp/btx-bench --repeats 2
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SHAPES = {  # layers, width, feed-forward width, heads, key-value heads
    "160M": (12, 768, 2048, 12, 12),
    "1.1B": (22, 2048, 5632, 32, 4),
}
VOCABULARY = 32_000
MERGEKIT = "mergekit==0.1.5"

MAKE = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
out, number, layers, width, inner, heads, groups, vocabulary = Path(sys.argv[1]), *map(int, sys.argv[2:])
torch.manual_seed(number)
config = LlamaConfig(vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
                     num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=2048, dtype="bfloat16")
config.architectures = ["LlamaForCausalLM"]
config.save_pretrained(out)
with torch.device("meta"):
    names = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
save_file({name: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for name, shape in names.items()}, out / "model.safetensors",
          metadata={"format": "pt"})
"""
TOKENIZER = """
import sys
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
words = {f"w{n}": n for n in range(int(sys.argv[2]))}
PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), unk_token="w0", eos_token="w2",
                        bos_token="w1").save_pretrained(sys.argv[1])
"""
MIX = """
import json, sys, time
from pathlib import Path
from btx_core.mixing.mix import Known, Member, MixRecipe, mix
order = json.load(sys.stdin)
members = [Member(m["name"], m["slot"], Path(m["folder"]), Path(m["shard"]) if m.get("shard") else None) for m in order["members"]]
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, MixtralConfig  # loading them is not the work; the whole process is timed too
begin = time.perf_counter()
report = mix(Path(order["seed"]), members, MixRecipe(mode=order["mode"]), Path(order["out"]),
             known=Known(previous=Path(order["previous"]) if order.get("previous") else None, digests=order["digests"]))
print(json.dumps({"inner_s": time.perf_counter() - begin, "written": report.bytes_written, "linked": report.bytes_linked}))
"""


def run(command: Sequence[str], **more: Any) -> dict[str, Any]:
    """Run one process: wall and CPU seconds, peak of resident memory in MiB, and the JSON that it printed last, if any."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )
    output, errors = process.stdout, process.stderr
    assert output
    assert errors
    peak = [0]
    text = watch(process, peak)
    found = {"wall_s": time.perf_counter() - begin, "peak_mib": peak[0] / 1024}
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {text[1][-2000:]}")
    with contextlib.suppress(IndexError, ValueError):  # not every program answers in JSON
        found |= json.loads(text[0].strip().splitlines()[-1])
    return found


def watch(process: subprocess.Popen[str], peak_kib: list[int]) -> tuple[str, str]:
    """Read the process's output to its end, noting its peak of private memory (pages of mapped files are the kernel's to drop)."""
    while True:
        try:
            return process.communicate(timeout=0.05)
        except subprocess.TimeoutExpired:
            peak_kib[0] = max(peak_kib[0], private_kib(process.pid))


def private_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def make(root: Path, shape: str, count: int) -> list[Path]:
    """A seed and `count` experts of random weights."""
    folders = [root / shape / f"m{number}" for number in range(count + 1)]
    for number, folder in enumerate(folders):
        if not (folder / "model.safetensors").exists():
            layers, width, inner, heads, groups = SHAPES[shape]
            numbers = (number, layers, width, inner, heads, groups, VOCABULARY)
            run([sys.executable, "-c", MAKE, str(folder), *map(str, numbers)], env=environment())
            run([sys.executable, "-c", TOKENIZER, str(folder), str(VOCABULARY)], env=environment())
    return folders


def btx(folders: list[Path], count: int, mode: str, out: Path, **more: Any) -> dict[str, Any]:
    """Mix in a process of its own. known: a build whose shards are linked. digests: what registration recorded."""
    members = [{"name": f"m{n}", "slot": n, "folder": str(folders[n])} for n in range(1, count + 1)]
    for member in members:
        shard = more.get("known", Path("/none")) / f"model-expert-{member['name']}.safetensors"
        member |= {"shard": str(shard)} if shard.exists() else {}
    order = {
        "seed": str(folders[0]),
        "members": members,
        "mode": mode,
        "out": str(out),
        "digests": more.get("digests", {}),
        "previous": str(more.get("known") or "") or None,
    }
    with tempfile.TemporaryFile("w+") as text:
        json.dump(order, text)
        text.seek(0)
        return run([sys.executable, "-c", MIX], env=environment(), stdin=text)


def recorded(folders: list[Path]) -> dict[str, dict[str, str]]:
    """Each tensor's digest, as registering the folders records it."""
    from registry.digest import tensor_digests

    found = [tensor_digests(folder / "model.safetensors") for folder in folders]
    names = ["seed", *(folder.name for folder in folders[1:])]
    return {
        name: {tensor: digest.sha256 for tensor, digest in one.items()}
        for name, one in zip(names, found, strict=True)
    }


def copy(made: Path, out: Path, pattern: str = "*.safetensors") -> dict[str, Any]:
    """The floor: the same bytes written by cp, and on disk."""
    out.mkdir()
    files = [str(file) for file in sorted(made.glob(pattern))]
    begin = time.perf_counter()
    subprocess.run(["cp", *files, str(out)], check=True)
    subprocess.run(["sync", *map(str, out.iterdir())], check=True)
    return {"wall_s": time.perf_counter() - begin}


def read_and_write(folders: list[Path], made: Path, out: Path) -> dict[str, Any]:
    """The floor of averaging: read every source's shared parameters, write one shared shard, on disk."""
    from btx_core.checkpoints.checkpoint import Checkpoint

    out.mkdir()
    begin = time.perf_counter()
    for folder in folders:
        for info in Checkpoint.open(folder).tensors.values():
            if ".mlp." not in info.name:
                with open(info.file, "rb", buffering=0) as file:
                    file.seek(info.start)
                    left = info.bytes
                    while left:
                        left -= len(file.read(min(left, 1 << 21)))
    subprocess.run(["cp", str(made / "model-shared.safetensors"), str(out)], check=True)
    subprocess.run(["sync", str(out / "model-shared.safetensors")], check=True)
    return {"wall_s": time.perf_counter() - begin}


def mergekit(root: Path) -> Path:
    """mergekit in a virtual environment of its own."""
    venv = root / "mergekit"
    if not (venv / "bin/mergekit-moe").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin/pip"), "install", "-q", MERGEKIT], check=True)
    return venv / "bin"


def merge(bin_: Path, folders: list[Path], count: int, out: Path) -> dict[str, Any]:
    """mergekit's equivalent: a linear merge of everything for the shared parameters, then mergekit-moe on top of it."""
    out.mkdir()
    models = "\n".join(
        f"  - model: {folder}\n    parameters: {{weight: 1.0}}" for folder in folders[: count + 1]
    )
    (out / "linear.yaml").write_text(f"merge_method: linear\ndtype: bfloat16\nmodels:\n{models}\n")
    experts = "\n".join(
        f"  - source_model: {folder}\n    positive_prompts: ['x']"
        for folder in folders[: count + 1]
    )
    (out / "moe.yaml").write_text(
        f"base_model: {out / 'base'}\ngate_mode: random\ndtype: bfloat16\nexperts:\n{experts}\n"
    )
    first = run(
        [
            str(bin_ / "mergekit-yaml"),
            str(out / "linear.yaml"),
            str(out / "base"),
            "--lazy-unpickle",
        ],
        env=environment(),
    )
    second = run(
        [
            str(bin_ / "mergekit-moe"),
            str(out / "moe.yaml"),
            str(out / "moe"),
            "--trust-remote-code",
        ],
        env=environment(),
    )
    return {
        "wall_s": first["wall_s"] + second["wall_s"],
        "peak_mib": max(first["peak_mib"], second["peak_mib"]),
        "linear_s": first["wall_s"],
        "moe_s": second["wall_s"],
    }


def clean(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def compose(
    root: Path,
    shape: str,
    count: int,
    folders: list[Path],
    merge_with: Path | None,
    say: Callable[..., None],
) -> None:
    """From nothing with `count` experts: each way once."""
    scratch = root / "out"
    clean(scratch)
    scratch.mkdir()
    for mode in ("full", "anchored"):
        say(shape, count, f"btx {mode}", btx(folders, count, mode, scratch / mode))
    clean(scratch / "anchored")
    say(shape, count, "cp", copy(scratch / "full", scratch / "cp"))
    clean(scratch / "full", scratch / "cp")
    if merge_with:
        say(shape, count, "mergekit", merge(merge_with, folders, count, scratch / "mergekit"))
    clean(scratch)


def grow(
    root: Path, shape: str, folders: list[Path], say: Callable[..., None], repeats: int
) -> None:
    """One more expert to eight, whose shard an earlier build has cut. Full: hashing every source, and trusting what was recorded."""
    scratch, digests = root / "grow", recorded(folders)
    clean(scratch)
    scratch.mkdir()
    for mode in ("anchored", "full"):
        known = scratch / f"known-{mode}"
        btx(folders, 9, mode, known)  # the ninth's shard among them
        for _ in range(repeats):
            say(
                shape,
                9,
                f"add to 8, {mode}",
                btx(folders, 9, mode, scratch / "grown", known=known, digests=digests),
            )
            clean(scratch / "grown")
            if mode == "full":
                say(
                    shape,
                    9,
                    "read shared, write one",
                    read_and_write(folders, known, scratch / "floor"),
                )
                say(
                    shape,
                    9,
                    "add to 8, full, hashing all",
                    btx(folders, 9, mode, scratch / "grown", known=known),
                )
            clean(scratch / "grown", scratch / "floor")
        clean(known)
    clean(scratch)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| shape | experts | what | median s | spread s | whole process s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["shape"], row["experts"], row["what"]), []).append(row)
    for (shape, experts, what), found in groups.items():
        inner = [row.get("inner_s", row["wall_s"]) for row in found]
        whole, peak = (
            statistics.median(row["wall_s"] for row in found),
            max(row.get("peak_mib", 0) for row in found),
        )
        lines.append(
            f"| {shape} | {experts} | {what} | {statistics.median(inner):.2f} | {min(inner):.2f} to {max(inner):.2f} "
            f"| {whole:.2f} | {peak:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
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
    rows: list[dict[str, Any]] = []

    def say(shape: str, experts: int, what: str, found: dict[str, Any]) -> None:
        rows.append({"shape": shape, "experts": experts, "what": what, **found})
        print(json.dumps(rows[-1]), flush=True)

    tool = mergekit(options.dir) if options.mergekit else None
    for shape in options.shapes:
        folders = make(options.dir, shape, 9)
        for _ in range(options.repeats):
            for count in options.experts:
                compose(
                    options.dir,
                    shape,
                    count,
                    folders,
                    tool if f"{shape}:{count}" in options.mergekit else None,
                    say,
                )
        grow(options.dir, shape, folders, say, options.repeats)
        if not options.keep:
            clean(options.dir / shape)
    print(
        f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
