"""Rows and log as text files in a workspace's git, from which a clone makes its registry.

In:  an open registry, and a folder that git keeps.
Out: FOLDER/000/000000057-3f9c2b7ad001.jsonl, event 57 and the rows that were written with it, a row
     a line; FOLDER/documents/ab/abcdef....json, each document once. And in again: the rows that a
     registry lacks.
The files hold what the rows hold and nothing more. The start of the event's digest is in the name:
of two clones that both wrote, git keeps the files of both, and the names show the fork. What git
does with the files, and where the versions' bytes lie, is left to the caller.
"""

import json
import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A column's value may be of any type.
from typing import Any

from btx_core.files import whole_file
from registry.catalogue import audit_log
from registry.catalogue.catalog import Catalog
from registry.catalogue.database import Rows
from registry.catalogue.dump import (
    TABLES,
    by_key,
    insert_rows,
    line_of,
    require_readable,
    require_whole,
    row_of,
)
from registry.digest import canonical_json, sha256_bytes
from registry.errors import Conflict, Damaged, NotFound
from registry.records.base import JsonObject
from registry.records.events import Registered

FOLDER = "ledger"
RESTORE = "btx registry restore"
# Events whose files lie in one folder.
A_FOLDER = 1000
# Of a digest, in a file's name.
START = 12
# Events that are read from files before their rows are inserted.
A_BATCH = 500
# Kinds of events that come along where something is registered, trained or built again.
_COMES_ALONG = frozenset({"kept", "verdict", "refused", "stage", "progress"})
# By what a table's rows belong to the version that an event registered.
_OF_VERSION = {"version": "id", "file": "version_id", "edge": "from_id", "label": "version_id"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(rf"(?P<seq>\d{{9}})-(?P<start>[0-9a-f]{{{START}}})\.jsonl")

log = logging.getLogger(__name__)
TableRows = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, order=True)
class Entry:
    """The file of one event in a ledger: the event's number and the start of its digest."""

    seq: int
    start: str
    ledger: Path

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.ledger / _folder_of(self.seq) / f"{self.seq:09}-{self.start}.jsonl"


@dataclass(frozen=True)
class Restored:
    """What was read from a ledger.

    Attributes:
        head: the digest of the newest event.
        rows: how many rows each table took.
        again: what the other side of a fork had registered, to be registered again.
        acts: what else people had done there, such as a withdrawal, to be done again.
    """

    head: str
    rows: Mapping[str, int]
    again: tuple[str, ...] = ()
    acts: tuple[str, ...] = ()


def entries(folder: Path) -> list[Entry]:
    """Return the events' files by number."""
    found = []
    for inside in folder.glob("[0-9]*/"):
        for file in os.listdir(inside):
            name = _NAME.fullmatch(file)
            if name and _folder_of(int(name["seq"])) == inside.name:
                found.append(Entry(int(name["seq"]), name["start"], folder))
    return sorted(found)


def append(folder: Path, catalog: Catalog) -> None:
    """Write the files of all events that have none yet.

    The event itself stands, so that a full disk is logged, not raised: the next event writes the
    file too, and an audit names it until then.
    """
    if not folder.is_dir():
        return
    try:
        there = {entry.seq for entry in entries(folder)}
        # The first event without a file; those behind it are compared one by one.
        first = next(seq for seq in range(1, len(there) + 2) if seq not in there)
        with catalog.database.read() as rows:
            query = f"SELECT {_columns('event')} FROM event WHERE seq >= :first ORDER BY seq"
            for event in rows(query, first=first):
                _write(rows, folder, event)
    except OSError as error:
        log.warning("%s could not be written: %s; the next event writes it", folder, error)


def require_one_history(folder: Path, catalog: Catalog) -> None:
    """Check that registry and ledger tell one history, and that the registry knows all of it.

    Raises:
        Conflict: for a fork, with the two ways on; and for a registry that lacks events.
    """
    found = entries(folder)
    if not found:
        return
    with catalog.database.read() as rows:
        last = _last(rows)
        twice = _forks(found)
        if not twice and not _continues(rows, found):
            twice = [min(last, found[-1].seq)]
    if twice:
        raise _forked(folder, twice[0], found)
    if found[-1].seq > last:
        raise Conflict(
            str(folder),
            found=f"{found[-1].seq} events, of which this registry has {last}",
            expected="a registry that has them all",
            next=f"{RESTORE} reads the others",
        )


