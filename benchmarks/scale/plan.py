"""Plan a mixture of the largest size from headers alone: time and memory, in a process of its own.

In:  --experts, --layers, --width ...: a Llama shape; --dir: a folder for ghosts.  Out: JSON: seconds, peak memory, what would be written.
A ghost is a checkpoint folder whose weight files have true headers and no bytes: sparse files of the full length.
Run:  .venv/bin/python benchmarks/scale/plan.py --experts 64 --dir /var/tmp/ghosts
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

LLAMA_70B = {
    "layers": 80,
    "width": 8192,
    "inner": 28672,
    "heads": 64,
    "groups": 8,
    "vocabulary": 128256,
}
LLAMA_8B = {
    "layers": 32,
    "width": 4096,
    "inner": 14336,
    "heads": 32,
    "groups": 8,
    "vocabulary": 128256,
}
SHAPES = {"70B": LLAMA_70B, "8B": LLAMA_8B}


def tensors(
    layers: int, width: int, inner: int, heads: int, groups: int, vocabulary: int
) -> dict[str, list[int]]:
    """Name -> shape of every tensor of a Llama, as Hugging Face writes it."""
    small = width // heads * groups
    block = {
        "self_attn.q_proj": [width, width],
        "self_attn.k_proj": [small, width],
        "self_attn.v_proj": [small, width],
        "self_attn.o_proj": [width, width],
        "mlp.gate_proj": [inner, width],
        "mlp.up_proj": [inner, width],
        "mlp.down_proj": [width, inner],
        "input_layernorm": [width],
        "post_attention_layernorm": [width],
    }
    named = {
        f"model.layers.{layer}.{part}.weight": shape
        for layer in range(layers)
        for part, shape in block.items()
    }
    return named | {
        "model.embed_tokens.weight": [vocabulary, width],
        "model.norm.weight": [width],
        "lm_head.weight": [vocabulary, width],
    }


def ghost(folder: Path, shape: dict[str, int], files: int = 30) -> int:
    """Write a folder of true headers over sparse files; returns its apparent bytes."""
    folder.mkdir(parents=True)
    found = list(tensors(**shape).items())
    index, total = {}, 0
    for number in range(files):
        name, offset = f"model-{number + 1:05}-of-{files:05}.safetensors", 0
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        for tensor, size in found[number::files]:
            count = 2 * size[0] * (size[1] if len(size) > 1 else 1)
            header[tensor] = {
                "dtype": "BF16",
                "shape": size,
                "data_offsets": [offset, offset + count],
            }
            index[tensor], offset = name, offset + count
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)
        total += 8 + len(text) + offset
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": shape["width"],
        "intermediate_size": shape["inner"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["groups"],
        "vocab_size": shape["vocabulary"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total


def measure(root: Path, experts: int, mode: str) -> dict[str, object]:
    """Plan in this process. Peak memory is the process's own, imports included."""
    started = time.monotonic()
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
    size = 0
    for shard in plan.shards:
        size += file_layout(shard.outputs).size
    return {
        "mode": mode,
        "tensors": sum(len(shard.outputs) for shard in plan.shards),
        "shards": len(plan.shards),
        "bytes": size,
        "import_s": round(imported - started, 2),
        "plan_s": round(planned - imported, 2),
        "whole_s": round(time.monotonic() - started, 2),
        "cpu_s": round(
            time.process_time(), 2
        ),  # of the whole process: on a busy machine what stays true
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dir", type=Path, default=Path("/var/tmp/btx-ghosts"))
    options.add_argument("--shape", choices=SHAPES, default="70B")
    options.add_argument("--experts", type=int, default=64)
    options.add_argument("--measure", metavar="MODE", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        print(json.dumps(measure(given.dir, given.experts, given.measure)))
        return
    shutil.rmtree(given.dir, ignore_errors=True)
    bytes_each = ghost(given.dir / "seed", SHAPES[given.shape])
    for number in range(1, given.experts + 1):
        ghost(given.dir / f"e{number}", SHAPES[given.shape])
    print(
        f"{given.experts} experts and a seed of {bytes_each / 1e9:.1f} GB each, by their headers",
        file=sys.stderr,
    )
    for mode in ("anchored", "full"):
        command = [
            sys.executable,
            __file__,
            "--dir",
            str(given.dir),
            "--experts",
            str(given.experts),
            "--measure",
            mode,
        ]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    shutil.rmtree(given.dir)


if __name__ == "__main__":
    main()
