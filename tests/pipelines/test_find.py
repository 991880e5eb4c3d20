"""Search by command: a document by its bytes and its text, searches that are kept."""

from pathlib import Path
from typing import Any

from btx_core import texts
from pipelines.jobs.add_data import add_data
from pipelines.workspace.workspace import create
from registry.records.facts import DataStatement


def test_a_document_is_found_by_its_text_and_a_search_is_kept_by_its_name(
    tiny_corpora: Path, tmp_path: Path, btx: Any
) -> None:
    workspace = create(tmp_path / "workspace")
    stated = DataStatement(license="CC0-1.0", source="s", holder="Acme", purpose="p", pii="none")
    add_data(workspace, "math", tiny_corpora / "math", stated)
    document = tmp_path / "document.txt"
    document.write_text(f"  {list(texts.every(tiny_corpora / 'math'))[9].text}\n")
    arguments = ("holder~acm", "--document", str(document), "--save", "acme", "--format", "csv")
    done = btx(workspace.root, "search", *arguments)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["ref", "data/math@1"]
    document.write_text("nobody wrote this")
    again = btx(workspace.root, "search", "@acme", "--document", str(document), "--json")
    assert again.stdout.strip() == "[]"
    assert "data/math@1" in btx(workspace.root, "search", "@acme").stdout
