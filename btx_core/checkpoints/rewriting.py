"""Write a checkpoint again with other values: same files, names, shapes, dtypes and config.

In:  an open checkpoint, and the new value of each tensor that changes.
Out: its files in another folder. What a model in memory calls its tensors, or which dtype it
     prefers, changes nothing: what was branched from a seed has the seed's form.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from btx_core.checkpoints.checkpoint import TORCH_NAMES, Checkpoint
from btx_core.checkpoints.contents import INDEX
from btx_core.checkpoints.headers import TensorInfo
from btx_core.checkpoints.tokenizer_files import copy_tokenizer
from btx_core.problems import ShapeMismatch

if TYPE_CHECKING:
    import torch

# The new value of a tensor, None where it stays as it is.
ValueOf = Callable[[TensorInfo], "torch.Tensor | None"]


def write_again(base: Checkpoint, value_of: ValueOf, out: Path) -> None:
    """Write a checkpoint's weights with other values, its config and its tokenizer.

    Args:
        base: the checkpoint.
        value_of: asked for every tensor of the checkpoint, one at a time; what it returns is
            converted to the checkpoint's dtype.
        out: an existing folder without these files.

    Raises:
        ShapeMismatch: for a value of another shape.
    """
    copy_all(base, out)
    for info in base.tensors.values():
        value = value_of(info)
        if value is not None:
            write_value(info, value, out)


def copy_all(base: Checkpoint, out: Path) -> None:
    """Copy a checkpoint's weight files, its config and its tokenizer byte for byte.

    Args:
        base: the checkpoint.
        out: an existing folder without these files.
    """
    for file in base.weight_files():
        shutil.copyfile(file, out / file.name)
    for name in ("config.json", INDEX):
        if (base.folder / name).exists():
            shutil.copyfile(base.folder / name, out / name)
    copy_tokenizer(base.folder, out)


def write_value(info: TensorInfo, value: torch.Tensor, out: Path) -> None:
    """Replace one tensor in a copy of its checkpoint.

    Args:
        info: the tensor, as the checkpoint holds it.
        value: its new value; it is converted to the checkpoint's dtype.
        out: the folder that `copy_all` filled.

    Raises:
        ShapeMismatch: for a value of another shape.
    """
    data = _bytes(info, value)
    with open(out / info.file.name, "r+b") as stream:
        stream.seek(info.start)
        stream.write(data)


def _bytes(info: TensorInfo, value: torch.Tensor) -> bytes:
    # Here, so that headers can be read without it.
    import torch

    if tuple(value.shape) != info.shape:
        raise ShapeMismatch(
            info.name,
            found=tuple(value.shape),
            expected=f"{info.shape}, as in the seed",
            next="look at what changed the tensor's shape",
        )
    dtype = getattr(torch, TORCH_NAMES[info.dtype])
    flat = value.detach().to("cpu", dtype).contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
