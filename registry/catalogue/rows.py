"""Read rows into the values that the catalogue hands out.

In:  rows as the database driver returns them.  Out: versions, files and events.
SQLite keeps a value of any type in any column, so each column is checked before it is believed.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from btx_core.files import stays_inside
from registry.errors import Damaged, Invalid
from registry.records.addresses import is_address
from registry.records.facts import Facts
from registry.records.kinds import KINDS, Kind
from registry.records.references import Reference, parse
from registry.records.version import Event, FileFact, Version

VERSION_COLUMNS = "v.id, v.kind, v.name, v.number, v.digest, v.registered_at, v.actor, v.facts"
FILE_COLUMNS = "path, bytes, sha256, linked, md5"
EVENT_COLUMNS = "seq, at, actor, kind, subject, body, prev, digest"
_SHA256 = re.compile(r"[0-9a-f]{64}")

# A row as a database driver returns it: its columns may hold anything.
Row = Sequence[Any]


def version(row: Row, files: Iterable[FileFact] = (), *, created: bool = True) -> Version[Facts]:
    """Read a version.

    Args:
        row: the columns of VERSION_COLUMNS.
        files: the version's files, by path.
        created: False where it was registered earlier.

    Raises:
        Damaged: for a row of other types than it was written with.
    """
    _, kind, name, number, digest, registered_at, actor, facts = row
    texts = (name, digest, registered_at, actor, facts)
    if kind not in KINDS or type(number) is not int:
        raise _not_written(row, "version")
    if any(type(text) is not str for text in texts):
        raise _not_written(row, "version")
    try:
        # A name or number that no command takes could lead out of its folder.
        reference = parse(str(Reference(Kind(kind), name, number)))
    except Invalid:
        raise _not_written(row, "version") from None
    return Version(reference, digest, registered_at, actor, facts, tuple(files), created)


def file_fact(row: Row) -> FileFact:
    """Read a file from the columns of FILE_COLUMNS; raises Damaged as `version` does."""
    path, size, sha256, linked, md5 = row
    if not (isinstance(path, str) and isinstance(size, int) and isinstance(sha256, str)):
        raise _not_written(row, "file")
    addressed = md5 is None or is_address(md5)
    if not (addressed and _SHA256.fullmatch(sha256) and stays_inside(path)):
        raise _not_written(row, "file")
    return FileFact(path, size, sha256, bool(linked), md5)


def event(row: Row) -> Event:
    """Read an event from the columns of EVENT_COLUMNS; raises Damaged as `version` does."""
    seq, at, actor, kind, subject, body, prev, digest = row
    if any(type(text) is not str for text in (at, actor, kind, subject, body, prev, digest)):
        raise _not_written(row, "event")
    return Event(seq, at, actor, kind, subject, body, prev, digest)


def _not_written(row: Row, table: str) -> Damaged:
    return Damaged(
        f"{table} row",
        found=f"{tuple(row)!r:.160}",
        expected="a row of the types it was written with",
        next="btx audit names it",
    )
