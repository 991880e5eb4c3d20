"""Token files: what they hold, that they are written once, and whole."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from btx_core import tokens
from btx_core.checkpoints.tokenizer_files import copy_tokenizer
from btx_core.texts import TextFolder, Unreadable, split
from btx_core.tokens import Tokens, end_token, tokenizer_digest


@pytest.fixture(scope="module")
def tokenizer(tiny_seed: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_seed)


def encoded(tokenizer: PreTrainedTokenizerBase, *texts: str) -> list[int]:
    return [id for text in texts for id in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("name", ["prose", "math", "code"])
def test_they_hold_every_document_as_the_tokenizer_encodes_it(
    tokenizer: PreTrainedTokenizerBase, tiny_corpora: Path, name: str
) -> None:
    found, divided = Tokens.of(tiny_corpora / name, tokenizer), split(tiny_corpora / name)
    end, train, heldout = end_token(tokenizer), [], []
    for document in divided.train:
        train += [*encoded(tokenizer, document.text), end]
    for document in divided.heldout:
        parts = (
            [document.text] if document.answer is None else [document.prompt, f" {document.answer}"]
        )
        heldout += [*encoded(tokenizer, *map(str, parts)), end]
    assert found.train.ids.tolist() == train
    assert found.heldout.ids.tolist() == heldout
    assert found.train.ids[found.train.ends - 1].tolist() == [end] * len(found.train)
    texts = [document.text for document in divided.heldout]
    spelt = np.add.reduceat(found.heldout.text_bytes, [0, *found.heldout.ends[:-1]])
    assert spelt.tolist() == [len(text.encode()) for text in texts]
    answered = [document.answer is not None for document in divided.heldout]
    assert (found.heldout.answer_tokens > 0).tolist() == answered


def test_every_token_knows_the_bytes_that_it_spells(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "heldout").mkdir()
    (tmp_path / "a.txt").write_text("train")
    text = "  Grüße,\n\n 東京 – 🙂🙂 end  "
    (tmp_path / "heldout" / "b.txt").write_text(text)
    found = Tokens.of(tmp_path, tokenizer).heldout
    read = 0
    for id, size in zip(found.ids.tolist(), found.text_bytes.tolist(), strict=True):
        spelt = tokenizer.decode([id]).encode() if id != end_token(tokenizer) else b""
        if "\ufffd" not in spelt.decode():
            assert text.encode()[read : read + size] == spelt
        read += size
    assert read == len(text.encode())


def test_a_long_document_is_encoded_in_pieces_and_stays_one(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"line {number}\n" for number in range(400))
    for folder in ("", "heldout"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.txt").write_text(text)
    whole = Tokens.of(tmp_path, tokenizer)
    monkeypatch.setattr(tokens, "PIECE", 100)
    pieces = Tokens.of(tmp_path, tokenizer)
    assert len(pieces.train) == len(pieces.heldout) == 1
    assert tokenizer.decode(pieces.train.ids[:-1]) == tokenizer.decode(whole.train.ids[:-1]) == text
    assert pieces.heldout.text_bytes.sum() == len(text)


@pytest.fixture
def folder(tiny_corpora: Path, tmp_path: Path) -> TextFolder:
    return TextFolder(tiny_corpora / "prose", tokens=tmp_path / "tokens")


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were written to."""
    written: list[Path] = []
    write = tokens._Writer.write

    def count(writer: tokens._Writer, path: Path) -> None:
        written.append(path)
        write(writer, path)

    monkeypatch.setattr(tokens._Writer, "write", count)
    return written


def test_they_are_written_once_for_a_text_and_a_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: TextFolder, writes: list[Path]
) -> None:
    first = Tokens.of(folder, tokenizer)
    again = Tokens.of(folder, tokenizer)
    assert len(writes) == 1
    assert np.array_equal(first.train.ids, again.train.ids)
    Tokens.of(TextFolder(folder.path, "all", folder.tokens), tokenizer)
    assert len(writes) == 2, "by another rule they are others"


def test_a_tokenizer_is_known_by_what_it_does(
    tokenizer: PreTrainedTokenizerBase, tiny_seed: Path
) -> None:
    again = AutoTokenizer.from_pretrained(tiny_seed)
    again(["some", "longer text"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(again) == tokenizer_digest(tokenizer)
    again.add_tokens(["some"])
    assert tokenizer_digest(again) != tokenizer_digest(tokenizer)


def test_a_build_knows_its_seeds_tokenizer_whatever_class_reads_it(
    tiny_seed: Path, tmp_path: Path
) -> None:
    seed, build = tmp_path / "seed", tmp_path / "build"
    for folder, model_type in ((seed, "qwen2"), (build, "qwen2_moe")):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    shutil.copyfile(tiny_seed / "tokenizer.json", seed / "tokenizer.json")
    settings = json.loads((tiny_seed / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    (seed / "tokenizer_config.json").write_text(json.dumps(settings))
    copy_tokenizer(seed, build, any_model=True)
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (seed, build))
    assert type(ours) is not type(theirs)
    assert tokenizer_digest(ours) == tokenizer_digest(theirs)


def test_threads_that_ask_at_once_write_once(
    tokenizer: PreTrainedTokenizerBase, folder: TextFolder, writes: list[Path]
) -> None:
    found: list[Tokens] = []
    asking = [
        threading.Thread(target=lambda: found.append(Tokens.of(folder, tokenizer)))
        for _ in range(4)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(writes) == 1
    assert len({one.train.ids.tobytes() for one in found}) == len(found) - 3 == 1


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("spoil", [damage, Path.unlink, lambda file: os.truncate(file, 10)])
@pytest.mark.parametrize("name", ["train.ids", "heldout.ends", "tokens.json"])
def test_a_damaged_file_is_written_again(
    tokenizer: PreTrainedTokenizerBase,
    folder: TextFolder,
    writes: list[Path],
    spoil: Callable[[Path], None],
    name: str,
) -> None:
    sound = Tokens.of(folder, tokenizer).train.ids.tolist()
    assert folder.tokens
    (file,) = folder.tokens.glob(f"*/{name}")
    spoil(file)
    assert Tokens.of(folder, tokenizer).train.ids.tolist() == sound
    assert len(writes) == 2


def _killed(folder: TextFolder, seed: Path) -> None:
    """Write token files in a process that dies before they are whole."""
    replace = tokens._Writer.write

    def die(writer: tokens._Writer, path: Path) -> None:
        replace(writer, path)
        os.kill(os.getpid(), signal.SIGKILL)

    tokens._Writer.write = die  # type: ignore[method-assign]
    Tokens.of(folder, AutoTokenizer.from_pretrained(seed))


def test_a_killed_writer_leaves_nothing_that_counts(
    tokenizer: PreTrainedTokenizerBase, folder: TextFolder, tiny_seed: Path
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(folder, tiny_seed))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert folder.tokens
    assert any(
        path.name.endswith("") and "partial" in path.name for path in folder.tokens.iterdir()
    )
    found = Tokens.of(folder, tokenizer)
    assert len(found.train)
    assert not [path for path in folder.tokens.iterdir() if "partial" in path.name]


def test_a_folder_with_nothing_to_train_on_or_to_measure_is_refused(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(Unreadable, match="0 training, 0 held-out"):
        Tokens.of(tmp_path, tokenizer)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one line"}))
    with pytest.raises(Unreadable, match="0 training, 1 held-out"):
        Tokens.of(tmp_path, tokenizer)
    assert len(Tokens.of(TextFolder(tmp_path, "all"), tokenizer).heldout) == 1
