"""Corpora in the forms in which teams keep them: the same documents, or the file and line."""

import csv
import gzip
import json
import random
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from btx_core import corpus_files
from btx_core.columns import Document, Unreadable
from btx_core.corpus_files import TODAYS, Reading, documents, readable
from btx_core.corpus_rest import write_rest
from btx_core.texts import TextFolder, documents_of, every, split

Rows = Sequence[dict[str, Any]]
ROWS: Rows = [
    {"text": 'first\u2028line\u0085and\nmore, "quoted"', "id": "a-1", "author": "Ann"},
    {"text": "Grüße, 東京 🙂", "id": "b-2", "author": "Ben"},
    {"text": "third", "id": "c-3", "author": "Ann"},
]


def as_jsonl(path: Path, rows: Rows, end: str = "\n", mark: str = "") -> None:
    text = mark + "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)
    path.write_bytes(text.encode())


def as_csv(path: Path, rows: Rows, delimiter: str = ",", mark: str = "") -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(mark)
        table = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)


def as_arrow(path: Path, rows: Rows) -> None:
    save_table(path, pa.Table.from_pylist(list(rows)))


def save_table(path: Path, table: Any) -> None:
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
        return
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def compressed(path: Path, rows: Rows) -> None:
    as_jsonl(path.with_suffix(""), rows)
    content = path.with_suffix("").read_bytes()
    path.with_suffix("").unlink()
    if path.suffix == ".gz":
        # Two members, as tools that append write them.
        path.write_bytes(gzip.compress(content[:40]) + gzip.compress(content[40:]))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(content)


FORMS: dict[str, Callable[[Path, Rows], None]] = {
    "a.jsonl": as_jsonl,
    "a.JSONL": as_jsonl,
    "a.ndjson": lambda path, rows: as_jsonl(path, rows, "\r\n"),
    "b.jsonl": lambda path, rows: as_jsonl(path, rows, mark="\ufeff"),
    "a.json": lambda path, rows: void(path.write_text(json.dumps(list(rows)))),
    "b.json": lambda path, rows: void(path.write_text(json.dumps(list(rows), indent=2))),
    "lines.json": as_jsonl,
    "a.csv": as_csv,
    "mark.csv": lambda path, rows: as_csv(path, rows, mark="\ufeff"),
    "a.tsv": lambda path, rows: as_csv(path, rows, "\t"),
    "a.parquet": lambda path, rows: pa.parquet.write_table(pa.Table.from_pylist(list(rows)), path),
    "a.arrow": as_arrow,
    "a.jsonl.gz": compressed,
    "a.jsonl.zst": compressed,
    "saved": lambda path, rows: Dataset.from_list(list(rows)).save_to_disk(path),
}


def void(_: object) -> None:
    return None


@pytest.mark.parametrize("name", FORMS)
def test_every_form_holds_the_same_documents_with_what_is_known_of_them(
    tmp_path: Path, name: str
) -> None:
    FORMS[name](tmp_path / name, ROWS)
    assert [one.text for one in every(tmp_path)] == [row["text"] for row in ROWS]
    listed = list(documents_of(tmp_path))
    known = [(one.about.id, one.about.author) for one in listed]
    assert known == [(row["id"], row["author"]) for row in ROWS]
    assert len({one.digest for one in listed}) == len(ROWS)
    assert [one.number for one in listed] in ([1, 2, 3], [1, 3, 4]), "counted as the form does"


@pytest.mark.parametrize("name", ["a.csv.gz", "a.txt.zst", "README.MD.gz"])
def test_text_is_read_compressed_too(tmp_path: Path, name: str) -> None:
    plain = b"text\none\ntwo\n"
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(plain))
    else:
        with pa.CompressedOutputStream(str(tmp_path / name), "zstd") as stream:
            stream.write(plain)
    found = [one.text for one in every(tmp_path)]
    assert found == (["one", "two"] if ".csv" in name else [plain.decode()])


