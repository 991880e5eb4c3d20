"""Carry a tokenizer, and the settings for generation, from one checkpoint folder to another.

In:  a folder that holds a tokenizer, or none.
Out: the same files in another folder: byte for byte, or saved anew so that the tokenizer loads
     beside a model of another type.
Whether two tokenizers mean the same is left to `token_meaning.py`.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from btx_core.checkpoints.contents import CHAT_TEMPLATES, GENERATION, TOKENIZER_FILES, contents_of
from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.checkpoints.strict_json import read_json
from btx_core.checkpoints.token_meaning import has_tokenizer, read_tokenizer
from btx_core.files import write_json

# The one class that transformers 4 and 5 both read, whatever the model's type.
ANY_MODEL = "PreTrainedTokenizerFast"
# What transformers notes of how a tokenizer was read.
READING = ("name_or_path", "is_local", "local_files_only", "trust_remote_code", "backend")


def copy_tokenizer(source: Path, out: Path, *, any_model: bool = False) -> None:
    """Copy the tokenizer and the generation settings of one folder into another.

    Args:
        source: a checkpoint folder; what it lacks is not copied.
        out: the folder that takes the files.
        any_model: save the tokenizer anew under a class that does not depend on the model type,
            for a folder whose config names another model than the source's.

    Raises:
        Unsupported: when transformers cannot read the tokenizer that is to be saved anew.
    """
    if not any_model:
        for name, file in contents_of(source).taken.items():
            if _carries_tokens(name):
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, out / name)
        return
    if (source / GENERATION).exists():
        shutil.copyfile(source / GENERATION, out / GENERATION)
    if has_tokenizer(source):
        _save_anew(source, out)


def _carries_tokens(name: str) -> bool:
    if name.startswith(f"{CHAT_TEMPLATES}/") or name == GENERATION:
        return True
    return any(fnmatchcase(name, pattern) for pattern in TOKENIZER_FILES)


def _save_anew(source: Path, out: Path) -> None:
    tokenizer = read_tokenizer(source)
    with refused_as_unsupported(source / "tokenizer.json", "a tokenizer that can be saved"):
        tokenizer.save_pretrained(out)
    settings = read_json(out / "tokenizer_config.json")
    settings["tokenizer_class"] = ANY_MODEL
    for key in READING:
        settings.pop(key, None)
    write_json(out / "tokenizer_config.json", settings)
