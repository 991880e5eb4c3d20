"""Carry a tokenizer, and the settings for generation, from one checkpoint folder to another.

In:  a folder that holds a tokenizer, or none.
Out: the same files in another folder: byte for byte, or saved anew so that the tokenizer loads
     beside a model of another type.
Whether two tokenizers mean the same is left to `checkpoint.same_tokenizer`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.checkpoints.strict_json import read_json
from btx_core.files import write_json

GENERATION = "generation_config.json"
PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
    GENERATION,
)
# Any one of these says that the folder holds a tokenizer at all.
MARKS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


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
        for pattern in PATTERNS:
            for file in source.glob(pattern):
                shutil.copyfile(file, out / file.name)
        return
    if (source / GENERATION).exists():
        shutil.copyfile(source / GENERATION, out / GENERATION)
    if any((source / name).exists() for name in MARKS):
        _save_anew(source, out)


def _save_anew(source: Path, out: Path) -> None:
    # Here, since it takes torch along.
    from transformers import AutoTokenizer

    with refused_as_unsupported(source / "tokenizer.json", "a tokenizer that transformers reads"):
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=True
        )
        tokenizer.save_pretrained(out)
    settings = read_json(out / "tokenizer_config.json")
    settings["tokenizer_class"] = "TokenizersBackend"
    settings.pop("name_or_path", None)
    write_json(out / "tokenizer_config.json", settings)
