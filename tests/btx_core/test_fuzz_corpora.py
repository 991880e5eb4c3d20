"""Thousands of damaged and of unusual corpora: never a traceback, and never other text.

A damaged one is refused by file and place, or its text can be encoded, divided and sketched. A
valid one, in whatever form and spelling, gives the documents that were written.
"""

import csv
import gzip
import io
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, disable_progress_bars

from btx_core.measuring import overlap
from btx_core.problems import BtxError
from btx_core.texts import TextFolder, every_document, refuse_unusable, split

from .test_fuzz import ODD, Tally

Texts = Sequence[str]
Damage = Callable[[Path, random.Random], None]
# Pieces of text, some of which tools split lines at, or quote, or take for their own.
PIECES = [
    "plain words",
    "Grüße, 東京 🙂",
    "e\u0301 and \u00e9",
    "line\u2028separator",
    "next\u0085line",
    "form\x0cfeed \x1c \x1d \x1e",
    "two\nlines",
    "a\r\nwindows line",
    "lone\rreturn",
    "quotes \" and '",
    "comma, semicolon; tab\t",
    "back\\slash \\n \\u0041",
    "{json: [1, 2]}",
    "</s><|end|>",
    "\u202eright to left",
    "zero\u200bwidth",
    "   spaces   ",
    "\u00a0no break",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "0",
    "null",
    "=1+1",
    "# heading",
    "---",
    "\ufeffmark inside",
]


def some_texts(draw: random.Random) -> list[str]:
    texts = [
        " ".join(draw.choices(PIECES, k=draw.randint(1, 6))) for _ in range(draw.randint(2, 9))
    ]
    return [f"{number} {text}" for number, text in enumerate(texts)]


def rows_of(texts: Texts, draw: random.Random, *, flat: bool = False) -> list[dict[str, Any]]:
    """Return rows that mean these texts, with columns that mean nothing."""
    more: dict[str, Any] = {"source": "web", "score": 0.5, "note": None, "n": 1 << 40}
    if not flat:
        more |= {"metadata": {"author": "Ann", "tags": ["a"]}, "list": [[1], [2]], "ok": True}
    rows = []
    for number, text in enumerate(texts):
        row = {"id": number, "text": text} | {
            key: more[key] for key in draw.sample(sorted(more), draw.randint(0, 3))
        }
        names = draw.sample(sorted(row), len(row))
        rows.append({name: row[name] for name in names})
    return rows


