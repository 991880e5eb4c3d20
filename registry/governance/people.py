"""People: who is on the list, with which roles, and which signed acts of theirs count.

In:  the catalogue's log.
Out: the list as it was at any event; those acts that count, checked whenever they are read.
An act counts when its signature is by the key that the list of people held for that person at that
moment, and a role of theirs allowed it. What does not count is left out; it is never an error.
The list of people (`roll`) is open, so that anyone adds to it, until it names an auditor; from then
on every change of it is signed by one.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import inf

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from registry.catalogue.catalog import Catalog
from registry.errors import Damaged, Invalid, Refused
from registry.governance import attestations
from registry.governance.first_uses import first_uses
from registry.governance.keys import public_key
from registry.records.events import Act, Acted, Envelope
from registry.records.version import Event

ROLES = ("registrar", "approver", "auditor")
ACT = "application/vnd.btx.act+json"
# Who signs which kind of act; the others are signed by an approver.
SIGNED_BY: Mapping[str, tuple[str, ...]] = {
    "actor": ("auditor",),
    "adopted": ("auditor",),
    "declared": ("auditor",),
    "fact": ROLES,
    "retracted": ("approver", "auditor"),
}


@dataclass(frozen=True)
class Actor:
    """One person on the list of people; without a role, one who was taken off it.

    Attributes:
        name: as the log writes it.
        roles: some of ROLES.
        public_key: in PEM form.
    """

    name: str
    roles: tuple[str, ...]
    public_key: str

    @property
    def key(self) -> Ed25519PublicKey:
        """The public key. Raises Invalid for what is none."""
        return public_key(self.public_key)

    @property
    def key_id(self) -> str | None:
        """What names the key; None for what is no key."""
        try:
            return attestations.key_id(self.key)
        except Invalid:
            return None


def check_roles(
    roles: Iterable[str], known: Sequence[str] = ROLES, fix: str = "btx actor add --help"
) -> None:
    """Refuse a role that does not exist.

    Args:
        roles: those asked for.
        known: those that exist.
        fix: the command that says more.

    Raises:
        Invalid: for a role that is not known.
    """
    unknown = [role for role in roles if role not in known]
    if unknown:
        raise Invalid(
            f"role {unknown[0]}",
            found=unknown[0],
            expected=f"one of {', '.join(known)}",
            next=fix,
        )


def roll(catalog: Catalog, before: int | None = None) -> dict[str, Actor]:
    """Return who was on the list of people before event number `before` (default: now).

    An unsigned change of a closed list does not count.
    """
    return Roll.read(catalog).before(inf if before is None else before)


def act_of(catalog: Catalog, event: Event) -> Act | None:
    """Return what the event's signer signed, or None when it does not count."""
    return Roll.read(catalog).act_of(event)


@dataclass(frozen=True)
class Roll:
    """The list of people at every time, read once for many questions.

    Attributes:
        changes: every event that names a change of it, oldest first.
    """

    changes: Sequence[Event]

    @classmethod
    def read(cls, catalog: Catalog) -> "Roll":
        """Read it from the log."""
        return cls(first_uses(catalog.events(kind="actor")))

    def before(self, seq: float = inf) -> dict[str, Actor]:
        """Return who was on the list before an event; without one, who is on it now."""
        position = bisect_left(self._seqs, seq)
        return self._lists[position - 1] if position else {}

    @cached_property
    def _void(self) -> "Sequence[_Void]":
        return _voided(self.changes)

    @cached_property
    def _seqs(self) -> list[int]:
        return [event.seq for event in self.changes]

    @cached_property
    def _lists(self) -> list[dict[str, Actor]]:
        """The list after each change; once closed it stays closed, whatever an event says."""
        people: dict[str, Actor] = {}
        lists = []
        for event in self.changes:
            closed = has_auditor(people)
            act = _checked(event, people) if closed else stated(event)
            if act is not None and not (closed and _is_void(event, self._void)):
                name = event.subject.removeprefix("actor/")
                changed = {**people, name: Actor(name, act.roles or (), act.public_key or "")}
                if not closed or has_auditor(changed):
                    people = changed
            lists.append(people)
        return lists

    def closed(self, seq: int) -> bool:
        """Return whether an auditor kept it before an event."""
        return has_auditor(self.before(seq))

    def ever(self) -> list[Actor]:
        """Return each person with each key and the roles that a change which counts gave them."""
        found = []
        for event, after in zip(self.changes, self._lists, strict=True):
            name = event.subject.removeprefix("actor/")
            if name in after:
                found.append(after[name])
        return found

    def unconfirmed(self) -> list[str]:
        """Return who came on a list that was open and is closed now, unsigned by any auditor."""
        unsigned: set[str] = set()
        people: dict[str, Actor] = {}
        for event, after in zip(self.changes, self._lists, strict=True):
            # An event that does not count leaves the list as it was.
            if after is not people:
                name = event.subject.removeprefix("actor/")
                (unsigned.discard if has_auditor(people) else unsigned.add)(name)
            people = after
        if not has_auditor(people):
            return []
        return sorted(
            name for name in unsigned if people[name].roles and "auditor" not in people[name].roles
        )

    def act_of(self, event: Event) -> Act | None:
        """Return what the event's signer signed, or None when it does not count."""
        if _is_void(event, self._void):
            return None
        return _checked(event, self.before(event.seq))

    def vouches(
        self,
        event: Event,
        envelope: Envelope | None,
        digest: str | None = None,
        why: str | None = None,
    ) -> bool:
        """Return whether the event is signed by its actor, with the key on the list then.

        Args:
            event: what was logged.
            envelope: what is signed.
            digest: of what was let in or out, where the event says it.
            why: the reason, where the event states it; older signatures say none.
        """
        person = self.before(event.seq).get(event.actor)
        if person is None or envelope is None or _is_void(event, self._void):
            return False
        try:
            payload = attestations.opened(envelope.to_json(), person.key, ACT)
            act = Act.from_json(payload, f"event {event.seq}")
        except (Damaged, Invalid):
            return False
        if digest is not None and act.digest != digest:
            return False
        if None not in (why, act.why) and act.why != why:
            return False
        return (act.act, act.subject, act.actor) == (event.kind, event.subject, event.actor)


