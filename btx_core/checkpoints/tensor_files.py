"""Write a safetensors file tensor by tensor, with the bytes that safetensors itself would write.

In:  the names, dtypes and shapes of its tensors; then their values, in any order, one at a time.
Out: the file. No more than one tensor is in memory.
Which values they are is left to the callers.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from btx_core.checkpoints.headers import ITEM_BYTES, METADATA

# In the order in which safetensors puts them: the widest first, so that all are aligned.
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
RANKS = {name: rank for rank, name in enumerate(DTYPES.values())}
# The header pads its text to a multiple of this, and is found behind eight bytes of length.
ALIGNMENT = 8


@dataclass(frozen=True)
class TensorShape:
    """What a file's header says of a tensor, but its offsets.

    Attributes:
        dtype: as headers write it.
        shape: its sizes, in elements.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "TensorShape":
        """Return a tensor's own; on the meta device it needs no memory."""
        return cls(DTYPES[tensor.dtype], tuple(tensor.shape))

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class TensorFile:
    """A safetensors file that is being written.

    Attributes:
        path: the new file.
        shapes: its tensors.
        missing: the names of those that have no values as yet.
    """

    def __init__(self, path: Path, shapes: Mapping[str, TensorShape]) -> None:
        """Create the file in its full size, so that a full disk shows now."""
        self.path, self.shapes = path, shapes
        self.missing = set(shapes)
        header, self.starts = _layout(shapes)
        self._file = path.open("xb")
        size = len(header) + sum(shape.bytes for shape in shapes.values())
        os.posix_fallocate(self._file.fileno(), 0, size)
        self._file.write(header)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write the values of one tensor.

        Raises:
            ValueError: where its dtype or shape is not the one that was announced.
        """
        shape = TensorShape.of(tensor)
        if shape != self.shapes[name]:
            raise ValueError(f"{self.path}, {name}: {shape}, announced as {self.shapes[name]}")
        self._file.seek(self.starts[name])
        self._file.write(_raw(tensor))
        self.missing.discard(name)

    def close(self) -> None:
        """Close the file.

        Raises:
            ValueError: where a tensor has no values.
        """
        self._file.close()
        if self.missing:
            raise ValueError(f"{self.path}: no values for {', '.join(sorted(self.missing))}")


def _raw(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _layout(shapes: Mapping[str, TensorShape]) -> tuple[bytes, dict[str, int]]:
    """Return the header, its length included, and where each tensor's bytes begin in the file."""
    # One metadata key: safetensors writes several in any order.
    entries: dict[str, object] = {METADATA: {"format": "pt"}}
    starts: dict[str, int] = {}
    reached = 0
    for name in sorted(shapes, key=lambda name: (RANKS[shapes[name].dtype], name)):
        shape = shapes[name]
        starts[name] = reached
        reached += shape.bytes
        entries[name] = {
            "dtype": shape.dtype,
            "shape": list(shape.shape),
            "data_offsets": [starts[name], reached],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in starts.items()}
