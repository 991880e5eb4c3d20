"""LoRA adapters: put on a branch that trains, or merged into the seed model that they belong to.

Merged, an adapter that was trained elsewhere becomes an expert like any other.

In:  a model in memory; or the seed's folder and an adapter folder in PEFT format (safetensors).
Out: the model with adapters on it; or a whole dense checkpoint.
Merging is W' = W + scale × B A, computed in float32 or wider and rounded once, one tensor at a
time. Variants that are more than this sum (DoRA and others) are refused by name. Judging the result
is left to `btx_core.mixing.preflight`.
Shapes: R rank, A [R, in], B [out, R], W [out, in].
Methods: LoRA (arXiv:2106.09685), rank-stabilised (arXiv:2312.03732).
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btx_core.checkpoints.checkpoint import Checkpoint, check_folder, read_tensor
from btx_core.checkpoints.headers import TensorInfo, read_header
from btx_core.checkpoints.strict_json import read_json
from btx_core.files import link_or_copy, whole_folder
from btx_core.problems import ShapeMismatch, Unsupported

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Where a merged folder keeps the adapter itself.
KEPT = "adapter"
PREFIX = "base_model.model."
OWN_SEED = "name the seed that it was trained on"
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
# The two halves of a low-rank change, and what stands for each in a tensor's name.
HALF = re.compile(r"(.+)\.lora_(A|B)(\.default)?\.weight")
# adapter_config.json as PEFT wrote it.
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Delta:
    """One weight's change: B A times scale."""

    a: TensorInfo
    b: TensorInfo
    scale: float


@dataclass(frozen=True)
class Changes:
    """What an adapter does to the tensors of its seed model.

    Attributes:
        deltas: by tensor name, what is added to it.
        replaced: by tensor name, the tensor that replaces it (PEFT's modules_to_save).
    """

    deltas: dict[str, Delta] = field(default_factory=dict)
    replaced: dict[str, TensorInfo] = field(default_factory=dict)


def add_adapters(model: PreTrainedModel, rank: int) -> PeftModel:
    """Put low-rank adapters on every trainable linear layer of a model, and freeze all else.

    Args:
        model: changed in place.
        rank: of the adapters; their scale is 2.

    Returns:
        The model wrapped by PEFT; its `merge_and_unload` gives the model back, adapters merged.
    """
    # Here, since they take seconds to import and are seldom asked for.
    import torch
    from peft import LoraConfig, get_peft_model

    trainable = {
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2
    }
    targets = [
        name
        for name, module in model.named_modules()
        if name in trainable and isinstance(module, torch.nn.Linear)
    ]
    adapted: PeftModel = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    )
    return adapted


def merge(seed_model: Path, adapter: Path, out: Path) -> Path:
    """Write the seed model plus an adapter to a new folder.

    Args:
        seed_model: the dense folder that the adapter was trained on.
        adapter: an adapter folder in PEFT format.
        out: the folder to be made; the adapter's own files go under adapter/ in it.

    Returns:
        `out`.

    Raises:
        Unsupported: for an adapter that is more than a sum.
        ShapeMismatch: for an adapter of another seed model.
        Unsafe: for a folder that must not be read.
    """
    base = Checkpoint.open(seed_model)
    check_folder(adapter)
    settings = read_json(adapter / CONFIG)
    tensors = read_header(adapter / WEIGHTS)
    check_settings(adapter, settings)
    changes = changes_of(base, adapter, settings, tensors)
    with whole_folder(out) as folder:
        for file in base.weight_files():
            write_file(base, file, changes, folder / file.name)
        for path in sorted(seed_model.iterdir()):
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copyfile(path, folder / path.name)
        (folder / KEPT).mkdir()
        for name in (CONFIG, WEIGHTS):
            link_or_copy(adapter / name, folder / KEPT / name)
        Checkpoint.open(folder)
    return out


