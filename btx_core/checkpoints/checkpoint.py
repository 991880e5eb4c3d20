"""Open a checkpoint folder only if everything about it is safe and true.

In:  a folder in Hugging Face format: config.json and safetensors files.
Out: its parsed config, and each tensor's location on disk. No pickle, no code, nothing outside the
     folder; headers are checked against the files' sizes before a tensor is touched.
Values (NaN, distances from a seed) are left to `mixing.preflight` and `mixing.streams`. Torch is
imported only when a tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# A config's values are whatever its author wrote; every caller checks the keys that it reads.
from typing import TYPE_CHECKING, Any

from btx_core.checkpoints.contents import (
    ADAPTER_CONFIG,
    INDEX,
    SINGLE,
    Contents,
    contents_of,
    in_short,
    weight_map,
)
from btx_core.checkpoints.headers import TensorInfo, read_header
from btx_core.checkpoints.strict_json import SAVE_ANEW, read_json
from btx_core.problems import Unsafe

if TYPE_CHECKING:
    import torch

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
FLOATS = ("F64", "F32", "F16", "BF16")
# Config keys that are refused, with what they stand for.
QUANTISED = "quantization_config"
REFUSED_CONFIG = {
    "auto_map": "code that comes with the weights",
    QUANTISED: "quantised weights",
}
# Counts that a config may ask for; more would fill the memory before a tensor is compared.
COUNTS = re.compile(r"num_(hidden_)?layers|n_layers?|num_labels")
MAX_COUNT = 10_000
# What a trainer calls the folder of one save: by its step.
SAVE = re.compile(r"checkpoint-[0-9]{1,12}/")


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
        contents = contents_of(folder)
        if "config.json" not in contents.taken and ADAPTER_CONFIG in contents.taken:
            raise _no_weights(folder, contents)
        if "config.json" not in contents.taken:
            _refuse_folder_of_saves(folder, contents)
        config = read_json(folder / "config.json")
        check_config(folder / "config.json", config)
        tensors = _tensors(folder, contents)
        _require_layers(folder / "config.json", config, len(tensors))
        return cls(folder, config, tensors, digests or {})

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor, in its own dtype and shape."""
        return read_tensor(self.tensors[name])

    def weight_files(self) -> list[Path]:
        """Return the files that hold the tensors, in order of their names."""
        return sorted({tensor.file for tensor in self.tensors.values()})


def _require_layers(path: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse a config of more layers than tensors: its class would take any amount of memory."""
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > tensors:
        raise Unsafe(
            path,
            found=f"num_hidden_layers {layers}",
            expected=f"at most {tensors}, the number of tensors beside it",
            next="bring config.json and weights from the same save together",
        )


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


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Require a config that names its model type and asks for no code and no quantised weights.

    Args:
        path: the config.json, beside which a tokenizer_config.json is checked too.
        config: what it says.

    Raises:
        Unsafe: naming the key.
    """
    for key, meaning in REFUSED_CONFIG.items():
        value = config.get(key)
        # Stock transformers takes an empty one for quantised weights too.
        if value or (value is not None and key == QUANTISED):
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
    for key, value in config.items():
        if COUNTS.fullmatch(key) and isinstance(value, int) and value > MAX_COUNT:
            raise Unsafe(
                path,
                found=f"{key} {value}",
                expected=f"at most {MAX_COUNT}",
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


def _tensors(folder: Path, contents: Contents) -> dict[str, TensorInfo]:
    """Every tensor of the folder, from the index or from the single file.

    Both at once are ambiguous: loaders disagree on which one counts.
    """
    if INDEX not in contents.taken:
        if SINGLE not in contents.taken:
            raise _no_weights(folder, contents)
        return read_header(folder / SINGLE)
    file_of = weight_map(folder / INDEX)
    if SINGLE in contents.left_out:
        raise Unsafe(
            folder / INDEX,
            found=f"{SINGLE} beside it",
            expected="one of the two: loaders disagree on which one counts",
            next="remove the one that is not meant",
        )
    absent = set(file_of.values()) - contents.taken.keys()
    if absent:
        raise Unsafe(
            folder / INDEX,
            found=f"{in_short(absent)} named, and not in the folder",
            expected="every file that the index names",
            next="take the checkpoint from its source again",
        )
    return _indexed_tensors(folder, file_of)


def _refuse_folder_of_saves(folder: Path, contents: Contents) -> None:
    """Refuse a trainer's output folder, which holds checkpoints and is none itself."""
    saves = [name.rstrip("/") for name in contents.left_out if SAVE.fullmatch(name)]
    if not saves:
        return
    saves.sort(key=lambda name: int(name.rpartition("-")[2]))
    raise Unsafe(
        folder,
        found=f"no config.json, but folders that a trainer saved: {in_short(saves)}",
        expected="one checkpoint",
        next=f"name one of {', '.join(saves[-4:])}" if len(saves) > 1 else f"name {saves[0]}",
    )


def _no_weights(folder: Path, contents: Contents) -> Unsafe:
    """What a folder without safetensors weights is, in its own words."""
    if ADAPTER_CONFIG in contents.taken:
        return Unsafe(
            folder,
            found="an adapter, without a model of its own",
            expected="a whole checkpoint",
            next="btx register EXPERT PATH --data data/NAME merges an adapter into its seed",
        )
    return Unsafe(
        folder,
        found=f"no {SINGLE}; beside it {in_short(contents.left_out)}",
        expected=f"{SINGLE}, or an index {INDEX}",
        next="load it where you trust it, and save it anew: save_pretrained writes safetensors",
    )


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
