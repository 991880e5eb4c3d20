"""Search what is registered, by anything; keep searches by name; find who holds a document."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from btx_core import corpus_files
from btx_core.columns import Document, Unreadable
from pipelines.workspace.document_index import Sought, find_documents
from pipelines.workspace.workspace import Workspace
from registry.digest import sha256_file
from registry.errors import Invalid, NotFound
from registry.governance import lookup
from registry.governance.policy_files import read_strict_yaml
from registry.records.answers.listing import SearchRow

SAVED = "searches.yaml"


class SavedSearch(BaseModel):
    """A search that is kept by name: its terms, and the fields that it shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    terms: tuple[str, ...] = ()
    show: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What is searched for.

    Attributes:
        words: terms; or @NAME for those of a saved search.
        show: fields that stand in the rows too.
        document: a file; found is what holds its bytes, or a document of the same text.
        sought: a document by what its row says of it; found are the data versions that hold it.
        save: the name under which the search is kept.
    """

    words: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    document: Path | None = None
    sought: Sought | None = None
    save: str | None = None


def search(workspace: Workspace, request: SearchRequest) -> list[SearchRow]:
    """Return a row for each version that is found.

    Raises:
        Invalid: for what is no term, or a field that nothing has.
        NotFound: for a search that was not saved, or a document that is not there.
    """
    saved = saved_searches(workspace)
    terms: list[str] = []
    shown = [*request.show]
    for word in request.words:
        if word.startswith("@"):
            kept = _saved(saved, word[1:])
            terms += kept.terms
            shown += kept.show
        else:
            terms.append(word)
    only = _holding(workspace, request.document) if request.document else None
    if request.sought:
        found = _found(workspace, request.sought)
        only = found if only is None else only & found
    rows = lookup.search(workspace.catalog, terms, shown, only)
    if request.save:
        named = SavedSearch(terms=tuple(terms), show=tuple(shown))
        _write(workspace, {**saved, request.save: named})
    return rows


def saved_searches(workspace: Workspace) -> dict[str, SavedSearch]:
    """Return the searches that are kept, by name. Raises Invalid for a file that holds others."""
    path = workspace.root / SAVED
    if not path.is_file():
        return {}
    try:
        read = read_strict_yaml(path)
        kept = read if isinstance(read, dict) else {}
        return {name: SavedSearch.model_validate(value) for name, value in kept.items()}
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        raise Invalid(
            str(path),
            found=" ".join(str(error).split())[:200],
            expected="saved searches",
            next="fix the file",
        ) from None


def _saved(saved: Mapping[str, SavedSearch], name: str) -> SavedSearch:
    if name not in saved:
        raise NotFound(
            f"search @{name}",
            found="nothing",
            expected=f"one of {', '.join(saved) or 'none yet'}",
            next=f"btx search TERM... --save {name}",
        )
    return saved[name]


def _write(workspace: Workspace, saved: Mapping[str, SavedSearch]) -> None:
    plain = {name: one.model_dump(mode="json") for name, one in sorted(saved.items())}
    with workspace.writing("search --save"):
        (workspace.root / SAVED).write_text(yaml.safe_dump(plain, sort_keys=True), encoding="utf-8")


def _holding(workspace: Workspace, document: Path) -> set[str]:
    """Return what holds a document: a file of its bytes, or a document of the same text."""
    if not document.is_file():
        raise NotFound(
            "--document", found=f"no file {document}", expected="a file", next="check the path"
        )
    holders = {str(ref) for ref in workspace.catalog.holders([sha256_file(document)])}
    return holders | _found(workspace, Sought(digest=_read(document).digest))


def _read(file: Path) -> Document:
    """Return a file as the document that it would be registered as, else its text as it stands."""
    with suppress(Unreadable):
        first_two = list(islice(corpus_files.documents(file, corpus_files.TODAYS), 2))
        if len(first_two) == 1:
            return first_two[0]
    return Document(file.read_text(encoding="utf-8", errors="replace"))


def _found(workspace: Workspace, sought: Sought) -> set[str]:
    """Return the data versions that hold a document; say which could not be read."""
    holding = find_documents(workspace, sought)
    if holding.not_here:
        print(f"not on this disk, so not read: {', '.join(holding.not_here)}", file=sys.stderr)
    return set(holding.versions)


def lines(rows: Sequence[SearchRow]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and cells of a table of what was found."""
    fields = rows[0].fields_beside(("ref", "status")) if rows else []
    cells = [
        [row.ref, row.status, *("; ".join(row.values[name]) for name in fields)] for row in rows
    ]
    return ["ref", "status", *fields], cells
