"""A whole registry as plain files, out and in again, so that nobody is locked in.

Out: FOLDER/registry.json (format, head), one JSON-lines file per table, objects/ab/abcdef... for every stored byte.
In:  such a folder, into an empty registry; digests, event chain and head are the same afterwards, on either engine.
"""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.catalogue import audit_log
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import row_findings
from registry.catalogue.database import Rows, Writer
from registry.catalogue.store import Store
from registry.digest import canonical_json
from registry.errors import Conflict, Damaged, Invalid, NotFound
from registry.records.base import read_object

FORMAT = 1
# Columns in the order of the lines' keys; facts and body are written as JSON, not as text that holds JSON.
TABLES = {
    "event": ("seq", "at", "actor", "kind", "subject", "body", "prev", "digest"),
    "document": ("digest", "body"),
    "version": ("id", "kind", "name", "number", "digest", "registered_at", "actor", "facts"),
    "file": ("version_id", "path", "bytes", "sha256", "linked", "md5"),
    "edge": ("from_id", "to_id", "relation"),
    "label": ("version_id", "key", "value", "number"),
}
_JSON = ("facts", "body")
_BATCH = 1000


def dump(
    catalog: Catalog, store: Store, folder: Path, elsewhere: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Write the registry to a new folder, visible whole or not at all; returns what registry.json says.

    elsewhere: SHA-256 -> a file with these bytes, for what the store does not hold. What is in neither is named as "missing".
    Raises Conflict when the folder exists, Damaged when a row or a stored byte is not what was registered.
    """
    if folder.exists():
        raise Conflict(
            str(folder), found="a folder", expected="nothing there yet", next="name another folder"
        )
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        with catalog.database.read() as rows:
            _require_whole(rows)
            counts = {table: _write_lines(rows, table, aside) for table in TABLES}
            head, wanted = (
                audit_log.head(rows),
                {row[0] for row in rows("SELECT DISTINCT sha256 FROM file")},
            )
        copied = _copy_objects(store, wanted, elsewhere or {}, aside / "objects")
        missing = sorted(wanted - copied)
        about = {
            "format": FORMAT,
            "head": head,
            "rows": counts,
            "objects": len(copied),
            "missing": missing,
        }
        (aside / "registry.json").write_bytes(canonical_json(about) + b"\n")
        aside.rename(folder)
        return about
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load(folder: Path, catalog: Catalog, store: Store) -> dict[str, Any]:
    """Fill an empty registry from a dumped folder, in one transaction; returns what registry.json says.

    Raises Conflict when the registry is not empty, Damaged when a line or an object is not what was dumped: then no row is taken.
    """
    about = _about(folder)
    for path in sorted((folder / "objects").glob("[0-9a-f][0-9a-f]/*")):
        store.put(path, path.name)
    with catalog.database.write() as writer:
        if writer.rows("SELECT 1 FROM event LIMIT 1"):
            raise Conflict(
                catalog.database.url.split("@")[-1],
                found="events",
                expected="an empty registry",
                next="name a new URL",
            )
        for table in TABLES:
            _read_lines(writer, table, folder / f"{table}.jsonl")
        _require_whole(writer.rows)
        if audit_log.head(writer.rows) != about.get("head"):
            head = audit_log.head(writer.rows)
            raise Damaged(
                str(folder),
                found=f"head {head}",
                expected=f"head {about.get('head')}",
                next="export again",
            )
    return about


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "registry.json"
    if not path.is_file():
        raise NotFound(
            str(path),
            found="nothing",
            expected="a folder that an export wrote",
            next="name the folder with registry.json",
        )
    about = read_object(path.read_text(), str(path))
    if about.get("format") != FORMAT:
        raise Invalid(
            str(path),
            found=f"{about!r:.80}",
            expected=f"format {FORMAT}",
            next="use the version that wrote it",
        )
    return about


def _write_lines(rows: Rows, table: str, folder: Path) -> int:
    columns = TABLES[table]
    found = rows(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns[:3])}")
    with (folder / f"{table}.jsonl").open("xb") as file:
        for row in found:
            line = {
                column: json.loads(value) if column in _JSON else value
                for column, value in zip(columns, row, strict=True)
            }
            file.write(canonical_json(line) + b"\n")
    return len(found)


def _read_lines(writer: Writer, table: str, path: Path) -> None:
    from sqlmodel import insert

    from registry.catalogue import models  # here, since reading must not pay for it

    model = {
        "event": models.EventRow,
        "document": models.DocumentRow,
        "version": models.VersionRow,
    }.get(table) or {
        "file": models.FileRow,
        "edge": models.EdgeRow,
        "label": models.LabelRow,
    }[table]
    for batch in _batches(path, TABLES[table]):
        writer.session.execute(insert(model), batch)


def _batches(path: Path, columns: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                values = json.loads(line)
                batch.append(
                    {
                        column: canonical_json(values[column]).decode()
                        if column in _JSON
                        else values[column]
                        for column in columns
                    }
                )
            except (ValueError, KeyError, TypeError):
                raise Damaged(
                    f"{path}, line {number}",
                    found=repr(line[:80]),
                    expected="a row",
                    next="export again",
                ) from None
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _copy_objects(
    store: Store, wanted: set[str], elsewhere: Mapping[str, Path], to: Path
) -> set[str]:
    """Every wanted object that is in the store or elsewhere."""
    kept = Store(to)
    sources = {
        sha256: store.path(sha256) if store.has(sha256) else elsewhere.get(sha256)
        for sha256 in sorted(wanted)
    }
    there = {
        sha256: path for sha256, path in sources.items() if path is not None and path.is_file()
    }
    for sha256, path in there.items():
        kept.put(path, sha256, copy=True)
    return set(there)


def _require_whole(rows: Rows) -> None:
    audit_log.require_whole(rows)
    for found in row_findings(rows)[1]:
        raise Damaged(
            found.subject,
            found=found.found,
            expected=found.expected,
            next="btx audit names every finding",
        )
