"""A whole registry as plain files, out and in again, so that nobody is locked in.

Out: FOLDER/registry.json (format, head), one JSON-lines file a table, objects/ab/abcdef... for
     every stored byte.
In:  such a folder, into an empty registry; digests, event chain and head are the same afterwards,
     on either engine.
Where the versions' folders lie is left to the caller.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path

# A line's values are those of its table's columns: text, numbers, or JSON of any shape.
from typing import TYPE_CHECKING, Any

from btx_core.files import whole_folder
from registry.catalogue import audit_log, reading
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import row_findings
from registry.catalogue.database import Rows, Writer
from registry.catalogue.rows import VERSION_COLUMNS
from registry.catalogue.store import Store
from registry.digest import canonical_json
from registry.errors import Conflict, Damaged, Invalid, NotFound
from registry.records.base import read_object
from registry.urls import without_secrets

if TYPE_CHECKING:
    from sqlmodel import SQLModel

FORMAT = 1
ABOUT = "registry.json"
# Columns in the order of the lines' keys.
TABLES = {
    "event": ("seq", "at", "actor", "kind", "subject", "body", "prev", "digest"),
    "document": ("digest", "body"),
    "version": ("id", "kind", "name", "number", "digest", "registered_at", "actor", "facts"),
    "file": ("version_id", "path", "bytes", "sha256", "linked", "md5"),
    "edge": ("from_id", "to_id", "relation"),
    "label": ("version_id", "key", "value", "number"),
}
# Written as JSON, not as text that holds JSON.
JSON_COLUMNS = ("facts", "body")
NUMBER_COLUMNS = (
    "seq",
    "id",
    "number",
    "bytes",
    "linked",
    "version_id",
    "from_id",
    "to_id",
)
LINES_A_BATCH = 1000
# Of a row in bytes: the facts of a build with a million tensors are a tenth of it.
LONGEST_LINE = 1 << 30
# That a column of either database takes.
LARGEST_NUMBER = (1 << 63) - 1


@dataclass(frozen=True)
class Summary:
    """What registry.json says of a dumped registry.

    Attributes:
        format: of the folder; see `FORMAT`.
        head: the digest of the newest event.
        rows: table -> number of rows.
        objects: how many objects the folder holds.
        missing: SHA-256 of what no one had, in order.
    """

    format: int
    head: str
    rows: Mapping[str, int]
    objects: int
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form in registry.json."""
        return asdict(self) | {"missing": list(self.missing)}


def dump(
    catalog: Catalog,
    store: Store | None,
    folder: Path,
    elsewhere: Mapping[str, Path] | None = None,
) -> Summary:
    """Write the registry to a new folder, visible whole or not at all.

    Rows and log are those of one moment, whatever is written meanwhile.

    Args:
        catalog: the registry.
        store: its objects; None: rows and log alone.
        folder: the new folder.
        elsewhere: SHA-256 -> a file with these bytes, for what the store does not hold. What is in
            neither is named as missing; what was erased is left out.

    Returns:
        What registry.json says.

    Raises:
        Conflict: when the folder exists.
        Damaged: when a row or a stored byte is not what was registered.
    """
    if folder.exists():
        raise Conflict(
            str(folder), found="a folder", expected="nothing there yet", next="name another folder"
        )
    with whole_folder(folder) as temporary:
        with catalog.database.read() as rows:
            require_whole(rows)
            counts = {table: _write_lines(rows, table, temporary) for table in TABLES}
            head = audit_log.head(rows)
            named = catalog.needed().sha256
        copied: set[str] = set()
        if store is not None:
            copied = _copy_objects(store, named, elsewhere or {}, temporary / "objects")
        summary = Summary(
            format=FORMAT,
            head=head,
            rows=counts,
            objects=len(copied),
            missing=tuple(sorted(named - copied)) if store is not None else (),
        )
        (temporary / ABOUT).write_bytes(canonical_json(summary.to_json()) + b"\n")
    return summary


def load(folder: Path, catalog: Catalog, store: Store) -> Summary:
    """Fill an empty registry from a dumped folder, in one transaction.

    Args:
        folder: what `dump` wrote.
        catalog: the empty registry.
        store: takes the objects.

    Returns:
        What registry.json says.

    Raises:
        NotFound: when the folder holds no registry.json.
        Invalid: for a folder of another format.
        Conflict: when the registry is not empty.
        Damaged: when a line or an object is not what was dumped: then no row is taken.
    """
    summary = _read_summary(folder)
    objects = _objects(folder)
    with catalog.database.write() as writer:
        if writer.rows("SELECT 1 FROM event LIMIT 1"):
            raise Conflict(
                without_secrets(catalog.database.url),
                found="events",
                expected="an empty registry",
                next="name a new URL",
            )
        for table in TABLES:
            _read_lines(writer, table, folder / f"{table}.jsonl")
        require_whole(writer.rows)
        head = audit_log.head(writer.rows)
        if head != summary.head:
            raise Damaged(
                str(folder),
                found=f"head {head}",
                expected=f"head {summary.head}",
                next="export again",
            )
        require_readable(writer.rows)
        _take_objects(store, objects)
    return summary


def _objects(folder: Path) -> list[Path]:
    """Return the dump's objects. A link would take in a file that lies elsewhere."""
    paths = sorted((folder / "objects").glob("[0-9a-f][0-9a-f]/*"))
    for path in (folder / "objects", *paths):
        if path.is_symlink() or path.parent.is_symlink():
            raise _not_dumped(path, "a link", "files and folders of its own")
    return paths


