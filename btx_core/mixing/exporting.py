"""Write a built mixture out as a plain checkpoint folder, for a loader of choice.

In:  a built folder (slots may have gaps).  Out: a folder of its own, nothing linked: experts numbered from 0 without gaps.
Fused: one file that stock transformers maps into memory. Who may export is a policy's matter.
Shapes: E experts, D model width, F feed-forward width.
"""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from btx_core.checkpoints.checkpoint import INDEX, SINGLE, Checkpoint
from btx_core.checkpoints.families import LAYOUTS, Layout
from btx_core.files import whole_folder, write_json
from btx_core.mixing.mix import PROVENANCE, MixRecipe
from btx_core.mixing.plan import Output, Part, Parts, Shard, Source, parts
from btx_core.mixing.shards import Progress, write_shard
from btx_core.problems import Unsupported, WrongUsage

TARGETS = ("transformers", "vllm", "llama.cpp")
# Mixtures that llama.cpp's converter has no class for (its list of 2025).
NOT_IN_LLAMA_CPP = ("flex_olmo", "granitemoe_swa")
SHARED_WIDTH = 32  # llama.cpp wants Qwen2's shared expert to have a width; one of zeros gives zero


@dataclass(frozen=True)
class Built:
    checkpoint: Checkpoint
    layout: Layout
    parts: Parts
    layers: int

    @classmethod
    def open(cls, folder: Path) -> Built:
        opened = Checkpoint.open(folder)
        found = parts(opened)
        return cls(opened, LAYOUTS[opened.config["model_type"]], found, len(found.router))


def export_checkpoint(
    folder: Path,
    out: Path,
    *,
    fused: bool = False,
    target: str = "transformers",
    progress: Progress | None = None,
) -> int:
    """Write the mixture in `folder` to the new folder `out`. Returns the bytes written.

    target: transformers, vllm or llama.cpp, where a family needs another dress. Raises Unsupported, WrongUsage.
    """
    built = Built.open(folder)
    check_target(built, fused, target)
    config, outputs = dict(built.checkpoint.config), renumbered(built)
    if built.layout.model_type == "qwen2_moe" and target != "transformers":
        config, outputs = qwen2_dress(built, config, outputs, target)
    if fused:
        outputs = {
            SINGLE: tuple(
                stacked(built, [output for group in outputs.values() for output in group])
            )
        }
    with whole_folder(out) as aside, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, (file, group) in enumerate(outputs.items()):
            if progress:
                progress(number, len(outputs), file)
            write_shard(Shard(file, group), aside / file, MixRecipe(), {}, pool)
        if not fused:
            names = {output.name: file for file, group in outputs.items() for output in group}
            write_json(aside / INDEX, {"metadata": {}, "weight_map": dict(sorted(names.items()))})
        write_json(aside / "config.json", config)
        copy_rest(folder, aside)
        return sum(path.stat().st_size for path in aside.iterdir())


def check_target(built: Built, fused: bool, target: str) -> None:
    if target not in TARGETS:
        raise WrongUsage(
            "export",
            found=target,
            expected=f"one of {', '.join(TARGETS)}",
            next="name another target",
        )
    if fused and target != "transformers":
        raise WrongUsage(
            "export",
            found=f"fused for {target}",
            expected="fused for transformers only",
            next="leave one of the two out",
        )
    if target == "llama.cpp" and built.layout.model_type in NOT_IN_LLAMA_CPP:
        raise Unsupported(
            built.checkpoint.folder,
            found=built.layout.model_type,
            expected="a mixture that llama.cpp converts",
            next="export for transformers or vllm",
        )


def copy_rest(folder: Path, out: Path) -> None:
    """Tokenizer and generation settings; not the weights, nor what concerns this build alone."""
    for path in folder.iterdir():
        ours = (
            path.suffix == ".safetensors"
            or path.name in (INDEX, "config.json", PROVENANCE)
            or path.name.startswith("btx-")
        )
        if path.is_file() and not ours:
            shutil.copyfile(path, out / path.name)


