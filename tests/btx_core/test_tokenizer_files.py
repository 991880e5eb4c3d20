"""A tokenizer's files travel byte for byte; for another model type they are saved anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from btx_core.checkpoints.tokenizer_files import copy_tokenizer
from btx_core.problems import Unsupported

FILES = ("tokenizer.json", "tokenizer.model", "added_tokens.json", "chat_template.jinja")


def test_every_file_of_a_tokenizer_is_copied_and_no_other(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    names = (*FILES, "generation_config.json", "config.json", "model.safetensors", "README.md")
    for name in names:
        (source / name).write_text(name)
    copy_tokenizer(source, out)
    copied = {path.name: path.read_text() for path in out.iterdir()}
    assert copied == {name: name for name in (*FILES, "generation_config.json")}


def test_a_folder_without_a_tokenizer_gives_its_generation_settings(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "generation_config.json").write_text("{}")
    copy_tokenizer(source, out, any_model=True)
    assert [path.name for path in out.iterdir()] == ["generation_config.json"]


def test_a_tokenizer_that_nobody_can_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(Unsupported, match=r"tokenizer\.json") as caught:
        copy_tokenizer(tmp_path, tmp_path, any_model=True)
    assert caught.value.next
