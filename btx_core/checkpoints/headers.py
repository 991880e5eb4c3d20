"""Read the header of a safetensors file: which tensors it holds, and where their bytes lie.

In:  one file.
Out: each tensor's name, dtype, shape and byte range, checked against the file's size and against
     each other. No tensor is read. Plain Python, so that the registry hashes tensors by the same
     rules by which they are loaded; what the tensors mean is left to `checkpoint.py`.
Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from btx_core.checkpoints.strict_json import SAVE_ANEW, parse_json, require_fetched
from btx_core.problems import Unsafe

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "U16": 2,
    "U32": 4,
    "U64": 8,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
# The format's own limit.
MAX_HEADER_BYTES = 100 << 20
MAX_TENSORS = 200_000
MAX_RANK = 8
MAX_NAME_LENGTH = 512
MAX_COUNT = 1 << 48
METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's location on disk.

    Attributes:
        name: the tensor's name.
        dtype: one of `ITEM_BYTES`.
        shape: its sizes, in elements.
        file: the file that holds it.
        start: where its bytes begin, counted from the beginning of the file.
        end: where they end.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return self.end - self.start

    @property
    def row_bytes(self) -> int:
        """Bytes of one index along the first axis."""
        return self.bytes // self.shape[0] if self.shape and self.shape[0] else self.bytes


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return every tensor of one safetensors file, by name, in the header's order.

    Args:
        file: a safetensors file.

    Returns:
        Tensors that together fill the file, with no overlap and no hole.

    Raises:
        Unsafe: when the file cannot be read or its header does not describe it.
    """
    header = _raw_header(file)
    tensors = {
        name: _tensor(file, name, entry, header.data_start)
        for name, entry in header.entries.items()
    }
    _require_no_gaps(file, list(tensors.values()), header)
    return tensors


def read_metadata(file: Path) -> dict[str, str]:
    """Return the texts that a safetensors file's header carries beside its tensors.

    Raises:
        Unsafe: when the file cannot be read or its header is none.
    """
    return _raw_header(file).metadata


@dataclass(frozen=True)
class _RawHeader:
    """The parsed header, where the data begins, and the file's size, both in bytes."""

    entries: Mapping[str, object]
    metadata: dict[str, str]
    data_start: int
    file_bytes: int


def _raw_header(file: Path) -> _RawHeader:
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            beginning = stream.read(64)
            require_fetched(file, beginning)
            length = int.from_bytes(beginning[:8], "little")
            if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise Unsafe(
                    file,
                    found=f"a header of {length} bytes in a file of {size}",
                    expected="a header that fits its file",
                    next=SAVE_ANEW,
                )
            stream.seek(8)
            text = stream.read(length)
    except OSError as error:
        raise Unsafe(
            file, found=error.strerror or "unreadable", expected="a readable file", next=SAVE_ANEW
        ) from None
    # Counted before parsing, which would take long.
    count = text.count(b"data_offsets")
    if count > MAX_TENSORS:
        raise Unsafe(
            file, found=f"{count} tensors", expected=f"at most {MAX_TENSORS}", next=SAVE_ANEW
        )
    entries = parse_json(file, text)
    metadata = entries.pop(METADATA, {})
    is_object = isinstance(metadata, dict)
    if not is_object or not all(isinstance(value, str) for value in metadata.values()):
        raise Unsafe(
            file, found="metadata that is not text", expected="text to text", next=SAVE_ANEW
        )
    return _RawHeader(entries, metadata, 8 + length, size)


def _require_no_gaps(file: Path, tensors: Sequence[TensorInfo], header: _RawHeader) -> None:
    """The tensors lie one after another and fill the file."""
    reached = header.data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != reached:
            overlaps = tensor.start < reached
            raise Unsafe(
                f"{file}, {tensor.name}",
                found="overlaps another tensor" if overlaps else "leaves a hole before it",
                expected="tensors one after another",
                next=SAVE_ANEW,
            )
        reached = tensor.end
    if reached != header.file_bytes:
        raise Unsafe(
            file,
            found=f"{header.file_bytes} bytes",
            expected=f"{reached} bytes, as its header says",
            next=SAVE_ANEW,
        )


def _tensor(file: Path, name: str, entry: object, data_start: int) -> TensorInfo:
    """One entry of the header, checked for itself."""
    subject = f"{file}, {name[:200]!r}"
    if not _is_tensor_name(name):
        raise Unsafe(
            subject, found="a name that could be a path", expected="a tensor name", next=SAVE_ANEW
        )
    dtype, shape, start, end = _fields(subject, entry)
    if end - start != prod(shape) * ITEM_BYTES[dtype]:
        raise Unsafe(
            subject,
            found=f"{end - start} bytes for {dtype} {shape}",
            expected=f"{prod(shape) * ITEM_BYTES[dtype]} bytes",
            next=SAVE_ANEW,
        )
    return TensorInfo(name, dtype, shape, file, data_start + start, data_start + end)


def _is_tensor_name(name: str) -> bool:
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        return False
    return not any(part in name for part in ("/", "\\", ".."))


def _fields(subject: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """The entry's dtype, shape and offsets, each of its type and within its bounds."""
    try:
        # A number or a list has no such keys: a TypeError, too.
        dtype, shape = entry["dtype"], entry["shape"]  # type: ignore[index]
        start, end = entry["data_offsets"]  # type: ignore[index]
        counts = [*shape, start, end]
    except (TypeError, KeyError, ValueError):
        raise Unsafe(
            subject,
            found="an incomplete entry",
            expected="dtype, shape and data_offsets",
            next=SAVE_ANEW,
        ) from None
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise Unsafe(
            subject,
            found=f"dtype {str(dtype)[:40]}",
            expected=f"one of {', '.join(ITEM_BYTES)}",
            next=SAVE_ANEW,
        )
    whole = all(type(count) is int and 0 <= count < MAX_COUNT for count in counts)
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not whole:
        raise Unsafe(
            subject,
            found=f"shape {str(shape)[:80]}, offsets {start}, {end}"[:160],
            expected="whole numbers from 0",
            next=SAVE_ANEW,
        )
    return dtype, tuple(shape), start, end