def _take_objects(store: Store, objects: Sequence[Path]) -> None:
    """Put the objects into the store; what is new there goes again when one is not what it says."""
    new = []
    try:
        for path in objects:
            if not store.has(path.name):
                new.append(path.name)
            # Bytes of its own: whoever made the dump may still write to its files.
            store.put(path, path.name, copy=True)
    except BaseException:
        for sha256 in new:
            store.path(sha256).unlink(missing_ok=True)
        raise


def require_readable(rows: Rows) -> None:
    """Read every version as a command would: its name, its files' paths and its folder."""
    query = f"SELECT {VERSION_COLUMNS} FROM version v"
    for one in reading.with_files(rows, rows(query)):
        # Read when it is asked for; the folder that the facts name is checked by reading them.
        one.facts  # noqa: B018


def _not_dumped(path: Path, found: str, expected: str) -> Damaged:
    return Damaged(str(path), found=found, expected=expected, next="dump the registry again")


def _read_summary(folder: Path) -> Summary:
    path = folder / ABOUT
    if not path.is_file():
        raise NotFound(
            str(path),
            found="nothing",
            expected="a folder that an export wrote",
            next=f"name the folder with {ABOUT}",
        )
    about = read_object(path.read_bytes().decode(errors="replace"), str(path))
    if about.get("format") != FORMAT:
        raise Invalid(
            str(path),
            found=f"{about!r:.80}",
            expected=f"format {FORMAT}",
            next="use the version that wrote it",
        )
    try:
        return Summary(
            format=FORMAT,
            head=str(about["head"]),
            rows=dict(about["rows"]),
            objects=int(about["objects"]),
            missing=tuple(about["missing"]),
        )
    except (KeyError, ValueError, TypeError):
        raise Damaged(
            str(path),
            found=f"{about!r:.80}",
            expected="head, rows, objects and missing",
            next="export again",
        ) from None


def _write_lines(rows: Rows, table: str, folder: Path) -> int:
    """Write one table; returns the number of its rows."""
    columns = TABLES[table]
    table_rows = sorted(rows(f"SELECT {', '.join(columns)} FROM {table}"), key=by_key)
    with (folder / f"{table}.jsonl").open("xb") as file:
        for row in table_rows:
            file.write(canonical_json(line_of(table, row)) + b"\n")
    return len(table_rows)


def by_key(row: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return what rows are ordered by: their first three columns, by code points.

    A database may order text by the rules of a language. Damaged rows may hold any type.
    """
    return [(type(value).__name__, value) for value in row[:3]]


def line_of(table: str, row: Sequence[Any]) -> dict[str, Any]:
    """Return a row as what its line says.

    Args:
        table: whose row it is.
        row: the columns that `TABLES` names.
    """
    return {
        column: json.loads(value) if column in JSON_COLUMNS else value
        for column, value in zip(TABLES[table], row, strict=True)
    }


def _read_lines(writer: Writer, table: str, path: Path) -> None:
    """Fill one table from its file."""
    for batch in _batches(path, TABLES[table]):
        insert_rows(writer, table, batch)


def insert_rows(writer: Writer, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a table.

    Args:
        writer: the transaction.
        table: whose rows they are.
        rows: their columns by name, as `row_of` returns them.
    """
    # Here, since reading must not pay for it.
    from sqlmodel import insert

    writer.session.execute(insert(_model(table)), rows)


def _model(table: str) -> "type[SQLModel]":
    # Here, since reading must not pay for it.
    from registry.catalogue import models

    of_table: dict[str, type[SQLModel]] = {
        "event": models.EventRow,
        "document": models.DocumentRow,
        "version": models.VersionRow,
        "file": models.FileRow,
        "edge": models.EdgeRow,
        "label": models.LabelRow,
    }
    return of_table[table]


def _batches(path: Path, columns: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """The lines of a table's file as rows to insert, some at a time."""
    batch: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            batch.append(row_of(json.loads(line), columns))
        # Of JSON that is nested deeper than Python reads, and of numbers of very many digits.
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Damaged(
                f"{path}, line {number}",
                found=repr(line[:80]),
                expected="a row",
                next="export again",
            ) from None
        if len(batch) == LINES_A_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a table's file, none longer than a row can be."""
    if not path.is_file() or path.is_symlink():
        raise _not_dumped(path, "no file", "a table of the dump")
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE:
                raise _not_dumped(path, "a longer line", f"at most {LONGEST_LINE} bytes a row")
            yield line


def _check_number(value: object, column: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(column)
    if not abs(value) <= LARGEST_NUMBER:
        raise ValueError(column)


def row_of(line: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    """Return what a line says as a row to insert.

    Raises:
        KeyError, TypeError, ValueError: for a line that no row was written as.
    """
    row = {}
    for column in columns:
        value = line[column]
        if column in JSON_COLUMNS:
            value = canonical_json(value).decode()
        elif column in NUMBER_COLUMNS:
            _check_number(value, column)
        elif isinstance(value, str):
            # No database takes half a pair of surrogates.
            value.encode()
        elif value is not None:
            raise TypeError(column)
        row[column] = value
    return row


def _copy_objects(
    store: Store, named: AbstractSet[str], elsewhere: Mapping[str, Path], to: Path
) -> set[str]:
    """Copy every named object that is in the store or elsewhere; returns their digests."""
    copies = Store(to)
    copied = set()
    for sha256 in sorted(named):
        path = store.path(sha256) if store.has(sha256) else elsewhere.get(sha256)
        if path is not None and path.is_file():
            copies.put(path, sha256, copy=True)
            copied.add(sha256)
    return copied


def require_whole(rows: Rows) -> None:
    """Require a log and rows that are what was written."""
    audit_log.require_whole(rows)
    _, findings = row_findings(rows)
    for finding in findings:
        raise Damaged(
            finding.subject,
            found=finding.found,
            expected=finding.expected,
            next="btx audit names every finding",
        )