@pytest.mark.parametrize(
    ("row", "text", "learns"),
    [
        ({"prompt": "Sum: ", "completion": "4"}, "Sum: 4", "4"),
        ({"instruction": "Add", "input": "2, 2", "output": "4"}, "Add\n\n2, 2\n\n4", "4"),
        ({"instruction": "Say it", "input": "", "output": "it"}, "Say it\n\nit", "it"),
        ({"instruction": "Say it", "output": "it", "topic": "talk"}, "Say it\n\nit", "it"),
    ],
)
def test_instructions_are_learnt_by_their_answers(
    tmp_path: Path, row: dict[str, str], text: str, learns: str
) -> None:
    as_jsonl(tmp_path / "a.jsonl", [row])
    (found,) = every(tmp_path)
    assert (found.text, found.answer, found.learns_answer_only) == (text, learns, True)


TURNS = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
TOOLS = [{"type": "function", "function": {"name": "add"}}]
BESIDE: list[tuple[dict[str, Any], str]] = [
    (
        {"system": "Be brief.", "instruction": "Add", "input": "2, 2", "output": "4"},
        "Be brief.\n\nAdd\n\n2, 2\n\n4",
    ),
    (
        {"instruction": "Add one", "output": "5", "history": [["Add", "4"]], "tools": "[]"},
        "Add\n\n4\n\nAdd one\n\n5",
    ),
    ({"system": "Be brief.", "conversations": TURNS}, "Be brief.\n2 + 2?\n4"),
    ({"system": "Be brief.", "messages": CHAT}, "Be brief.\n2 + 2?\n4"),
    ({"system": "Be brief.", "prompt": CHAT[:1], "completion": CHAT[1:]}, "Be brief.\n2 + 2?\n4"),
    ({"tools": json.dumps(TOOLS), "messages": CHAT}, "2 + 2?\n4"),
]


@pytest.mark.parametrize(("row", "text"), BESIDE)
def test_what_stands_beside_a_conversation_or_an_instruction_is_taken_in(
    tmp_path: Path, row: dict[str, Any], text: str
) -> None:
    as_jsonl(tmp_path / "a.jsonl", [row])
    (found,) = every(tmp_path)
    assert found.text == text
    assert found.takes_in
    assert list(found.tools) == (TOOLS if "messages" in row and "tools" in row else [])
    if found.messages and "system" in row:
        assert found.messages[0] == {"role": "system", "content": "Be brief."}
    # As it was read when those columns were left out, and as no registered version is changed.
    before = TextFolder(tmp_path, reading=Reading(whole=False))
    (once,) = every(before)
    assert "Be brief." not in once.text
    assert not once.takes_in
    recorded = TextFolder(tmp_path, reading=Reading(whole=True))
    assert split(recorded).digest != split(before).digest


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"instruction": "Add", "output": "4", "history": "once"}, "history"),
        ({"instruction": "Add", "output": "4", "history": [["Add"]]}, "history"),
        ({"instruction": "Add", "output": "4", "input": ["2", "2"]}, "input"),
        ({"instruction": "Add", "output": "4", "tools": json.dumps(TOOLS)}, "tools"),
        ({"instruction": "Add", "output": "4", "system": ["Be brief."]}, "system"),
        ({"prompt": "Add", "completion": "4", "system": "Be brief."}, "system"),
        ({"messages": CHAT, "history": [["a", "b"]]}, "history"),
        ({"messages": CHAT, "tools": "add(a, b)"}, "tools"),
        ({"messages": CHAT, "tools": ["add"]}, "tools"),
        (
            {"messages": [{"role": "system", "content": "Be long."}, *CHAT], "system": "Be brief."},
            "system",
        ),
    ],
)
def test_what_is_learnt_from_and_has_no_plain_meaning_is_refused_by_its_column(
    tmp_path: Path, row: dict[str, Any], says: str
) -> None:
    as_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(Unreadable, match=f"found {says} ") as caught:
        list(every(tmp_path))
    assert "column" in caught.value.next
    assert len(list(every(TextFolder(tmp_path, reading=Reading(whole=False))))) == 1