def restore(folder: Path, catalog: Catalog, head: str | None = None) -> Restored:
    """Bring a registry the events that it lacks, in one transaction.

    Args:
        folder: the ledger.
        catalog: a registry that has none of its events, or the first of them.
        head: of a fork, the start of the digest of the newest event that is kept; the files of the
            other side are removed.

    Raises:
        NotFound: for a folder without events, and a head that none of them has.
        Conflict: for a fork without a head, and a registry that has other events.
        Damaged: for a file that is not what was written; then no row is taken.
    """
    found = entries(folder)
    if not found:
        raise NotFound(
            str(folder), found="no event", expected="the files of events", next="git pull"
        )
    twice = _forks(found)
    if twice and head is None:
        raise _forked(folder, twice[0], found)
    chain = _chain(found, head) if head is not None else found
    counts: Counter[str] = Counter()
    with catalog.database.write() as writer:
        last = _last(writer.rows)
        if not _continues(writer.rows, chain):
            raise _forked(folder, min(last, chain[-1].seq), found)
        missing = [entry for entry in chain if entry.seq > last]
        for start in range(0, len(missing), A_BATCH):
            batch = [_read(entry) for entry in missing[start : start + A_BATCH]]
            for table in TABLES:
                if table == "document":
                    new = _documents(writer.rows, folder, batch)
                else:
                    new = [row for one in batch for row in one.get(table, ())]
                if new:
                    insert_rows(writer, table, new)
                counts[table] += len(new)
        require_whole(writer.rows)
        require_readable(writer.rows)
        newest = audit_log.head(writer.rows)
    again, acts = list[str](), list[str]()
    dropped = sorted(set(found) - set(chain))
    for entry in dropped:
        event = _event(_read(entry))
        if event["kind"] == Registered.logged_as:
            again.append(str(event["subject"]))
        elif event["kind"] not in _COMES_ALONG:
            acts.append(f"{event['kind']} {event['subject']}, by {event['actor']}")
    # The newest first: what is left by a crash is still told as a fork.
    for entry in reversed(dropped):
        entry.path.unlink()
    return Restored(newest, counts, tuple(again), tuple(acts))


def has_other(folder: Path, catalog: Catalog, head: str) -> bool:
    """Whether the registry has other events than the side of a fork that ends in `head`."""
    chain = _chain(entries(folder), head)
    with catalog.database.read() as rows:
        return not _continues(rows, chain)


def breaks(folder: Path, rows: Rows, *, shared: bool) -> tuple[int, list[audit_log.Break]]:
    """Compare every event's file with the rows.

    Args:
        folder: the ledger.
        rows: those of its registry.
        shared: whether other workspaces write to the registry. What they wrote comes into this
            ledger with its own next event, so that the newest files may be missing.

    Returns:
        The number of files that were examined, and what differs.
    """
    found: list[audit_log.Break] = []
    expected: dict[Path, tuple[int, str]] = {}
    written = entries(folder)
    last = (written[-1].seq if written else 0) if shared else _last(rows)
    query = f"SELECT {_columns('event')} FROM event WHERE seq <= :last ORDER BY seq"
    for event in rows(query, last=last):
        for path, content in _files(rows, folder, event):
            expected.setdefault(path, (event[0], _lines_digest(content)))
    for path, (seq, sha256) in expected.items():
        there = f"sha256 {_lines_digest(path.read_bytes())}" if path.is_file() else "nothing"
        if there != f"sha256 {sha256}":
            words = f"sha256 {sha256}, written with event {seq}"
            found.append(audit_log.Break(_named_from(folder, path), there, words))
    for entry in written:
        if entry.path not in expected:
            words = "an event of the registry"
            subject = _named_from(folder, entry.path)
            found.append(audit_log.Break(subject, f"event {entry.seq}", words))
    return len(expected), found


def _lines_digest(content: bytes) -> str:
    """Return the digest of a file's lines in one order.

    Older files have them as the database ordered text, which may be by the rules of a language.
    """
    first, *others = content.splitlines(keepends=True) or [b""]
    return sha256_bytes(first + b"".join(sorted(others)))


def _named_from(folder: Path, path: Path) -> str:
    return path.relative_to(folder.parent).as_posix()


def _columns(table: str) -> str:
    return ", ".join(TABLES[table])


def _forks(found: Sequence[Entry]) -> list[int]:
    """Return the numbers that two events have, or more."""
    return sorted(seq for seq, times in Counter(one.seq for one in found).items() if times > 1)


def _last(rows: Rows) -> int:
    newest = rows("SELECT COALESCE(MAX(seq), 0) FROM event")[0][0]
    # In a database that was changed past the program it may be anything.
    return newest if isinstance(newest, int) else 0


def _continues(rows: Rows, chain: Sequence[Entry]) -> bool:
    """Whether a registry has the first events of a chain, or all, and then perhaps more."""
    common = [entry for entry in chain if entry.seq <= _last(rows)]
    return not common or _same(rows, common[-1])


def _same(rows: Rows, entry: Entry) -> bool:
    digests = rows("SELECT digest FROM event WHERE seq = :seq", seq=entry.seq)
    return bool(digests) and str(digests[0][0]).startswith(entry.start)


