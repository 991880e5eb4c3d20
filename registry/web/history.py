"""The audit log as pages show it: events in words, the chain, and what gates said.

In:  the catalogue.  Out: records of `records.pages`. Reads only.
"""

from collections.abc import Sequence

from registry.catalogue import audit_log
from registry.catalogue.catalog import Catalog
from registry.catalogue.rows import EVENT_COLUMNS, event
from registry.errors import Damaged
from registry.governance.gate import readable_verdicts
from registry.records.events import (
    Act,
    Acted,
    AliasMoved,
    Erased,
    ErasureAsked,
    EventBody,
    Exported,
    Judged,
    Noted,
    Reason,
    Retired,
    StageRan,
    Withdrawn,
)
from registry.records.kinds import Outcome
from registry.records.pages import Chain, ChainBreak, LoggedEvent, LoggedVerdict, LogPage
from registry.records.version import Event
from registry.units import counted, duration
from registry.web.requests import LogQuery


def events(catalog: Catalog, wanted: LogQuery, most: int | None = None) -> LogPage:
    """Return the events that are asked for, newest first.

    Args:
        catalog: whose log.
        wanted: which events.
        most: how many at most, in place of the limit that is asked for.
    """
    limit = most or wanted.limit
    tests, values = _conditions(wanted)
    query = (
        f"SELECT {EVENT_COLUMNS} FROM event WHERE {' AND '.join(tests)} "
        "ORDER BY seq DESC LIMIT :most"
    )
    with catalog.database.read() as rows:
        found = [event(row) for row in rows(query, most=limit + 1, **values)]
        kinds = sorted(row[0] for row in rows("SELECT DISTINCT kind FROM event"))
    shown = found[:limit]
    return LogPage(
        events=tuple(logged(one) for one in shown),
        kinds=tuple(kinds),
        next=shown[-1].seq if len(found) > len(shown) else None,
    )


def _conditions(wanted: LogQuery) -> tuple[list[str], dict[str, str | int]]:
    """Return the conditions of a query, and the values that they name."""
    tests = ["1 = 1"]
    values: dict[str, str | int] = {}
    if wanted.kind:
        tests.append("kind = :kind")
        values["kind"] = wanted.kind
    elif not wanted.stages:
        tests.append("kind NOT IN ('stage', 'progress')")
    if wanted.since:
        tests.append("at >= :since")
        values["since"] = wanted.since
    if wanted.until:
        # The day itself is included. A database that orders text by the rules of a language knows
        # the order of digits, and of nothing that could stand after them all.
        tests.append("at < :until")
        values["until"] = f"{wanted.until}T24"
    if wanted.actor:
        tests.append("actor = :actor")
        values["actor"] = wanted.actor
    if wanted.subject:
        tests.append("(subject = :subject OR subject LIKE :start ESCAPE '!')")
        escaped = wanted.subject.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        values["subject"] = wanted.subject
        values["start"] = f"{escaped}@%"
    if wanted.before is not None:
        tests.append("seq < :before")
        values["before"] = wanted.before
    return tests, values


def logged(one: Event) -> LoggedEvent:
    """Return an event with what it says in words.

    A body that is not what it was written as is shown as it is: whoever looks for what was changed
    must see the log.
    """
    reasons: tuple[Reason, ...] = ()
    try:
        body = one.body
        said, recorded = words(one.kind, body), body.to_json()
        if isinstance(body, Judged):
            reasons = body.reasons
    except Damaged as error:
        said, recorded = f"unreadable: expected {error.expected}", {"unreadable": one.stored}
    return LoggedEvent(
        seq=one.seq,
        at=one.at,
        actor=one.actor,
        kind=one.kind,
        subject=one.subject,
        words=said,
        reasons=reasons,
        body=recorded,
        prev=one.prev,
        digest=one.digest,
    )


def words(kind: str, body: EventBody) -> str:
    """Return what an event says, in a line; empty where its kind says it all.

    Args:
        kind: the event's kind in the log.
        body: its body.
    """
    match body:
        case Judged():
            return _verdict_words(body)
        case StageRan():
            return _stage_words(body)
        case Acted():
            return _act_words(kind, body.act)
        case Withdrawn() | Retired():
            return body.why
        case AliasMoved():
            return f"{body.alias} {'set' if body.set else 'removed'} {body.why}".strip()
        case Noted():
            return body.text
        case Erased() | ErasureAsked():
            return _erasure_words(body)
        case Exported():
            return body.folder
        case _:
            return ""


def _verdict_words(body: Judged) -> str:
    noted = [rule for rule, outcome in body.rules.items() if outcome != Outcome.ALLOWED]
    said = f"{body.gate} {body.outcome}"
    return f"{said}: {', '.join(noted)}" if noted else said


def _erasure_words(body: Erased | ErasureAsked) -> str:
    parts = (body.part,) if isinstance(body, Erased) else body.parts
    files = counted(sum(len(part.files) for part in parts), "file")
    documents = counted(len({one for part in parts for one in part.documents}), "document")
    asked = f", asked for by event {body.asked[:12]}" if isinstance(body, Erased) else ""
    return f"{files}, for {documents}{asked}"


def _stage_words(body: StageRan) -> str:
    spent = ""
    if body.seconds is not None:
        spent = duration(body.seconds)
    elif body.total is not None:
        spent = f"{body.done or 0} of {body.total}"
    return " ".join(part for part in (body.stage, body.state, spent) if part)


def _act_words(kind: str, act: Act) -> str:
    if kind == "waived":
        return f"{act.rule} until {(act.until or '')[:10]}: {act.why or ''}"
    if kind == "actor":
        return ", ".join(act.roles or ()) or "taken off the list of actors"
    return act.why or ""


def gates(catalog: Catalog, subject: str) -> tuple[LoggedVerdict, ...]:
    """Return every logged verdict on a subject, oldest first."""
    return tuple(_gate(one) for one in readable_verdicts(catalog, subject))


def _gate(one: Event) -> LoggedVerdict:
    body = one.read(Judged)
    return LoggedVerdict(
        gate=str(body.gate),
        outcome=str(body.outcome),
        at=one.at,
        actor=one.actor,
        rules=body.rules,
        reasons=body.reasons,
        documents=body.documents,
    )


def chain(catalog: Catalog, pinned: str | None = None) -> Chain:
    """Check every link of the log now.

    Args:
        catalog: whose log.
        pinned: a head that was noted earlier outside the registry, which must still be a link.
    """
    with catalog.database.read() as rows:
        examined, breaks = audit_log.verify(rows, pinned or None)
        head = audit_log.head(rows)
    return Chain(head=head, examined=examined, breaks=_breaks(breaks))


def _breaks(breaks: Sequence[audit_log.Break]) -> tuple[ChainBreak, ...]:
    return tuple(ChainBreak(**one._asdict()) for one in breaks)
