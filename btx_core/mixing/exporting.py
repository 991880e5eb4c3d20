"""Write a built mixture out as a plain checkpoint folder, for a loader of choice.

In:  a built folder, whose slots may have gaps.
Out: a folder of its own, nothing linked: experts numbered from 0 without gaps. Fused, it is one
     file that stock transformers maps into memory. Who may export is left to the policies.
Shapes: E experts, D model width, F feed-forward width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from btx_core.checkpoints.both_spellings import with_both_spellings
from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.contents import INDEX, SINGLE
from btx_core.checkpoints.mixture_layouts import LAYOUTS, Layout, Role
from btx_core.checkpoints.tokenizer_files import copy_tokenizer
from btx_core.files import whole_folder, write_json
from btx_core.mixing.parts import Parts, parts_of
from btx_core.mixing.plan import Output, Part, Shard, Source
from btx_core.mixing.recipe import MixRecipe
from btx_core.mixing.shards import write_shard, writing_threads
from btx_core.mixing.weight_files import index_of
from btx_core.problems import Unsupported, WrongUsage
from btx_core.progress import Progress

TARGETS = ("transformers", "vllm", "llama.cpp")
# Mixtures that transformers 4 reads, in names and settings: compared with 4.57 by their logits.
IN_TRANSFORMERS_4 = frozenset(
    {
        "deepseek_v3",
        "ernie4_5_moe",
        "flex_olmo",
        "glm4_moe",
        "granitemoe",
        "hunyuan_v1_moe",
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
    }
)
# Mixtures that llama.cpp's converter has no class for (its list of 2025).
NOT_IN_LLAMA_CPP = ("flex_olmo", "granitemoe_swa")
# llama.cpp wants Qwen2's shared expert to have a width; one of zeros gives zero.
SHARED_WIDTH = 32
SHARED_WIDTH_KEY = "shared_expert_intermediate_size"

# File name -> its tensors.
Files = dict[str, tuple[Output, ...]]


@dataclass(frozen=True)
class Built:
    """An open build.

    Attributes:
        checkpoint: the open folder.
        layout: how its model type names experts and routers.
        parts: its tensor names by part.
    """

    checkpoint: Checkpoint
    layout: Layout
    parts: Parts

    @classmethod
    def open(cls, folder: Path) -> Built:
        """Open a build.

        Raises:
            Unsafe: for a folder that must not be read.
            Unsupported: for a dense model.
        """
        checkpoint = Checkpoint.open(folder)
        parts = parts_of(checkpoint)
        return cls(checkpoint, LAYOUTS[checkpoint.config["model_type"]], parts)

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.parts.router)


def export_checkpoint(
    folder: Path,
    out: Path,
    *,
    fused: bool = False,
    target: str = "transformers",
    progress: Progress | None = None,
) -> int:
    """Write the mixture in `folder` to a new folder.

    Args:
        folder: a build.
        out: the new folder.
        fused: whether all weights go into one file, all experts of a layer into one tensor.
        target: who is to load it: one of `TARGETS`.
        progress: called before each file.

    Returns:
        The bytes written.

    Raises:
        Unsupported: for a model that the target does not load.
        WrongUsage: for a target that is unknown, or that cannot be fused.
    """
    built = Built.open(folder)
    check_target(built, fused=fused, target=target)
    config, files = dict(built.checkpoint.config), renumbered(built)
    if built.layout.model_type == "qwen2_moe" and target != "transformers":
        config, files = with_other_loaders_tensors(built, files, target)
    if fused:
        outputs = [output for group in files.values() for output in group]
        files = {SINGLE: tuple(stacked(built, outputs))}
    with whole_folder(out) as temporary, writing_threads() as pool:
        for number, (file, group) in enumerate(files.items()):
            if progress:
                progress(number, len(files), file)
            write_shard(Shard(file, group), temporary / file, MixRecipe(), {}, pool)
        if not fused:
            file_of = {output.name: file for file, group in files.items() for output in group}
            write_json(temporary / INDEX, index_of(file_of))
        write_json(temporary / "config.json", with_both_spellings(config))
        copy_tokenizer(folder, temporary)
        return sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())


def check_target(built: Built, *, fused: bool, target: str) -> None:
    """Require a target that loads this build.

    Raises:
        Unsupported: for a model that the target does not load.
        WrongUsage: for a target that is unknown, or that cannot be fused.
    """
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


def least_transformers(built: Built, *, fused: bool) -> str:
    """Return the least release of transformers that loads an export as what it is.

    Args:
        built: the build.
        fused: whether all experts of a layer are written as one tensor.
    """
    model_type = built.layout.model_type
    # Transformers 4 has one tensor an expert, or fills the experts with random values.
    renamed = fused and not built.layout.fused
    # There it takes windows for all layers from `max_window_layers` on, whatever the config lists.
    kinds = built.checkpoint.config.get("layer_types") or ()
    windows = model_type == "qwen2_moe" and "sliding_attention" in kinds
    if model_type not in IN_TRANSFORMERS_4 or renamed or windows:
        return "5"
    return "4.57"


def take(built: Built, name: str, new_name: str = "") -> Output:
    """Return one tensor of the build as it is, under its own name or a new one."""
    info = built.checkpoint.tensors[name]
    part = Part((Source("build", info),))
    return Output(new_name or name, info.dtype, info.shape, "take", (part,))


def renumbered(built: Built) -> Files:
    """Return the tensors by file, expert slots replaced by their positions."""
    new_names = {name: name for name in built.checkpoint.tensors}
    for position, names in enumerate(built.parts.experts.values()):
        for name in names:
            new_names[name] = re.sub(r"\.experts\.\d+\.", f".experts.{position}.", name)
    files: dict[str, list[Output]] = {}
    for name, new_name in new_names.items():
        file = built.checkpoint.tensors[name].file.name
        files.setdefault(file, []).append(take(built, name, new_name))
    return {file: tuple(group) for file, group in sorted(files.items())}


def stacked(built: Built, outputs: Sequence[Output]) -> list[Output]:
    """Put all experts of a layer into two tensors, under the names that the loaded model has.

    Args:
        built: the build.
        outputs: its tensors.

    Returns:
        Its tensors outside the experts, then gate and up [E, 2F, D] and down [E, D, F] of each
        layer.
    """
    if built.layout.fused:
        return list(outputs)
    of_experts = {name for names in built.parts.experts.values() for name in names}
    others = [
        output
        for output in outputs
        if output.parts and output.parts[0].sources[0].tensor.name not in of_experts
    ]
    for layer in range(built.layers):
        others.append(_stack(built, layer, "gate_up_proj", ("gate", "up")))
        others.append(_stack(built, layer, "down_proj", ("down",)))
    return others


def _stack(built: Built, layer: int, name: str, roles: tuple[Role, ...]) -> Output:
    """These matrices of all experts of one layer, in order of slots."""
    template_of = {tensor.roles[0]: tensor.name for tensor in built.layout.experts}
    matrices = [
        take(built, template_of[role].format(l=layer, e=slot))
        for slot in built.parts.experts
        for role in roles
    ]
    experts = len(built.parts.experts)
    rows = sum(matrix.shape[0] for matrix in matrices) // experts
    stem = template_of["down"].split(".{e}.")[0].format(l=layer)
    stem = stem.replace("block_sparse_moe", "mlp")
    return replace(
        matrices[0],
        name=f"{stem}.{name}",
        shape=(experts, rows, matrices[0].shape[1]),
        parts=tuple(part for matrix in matrices for part in matrix.parts),
    )


def with_other_loaders_tensors(
    built: Built, files: Files, target: str
) -> tuple[dict[str, object], Files]:
    """Add what other loaders expect of a Qwen2 mixture; all of it is zero.

    That is biases on queries, keys and values, and for llama.cpp a shared expert of some width.

    Args:
        built: the build.
        files: its tensors.
        target: who is to load it.

    Returns:
        The config and the tensors, with what was added.
    """
    config: dict[str, object] = dict(built.checkpoint.config)
    # Attention lies in the file of the shared parameters, and nowhere else.
    (shared,) = [
        file
        for file, group in files.items()
        if any(".self_attn." in output.name for output in group)
    ]
    group = files[shared]
    dtype = group[0].dtype
    added: list[Output] = []
    if not config.get("qkv_bias", True):
        config["qkv_bias"] = True
        added += _zero_biases(group, dtype)
    if target == "llama.cpp" and not config[SHARED_WIDTH_KEY]:
        config[SHARED_WIDTH_KEY] = SHARED_WIDTH
        group = tuple(output for output in group if ".shared_expert." not in output.name)
        added += _zero_shared_expert(built, dtype)
    return config, files | {shared: (*group, *added)}


def _zero_biases(group: Sequence[Output], dtype: str) -> list[Output]:
    biases = []
    for output in group:
        if re.search(r"self_attn\.[qkv]_proj\.weight$", output.name):
            name = output.name.replace(".weight", ".bias")
            biases.append(Output(name, dtype, output.shape[:1], "constant"))
    return biases


def _zero_shared_expert(built: Built, dtype: str) -> list[Output]:
    width = built.checkpoint.config["hidden_size"]
    shapes = {
        "gate_proj": (SHARED_WIDTH, width),
        "up_proj": (SHARED_WIDTH, width),
        "down_proj": (width, SHARED_WIDTH),
    }
    outputs = []
    for layer in range(built.layers):
        for name, shape in shapes.items():
            full_name = f"model.layers.{layer}.mlp.shared_expert.{name}.weight"
            outputs.append(Output(full_name, dtype, shape, "constant"))
    return outputs