def test_rows_without_such_columns_have_the_digests_that_they_had(tmp_path: Path) -> None:
    rows = [{"messages": CHAT, "tools": TOOLS}, {"text": "plain", "system": "linux"}]
    as_jsonl(tmp_path / "a.jsonl", [*rows, {"instruction": "Add", "output": "4", "system": ""}])
    found = {
        whole: (
            [(one.text, one.tools, one.takes_in) for one in every(folder)],
            split(folder).digest,
        )
        for whole in (None, False)
        if (folder := TextFolder(tmp_path, reading=Reading(whole=whole)))
    }
    assert found[None] == found[False]


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                {"role": "user", "content": "2 + 2?"},
                {"role": "assistant", "content": "4"},
            ]
        },
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "saved"])
def test_conversations_are_known_in_the_forms_that_teams_write(
    tmp_path: Path, row: dict[str, Any], name: str
) -> None:
    FORMS[name](tmp_path / name, [row, row])
    found = next(every(tmp_path))
    said = [(message["role"], message["content"]) for message in found.messages]
    assert said == [("user", "2 + 2?"), ("assistant", "4")]


CALLED: Rows = [
    {
        "messages": [
            {"role": "user", "content": name},
            {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
        ],
        "tools": [{"name": name, "parameters": call["arguments"]}],
    }
    for name, call in (
        ("add", {"name": "add", "arguments": {"a": 2, "b": [3, 4]}}),
        ("find", {"name": "find", "arguments": {"city": {"name": "Bern"}}}),
    )
]
# Rows whose calls and tools have the same keys.
ALIKE: Rows = [CALLED[0], {**CALLED[0], "id": "b"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow", "saved"])
def test_a_call_and_a_tool_have_the_keys_that_were_written_and_no_other_rows(
    tmp_path: Path, name: str
) -> None:
    FORMS[name](tmp_path / name, CALLED)
    read = [(list(one.messages), list(one.tools)) for one in every(tmp_path)]
    assert read == [(row["messages"], row["tools"]) for row in CALLED]


@pytest.mark.parametrize(
    ("name", "rows", "differs"),
    [
        ("a.parquet", CALLED, True),
        ("a.arrow", CALLED, True),
        ("a.jsonl", CALLED, False),
        ("a.parquet", ALIKE, False),
        ("a.arrow", ALIKE, False),
        (
            "a.parquet",
            [{"messages": CHAT}, {"messages": [*CHAT[:1], *CALLED[0]["messages"]]}],
            False,
        ),
        ("a.parquet", ROWS, False),
    ],
)
def test_only_what_held_keys_of_other_rows_has_token_files_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: Rows, *, differs: bool
) -> None:
    FORMS[name](tmp_path / name, rows)
    now = split(tmp_path).digest
    monkeypatch.setattr(corpus_files, "holds_keys_of_other_rows", lambda file, reading: False)
    assert (split(tmp_path).digest != now) is differs


def test_the_column_that_holds_the_text_may_be_named(tmp_path: Path) -> None:
    as_jsonl(tmp_path / "a.jsonl", [{"content": "code", "path": "x.py"}] * 2)
    with pytest.raises(Unreadable, match=r"columns content, path(.|\n)*--text-field content"):
        list(every(tmp_path))
    folder = TextFolder(tmp_path, reading=Reading(text_field="content"))
    assert [one.text for one in every(folder)] == ["code", "code"]
    assert split(folder).digest != split(tmp_path).digest


@pytest.mark.parametrize(
    ("row", "about"),
    [
        ({"doc_id": 7, "authors": ["A", "B"], "licence": "MIT"}, ("7", "A; B", "MIT")),
        ({"id": None, "metadata": {"id": "x", "author": "C", "license": "CC0-1.0"}}, "xC"),
        ({"id": "", "author": [], "license": {}}, (None, None, None)),
    ],
)
def test_what_a_row_says_of_its_document_is_known(
    tmp_path: Path, row: dict[str, Any], about: tuple[str | None, ...] | str
) -> None:
    as_jsonl(tmp_path / "a.jsonl", [{"text": "t"} | row])
    (found,) = documents_of(tmp_path)
    expected = about if isinstance(about, tuple) else ("x", "C", "CC0-1.0")
    assert (found.about.id, found.about.author, found.about.license) == expected


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", POINTER, "Git LFS pointer"),
        ("a.parquet", POINTER, "Git LFS pointer"),
        ("a.txt", b"PK\x03\x04\x00\x00", "a binary file"),
        ("photo.png", b"\x89PNG\r\n\x1a\n\x00", "a binary file"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.jsonl", b'{"text": "sound"}\n{"text": "\\ud83d"}\n', r"jsonl:2\n.*half of a character"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "\\udc00"}]}', "assistant"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', "a message"),
        (
            "a.jsonl",
            b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "What is shown '
            b'on this picture?"}, {"type": "image_url", "image_url": {"url": "a.png"}}]}]}',
            "a part {'type': 'image_url'",
        ),
        ("a.jsonl", b'\n["text"]\n', "jsonl:2"),
        ("a.jsonl", b"[" * 100_000, "jsonl:1"),
        ("a.json", b'[{"text": "a"}, {"text": "b"', "item 2"),
        ("a.json", b'[{"text": "a"}, {"name": "b"}]', "item 2"),
        ("a.json", b'[{"text": "a"}]\n[{"text": "b"}]', "item 1(.|\n)*more behind the array"),
        ("a.json", b'[]\n[{"text": "b"}]', "more behind the array"),
        ("a.csv", b"text,id\na,1\nb\n", "csv:3"),
        ("a.csv", b'text,id\na,1\n"b,2\nc,3\n', r"csv:3\n.*unexpected end of data"),
        ("a.csv", b"name,id\na,1\n", "--text-field name"),
        ("a.jsonl", b'{"id": "a-1", "body": "a longer text"}', "--text-field body"),
        ("a.csv", b"text;id\na;1\n", "delimiter looks like `;`"),
        ("a.csv", b"text\tid\na\t1\n", "delimiter looks like a tab(.|\n)*tsv"),
        ("a.tsv", b"text,id\na,1\n", "delimiter looks like `,`"),
        ("a.jsonl", b'{"text": null, "id": 1}', "found text is null"),
        ("a.jsonl", b'{"text": 3}', "found text is 3"),
        ("a.jsonl", b'{"text": ["a"]}', "found text is a list"),
        ("a.jsonl", b'{"prompt": "p", "completion": null}', "found completion is null"),
        ("a.jsonl", b'{"messages": "[]"}', "found messages is text"),
        (
            "a.json",
            b'{"data": [{"text": "a"}, {"text": "b"}]}',
            "key data holds 2 rows(.|\n)*jsonl",
        ),
        ("a.json", b'{"rows": [{"body": "a"}]}', "key rows holds 1 rows"),
        ("a.jsonl", b'{"question": "a", "answer": "bb"}', "or call question prompt$"),
        ("a.jsonl", b'{"prompt": "a", "response": "bb"}', "or call response answer$"),
        ("a.csv", b"instruction,response\na,b\n", "call instruction prompt and response answer$"),
        ("a.json", b'{"body": "a"}', "columns body(.|\n)*--text-field body"),
        ("a.json", b'{"messages": [{"role": "user", "content": "q"}]}', "assistant"),
        ("a.parquet", b"PAR1 and no more", "a.parquet"),
        ("a.arrow", b"no arrow at all", "a.arrow"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "a.jsonl.gz"),
        ("a.jsonl.zst", b"no zstd", "a.jsonl.zst"),
        ("a.txt.gz", gzip.compress(b"text \xff", mtime=0), "byte 5 is no UTF-8"),
    ],
)
def test_what_holds_no_text_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=says):
        list(documents_of(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "unread", "rest"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\nno row\n{"text": "\xe9"}\n{"body": ""}\n{"text": "z"}\n',
            [":2", ":3", ":4"],
            b'no row\n{"text": "\xe9"}\n{"body": ""}\n{"text": "z"}\n',
        ),
        (
            "a.csv",
            b'text,id\na,1\n"b" b,2\nc\n\xe9,3\n"d,4\nz,5\n',
            [":3", ":4", ":5", ":6"],
            b'text,id\n"b" b,2\nc\n\xe9,3\n"d,4\nz,5\n',
        ),
        (
            "a.json",
            b'[{"text": "a"}, {"body": ""}, {"text": "z"}]',
            [", item 2"],
            b'[\n{"body": ""},\n{"text": "z"}\n]\n',
        ),
    ],
)
def test_rows_behind_one_that_cannot_be_read_are_read_and_it_stays_as_it_is(
    tmp_path: Path, name: str, content: bytes, unread: list[str], rest: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    read = list(readable(path, TODAYS))
    assert [one.text for one in read if isinstance(one, Document)] == ["a", "z"]
    assert [one.subject for one in read if isinstance(one, Unreadable)] == [
        f"{path}{place}" for place in unread
    ]
    with pytest.raises(Unreadable) as first:
        list(documents(path, TODAYS))
    assert first.value.subject == f"{path}{unread[0]}"
    target = tmp_path / f"rest-{name}"
    assert write_rest(path, target, TODAYS, {1})
    assert target.read_bytes() == rest


def test_a_row_of_a_table_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": None}, {"text": "z"}]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = list(readable(tmp_path / "a.parquet", TODAYS))
    assert [isinstance(one, Document) for one in read] == [True, False, True]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_column_beside_the_text_may_hold_what_python_has_no_value_for(
    tmp_path: Path, name: str
) -> None:
    """Microseconds taken for seconds, a day that no calendar has, a zone of another machine."""
    path = tmp_path / name
    table = pa.table(
        {
            "text": ["a", "b"],
            "at": pa.array([2**60, 1], pa.timestamp("us")),
            "day": pa.array([2**31 - 1, 1], pa.date32()),
            "zone": pa.array([1, 1], pa.timestamp("us", "Mars/Base")),
        }
    )
    save_table(path, table)
    assert [one.text for one in every(tmp_path)] == ["a", "b"]
    rest = tmp_path / f"rest-{name}"
    assert write_rest(path, rest, TODAYS, {2})
    with corpus_files.table_batches(rest) as (_, batches):
        assert pa.Table.from_batches(batches).equals(table.slice(0, 1))
    # What is known of a document is read.
    save_table(path, table.rename_columns(["text", "author", "day", "zone"]))
    with pytest.raises(Unreadable, match="rows 1 to 2"):
        list(every(tmp_path))


def test_one_large_group_of_rows_is_read_in_pieces_and_pictures_are_not(tmp_path: Path) -> None:
    rows, chance = 1024, random.Random(0)
    table = pa.table(
        {
            "text": [chance.randbytes(1 << 14).hex() for _ in range(rows)],
            "image": pa.array([chance.randbytes(1 << 16) for _ in range(rows)], pa.binary()),
            "messages": pa.array([[{"role": None}]] * rows),
        }
    )
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=rows, compression=None)
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        texts = sum(1 for _ in every(tmp_path))
        divided = split(tmp_path)
    finally:
        pa.set_memory_pool(usual)
    assert (texts, divided.keys_left_out) == (rows, False)
    # Of texts of 32 MiB a quarter is one batch of rows; pictures have 64 MiB.
    assert pool.max_memory() < 64 << 20


