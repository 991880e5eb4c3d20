"""Which files of a checkpoint folder count, and which are left where they lie.

In:  a folder in Hugging Face format, as people have them: saved by a trainer, beside optimizer
     states; a snapshot in the Hugging Face cache, whose files are links to blobs.
Out: the files that a model needs, each a regular file of this folder; the names of all others.
What is left out is never opened. What the files say is left to `checkpoint.py`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from btx_core.checkpoints.strict_json import SAVE_ANEW, read_json
from btx_core.problems import Unsafe

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GENERATION = "generation_config.json"
CHAT_TEMPLATES = "additional_chat_templates"
# Where an expert keeps the adapter that it was merged from.
KEPT_ADAPTER = "adapter"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
TAKEN = (
    "config.json",
    GENERATION,
    *TOKENIZER_FILES,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    "btx-train.json",
    "README*",
    "LICEN[CS]E*",
    "NOTICE*",
    "USE_POLICY*",
)
TAKEN_FOLDERS = {CHAT_TEMPLATES: ("*.jinja",), KEPT_ADAPTER: (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
# What pickles, or other code, are called: never taken, whatever else the name matches.
CODE_ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".py", ".pyc", ".so")
MAX_FILES = 10_000


@dataclass(frozen=True)
class Contents:
    """What a checkpoint folder holds.

    Attributes:
        taken: the files that count, by their path inside the folder.
        left_out: everything else at the top of the folder; folders end with a slash.
    """

    taken: Mapping[str, Path]
    left_out: tuple[str, ...]


def contents_of(folder: Path) -> Contents:
    """Sort a folder's files into what counts and what does not.

    Args:
        folder: a checkpoint or adapter folder.

    Returns:
        Its contents; every file that counts is a regular file, here or in the blobs of the Hugging
        Face cache that the folder is a snapshot in.

    Raises:
        Unsafe: for a file that counts and is a link elsewhere, or is no file; for an index that
            names files of other folders.
    """
    if not folder.is_dir():
        raise Unsafe(
            folder, found="no such folder", expected="a checkpoint folder", next="check the path"
        )
    weights = weight_names(folder)
    taken: dict[str, Path] = {}
    left_out = []
    for path in _entries(folder):
        if path.name in TAKEN_FOLDERS and path.is_dir() and not path.is_symlink():
            inside = [file for file in _entries(path) if _matches(file, TAKEN_FOLDERS[path.name])]
            taken |= {f"{path.name}/{file.name}": file for file in inside}
        elif path.name in weights or (_matches(path, TAKEN) and not path.is_dir()):
            taken[path.name] = path
        else:
            left_out.append(f"{path.name}/" if path.is_dir() else path.name)
    for path in taken.values():
        _require_own_file(folder, path)
    return Contents(taken, tuple(left_out))


def weight_names(folder: Path) -> set[str]:
    """Return the names of a checkpoint's weight files, and of their index if there is one.

    Raises:
        Unsafe: for an index that cannot be read or names files of other folders.
    """
    if os.path.lexists(folder / INDEX):
        return {INDEX, *weight_map(folder / INDEX).values()}
    return {SINGLE}


def weight_map(index: Path) -> dict[str, str]:
    """Return which file holds each tensor, as an index says; every file lies in its very folder.

    Raises:
        Unsafe: for an index without such a map, or one that names files elsewhere.
    """
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise Unsafe(
            index,
            found="no weight_map",
            expected="tensor names and their files",
            next=SAVE_ANEW,
        )
    for file in map(str, found.values()):
        climbs = "/" in file or "\\" in file or file.startswith(".")
        if climbs or not file.endswith(".safetensors"):
            raise Unsafe(
                index,
                found=f"the file name {file[:120]!r}",
                expected="names of safetensors files in this very folder",
                next=SAVE_ANEW,
            )
    return found


def in_short(names: Collection[str], empty: str = "nothing") -> str:
    """Return up to four names, for a message."""
    more = ", ..." if len(names) > 4 else ""
    return ", ".join(sorted(names)[:4]) + more if names else empty


def _entries(folder: Path) -> Iterator[Path]:
    """The paths in a folder, sorted; a folder of very many is no checkpoint."""
    with os.scandir(folder) as entries:
        names = [entry.name for _, entry in zip(range(MAX_FILES + 1), entries, strict=False)]
    if len(names) > MAX_FILES:
        raise Unsafe(
            folder,
            found=f"more than {MAX_FILES} files",
            expected="a checkpoint folder",
            next="check the path",
        )
    for name in sorted(names):
        yield folder / name


def _matches(path: Path, patterns: Collection[str]) -> bool:
    if path.suffix.lower() in CODE_ENDINGS:
        return False
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)


def _require_own_file(folder: Path, path: Path) -> None:
    if path.is_symlink():
        root = folder.resolve()
        homes = [root]
        if root.parent.name == "snapshots":
            homes.append(root.parent.parent / "blobs")
        inside = path.exists() and any(path.resolve().is_relative_to(home) for home in homes)
        if not inside:
            raise Unsafe(
                path,
                found=f"a link to {os.readlink(path)!r}",
                expected="a file of this folder, or a link into its own Hugging Face cache",
                next="copy the folder with its links followed: cp -rL",
            )
    if not path.is_file():
        raise Unsafe(path, found="no regular file", expected="a file", next=f"remove {path.name}")
