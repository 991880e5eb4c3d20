"""Erasing bytes for good: one person asks, another confirms, and signed tombstones stay.

In:  the catalogue; what is to go, by digests.
Out: the event that asks; the tombstones; the erasures that no second person confirmed.
What is erased counts as withdrawn from the tombstone on, whoever wrote it. Where the bytes lie, and
how they go, is left to the caller; who may do it is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.catalogue import pins
from registry.catalogue.catalog import Catalog
from registry.digest import digest
from registry.errors import Conflict, NotFound, Refused
from registry.governance import acts, people
from registry.records.events import Act, Erased, ErasedPart, ErasureAsked
from registry.records.facts import Sketch
from registry.records.version import Event, FileFact

CONFIRMED_BY = ("approver", "auditor")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is to be erased: a data version, or some documents of it.

    Attributes:
        ref: a data version.
        document: the id of a document, or the start of its digest.
        author: whose documents.
        file: the path of one file, from the version's folder.
    """

    ref: str
    document: str | None = None
    author: str | None = None
    file: str | None = None

    def stated(self) -> dict[str, str]:
        """Return the fields that were given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Forgery:
    """A tombstone that no second person confirmed.

    Attributes:
        event: the tombstone.
        found: what is wrong with it.
    """

    event: Event
    found: str


def parts_digest(parts: Sequence[ErasedPart]) -> str:
    """Return the digest that is signed: that of all that is to go."""
    return digest([part.to_json() for part in parts])


def ask(
    catalog: Catalog,
    parts: Sequence[ErasedPart],
    sketch: Sketch,
    private: str,
    sent: acts.Sent | None = None,
) -> Event:
    """Log that a person asks for an erasure.

    Args:
        catalog: the log, and who asks.
        parts: what is to go; at least one.
        sketch: of the text that goes.
        private: the salted digest of the reason.
        sent: what the person signed elsewhere.

    Raises:
        Refused: for somebody without a role, where the list of actors is closed.
    """
    subject = parts[0].ref
    people.require_role(catalog, catalog.actor, people.ROLES, f"erase {subject}")
    body = ErasureAsked(
        parts=tuple(parts),
        sketch=digest(sketch.to_json()),
        private=private,
    )
    envelope = acts.vouched(catalog, body.logged_as, subject, parts_digest(parts), sent=sent)
    return catalog.event(body.with_envelope(envelope), subject, documents=[sketch.to_json()])


def drafted(catalog: Catalog, parts: Sequence[ErasedPart]) -> tuple[Act, ...]:
    """Return what the acting person signs to ask for an erasure."""
    subject = parts[0].ref
    people.require_role(catalog, catalog.actor, people.ROLES, f"erase {subject}")
    return (acts.drafted_for(catalog, ErasureAsked.logged_as, subject, parts_digest(parts)),)


def drafted_confirmation(catalog: Catalog, event: Event) -> tuple[Act, ...]:
    """Return what the acting person signs to confirm an erasure: a tombstone for each version.

    Raises:
        Refused: as `confirm` does.
    """
    body = event.read(ErasureAsked)
    _require_confirmer(catalog, event, body)
    kind = Erased.logged_as
    return tuple(
        acts.drafted_for(catalog, kind, part.ref, digest(part.to_json())) for part in body.parts
    )


def waiting(catalog: Catalog) -> list[Event]:
    """Return the erasures that were asked for and are not confirmed, oldest first."""
    events = catalog.events(kind=ErasureAsked.logged_as)
    logged = catalog.events(kind=Erased.logged_as)
    confirmed = {(one.read(Erased).asked, one.subject) for one in logged}
    return [
        event
        for event in events
        if any((event.digest, part.ref) not in confirmed for part in event.read(ErasureAsked).parts)
    ]


def asked(catalog: Catalog, number: int) -> Event:
    """Return the event of this number, which asked for an erasure. Raises NotFound."""
    for event in catalog.events(kind=ErasureAsked.logged_as):
        if event.seq == number:
            return event
    raise NotFound(
        f"event {number}",
        found="no erasure that was asked for",
        expected="the number that btx erase printed",
        next="btx erase REF --why TEXT asks for one",
    )


def confirm(
    catalog: Catalog,
    event: Event,
    parts: Sequence[ErasedPart],
    sent: acts.Sent | None = None,
) -> list[Event]:
    """Log the tombstones of an erasure that somebody else asked for.

    The log's head is written down outside.

    Args:
        catalog: the log, and who confirms.
        event: what asked for it.
        parts: what holds its files and documents now.
        sent: what the person signed elsewhere.

    Returns:
        A tombstone for each version; those that are there already where it was confirmed before.

    Raises:
        Refused: for whoever asked for it, and without the role where the list of actors is closed.
        Conflict: where other versions hold it than when it was asked for.
    """
    body = event.read(ErasureAsked)
    before = tombstones_of(catalog, event)
    there = {one.subject for one in before}
    left = [part for part in body.parts if part.ref not in there]
    if not left:
        return before
    _require_confirmer(catalog, event, body)
    more = _files(parts) - _files(body.parts)
    if more:
        raise Conflict(
            f"erasure {event.seq}",
            found=f"held by {', '.join(sorted({ref for ref, _ in more}))} too by now",
            expected=f"what was asked for, in {', '.join(part.ref for part in body.parts)}",
            next="ask for it again: btx erase REF --why TEXT",
        )
    logged = [*before, *(_tombstone(catalog, event, part, sent) for part in left)]
    pins.pin(catalog)
    return logged


def _require_confirmer(catalog: Catalog, event: Event, body: ErasureAsked) -> None:
    """Require that the acting person may confirm an erasure that was asked for."""
    if catalog.actor == event.actor:
        raise Refused(
            f"erasure {event.seq}",
            found=f"{catalog.actor}, who asked for it",
            expected="a second person",
            next=f"let an approver or auditor run btx erase --confirm {event.seq}",
        )
    people.require_role(catalog, catalog.actor, CONFIRMED_BY, f"confirm erasure {event.seq}")
    problem = _not_asked(catalog, event, body)
    if problem:
        raise Refused(
            f"erasure {event.seq}",
            found=problem,
            expected="an erasure that a person on the list of actors asked for",
            next="ask for it again: btx erase REF --why TEXT",
        )


def _files(parts: Sequence[ErasedPart]) -> set[tuple[str, str]]:
    return {(part.ref, file.sha256) for part in parts for file in part.files}


def _tombstone(catalog: Catalog, event: Event, part: ErasedPart, sent: acts.Sent | None) -> Event:
    asking = event.read(ErasureAsked)
    body = Erased(asked=event.digest, part=part, sketch=asking.sketch, private=asking.private)
    envelope = acts.vouched(catalog, body.logged_as, part.ref, digest(part.to_json()), sent=sent)
    return catalog.event(body.with_envelope(envelope), part.ref)


def tombstones_of(catalog: Catalog, event: Event) -> list[Event]:
    """Return the tombstones of an erasure that was asked for."""
    found = catalog.events(kind=Erased.logged_as)
    return [one for one in found if one.read(Erased).asked == event.digest]


def unconfirmed(catalog: Catalog) -> list[Forgery]:
    """Return the tombstones that do not rest on another person's asking for this very part."""
    asking = {event.digest: event for event in catalog.events(kind=ErasureAsked.logged_as)}
    found = []
    for event in catalog.events(kind=Erased.logged_as):
        problem = _problem(catalog, event, asking.get(event.read(Erased).asked))
        if problem:
            found.append(Forgery(event, problem))
    return found