def is_closed(catalog: Catalog, before: int | None = None) -> bool:
    """Return whether an auditor kept the list of actors before an event (default: now)."""
    return has_auditor(roll(catalog, before))


def has_auditor(people: Mapping[str, Actor]) -> bool:
    """Return whether an auditor is on the list, which makes it a closed one."""
    return any("auditor" in person.roles for person in people.values())


def roles_of(people: Mapping[str, Actor], name: str) -> tuple[str, ...]:
    """Return the roles that somebody has on the list; none for who is not on it."""
    return people[name].roles if name in people else ()


def require_role(catalog: Catalog, name: str, roles: Sequence[str], what: str) -> None:
    """Require one of some roles on a closed list of actors; on an open one anybody may act.

    Args:
        catalog: the log.
        name: who acts.
        roles: any of which is enough.
        what: what is to be done, for the error message.

    Raises:
        Refused: for a person without any of the roles.
    """
    people = roll(catalog)
    held = roles_of(people, name)
    if has_auditor(people) and not set(held) & set(roles):
        raise Refused(
            f"{name} would {what}",
            found=f"roles {', '.join(held) or 'none'}",
            expected=" or ".join(roles),
            next="ask somebody with that role, or an auditor for it: btx actor list",
        )


def acted(event: Event) -> Acted | None:
    """Return the event's body, or None where it holds no act."""
    try:
        return event.read(Acted)
    except Damaged:
        return None


def stated(event: Event) -> Act | None:
    """Return the act that the event holds, signed or not."""
    logged = acted(event)
    return logged.act if logged else None


def _checked(event: Event, people: Mapping[str, Actor]) -> Act | None:
    """Return the signed act, where it counts.

    Its person must have held the key and the role, and event and act must say the same.
    """
    person = people.get(event.actor)
    needed = SIGNED_BY.get(event.kind, ("approver",))
    if person is None or not set(needed) & set(person.roles):
        return None
    logged = acted(event)
    if logged is None or logged.envelope is None:
        return None
    try:
        payload = attestations.opened(logged.envelope.to_json(), person.key, ACT)
        act = Act.from_json(payload, f"event {event.seq}")
    # Invalid: no key stands beside the person's name.
    except (Damaged, Invalid):
        return None
    by = act.actor or event.actor
    says = (act.act, act.subject, by)
    return act if says == (event.kind, event.subject, event.actor) else None


@dataclass(frozen=True)
class _Void:
    """What a person signed from a moment to an event counts for nothing."""

    name: str
    since: datetime
    before: int


def _voided(changes: Sequence[Event]) -> list[_Void]:
    """Return what revoked keys signed; only a change that an auditor signed revokes."""
    void: list[_Void] = []
    # Twice: neither a revoked key revokes anything, nor whoever it put on the list.
    for _ in range(2):
        revocations = _revocations(changes, void)
        void = []
        # The newest first: only a later one revokes the key that signed another.
        for event, one in reversed(revocations):
            if not _is_void(event, void):
                void.append(one)
    return void


def _revocations(changes: Sequence[Event], void: Sequence[_Void]) -> list[tuple[Event, _Void]]:
    """Return every change that revokes a key, with what it voids."""
    found = []
    people: dict[str, Actor] = {}
    for event in changes:
        closed = has_auditor(people)
        act = _checked(event, people) if closed else stated(event)
        if act is None or (closed and _is_void(event, void)):
            continue
        name = event.subject.removeprefix("actor/")
        people[name] = Actor(name, act.roles or (), act.public_key or "")
        if act.since is not None:
            found.append((event, _Void(name, _moment(act.since), event.seq)))
    return found


def _moment(text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _is_void(event: Event, void: Sequence[_Void]) -> bool:
    return any(
        event.actor == one.name and event.seq < one.before and _moment(event.at) >= one.since
        for one in void
    )
