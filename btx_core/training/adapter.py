"""Merge a LoRA adapter into its seed, so that it becomes an expert like any other.

In:  the seed's folder and an adapter folder in PEFT format (safetensors).  Out: a whole dense checkpoint.
W' = W + scale * B A, computed in float32 or wider and rounded once. Streams one tensor at a time. Variants that are more than
this sum (DoRA and others) are refused by name. Judging the result is preflight.py's work.
Shapes: R rank, A [R, in], B [out, R], W [out, in].  Method: LoRA (arXiv:2106.09685), rank-stabilised (arXiv:2312.03732).
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btx_core.checkpoints.checkpoint import Checkpoint, check_folder, read_tensor
from btx_core.checkpoints.headers import TensorInfo, read_header
from btx_core.checkpoints.strict_json import read_json
from btx_core.files import link_or_copy, whole_folder
from btx_core.problems import ShapeMismatch, Unsupported

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN_SEED = "name the seed that it was trained on"
KEPT = "adapter"  # where a merged folder keeps the adapter itself
PREFIX = "base_model.model."
# Settings that change the sum; each must be off.
MORE_THAN_A_SUM = (
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "megatron_config",
    "alora_invocation_tokens",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class Delta:
    """One weight's change: B A times scale."""

    a: TensorInfo
    b: TensorInfo
    scale: float


def merge(seed: Path, adapter: Path, out: Path) -> Path:
    """Write seed plus adapter to the new folder `out`, the adapter's own files under adapter/."""
    base = Checkpoint.open(seed)
    check_folder(adapter)
    settings, tensors = read_json(adapter / CONFIG), read_header(adapter / WEIGHTS)
    check_settings(adapter, settings)
    deltas, replaced = changes(base, adapter, settings, tensors)
    with whole_folder(out) as aside:
        for file in base.weight_files():
            write_file(base, file, deltas, replaced, aside / file.name)
        for path in sorted(seed.iterdir()):
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copyfile(path, aside / path.name)
        (aside / KEPT).mkdir()
        for name in (CONFIG, WEIGHTS):
            link_or_copy(adapter / name, aside / KEPT / name)
        Checkpoint.open(aside)
    return out


def merge_in_place(seed: Path, folder: Path) -> None:
    """Replace the adapter in `folder` by the merged checkpoint; the adapter itself moves to adapter/."""
    merged = folder.with_name(f".{folder.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)
    merge(seed, folder, merged)
    for path in sorted(folder.iterdir()):
        if path.name not in (CONFIG, WEIGHTS) and not (merged / path.name).exists():
            os.rename(path, merged / path.name)  # a README, what training wrote of itself
    shutil.rmtree(folder)
    os.rename(merged, folder)


def check_settings(adapter: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("peft_type") != "LORA":
        raise Unsupported(
            adapter / CONFIG,
            found=f"peft_type {settings.get('peft_type')}",
            expected="LORA",
            next="merge it yourself, register the whole",
        )
    for key in MORE_THAN_A_SUM:
        if settings.get(key):
            raise Unsupported(
                adapter / CONFIG,
                found=f"{key}: {settings[key]}",
                expected=f"no {key}",
                next="merge it yourself, register the whole",
            )
    numbers = [settings.get("r"), settings.get("lora_alpha"), *_patterns(settings)]
    if not all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < 1e6
        for number in numbers
    ):
        raise Unsupported(
            adapter / CONFIG,
            found=f"r, lora_alpha and patterns {numbers}"[:200],
            expected="numbers above 0",
            next="save the adapter anew",
        )


def _patterns(settings: Mapping[str, Any]) -> list[Any]:
    return [
        *(settings.get("rank_pattern") or {}).values(),
        *(settings.get("alpha_pattern") or {}).values(),
    ]


def changes(
    base: Checkpoint, adapter: Path, settings: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, Delta], dict[str, TensorInfo]]:
    """What the adapter does to the seed's tensors: sums, and tensors replaced whole (modules_to_save). Every one must have its place."""
    deltas: dict[str, Delta] = {}
    replaced: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        target = (
            name.removeprefix(PREFIX)
            .replace(".modules_to_save.default.", ".")
            .replace(".modules_to_save.", ".")
        )
        found = re.fullmatch(r"(.+)\.lora_(A|B)(\.default)?\.weight", target)
        partner = tensors.get(
            name.replace(".lora_A.", ".lora_B.")
            if ".lora_A." in name
            else name.replace(".lora_B.", ".lora_A.")
        )
        module = found[1] if found else target.removesuffix(".weight")
        place = base.tensors.get(f"{module}.weight" if found else target)
        if place is None:
            raise ShapeMismatch(
                f"{adapter}, {name}",
                found="no such weight in the seed",
                expected="an adapter of this seed",
                next=OWN_SEED,
            )
        if found:
            a, b = (info, partner) if found[2] == "A" else (partner, info)
            fits = (
                a
                and b
                and len(a.shape) == 2
                and b.shape == (place.shape[0], a.shape[0])
                and a.shape[1:] == place.shape[1:]
            )
            if not (a and b and fits):
                shapes = f"A {a and a.shape}, B {b and b.shape}"
                raise ShapeMismatch(
                    f"{adapter}, {name}",
                    found=shapes,
                    expected=f"two that give {place.shape}",
                    next=OWN_SEED,
                )
            deltas[place.name] = Delta(a, b, scale(settings, module, a.shape[0]))
        else:
            if info.shape != place.shape:
                raise ShapeMismatch(
                    f"{adapter}, {name}", found=info.shape, expected=place.shape, next=OWN_SEED
                )
            replaced[place.name] = info
    return deltas, replaced


def scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) where rank-stabilised; alpha may differ by module (PEFT: the first pattern that ends the name)."""
    patterns = settings.get("alpha_pattern") or {}
    alpha = next(
        (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)),
        settings["lora_alpha"],
    )
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def write_file(
    base: Checkpoint,
    file: Path,
    deltas: Mapping[str, Delta],
    replaced: Mapping[str, TensorInfo],
    out: Path,
) -> None:
    """The seed's file with the changed tensors' bytes replaced: same header, same size."""
    held = [info for info in base.tensors.values() if info.file == file]
    shutil.copyfile(file, out)
    with open(out, "r+b") as stream:
        for info in held:
            if info.name in deltas or info.name in replaced:
                tensor = merged(info, deltas.get(info.name), replaced.get(info.name))
                stream.seek(info.start)
                stream.write(raw(tensor))


def merged(info: TensorInfo, delta: Delta | None, replacement: TensorInfo | None) -> torch.Tensor:
    import torch  # here, so that headers can be checked without loading it

    weight = read_tensor(replacement or info)
    dtype = read_tensor(info).dtype if replacement else weight.dtype
    if delta is None:
        return weight.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    change = read_tensor(delta.b).to(wide) @ read_tensor(delta.a).to(wide)
    return (weight.to(wide) + delta.scale * change).to(dtype)


def raw(tensor: torch.Tensor) -> bytes:
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
