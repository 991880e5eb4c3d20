"""Search by command: a document by its bytes and its text, searches that are kept."""

import gzip
from pathlib import Path
from typing import Any

from btx_core import texts
from pipelines.jobs.add_data import add_data
from pipelines.jobs.find import SearchRequest, search
from pipelines.workspace.workspace import create
from registry.records.facts import DataStatement


def test_a_document_is_found_by_its_text_and_a_search_is_kept_by_its_name(
    tiny_corpora: Path, tmp_path: Path, btx: Any
) -> None:
    workspace = create(tmp_path / "workspace")
    stated = DataStatement(license="CC0-1.0", source="s", holder="Acme", purpose="p", pii="none")
    add_data(workspace, "math", tiny_corpora / "math", stated)
    rows = tmp_path / "letters.jsonl"
    rows.write_text('{"text": "My dear house", "author": "Ann", "id": "l-1"}\n{"text": "Yours"}\n')
    add_data(workspace, "letters", rows, stated)
    for named in (("--author", "Ann"), ("--document-id", "l-1")):
        assert "data/letters@1" in btx(workspace.root, "search", *named).stdout
    assert btx(workspace.root, "search", "--author", "Ben", "--json").stdout.strip() == "[]"
    document = tmp_path / "document.txt"
    document.write_text(f"  {list(texts.every(tiny_corpora / 'math'))[9].text}\n")
    arguments = ("holder~acm", "--document", str(document), "--save", "acme", "--format", "csv")
    done = btx(workspace.root, "search", *arguments)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["ref", "data/math@1"]
    document.write_text("nobody wrote this")
    again = btx(workspace.root, "search", "@acme", "--document", str(document), "--json")
    assert again.stdout.strip() == "[]"
    assert "data/math@1" in btx(workspace.root, "search", "@acme").stdout


def test_a_document_is_found_by_every_file_that_would_be_registered_as_it(tmp_path: Path) -> None:
    workspace = create(tmp_path / "workspace")
    (tmp_path / "letters").mkdir()
    for number in range(3):
        (tmp_path / f"letters/{number}.txt").write_text(f"Dear {number},\nyours\n")
    stated = DataStatement(license="CC0-1.0", source="s", holder="Acme", purpose="p", pii="none")
    add_data(workspace, "letters", tmp_path / "letters", stated)
    written = {
        "a.txt": b"Dear 1,\r\nyours\r\n",
        "mark.txt": b"\xef\xbb\xbfDear 1,\nyours\n",
        "a.txt.gz": gzip.compress(b"Dear 1,\nyours\n"),
        "a.jsonl": b'{"text": "Dear 1,\\nyours"}\n',
    }
    for name, content in written.items():
        document = tmp_path / name
        document.write_bytes(content)
        (row,) = search(workspace, SearchRequest(document=document))
        assert row.ref == "data/letters@1", name
    for name, content in {"b.txt": b"Dear 9", "b.bin": b"\0\xff", "b.jsonl": b"no row"}.items():
        document = tmp_path / name
        document.write_bytes(content)
        assert not search(workspace, SearchRequest(document=document))