def same_columns(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = sorted({name for row in rows for name in row})
    return [{name: row.get(name) for name in names} for row in rows]


def write_lines(path: Path, texts: Texts, draw: random.Random) -> None:
    blank = draw.choice(["", "", "\n", "  \n"])
    end = draw.choice(["\n", "\r\n"])
    separators = draw.choice([(",", ":"), (", ", ": "), (" , ", "\t:\t")])
    ascii_only = draw.random() < 0.5
    lines = [
        json.dumps(row, ensure_ascii=ascii_only, separators=separators) + end + blank
        for row in rows_of(texts, draw)
    ]
    text = draw.choice(["", "\ufeff"]) + "".join(lines)
    path.write_bytes((text.rstrip() if draw.random() < 0.3 else text).encode())


def write_array(path: Path, texts: Texts, draw: random.Random) -> None:
    text = json.dumps(
        rows_of(texts, draw),
        ensure_ascii=draw.random() < 0.5,
        indent=draw.choice([None, 1, "\t"]),
    )
    path.write_bytes((draw.choice(["", "\ufeff", "\n "]) + text + draw.choice(["", "\n"])).encode())


def write_table(path: Path, texts: Texts, draw: random.Random) -> None:
    rows = same_columns(rows_of(texts, draw, flat=True))
    stream = io.StringIO(newline="")
    stream.write(draw.choice(["", "\ufeff"]))
    end = draw.choice(["\n", "\r\n"])
    # Python quotes a carriage return of its own accord only where lines end in one.
    least = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
    table = csv.DictWriter(
        stream,
        list(rows[0]),
        delimiter="\t" if path.suffix == ".tsv" else ",",
        quoting=draw.choice([least, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        lineterminator=end,
    )
    table.writeheader()
    table.writerows(rows)
    path.write_bytes(stream.getvalue().encode())


def write_parquet(path: Path, texts: Texts, draw: random.Random) -> None:
    table = pa.Table.from_pylist(same_columns(rows_of(texts, draw)))
    if draw.random() < 0.5:
        at = table.schema.get_field_index("text")
        kind = draw.choice([pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
        table = table.set_column(at, "text", table.column("text").cast(kind))
    pa.parquet.write_table(
        table,
        path,
        compression=draw.choice(["none", "snappy", "zstd", "gzip"]),
        row_group_size=draw.choice([1, 2, 1000]),
    )


def write_saved(path: Path, texts: Texts, draw: random.Random) -> None:
    Dataset.from_list(same_columns(rows_of(texts, draw))).save_to_disk(path)


def write_texts(path: Path, texts: Texts, draw: random.Random) -> None:
    """A file a text, some deeper than others, some with a mark before the text."""
    for number, text in enumerate(texts):
        deeper = path / draw.choice(["", "a", "a b/ü", "c.d"])
        deeper.mkdir(parents=True, exist_ok=True)
        suffix = draw.choice([".txt", ".md", "", ".rst", ".TXT", ".py", ".html"])
        mark = draw.choice(["", "", "\ufeff"])
        (deeper / f"file {number}{suffix}").write_bytes((mark + text).encode())


WRITERS: dict[str, Callable[[Path, Texts, random.Random], None]] = {
    "a.jsonl": write_lines,
    "b.NDJSON": write_lines,
    "c.json": write_array,
    "d.json": write_lines,
    "e.csv": write_table,
    "f.tsv": write_table,
    "g.parquet": write_parquet,
    "h": write_saved,
    "i": write_texts,
}


def squeezed(path: Path, draw: random.Random) -> None:
    """Compress a file as tools do, in one part or in two."""
    content = path.read_bytes()
    cut = draw.choice([0, len(content) // 2])
    parts = [content[:cut], content[cut:]] if cut else [content]
    path.unlink()
    if draw.random() < 0.5:
        path.with_name(f"{path.name}.gz").write_bytes(b"".join(map(gzip.compress, parts)))
        return
    codec = pa.Codec("zstd")
    whole = b"".join(codec.compress(part, asbytes=True) for part in parts if part)
    path.with_name(f"{path.name}.zst").write_bytes(whole)


def beside(folder: Path, draw: random.Random) -> None:
    """Put beside the corpus what teams leave there and what is no text of it."""
    names = (".DS_Store", ".cache/x.bin", ".hidden.jsonl", "empty.txt", "blank.md", "empty.jsonl")
    for name in draw.sample(names, draw.randint(0, 3)):
        (folder / name).parent.mkdir(exist_ok=True)
        content = b"\x80\x00" if name.startswith(".") else b"\n" if "blank" in name else b""
        (folder / name).write_bytes(content)


def written(folder: Path, draw: random.Random) -> list[str]:
    """Write a valid corpus, and return its texts."""
    folder.mkdir()
    texts: list[str] = []
    for name in draw.sample(sorted(WRITERS), draw.choice([1, 1, 2, 3])):
        new = [f"{name} {text}" for text in some_texts(draw)]
        where = folder / draw.choice(["", "", "deep/er"])
        where.mkdir(parents=True, exist_ok=True)
        path = where / name
        WRITERS[name](path, new, draw)
        if path.is_file() and path.suffix != ".parquet" and draw.random() < 0.3:
            squeezed(path, draw)
        texts += new
    beside(folder, draw)
    return texts


# Damage


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def some_bytes(folder: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(folder))
    raw = bytearray(path.read_bytes() or b"x")
    for _ in range(draw.choice([1, 1, 5, 50])):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    path.write_bytes(raw)


def cut(folder: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(folder))
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size + 1)])


def inserted(folder: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(folder))
    raw = path.read_bytes()
    at = draw.randrange(len(raw) + 1)
    strange = [
        b"\0",
        b"\xff\xfe",
        b'"',
        b"{",
        b"]",
        b"\\ud800",
        b"\xed\xa0\x80",
        b"[" * 30_000,
        b'{"a":' * 30_000,
        b"9" * 6_000,
        b"NaN",
        b"\n",
        b"\r",
        b",",
        b"<<<<<<< HEAD\n",
        b"version https://git-lfs.github.com/spec/v1\n",
    ]
    path.write_bytes(raw[:at] + draw.choice(strange) + raw[at:])


def renamed(folder: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(folder))
    suffixes = [".jsonl", ".json", ".csv", ".parquet", ".arrow", ".gz", ".zst", ".jsonl.gz", ".txt"]
    path.rename(path.with_name(path.name + draw.choice(suffixes)))


def another_encoding(folder: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(folder))
    text = path.read_bytes().decode(errors="replace")
    path.write_bytes(text.encode(draw.choice(["utf-16", "utf-32", "latin-1", "utf-7"]), "replace"))


def odd_values(folder: Path, draw: random.Random) -> None:
    odd = [*ODD, "\ud800", {"role": "user"}, [{"role": "user", "content": None}], float("nan")]
    keys = ["text", "messages", "prompt", "answer", "completion", "instruction", "output", "id"]
    keys += ["metadata", "license", "author", "tools", "conversations", "input", ""]
    rows = [
        {key: draw.choice(odd) for key in draw.sample(keys, draw.randint(0, 4))} for _ in range(3)
    ]
    # Not `text`, whose odd values would be the one fault that is found.
    for row in rows:
        if draw.random() < 0.7:
            row["text"] = "some text"
    values = draw.choice([rows, draw.choice(odd), [draw.choice(odd)]])
    name = draw.choice(["odd.jsonl", "odd.json"])
    lines = values if isinstance(values, list) and name.endswith("l") else [values]
    (folder / name).write_text("\n".join(json.dumps(one) for one in lines))


def gone(folder: Path, draw: random.Random) -> None:
    draw.choice(files_of(folder)).unlink()


def emptied(folder: Path, draw: random.Random) -> None:
    for path in files_of(folder):
        path.write_bytes(draw.choice([b"", b" \n", b"[]", b"{}", b"null"]))


DAMAGE: list[Damage] = [
    some_bytes,
    some_bytes,
    cut,
    inserted,
    inserted,
    renamed,
    another_encoding,
    odd_values,
    gone,
    emptied,
]


def read(folder: Path) -> list[str] | str:
    """Return all texts as the door reads them, or what was wrong with how they were refused."""
    corpus = TextFolder(folder, "documents")
    try:
        texts = [document.text for _, document in every_document(corpus)]
        refuse_unusable(corpus)
        overlap.sketch(corpus)
        parts = list(split(corpus).documents())
    except BtxError as error:
        complete = error.subject and error.found and error.expected and error.next
        named = error.subject.startswith(str(folder))
        return f"refused: {error}" if complete and named else f"terse: {error!r}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"[:400]
    if {True, False} - {part.held_out for part in parts}:
        return "wrong: nothing to train on or to measure on"
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        return f"wrong: {error}"
    return texts


def campaign(root: Path, count: int, first: int, damage: Sequence[Damage]) -> Tally:
    tally = Tally()
    disable_progress_bars()
    for number in range(first, first + count):
        draw = random.Random(number)
        folder = root / str(number)
        texts = written(folder, draw)
        chosen = draw.sample(damage, draw.choice([1, 1, 2, 3])) if damage else []
        for change in chosen:
            # Damage upon damage may leave nothing to damage.
            if files_of(folder):
                change(folder, draw)
        before = files_of(folder)
        found = read(folder)
        names = [change.__name__ for change in chosen] or [path.name for path in before]
        if isinstance(found, str):
            outcome = found
        elif damage or Counter(found) == Counter(texts):
            outcome = "right"
        else:
            outcome = f"wrong: {set(texts) ^ set(found)}"[:300]
        if files_of(folder) != before:
            outcome = "left over"
        tally.note(number, names, outcome)
        if not damage and outcome.startswith("refused"):
            tally.faults.append(f"{number} {names}: {outcome}")
        shutil.rmtree(folder)
    return tally


def test_no_damaged_corpus_ends_in_a_traceback(tmp_path: Path) -> None:
    tally = campaign(tmp_path, 150, 0, DAMAGE)
    assert tally.faults == []
    assert min(tally.counts["refused"], tally.counts["right"]) > 20


def test_valid_corpora_give_the_texts_that_were_written(tmp_path: Path) -> None:
    tally = campaign(tmp_path, 60, 0, [])
    assert tally.faults == []
    assert tally.counts["right"] == 60


@pytest.mark.slow
def test_two_thousand_damaged_and_five_hundred_unusual_corpora(tmp_path: Path) -> None:
    damaged = campaign(tmp_path, int(os.environ.get("BTX_FUZZ", "2000")), 10_000, DAMAGE)
    unusual = campaign(tmp_path, 500, 10_000, [])
    print(f"damaged: {dict(damaged.counts)}; unusual: {dict(unusual.counts)}")
    assert damaged.faults == []
    assert len(unusual.faults) <= 5, unusual.faults
    assert all(": refused" in fault for fault in unusual.faults)
