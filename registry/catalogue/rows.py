"""What the catalogue hands out: plain values, read from rows, never written back.

In:  rows as the database driver returns them.  Out: Version, FileFact, Event.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import Damaged
from registry.records.references import Reference

VERSION_COLUMNS = "v.id, v.kind, v.name, v.number, v.digest, v.registered_at, v.actor, v.facts"
FILE_COLUMNS = "path, bytes, sha256, linked, md5"
EVENT_COLUMNS = "seq, at, actor, kind, subject, body, prev, digest"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileFact:
    """One file of a version: path inside its folder, size, digests. linked: shares its bytes with another version's file."""

    path: str
    bytes: int
    sha256: str
    linked: bool = False
    md5: str | None = None


@dataclass(frozen=True)
class Version:
    """One registered thing. digest: of kind, name, facts, files, parents and documents; created: False when it was there already."""

    ref: Reference
    digest: str
    registered_at: str
    actor: str
    facts: Mapping[str, Any]
    files: tuple[FileFact, ...] = ()
    created: bool = True


@dataclass(frozen=True)
class Event:
    """One entry of the audit log; digest covers every other field, prev is the digest of the one before."""

    seq: int
    at: str
    actor: str
    kind: str
    subject: str
    body: Mapping[str, Any]
    prev: str
    digest: str


def read_json(text: str, subject: str) -> dict[str, Any]:
    """Raises Damaged: what was written here was a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise Damaged(
            subject,
            found=f"{text!r:.80}",
            expected="a JSON object",
            next="btx audit names every finding",
        )
    return found


def version(row: Sequence[Any], files: Iterable[FileFact] = (), *, created: bool = True) -> Version:
    """row: VERSION_COLUMNS. Raises Damaged for what nobody wrote: SQLite keeps a value of any type in any column."""
    _, kind, name, number, digest, registered_at, actor, facts = row
    if not (
        type(number) is int
        and type(kind) is type(name) is type(digest) is type(registered_at) is type(actor) is str
    ):
        raise _not_written(row, "version")
    return Version(
        Reference(kind, name, number),
        digest,
        registered_at,
        actor,
        read_json(facts, f"{kind}/{name}@{number}, facts"),
        tuple(files),
        created,
    )


def file_fact(row: Sequence[Any]) -> FileFact:
    """row: FILE_COLUMNS. Raises Damaged as `version` does."""
    path, size, sha256, linked, md5 = row
    if not (
        isinstance(path, str)
        and isinstance(size, int)
        and isinstance(sha256, str)
        and _SHA256.fullmatch(sha256)
    ):
        raise _not_written(row, "file")
    return FileFact(path, size, sha256, bool(linked), md5)


def _not_written(row: Sequence[Any], table: str) -> Damaged:
    return Damaged(
        f"{table} row",
        found=f"{tuple(row)!r:.160}",
        expected="a row of the types it was written with",
        next="btx audit names it",
    )


def event(row: Sequence[Any]) -> Event:
    """row: EVENT_COLUMNS."""
    seq, at, actor, kind, subject, body, prev, digest = row
    return Event(seq, at, actor, kind, subject, read_json(body, f"event {seq}, body"), prev, digest)
