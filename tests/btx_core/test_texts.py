"""Text: what is held out by which rule, and what is refused."""

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from btx_core.texts import HeldOutRule, TextFolder, Unreadable, documents_of, split


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_heldout_folder_is_never_trained_on(tmp_path: Path) -> None:
    found = split(write(tmp_path, a="train me", heldout__b="measure me"))
    assert [document.text for document in found.train] == ["train me"]
    assert [document.text for document in found.heldout] == ["measure me"]


def test_without_that_folder_one_file_in_twenty_is_held_out_and_stays_so(tmp_path: Path) -> None:
    found = split(write(tmp_path, **{f"f{number}": f"text {number}" for number in range(40)}))
    train, heldout = list(found.train), list(found.heldout)
    assert (len(train), len(heldout)) == (38, 2)
    assert not {document.text for document in train} & {document.text for document in heldout}
    assert list(split(tmp_path).heldout) == heldout


def test_a_single_file_gives_its_last_twentieth(tmp_path: Path) -> None:
    found = split(write(tmp_path, a="".join(f"line {number}\n" for number in range(40))))
    (train,), (heldout,) = found.train, found.heldout
    assert heldout.text == "line 38\nline 39\n"
    assert train.text.endswith("line 37\n")


def test_questions_carry_their_answers(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"prompt": f"{n} + 1?", "answer": str(n + 1)}) for n in range(40))
    (tmp_path / "q.jsonl").write_text(lines)
    document = next(split(tmp_path).heldout)
    assert (document.text, document.prompt, document.answer) == ("38 + 1? 39", "38 + 1?", "39")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\xff\xfe\x00", "no UTF-8"),
        ("a.jsonl", b'{"txt": "x"}\n', '"text"'),
        ("a.jsonl", b"not json\n", "fix the line"),
        ("a.jsonl", b'{"text": "sound"}\n{"text": "\xc3"}\n', "byte 10 of the line is no UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "fix the line"),
    ],
)
def test_what_is_no_text_is_refused_by_file_and_line(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=says):
        list(documents_of(tmp_path))
    with pytest.raises(Unreadable, match=says):
        list(split(tmp_path).documents())


def lines(folder: Path, name: str, texts: Iterable[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_documents_of_all_files_are_held_out_by_the_rule_that_says_so(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(2000)]
    lines(tmp_path / "two", "a.jsonl", texts[:1000])
    lines(tmp_path / "two", "b.jsonl", texts[1000:])
    by_file = {document.text for document in split(tmp_path / "two").heldout}
    assert by_file in (set(texts[:1000]), set(texts[1000:])), "the alarm: a whole file"
    folder = TextFolder(tmp_path / "two", "documents")
    heldout = [document.text for document in split(folder).heldout]
    train = [document.text for document in split(folder).train]
    assert 60 < len(heldout) < 140
    assert sorted(train + heldout) == sorted(texts)
    assert 0 < sum(text in texts[:1000] for text in heldout) < len(heldout), "from both files"
    # In whatever file and order they stand, and whatever joins them.
    lines(tmp_path / "one", "c.jsonl", [*reversed(texts), *map(str, range(50))])
    again = {document.text for document in split(TextFolder(tmp_path / "one", "documents")).heldout}
    assert set(heldout) == {text for text in again if text.startswith("document")}
    assert split(folder).digest != split(folder.path).digest


@pytest.mark.parametrize("rule", ["files", "documents", "all"])
def test_text_is_read_as_a_stream(tmp_path: Path, rule: HeldOutRule) -> None:
    """Twenty times the text takes no more memory."""
    peaks = []
    for size in (200, 4000):
        lines(tmp_path / str(size), "a.jsonl", (f"{number:>999}" for number in range(size)))
        tracemalloc.start()
        assert sum(1 for _ in documents_of(tmp_path / str(size))) == size
        divided = split(TextFolder(tmp_path / str(size), rule))
        assert sum(1 for _ in divided.documents()) == size
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 200_000 + peaks[0] < 1_000_000


@pytest.mark.parametrize("count", [2, 3, 7])
def test_of_few_documents_one_is_held_out(tmp_path: Path, count: int) -> None:
    lines(tmp_path / "few", "a.jsonl", [f"text {number}" for number in range(count)])
    found = split(TextFolder(tmp_path / "few", "documents"))
    assert len(list(found.heldout)) == 1
    assert len(list(found.train)) == count - 1


def test_nothing_is_trained_on_where_all_is_held_out(tmp_path: Path) -> None:
    found = split(TextFolder(write(tmp_path, a="one", heldout__b="two"), "all"))
    assert [document.text for document in found.heldout] == ["one", "two"]
    assert not list(found.train)
