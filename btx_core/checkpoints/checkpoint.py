"""Open a checkpoint folder only if everything about it is safe and true; read and write safetensors by byte range.

In:  a folder in Hugging Face format: config.json and safetensors files.  Out: its parsed config, and each tensor's place on disk.
No pickle, no code, nothing outside the folder. Headers are checked against the file's size before a tensor is touched.
Values (NaN, distances) are preflight.py's and shards.py's work. Imports no torch: `read` fetches it when asked for a tensor.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btx_core.problems import Unsafe

if TYPE_CHECKING:
    import torch

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
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
TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# What pickles, or other code, are called. Their presence is refused, not only their use: another loader might prefer them.
CODE_ENDINGS = {
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack"),
    *(".npy", ".npz", ".joblib", ".dill", ".py", ".pyc", ".so", ".onnx"),
}
MAX_JSON_BYTES, MAX_HEADER_BYTES, MAX_TENSORS, MAX_RANK, MAX_FILES = (
    64 << 20,
    100 << 20,
    200_000,
    8,
    10_000,
)
MEND = "take the checkpoint from its source again, or save it anew with save_pretrained"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's place on disk. start, end: absolute byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start

    @property
    def row_bytes(self) -> int:
        """Bytes of one index along the first axis."""
        return self.bytes // self.shape[0] if self.shape and self.shape[0] else self.bytes


@dataclass(frozen=True)
class Checkpoint:
    """A validated, safe folder in Hugging Face format. digests: of its tensors, SHA-256, where they are on record."""

    folder: Path
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, digests: Mapping[str, str] | None = None) -> Checkpoint:
        """Check the whole folder, headers included; no tensor is read. Raises Unsafe."""
        folder = Path(folder)
        check_folder(folder)
        config = read_json(folder / "config.json")
        check_config(folder / "config.json", config)
        return cls(folder, config, _tensors(folder), digests or {})

    def read(self, name: str) -> torch.Tensor:
        return read_tensor(self.tensors[name])

    def weight_files(self) -> list[Path]:
        return sorted({tensor.file for tensor in self.tensors.values()})


def same_tokenizer(seed: Path, member: Path) -> bool:
    """Whether the member's tokens mean what the seed's mean; a member without a tokenizer.json takes the seed's."""
    ours, theirs = seed / "tokenizer.json", member / "tokenizer.json"
    if not theirs.exists() or not ours.exists():
        return not theirs.exists()
    return ours.read_bytes() == theirs.read_bytes() or _token_meaning(ours) == _token_meaning(
        theirs
    )


def _token_meaning(path: Path) -> dict[str, Any]:
    content = read_json(path)
    return {
        key: content.get(key) for key in ("model", "added_tokens", "normalizer", "pre_tokenizer")
    }


def read_tensor(info: TensorInfo) -> torch.Tensor:
    import torch  # here, so that headers can be read without loading it

    with open(info.file, "rb") as file:
        file.seek(info.start)
        data = bytearray(file.read(info.bytes))
    dtype = getattr(torch, TORCH_NAMES[info.dtype])
    return (
        torch.frombuffer(data, dtype=dtype).reshape(info.shape)
        if data
        else torch.empty(info.shape, dtype=dtype)
    )


def check_folder(folder: Path) -> None:
    """No link that leaves the folder, no pickle or code, nothing but files and folders."""
    if not folder.is_dir():
        raise Unsafe(
            folder, found="no such folder", expected="a checkpoint folder", next="check the path"
        )
    for path, mode in _walk(folder):
        name = path.relative_to(folder)
        if stat.S_ISLNK(mode):
            if not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
                raise Unsafe(
                    path,
                    found=f"a link to {os.readlink(path)!r}",
                    expected="links that stay inside the folder",
                    next="copy the folder with its links followed: cp -rL",
                )
            mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise Unsafe(
                path,
                found="neither a file nor a folder",
                expected="files and folders only",
                next=f"remove {name}",
            )
        if stat.S_ISREG(mode) and name.suffix.lower() in CODE_ENDINGS:
            raise Unsafe(
                path,
                found=f"a {name.suffix} file, which can carry code",
                expected="weights as safetensors and no code",
                next=f"remove {name}, or save the model anew as safetensors",
            )


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    count = 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            count += 1
            if count > MAX_FILES:
                raise Unsafe(
                    folder,
                    found=f"more than {MAX_FILES} files",
                    expected="a checkpoint folder",
                    next="check the path",
                )
            path = Path(root) / name
            yield path, path.lstat().st_mode


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """The config names its model type and asks for no code of its own and no quantised weights."""
    for key, why in (
        ("auto_map", "code that comes with the weights"),
        ("quantization_config", "quantised weights"),
    ):
        if config.get(key):
            raise Unsafe(
                path,
                found=f"{key}: {why}",
                expected="a model that stock transformers knows, in plain floats",
                next="convert the checkpoint to a stock, unquantised one",
            )
    if not isinstance(config.get("model_type"), str):
        raise Unsafe(
            path,
            found=f"model_type {config.get('model_type')!r}",
            expected="a model_type in words",
            next=MEND,
        )
    tokenizer = path.parent / "tokenizer_config.json"
    if tokenizer.exists() and read_json(tokenizer).get("auto_map"):
        raise Unsafe(
            tokenizer,
            found="auto_map: code that comes with the tokenizer",
            expected="a stock tokenizer",
            next="save a stock tokenizer",
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a bounded file; doubled keys, NaN and nesting without end are refused."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise Unsafe(
                path, found=f"{size} bytes", expected=f"at most {MAX_JSON_BYTES}", next=MEND
            )
        return parse_json(path, path.read_bytes())
    except OSError as error:
        raise Unsafe(
            path, found=error.strerror or "unreadable", expected="a readable file", next=MEND
        ) from None


def parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key twice in one object")
        return found

    def no_constant(text: str) -> Any:
        raise ValueError(f"{text}, which is not JSON")

    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant
        )
    except (
        ValueError,
        RecursionError,
    ) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise Unsafe(
            path, found=f"no valid JSON: {error}"[:200], expected="JSON", next=MEND
        ) from None
    if not isinstance(value, dict):
        raise Unsafe(
            path, found=f"a JSON {type(value).__name__}", expected="a JSON object", next=MEND
        )
    return value


def _tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the folder, from the index or the single file; both at once are ambiguous: loaders disagree."""
    present = {path.name for path in folder.glob("*.safetensors")}
    if not (folder / INDEX).exists():
        if present != {SINGLE}:
            raise Unsafe(
                folder, found=_names(present), expected=f"{SINGLE}, or an index {INDEX}", next=MEND
            )
        return read_header(folder / SINGLE)
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Unsafe(
            folder / INDEX,
            found="no weight_map",
            expected="tensor names and their files",
            next=MEND,
        )
    named = _index_files(folder / INDEX, weight_map)
    if stray := present ^ named:
        raise Unsafe(
            folder / INDEX,
            found=f"{_names(stray)} in the folder or in the index, not in both",
            expected="exactly the files that the index names",
            next="remove the stray file, or save the checkpoint anew",
        )
    tensors: dict[str, TensorInfo] = {}
    for file in sorted(named):
        tensors |= (shard := read_header(folder / file))
        for name in shard:
            if weight_map.get(name) != file:
                raise Unsafe(
                    folder / file,
                    found=f"{name}, which the index puts in {weight_map.get(name)}",
                    expected="files and index that agree",
                    next=MEND,
                )
    if missing := weight_map.keys() - tensors.keys():
        raise Unsafe(
            folder / INDEX,
            found=f"{min(missing)} in no file",
            expected="files and index that agree",
            next=MEND,
        )
    return tensors


def _index_files(index: Path, weight_map: dict[str, Any]) -> set[str]:
    for name in set(map(str, weight_map.values())):
        if "/" in name or "\\" in name or not name.endswith(".safetensors") or name.startswith("."):
            raise Unsafe(
                index,
                found=f"the file name {name[:120]!r}",
                expected="names of safetensors files in this very folder",
                next=MEND,
            )
    return set(map(str, weight_map.values()))


def _names(names: set[str]) -> str:
    return (
        ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "")
        if names
        else "no safetensors file"
    )


def read_metadata(file: Path) -> dict[str, str]:
    """The strings that a safetensors file's header carries beside its tensors."""
    return dict(_raw_header(file)[0].get("__metadata__") or {})


def _raw_header(file: Path) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where the data begins, and the file's size in bytes."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise Unsafe(
                    file,
                    found=f"a header of {length} bytes in a file of {size}",
                    expected="a header that fits its file",
                    next=MEND,
                )
            text = stream.read(length)
    except OSError as error:
        raise Unsafe(
            file, found=error.strerror or "unreadable", expected="a readable file", next=MEND
        ) from None
    if (
        count := text.count(b"data_offsets")
    ) > MAX_TENSORS:  # before parsing, which would take long
        raise Unsafe(file, found=f"{count} tensors", expected=f"at most {MAX_TENSORS}", next=MEND)
    header = parse_json(file, text)
    notes = header.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise Unsafe(file, found="metadata that is not text", expected="text to text", next=MEND)
    return header, 8 + length, size


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Every tensor of one safetensors file; together they must fill the file, with no overlap and no hole."""
    header, begin, size = _raw_header(file)
    header.pop("__metadata__", None)
    tensors = [_tensor(file, name, entry, begin) for name, entry in header.items()]
    reached = begin
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != reached:
            what = (
                "overlaps another tensor" if tensor.start < reached else "leaves a hole before it"
            )
            raise Unsafe(
                f"{file}, {tensor.name}",
                found=what,
                expected="tensors one after another",
                next=MEND,
            )
        reached = tensor.end
    if reached != size:
        raise Unsafe(
            file, found=f"{size} bytes", expected=f"{reached} bytes, as its header says", next=MEND
        )
    return {tensor.name: tensor for tensor in tensors}


def _tensor(file: Path, name: str, entry: Any, begin: int) -> TensorInfo:
    subject = f"{file}, {name[:200]!r}"
    if (
        not name
        or len(name) > 512
        or not name.isprintable()
        or "/" in name
        or "\\" in name
        or ".." in name
    ):
        raise Unsafe(
            subject, found="a name that could be a path", expected="a tensor name", next=MEND
        )
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        counts = [*shape, start, end]
    except (TypeError, KeyError, ValueError):
        raise Unsafe(
            subject,
            found="an incomplete entry",
            expected="dtype, shape and data_offsets",
            next=MEND,
        ) from None
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise Unsafe(
            subject,
            found=f"dtype {str(dtype)[:40]}",
            expected=f"one of {', '.join(ITEM_BYTES)}",
            next=MEND,
        )
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(type(n) is int and 0 <= n < 2**48 for n in counts)
    ):
        raise Unsafe(
            subject,
            found=f"shape {str(shape)[:80]}, offsets {start}, {end}"[:160],
            expected="whole numbers from 0",
            next=MEND,
        )
    if end - start != prod(shape) * ITEM_BYTES[dtype]:
        raise Unsafe(
            subject,
            found=f"{end - start} bytes for {dtype} {tuple(shape)}",
            expected=f"{prod(shape) * ITEM_BYTES[dtype]} bytes",
            next=MEND,
        )
    return TensorInfo(name, dtype, tuple(shape), file, begin + start, begin + end)
