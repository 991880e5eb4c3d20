"""Plan a mixture of the largest size from headers alone: time and memory, in a process of its own.

    .venv/bin/python benchmarks/scale/plan.py --experts 64 --dir /var/tmp/ghosts

In:  --experts, --shape: which Llama; --dir: a scratch folder for ghosts.
Out: JSON: seconds, peak memory, what would be written.

A ghost is a checkpoint folder whose weight files have true headers and no bytes: sparse files of
the full length.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a Llama; groups are its key-value heads."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    groups: int
    vocabulary: int


SHAPES = {
    "70B": Shape(layers=80, width=8192, feed_forward=28672, heads=64, groups=8, vocabulary=128256),
    "8B": Shape(layers=32, width=4096, feed_forward=14336, heads=32, groups=8, vocabulary=128256),
}


def tensors(shape: Shape) -> dict[str, list[int]]:
    """Return the shape of every tensor of a Llama by its name, as Hugging Face writes it."""
    width, inner = shape.width, shape.feed_forward
    key_width = width // shape.heads * shape.groups
    block = {
        "self_attn.q_proj": [width, width],
        "self_attn.k_proj": [key_width, width],
        "self_attn.v_proj": [key_width, width],
        "self_attn.o_proj": [width, width],
        "mlp.gate_proj": [inner, width],
        "mlp.up_proj": [inner, width],
        "mlp.down_proj": [width, inner],
        "input_layernorm": [width],
        "post_attention_layernorm": [width],
    }
    layers = {
        f"model.layers.{layer}.{part}.weight": sizes
        for layer in range(shape.layers)
        for part, sizes in block.items()
    }
    return layers | {
        "model.embed_tokens.weight": [shape.vocabulary, width],
        "model.norm.weight": [width],
        "lm_head.weight": [shape.vocabulary, width],
    }


def ghost(folder: Path, shape: Shape, files: int = 30) -> int:
    """Write a ghost.

    Args:
        folder: to be made.
        shape: of the Llama.
        files: over how many the tensors are spread.

    Returns:
        The bytes that its weight files appear to have.
    """
    folder.mkdir(parents=True)
    sizes = list(tensors(shape).items())
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        chosen = dict(sizes[number::files])
        weight_map |= dict.fromkeys(chosen, name)
        total_bytes += _sparse_file(folder / name, chosen)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.groups,
        "vocab_size": shape.vocabulary,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total_bytes


def _sparse_file(path: Path, sizes: dict[str, list[int]]) -> int:
    """Write a safetensors file of bfloat16 tensors without their bytes; return its length."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in sizes.items():
        end = offset + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    length = 8 + len(text) + offset
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(length)
    return length


def measure(root: Path, experts: int, mode: str) -> dict[str, object]:
    """Plan a mixture in this process.

    Args:
        root: of the ghosts.
        experts: how many take part.
        mode: anchored or full.

    Returns:
        Seconds of importing, of planning and of both; CPU seconds and peak memory of the whole
        process; and what would be written.
    """
    started = time.monotonic()
    # Imported here, so that their time and memory are measured.
    from btx_core.mixing.plan import plan_mix
    from btx_core.mixing.recipe import Member, MixRecipe
    from btx_core.mixing.seed_model import SeedModel
    from btx_core.mixing.shards import file_layout

    recipe = MixRecipe(mode=mode)  # type: ignore[arg-type]
    seed = SeedModel.open(root / "seed", recipe)
    imported = time.monotonic()
    members = [
        Member(f"e{number}", number, root / f"e{number}") for number in range(1, experts + 1)
    ]
    plan = plan_mix(seed, members, recipe)
    planned = time.monotonic()
    return {
        "mode": mode,
        "tensors": sum(len(shard.outputs) for shard in plan.shards),
        "shards": len(plan.shards),
        "bytes": sum(file_layout(shard.outputs).size for shard in plan.shards),
        "import_s": round(imported - started, 2),
        "plan_s": round(planned - imported, 2),
        "whole_s": round(time.monotonic() - started, 2),
        # Of the whole process: other work on the machine does not change it.
        "cpu_s": round(time.process_time(), 2),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    """Write the ghosts, and plan each mode in a process of its own; with --measure, be that one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-ghosts"))
    parser.add_argument("--shape", choices=SHAPES, default="70B")
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--measure", metavar="MODE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.dir, options.experts, options.measure)))
        return
    shutil.rmtree(options.dir, ignore_errors=True)
    bytes_each = ghost(options.dir / "seed", SHAPES[options.shape])
    for number in range(1, options.experts + 1):
        ghost(options.dir / f"e{number}", SHAPES[options.shape])
    print(
        f"{options.experts} experts and a seed of {bytes_each / 1e9:.1f} GB each, by their headers",
        file=sys.stderr,
    )
    command = [sys.executable, __file__, "--dir", str(options.dir)]
    command += ["--experts", str(options.experts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for mode in ("anchored", "full"):
        subprocess.run([*command, "--measure", mode], check=True, env=environment)
    shutil.rmtree(options.dir)


if __name__ == "__main__":
    main()
