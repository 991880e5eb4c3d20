"""The audit log: a hash chain of everything that happened, written with the change itself.

In:  what happened; for the checks, the rows.
Out: the event, the head, what is wrong with the chain; a signed head.
The chain alone cannot show a tail that was cut off, or a chain that was written anew from end to
end: a head that is noted or signed outside the database can.
"""

import base64
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.catalogue.database import Rows, Writer
from registry.catalogue.rows import EVENT_COLUMNS
from registry.digest import canonical_json, sha256_bytes
from registry.errors import Damaged, Invalid, Refused
from registry.records.base import JsonObject
from registry.records.heads import Head
from registry.records.version import Event

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

GENESIS = "0" * 64
TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
# How far the clocks of machines that write one registry may differ, in seconds.
SKEW_S = 60.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"\S")


class Break(NamedTuple):
    """One place where the chain is not what it should be."""

    subject: str
    found: str
    expected: str


def append(
    writer: Writer, *, at: str, actor: str, kind: str, subject: str, body: JsonObject
) -> Event:
    """Add the next link of the chain.

    The caller holds the write transaction, so nobody else can take the same place.
    """
    # Imported here: reading must not pay for it.
    from registry.catalogue.models import EventRow

    newest = writer.rows("SELECT seq, digest, at FROM event ORDER BY seq DESC LIMIT 1")
    seq, prev = (newest[0][0] + 1, newest[0][1]) if newest else (1, GENESIS)
    if newest and str(at) < str(newest[0][2]):
        raise Refused(
            f"event {seq}",
            found=f"the time {at}",
            expected=f"{newest[0][2]} or later, as event {seq - 1} says",
            next="set the clock of this machine",
        )
    text = canonical_json(body).decode()
    digest = Link(seq, at, actor, kind, subject, text, prev).digest()
    writer.session.add(
        EventRow(
            seq=seq,
            at=at,
            actor=actor,
            kind=kind,
            subject=subject,
            body=text,
            prev=prev,
            digest=digest,
        )
    )
    writer.session.flush()
    return Event(seq, at, actor, kind, subject, text, prev, digest)


def moment(writer: Writer, now: datetime) -> str:
    """Return the time of the next event: now, and never before the newest event.

    A clock that is a little behind another machine's does no harm: the newest event's time is
    taken then. With a clock that is further behind, `append` refuses.
    """
    at = now.astimezone(UTC).strftime(TIME)
    newest = writer.rows("SELECT at FROM event ORDER BY seq DESC LIMIT 1")
    before = str(newest[0][0]) if newest else ""
    if at < before and _behind_s(at, before) <= SKEW_S:
        return before
    return at


def _behind_s(at: str, before: str) -> float:
    """Return by how many seconds a time is behind another; infinity where one is no time."""
    try:
        first, second = (datetime.strptime(text, TIME) for text in (at, before))
    except (TypeError, ValueError):
        return math.inf
    return (second - first).total_seconds()


class Link(NamedTuple):
    """One link of the chain: an event without its digest. The body is canonical JSON already."""

    seq: int
    at: str
    actor: str
    kind: str
    subject: str
    body: str
    prev: str

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON of all fields."""
        before = canonical_json({"actor": self.actor, "at": self.at})[:-1]
        rest = {"kind": self.kind, "prev": self.prev, "seq": self.seq, "subject": self.subject}
        after = canonical_json(rest)[1:]
        return sha256_bytes(b'%s,"body":%s,%s' % (before, self.body.encode(), after))


def head(rows: Rows) -> str:
    """Return the digest of the newest event; of an empty log, 64 zeros."""
    newest = rows("SELECT digest FROM event ORDER BY seq DESC LIMIT 1")
    return str(newest[0][0]) if newest else GENESIS


def verify(rows: Rows, pinned: str | None = None) -> tuple[int, list[Break]]:
    """Check the whole chain.

    Args:
        rows: the log.
        pinned: a head that was true once; it must still be a link of the chain.

    Returns:
        The number of events that were looked at, and every break.
    """
    events = rows(f"SELECT {EVENT_COLUMNS} FROM event ORDER BY seq")
    breaks = list(_breaks(events))
    if pinned is not None and pinned != GENESIS and pinned not in {row[7] for row in events}:
        newest = events[-1][7] if events else GENESIS
        breaks.append(
            Break(
                "log",
                f"head {newest}, and no link {pinned}",
                f"a chain that contains the pinned head {pinned}",
            )
        )
    return len(events), breaks


def head_statement(rows: Rows, at: str) -> Head:
    """Say what the head of the log is.

    Args:
        rows: the log.
        at: the time of the statement, in UTC.

    Returns:
        The number and digest of the newest event; of an empty log 0 and 64 zeros.
    """
    newest = rows("SELECT seq, digest FROM event ORDER BY seq DESC LIMIT 1")
    seq, digest = newest[0] if newest else (0, GENESIS)
    return Head(seq=seq, head=digest, at=at)


def sign_head(rows: Rows, key: "Ed25519PrivateKey", at: str) -> Head:
    """Return a signed statement of what the head is, to be kept outside the database."""
    # Imported here: few commands sign.
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    unsigned = head_statement(rows, at)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = key.sign(canonical_json(unsigned.statement()))
    return unsigned.model_copy(
        update={
            "algorithm": "Ed25519",
            "key": base64.b64encode(public).decode(),
            "signature": base64.b64encode(signature).decode(),
        }
    )


def check_signed_head(rows: Rows, signed: Head, key: "Ed25519PublicKey") -> list[Break]:
    """Check a signed head.

    Args:
        rows: the log.
        signed: what `sign_head` returned. The key inside it is not trusted.
        key: the trusted key.

    Returns:
        Nothing when that key signed this head and the log still has it in its place.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        signature = base64.b64decode(signed.signature or "", validate=True)
        key.verify(signature, canonical_json(signed.statement()))
    except (InvalidSignature, ValueError):
        return [Break("signed head", "a signature that does not match", "one by the trusted key")]
    found = rows("SELECT digest FROM event WHERE seq = :seq", seq=signed.seq)
    nothing = GENESIS if signed.seq == 0 else "nothing"
    digest = str(found[0][0]) if found else nothing
    if digest == signed.head:
        return []
    return [Break(f"event {signed.seq}", digest, f"{signed.head}, as signed on {signed.at}")]