def _problem(catalog: Catalog, event: Event, asking: Event | None) -> str | None:
    if asking is None or asking.seq > event.seq:
        return "erased without being asked for"
    body = event.read(Erased)
    if asking.actor == event.actor:
        return f"asked for and confirmed by {event.actor}"
    if body.part.to_json() not in [part.to_json() for part in asking.read(ErasureAsked).parts]:
        return f"other files or documents than {asking.actor} asked for"
    if body.part.ref != event.subject:
        return f"the tombstone of {body.part.ref}"
    return _not_asked(catalog, asking, asking.read(ErasureAsked))


def _not_asked(catalog: Catalog, event: Event, body: ErasureAsked) -> str | None:
    """Say why an event is not its actor's asking, where the list of actors was closed then."""
    roll = people.Roll.read(catalog)
    if not roll.closed(event.seq):
        return None
    if roll.vouches(event, body.envelope, parts_digest(body.parts)):
        return None
    return f"asked for in the name of {event.actor}, without their signature"


def refuse_erased(
    catalog: Catalog, subject: str, files: Sequence[FileFact], documents: Sequence[str]
) -> None:
    """Refuse bytes and documents that were erased: no policy and no waiver lets them in again.

    Args:
        catalog: the log.
        subject: the candidate.
        files: of the candidate.
        documents: the digests of its documents' text.

    Raises:
        Refused: naming the version that they were erased of.
    """
    own, text = {file.sha256 for file in files if file.bytes}, set(documents)
    for ref, several in catalog.tombstones().items():
        for one in several:
            same_files = own & {file.sha256 for file in one.part.files}
            same_text = text & set(one.part.documents)
            if same_files or same_text:
                raise Refused(
                    subject,
                    found=f"{len(same_files)} files and {len(same_text)} documents that were "
                    f"erased of {ref}",
                    expected="nothing that was erased",
                    next="take it out; it does not come back in",
                )
