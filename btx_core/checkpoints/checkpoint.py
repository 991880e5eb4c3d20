"""Open a checkpoint folder only if everything about it is safe and true.

In:  a folder in Hugging Face format: config.json and safetensors files.
Out: its parsed config, and each tensor's location on disk. No pickle, no code, nothing outside the
     folder; headers are checked against the files' sizes before a tensor is touched.
Values (NaN, distances from a seed) are left to `mixing.preflight` and `mixing.streams`. Torch is
imported only when a tensor is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# A config's values are whatever its author wrote; every caller checks the keys that it reads.
from typing import TYPE_CHECKING, Any

from btx_core.checkpoints.headers import TensorInfo, read_header
from btx_core.checkpoints.strict_json import SAVE_ANEW, read_json
from btx_core.problems import Unsafe

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
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
# What pickles, or other code, are called. Their presence is refused, not only their use: another
# loader might prefer them.
CODE_ENDINGS = {
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".npy",
    ".npz",
    ".joblib",
    ".dill",
    ".py",
    ".pyc",
    ".so",
    ".onnx",
}
# Config keys that are refused, with what they stand for.
REFUSED_CONFIG = {
    "auto_map": "code that comes with the weights",
    "quantization_config": "quantised weights",
}
MAX_FILES = 10_000


@dataclass(frozen=True)
class Checkpoint:
    """A validated, safe folder in Hugging Face format.

    Attributes:
        folder: where it lies.
        config: its config.json.
        tensors: every tensor of its weight files, by name.
        digests: SHA-256 of tensors' bytes, by name, where they are on record.
    """

    folder: Path
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        """What transformers calls the family, such as `llama`."""
        return str(self.config["model_type"])

    @classmethod
    def open(cls, folder: Path, digests: Mapping[str, str] | None = None) -> Checkpoint:
        """Check a whole folder, headers included; no tensor is read.

        Args:
            folder: the checkpoint folder.
            digests: SHA-256 of tensors' bytes that the caller has proven, by name.

        Returns:
            The open checkpoint.

        Raises:
            Unsafe: naming the file that must not be read, and why.
        """
        folder = Path(folder)
        check_folder(folder)
        config = read_json(folder / "config.json")
        check_config(folder / "config.json", config)
        return cls(folder, config, _tensors(folder), digests or {})

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor, in its own dtype and shape."""
        return read_tensor(self.tensors[name])

    def weight_files(self) -> list[Path]:
        """Return the files that hold the tensors, in order of their names."""
        return sorted({tensor.file for tensor in self.tensors.values()})


def same_tokenizer(seed: Path, member: Path) -> bool:
    """Say whether a member's tokens mean what the seed's mean.

    A member without a tokenizer.json takes the seed's.
    """
    ours, theirs = seed / "tokenizer.json", member / "tokenizer.json"
    if not theirs.exists():
        return True
    if not ours.exists():
        return False
    if ours.read_bytes() == theirs.read_bytes():
        return True
    return _token_meaning(ours) == _token_meaning(theirs)


def _token_meaning(path: Path) -> dict[str, Any]:
    content = read_json(path)
    keys = ("model", "added_tokens", "normalizer", "pre_tokenizer")
    return {key: content.get(key) for key in keys}