def take(built: Built, name: str, new: str | None = None) -> Output:
    info = built.checkpoint.tensors[name]
    return Output(new or name, info.dtype, info.shape, "take", (Part((Source("build", info),)),))


def renumbered(built: Built) -> dict[str, tuple[Output, ...]]:
    """The tensors by file, expert slots replaced by their positions."""
    names = {name: name for name in built.checkpoint.tensors}
    for position, held in enumerate(built.parts.experts.values()):
        names |= {name: re.sub(r"\.experts\.\d+\.", f".experts.{position}.", name) for name in held}
    files: dict[str, list[Output]] = {}
    for name, new in names.items():
        files.setdefault(built.checkpoint.tensors[name].file.name, []).append(
            take(built, name, new)
        )
    return {file: tuple(group) for file, group in sorted(files.items())}


def stacked(built: Built, outputs: list[Output]) -> list[Output]:
    """All experts of a layer in two tensors, under the names that the loaded model has: gate and up [E, 2F, D], down [E, D, F]."""
    if built.layout.fused:
        return outputs
    held = {name for names in built.parts.experts.values() for name in names}
    rest = [
        output
        for output in outputs
        if output.parts and output.parts[0].sources[0].tensor.name not in held
    ]
    return rest + [output for layer in range(built.layers) for output in _stack(built, layer)]


def _stack(built: Built, layer: int) -> list[Output]:
    by_role = {roles[0]: template for template, roles in built.layout.expert}
    stem = by_role["down"].split(".{e}.")[0].format(l=layer).replace("block_sparse_moe", "mlp")
    joined = []
    for name, roles in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
        taken = [
            take(built, by_role[role].format(l=layer, e=slot))
            for slot in built.parts.experts
            for role in roles
        ]
        _, columns = taken[0].shape
        rows = sum(one.shape[0] for one in taken) // len(built.parts.experts)
        pieces = tuple(part for one in taken for part in one.parts)
        joined.append(
            replace(
                taken[0],
                name=f"{stem}.{name}",
                shape=(len(built.parts.experts), rows, columns),
                parts=pieces,
            )
        )
    return joined


def qwen2_dress(
    built: Built, config: dict[str, Any], outputs: dict[str, tuple[Output, ...]], target: str
) -> tuple[dict[str, Any], dict[str, tuple[Output, ...]]]:
    """What others' Qwen2-MoE expects beside the weights: biases on q, k and v; for llama.cpp a shared expert of some width. All zero."""
    (first, group), *rest = (
        (file, group)
        for file, group in outputs.items()
        if any(".self_attn." in output.name for output in group)
    )
    assert not rest
    dtype, more = group[0].dtype, []
    if not config.get("qkv_bias", True):
        biased = [
            output for output in group if re.search(r"self_attn\.[qkv]_proj\.weight$", output.name)
        ]
        more += [
            Output(output.name.replace(".weight", ".bias"), dtype, output.shape[:1], "constant")
            for output in biased
        ]
        config = config | {"qkv_bias": True}
    if target == "llama.cpp" and not config["shared_expert_intermediate_size"]:
        width = config["hidden_size"]
        shapes = {
            "gate_proj": (SHARED_WIDTH, width),
            "up_proj": (SHARED_WIDTH, width),
            "down_proj": (width, SHARED_WIDTH),
        }
        group = tuple(output for output in group if ".shared_expert." not in output.name)
        for layer in range(built.layers):
            stem = f"model.layers.{layer}.mlp.shared_expert"
            more += [
                Output(f"{stem}.{name}.weight", dtype, shape, "constant")
                for name, shape in shapes.items()
            ]
        config = config | {"shared_expert_intermediate_size": SHARED_WIDTH}
    return config, outputs | {first: (*group, *more)}