@pytest.mark.parametrize("name", ["weights.bin", "archive.tar.gz", "archive.tar.zst"])
def test_a_large_binary_file_is_refused_by_its_beginning(tmp_path: Path, name: str) -> None:
    path, block = tmp_path / name, b"\x89PNG" + bytes(1 << 20)
    if name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            for _ in range(64):
                stream.write(block)
    else:
        with gzip.open(path, "wb") if name.endswith(".gz") else path.open("wb") as file:
            for _ in range(64):
                file.write(block)
    tracemalloc.start()
    with pytest.raises(Unreadable, match="binary file"):
        list(every(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("content", ['{"name": "x", "version": 2}', "[]", "[1, 2", "7"])
def test_a_json_file_without_rows_is_no_surprise(tmp_path: Path, content: str) -> None:
    """A settings file among program text is text; an empty array is nothing; the rest is named."""
    (tmp_path / "a.json").write_text(content)
    if "{" in content:
        # Of a corpus that is this one file, its columns would be refused.
        (tmp_path / "b.py").write_text("")
    if content == "[1, 2":
        with pytest.raises(Unreadable, match="item 1"):
            list(every(tmp_path))
        return
    assert [one.text for one in every(tmp_path)] == ([] if content == "[]" else [content])


@pytest.mark.parametrize(
    "files",
    [
        {"a.txt": "\ufefftext", "b.json": '[{"text": "x"}]'},
        {"a.csv": "text\nx\n", "B.JSONL": '{"text": "x"}\n'},
        {"a.jsonl": '{"text": "x", "id": 3}\n{"prompt": "p", "answer": "a"}\n', "b.md": "# x"},
    ],
)
def test_what_was_registered_before_is_read_as_it_was(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    older = TextFolder(tmp_path, reading=Reading(older=True))
    as_it_was = []
    for name, text in sorted(files.items()):
        lines = text.splitlines() if name.endswith(".jsonl") else None
        for line in lines or []:
            row = json.loads(line)
            as_it_was.append(row.get("text") or f"{row['prompt']} {row['answer']}")
        as_it_was += [] if lines else [text]
    assert [one.text for one in every(older)] == as_it_was
    # Where both readings give the same documents, so do their token files, and their digest.
    same = [one.text for one in every(tmp_path)] == as_it_was
    assert (split(tmp_path).digest == split(older).digest) == same


@pytest.mark.parametrize("saved", ["train", "test"])
def test_of_a_saved_data_set_only_the_split_for_training_is_trained_on(
    tmp_path: Path, saved: str
) -> None:
    splits = {
        name: Dataset.from_list([{"text": f"{name} {n}"} for n in range(3)])
        for name in ("train", saved, "validation")
    }
    DatasetDict(splits).save_to_disk(tmp_path / "set")
    # What the library only cached there is no row.
    as_arrow(tmp_path / "set" / "train" / "cache-0123.arrow", [{"text": "cached"}])
    divided = split(TextFolder(tmp_path, "documents"))
    assert [one.text for one in divided.train] == ["train 0", "train 1", "train 2"]
    assert {one.text.split()[0] for one in divided.heldout} == set(splits) - {"train"}


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.jsonl.gz", "saved"])
def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path: Path, name: str) -> None:
    peaks = []
    for size in (1_500, 12_000):
        folder = tmp_path / str(size)
        folder.mkdir()
        FORMS[name](folder / name, [{"text": f"{n:>1999}"} for n in range(size)])
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        assert sum(1 for _ in documents_of(folder)) == size
        held = pa.total_allocated_bytes() - before
        peaks.append(tracemalloc.get_traced_memory()[1] + held)
        tracemalloc.stop()
    assert peaks[1] < 4_000_000 + peaks[0] < 16_000_000


def test_files_of_one_object_each_are_read_without_a_list_of_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(json.dumps({"body": "words"}))
    monkeypatch.setattr(Path, "iterdir", None)
    assert len(list(every(tmp_path))) == 3


def test_the_rest_of_an_array_is_written_whatever_else_its_rows_hold(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "zwölf", "note": "half of a character: \ud83d"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert write_rest(tmp_path / "a.json", tmp_path / "b.json", Reading(), {1})
    assert json.loads((tmp_path / "b.json").read_text()) == rows[1:]