def read_tensor(info: TensorInfo) -> torch.Tensor:
    """Read one tensor from its file, in its own dtype and shape."""
    # Here, so that headers can be read without loading it.
    import torch

    with open(info.file, "rb") as file:
        file.seek(info.start)
        data = bytearray(file.read(info.bytes))
    dtype = getattr(torch, TORCH_NAMES[info.dtype])
    if not data:
        return torch.empty(info.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(info.shape)


def check_folder(folder: Path) -> None:
    """Require a folder of files and folders only: no link that leaves it, no pickle, no code.

    Raises:
        Unsafe: naming the first path that must not be there.
    """
    if not folder.is_dir():
        raise Unsafe(
            folder, found="no such folder", expected="a checkpoint folder", next="check the path"
        )
    for path, mode in _walk(folder):
        name = path.relative_to(folder)
        if stat.S_ISLNK(mode):
            _check_link(folder, path)
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


def _check_link(folder: Path, path: Path) -> None:
    if not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
        raise Unsafe(
            path,
            found=f"a link to {os.readlink(path)!r}",
            expected="links that stay inside the folder",
            next="copy the folder with its links followed: cp -rL",
        )


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every path below the folder with its mode, links not followed."""
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
    """Require a config that names its model type and asks for no code and no quantised weights.

    Args:
        path: the config.json, beside which a tokenizer_config.json is checked too.
        config: what it says.

    Raises:
        Unsafe: naming the key.
    """
    for key, meaning in REFUSED_CONFIG.items():
        if config.get(key):
            raise Unsafe(
                path,
                found=f"{key}: {meaning}",
                expected="a model that stock transformers knows, in plain floats",
                next="convert the checkpoint to a stock, unquantised one",
            )
    if not isinstance(config.get("model_type"), str):
        raise Unsafe(
            path,
            found=f"model_type {config.get('model_type')!r}",
            expected="a model_type in words",
            next=SAVE_ANEW,
        )
    tokenizer = path.parent / "tokenizer_config.json"
    if tokenizer.exists() and read_json(tokenizer).get("auto_map"):
        raise Unsafe(
            tokenizer,
            found="auto_map: code that comes with the tokenizer",
            expected="a stock tokenizer",
            next="save a stock tokenizer",
        )


def _tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the folder, from the index or from the single file.

    Both at once are ambiguous: loaders disagree on which one counts.
    """
    present = {path.name for path in folder.glob("*.safetensors")}
    if not (folder / INDEX).exists():
        if present != {SINGLE}:
            raise Unsafe(
                folder,
                found=_in_short(present),
                expected=f"{SINGLE}, or an index {INDEX}",
                next=SAVE_ANEW,
            )
        return read_header(folder / SINGLE)
    file_of = _weight_map(folder / INDEX)
    indexed = set(file_of.values())
    stray = present ^ indexed
    if stray:
        raise Unsafe(
            folder / INDEX,
            found=f"{_in_short(stray)} in the folder or in the index, not in both",
            expected="exactly the files that the index names",
            next="remove the stray file, or save the checkpoint anew",
        )
    return _indexed_tensors(folder, file_of)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name, as the index says; every file lies in its very folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Unsafe(
            index,
            found="no weight_map",
            expected="tensor names and their files",
            next=SAVE_ANEW,
        )
    for file in map(str, weight_map.values()):
        climbs = "/" in file or "\\" in file or file.startswith(".")
        if climbs or not file.endswith(".safetensors"):
            raise Unsafe(
                index,
                found=f"the file name {file[:120]!r}",
                expected="names of safetensors files in this very folder",
                next=SAVE_ANEW,
            )
    return weight_map


def _indexed_tensors(folder: Path, file_of: Mapping[str, str]) -> dict[str, TensorInfo]:
    """The tensors of all files that the index names; each lies where the index says."""
    tensors: dict[str, TensorInfo] = {}
    for file in sorted(set(file_of.values())):
        in_file = read_header(folder / file)
        for name in in_file:
            if file_of.get(name) != file:
                raise Unsafe(
                    folder / file,
                    found=f"{name}, which the index puts in {file_of.get(name)}",
                    expected="files and index that agree",
                    next=SAVE_ANEW,
                )
        tensors |= in_file
    missing = file_of.keys() - tensors.keys()
    if missing:
        raise Unsafe(
            folder / INDEX,
            found=f"{min(missing)} in no file",
            expected="files and index that agree",
            next=SAVE_ANEW,
        )
    return tensors


def _in_short(names: Collection[str]) -> str:
    if not names:
        return "no safetensors file"
    more = ", ..." if len(names) > 4 else ""
    return ", ".join(sorted(names)[:4]) + more