def merge_in_place(seed_model: Path, folder: Path) -> None:
    """Replace an adapter by the merged checkpoint; the adapter itself moves to adapter/.

    Args:
        seed_model: the dense folder that the adapter was trained on.
        folder: an adapter folder; whatever else lies in it stays.

    Raises:
        BtxError: as `merge`.
    """
    merged = folder.with_name(f".{folder.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)
    merge(seed_model, folder, merged)
    for path in sorted(folder.iterdir()):
        # What else lies there: a README, what the training wrote of itself.
        if path.name not in (CONFIG, WEIGHTS) and not (merged / path.name).exists():
            os.rename(path, merged / path.name)
    shutil.rmtree(folder)
    os.rename(merged, folder)


def check_settings(adapter: Path, settings: Settings) -> None:
    """Refuse an adapter that is more than a sum, or whose scale is no number.

    Args:
        adapter: its folder, for the message.
        settings: its adapter_config.json.

    Raises:
        Unsupported: naming the setting.
    """
    subject = adapter / CONFIG
    if settings.get("peft_type") != "LORA":
        raise Unsupported(
            subject,
            found=f"peft_type {settings.get('peft_type')}",
            expected="LORA",
            next="merge it yourself, register the whole",
        )
    for key in MORE_THAN_A_SUM:
        if settings.get(key):
            raise Unsupported(
                subject,
                found=f"{key}: {settings[key]}",
                expected=f"no {key}",
                next="merge it yourself, register the whole",
            )
    numbers = [
        settings.get("r"),
        settings.get("lora_alpha"),
        *(settings.get("rank_pattern") or {}).values(),
        *(settings.get("alpha_pattern") or {}).values(),
    ]
    if not all(_is_positive_number(number) for number in numbers):
        raise Unsupported(
            subject,
            found=f"r, lora_alpha and patterns {numbers}"[:200],
            expected="numbers above 0",
            next="save the adapter anew",
        )


def _is_positive_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < 1e6


def changes_of(
    base: Checkpoint, adapter: Path, settings: Settings, tensors: Mapping[str, TensorInfo]
) -> Changes:
    """Match every tensor of an adapter with the tensor of the seed model that it changes.

    Args:
        base: the seed model.
        adapter: the adapter's folder, for the messages.
        settings: its adapter_config.json.
        tensors: its tensors by name.

    Returns:
        What is added to which tensor, and which are replaced whole.

    Raises:
        ShapeMismatch: naming the first tensor that matches none of the seed model.
    """
    changes = Changes()
    for name, info in tensors.items():
        subject = f"{adapter}, {name}"
        target = (
            name.removeprefix(PREFIX)
            .replace(".modules_to_save.default.", ".")
            .replace(".modules_to_save.", ".")
        )
        half = HALF.fullmatch(target)
        weight = base.tensors.get(f"{half[1]}.weight" if half else target)
        if weight is None:
            raise ShapeMismatch(
                subject,
                found="no such weight in the seed",
                expected="an adapter of this seed",
                next=OWN_SEED,
            )
        if half:
            a, b = _halves(subject, name, tensors, weight)
            changes.deltas[weight.name] = Delta(a, b, scale(settings, half[1], a.shape[0]))
        elif info.shape != weight.shape:
            raise ShapeMismatch(subject, found=info.shape, expected=weight.shape, next=OWN_SEED)
        else:
            changes.replaced[weight.name] = info
    return changes


def _halves(
    subject: str, name: str, tensors: Mapping[str, TensorInfo], weight: TensorInfo
) -> tuple[TensorInfo, TensorInfo]:
    """Return the A and B that the tensor `name` is one of, and check their shapes."""
    a = tensors.get(name.replace(".lora_B.", ".lora_A."))
    b = tensors.get(name.replace(".lora_A.", ".lora_B."))
    if a and b and len(a.shape) == 2:
        rank, width = a.shape
        if b.shape == (weight.shape[0], rank) and (width,) == weight.shape[1:]:
            return a, b
    raise ShapeMismatch(
        subject,
        found=f"A {a and a.shape}, B {b and b.shape}",
        expected=f"two that give {weight.shape}",
        next=OWN_SEED,
    )


def scale(settings: Settings, module: str, rank: int) -> float:
    """Return what one module's change is multiplied with.

    Args:
        settings: the adapter's adapter_config.json; alpha may differ by module, and PEFT takes the
            first pattern that ends the module's name.
        module: the module's name in the seed model.
        rank: of its adapter.

    Returns:
        alpha / rank, or alpha / sqrt(rank) where the adapter is rank-stabilised.
    """
    alpha = settings["lora_alpha"]
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def write_file(base: Checkpoint, file: Path, changes: Changes, out: Path) -> None:
    """Write one of the seed model's files with the changed tensors' bytes replaced.

    Args:
        base: the seed model.
        file: one of its weight files.
        changes: what the adapter does.
        out: the file to be made, with the same header and size.
    """
    shutil.copyfile(file, out)
    with open(out, "r+b") as stream:
        for info in base.tensors.values():
            changed = info.name in changes.deltas or info.name in changes.replaced
            if changed and info.file == file:
                stream.seek(info.start)
                stream.write(_raw_bytes(_merged(info, changes)))


def _merged(info: TensorInfo, changes: Changes) -> torch.Tensor:
    # Here, so that headers can be checked without loading it.
    import torch

    replacement = changes.replaced.get(info.name)
    weight = read_tensor(replacement or info)
    dtype = read_tensor(info).dtype if replacement else weight.dtype
    delta = changes.deltas.get(info.name)
    if delta is None:
        return weight.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    change = read_tensor(delta.b).to(wide) @ read_tensor(delta.a).to(wide)
    return (weight.to(wide) + delta.scale * change).to(dtype)


def _raw_bytes(tensor: torch.Tensor) -> bytes:
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