def _forked(folder: Path, seq: int, found: Sequence[Entry]) -> Conflict:
    """Say what each side of a fork did first, and the ways on."""
    tips = sorted({entry.start for entry in _tips(found)})
    first = [_event(_read(entry)) for entry in found if entry.seq == seq]
    sides = "; ".join(f"{one['actor']} {one['kind']} {one['subject']}".strip() for one in first)
    ways = " or ".join(f"{RESTORE} --head {tip}" for tip in tips)
    return Conflict(
        f"{folder}, event {seq}",
        found=f"a fork: two clones wrote it ({sides})",
        expected="one event of each number",
        next=(
            f"keep one side, and register on top of it again what the other had: {ways}; "
            "a registry on a server, which all clones share, does not fork"
        ),
    )


def _tips(found: Sequence[Entry]) -> list[Entry]:
    """Return the entries that no other one follows."""
    followed = {str(_event(_read(entry))["prev"])[:START] for entry in found}
    return [entry for entry in found if entry.start not in followed]


def _chain(found: Sequence[Entry], head: str) -> list[Entry]:
    """Return the entries up to the one whose digest starts like `head`."""
    named = {entry.start: entry for entry in found}
    newest = [entry for entry in found if head[:START] and entry.start.startswith(head[:START])]
    if len(newest) != 1:
        raise NotFound(
            f"head {head}",
            found=f"{len(newest)} events",
            expected="the start of one event's digest",
            next=f"{RESTORE} names the heads of a fork",
        )
    chain: list[Entry] = []
    entry: Entry | None = newest[0]
    while entry is not None:
        chain.append(entry)
        entry = named.get(str(_event(_read(entry))["prev"])[:START]) if entry.seq > 1 else None
    return chain[::-1]


def _write(rows: Rows, folder: Path, event: Sequence[Any]) -> None:
    # The documents first: whoever reads an event's file finds what it names.
    for path, content in reversed(list(_files(rows, folder, event))):
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, replace=True) as temporary:
            temporary.write_bytes(content)


def _files(rows: Rows, folder: Path, event: Sequence[Any]) -> Iterator[tuple[Path, bytes]]:
    """Yield the file of an event, and the documents that it names, each with its content."""
    line = line_of("event", event)
    lines = [{"event": line}]
    if line["kind"] == Registered.logged_as:
        for table, key in _OF_VERSION.items():
            query = f"SELECT {_columns(table)} FROM {table} WHERE {key} = :seq"
            found = sorted(rows(query, seq=line["seq"]), key=by_key)
            lines += [{table: line_of(table, row)} for row in found]
    content = b"".join(canonical_json(one) + b"\n" for one in lines)
    yield Entry(line["seq"], line["digest"][:START], folder).path, content
    for key in _named(line["body"]):
        for (body,) in rows("SELECT body FROM document WHERE digest = :key", key=key):
            yield folder / "documents" / key[:2] / f"{key}.json", str(body).encode()


def _folder_of(seq: int) -> str:
    return f"{seq // A_FOLDER:03}"


def _named(body: JsonObject) -> list[str]:
    """Return the digests of the documents that an event names."""
    return sorted({str(key) for key in body.get("documents", ())})


def _read(entry: Entry) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of an event's file by table. Raises Damaged."""
    tables: dict[str, list[dict[str, Any]]] = {}
    if entry.path.is_symlink():
        raise _not_written(entry.path, "a link")
    try:
        for line in entry.path.read_bytes().splitlines():
            ((table, value),) = json.loads(line).items()
            tables.setdefault(table, []).append(row_of(value, TABLES[table]))
        (event,) = tables["event"]
        if (event["seq"], event["digest"][:START]) != (entry.seq, entry.start):
            raise ValueError(event["digest"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _not_written(entry.path, f"{type(error).__name__}: {error}") from None
    return tables


def _event(tables: TableRows) -> Mapping[str, Any]:
    return tables["event"][0]


def _documents(rows: Rows, folder: Path, batch: Sequence[TableRows]) -> list[dict[str, Any]]:
    """Return the documents that these events name and the registry has not."""
    found = []
    named = {key for one in batch for key in _named(json.loads(_event(one)["body"]))}
    for key in sorted(named):
        if not _SHA256.fullmatch(key):
            raise _not_written(folder / "documents", f"a document named {key:.80}")
        if rows("SELECT 1 FROM document WHERE digest = :key", key=key):
            continue
        path = folder / "documents" / key[:2] / f"{key}.json"
        content = path.read_bytes() if path.is_file() else b""
        if sha256_bytes(content) != key:
            raise _not_written(path, f"sha256 {sha256_bytes(content)}" if content else "nothing")
        found.append({"digest": key, "body": content.decode()})
    return found


def _not_written(path: Path, found: str) -> Damaged:
    return Damaged(
        str(path),
        found=found[:160],
        expected="what was written with the event",
        next=f"git log -p -- {shlex.quote(str(path))}, and git checkout of the file as it was",
    )