class KeptHeads(NamedTuple):
    """What a file of heads holds: the heads, and the numbers of the lines that hold none."""

    heads: list[Head]
    unreadable: list[int]


def heads_in(text: str) -> KeptHeads:
    """Read a file of heads: JSON statements, signed or not, however they stand on its lines.

    A line where none begins holds none, as a crash leaves the last one: others are still read.
    """
    kept, end, line = KeptHeads([], []), 0, 1
    while begin := _WORD.search(text, end):
        line += text.count("\n", end, begin.start())
        try:
            value, end = json.JSONDecoder().raw_decode(text, begin.start())
            kept.heads.append(Head.from_json(value, "head"))
        except (ValueError, RecursionError, Damaged):
            kept.unreadable.append(line)
            end = text.find("\n", begin.start())
            if end < 0:
                break
        else:
            line += text.count("\n", begin.start(), end)
    return kept


def kept_heads(words: str) -> KeptHeads:
    """Read heads that were kept outside.

    Args:
        words: one digest, or the path of a file with JSON statements, signed or not.

    Raises:
        Invalid: for anything else, such as a file that holds no head.
    """
    if _DIGEST.fullmatch(words):
        return KeptHeads([Head(head=words)], [])
    try:
        kept = heads_in(Path(words).read_text(encoding="utf-8", errors="replace"))
        found = "no head in it"
    except (OSError, ValueError) as error:
        kept, found = KeptHeads([], []), f"{type(error).__name__}: {error}"[:160]
    if not kept.heads:
        raise Invalid(
            f"head {words}",
            found=found,
            expected="64 hexadecimal digits, or a file of heads",
            next="btx registry head -o FILE writes one",
        )
    return kept


def check_kept(rows: Rows, kept: Head, key: "Ed25519PublicKey | None") -> list[Break]:
    """Check a head that was kept outside, signed or not.

    Returns:
        Nothing when it is a link of the log in its place and, where it is signed, `key` signed it.
    """
    if kept.signature is not None:
        if key is None:
            return [Break("signed head", f"by {kept.actor}", "a key to check it with")]
        return check_signed_head(rows, kept, key)
    found = rows("SELECT seq FROM event WHERE digest = :head", head=kept.head)
    if kept.head == GENESIS or (found and kept.seq in (None, found[0][0])):
        return []
    expected = f"a chain that contains the kept head {kept.head}"
    return [Break("log", f"head {head(rows)}, and no link {kept.head}", expected)]


def require_whole(rows: Rows) -> None:
    """Raise Damaged at the first break."""
    for found in verify(rows)[1]:
        raise Damaged(
            found.subject,
            found=found.found,
            expected=found.expected,
            next="btx audit names every finding",
        )


def _breaks(events: list[tuple[Any, ...]]) -> Iterator[Break]:
    before, last = GENESIS, ""
    for position, (seq, at, actor, kind, subject, body, prev, digest) in enumerate(events, start=1):
        if seq != position:
            yield Break(f"event {seq}", f"seq {seq}", f"seq {position}")
        if prev != before:
            yield Break(
                f"event {seq}", f"prev {prev}", f"prev {before}, the digest of the event before"
            )
        if SKEW_S < _behind_s(at, last) < math.inf:
            yield Break(f"event {seq}", f"the time {at}", f"{last} or later, as the event before")
        last = at
        try:
            computed = Link(seq, at, actor, kind, subject, body, prev).digest()
        except Exception:  # a tampered field may be of any type
            computed = "nothing that can be hashed"
        if computed != digest:
            yield Break(
                f"event {seq}", f"content of digest {computed}", f"digest {digest}, as recorded"
            )
        before = digest
