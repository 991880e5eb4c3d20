"""People: who may approve, waive and keep the list of people; and their signed acts.

In:  the catalogue's log, a person's private key.
Out: signed events; those acts among them that count, checked whenever they are read.
An act counts when its signature is by the key that the list of people held for that person at that
moment, the role allowed it, it names the subject's digest, and the person is not the one who
registered the subject. What does not count is left out; it is never an error.
The list of people (`roll`) is open, so that anyone adds to it, until it names an auditor; from then
on every change of it is signed by one. Rules about acts are the policies'; the log is the
catalogue's.
"""

import getpass
import os
import re
import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from math import inf
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    load_pem_public_key,
)

from btx_core.problems import BtxError
from registry.catalogue import pins
from registry.catalogue.catalog import Catalog
from registry.digest import canonical_json
from registry.errors import Damaged, Invalid, NotFound, Refused
from registry.governance import attestations
from registry.governance.first_uses import first_uses, is_logged
from registry.governance.policies import Waiver, moment
from registry.records.base import JsonObject
from registry.records.events import Act, Acted, Envelope, Withdrawn
from registry.records.evidence import ApprovalLine, Asker
from registry.records.facts import Facts
from registry.records.references import parse
from registry.records.version import Event, Version

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
LONGEST_WAIVER_DAYS = 366
LONGEST_DRAFT_S = 900
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_RULE = re.compile(r"[a-z][a-z0-9-]{0,63}/[a-z][a-z0-9-]{0,63}")


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
        return _public(self.public_key)

    @property
    def key_id(self) -> str | None:
        """What names the key; None for what is no key."""
        try:
            return attestations.key_id(self.key)
        except Invalid:
            return None


@dataclass(frozen=True)
class Grant:
    """What a waiver is granted for.

    Attributes:
        rule: POLICY/RULE.
        subject: the reference of a version, which need not be registered yet.
        content: the digest of its content.
        excused: the facts that the rule reads, as they were judged.
    """

    rule: str
    subject: str
    content: str
    excused: JsonObject


@dataclass(frozen=True)
class Sent:
    """What the acting person signed elsewhere, such as in a browser: no key is looked for here.

    Attributes:
        envelopes: each over one act that was drafted here.
        drafting: whether the acts are still to be signed, so that none is asked for yet.
    """

    envelopes: tuple[Envelope, ...] = ()
    drafting: bool = False


@dataclass(frozen=True)
class Signer:
    """A person with the private key at hand."""

    name: str
    key: Ed25519PrivateKey


def key_file(name: str) -> Path:
    """Return the file of a person's private key.

    It is BTX_KEY_FILE, or else ~/.config/btx/keys/NAME.pem: outside every workspace, so that no
    commit can carry it.
    """
    return _key_file("BTX_KEY_FILE", f"{named(name)}.pem")


def model_key(name: str) -> Path:
    """Return the file of the key that signs exported folders; its public half ends in .pub.

    It is BTX_MODEL_KEY_FILE, or else ~/.config/btx/keys/NAME.model.pem.
    """
    return _key_file("BTX_MODEL_KEY_FILE", f"{named(name)}.model.pem")


def _key_file(variable: str, name: str) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen) if chosen else Path.home() / ".config" / "btx" / "keys" / name


def new_key(name: str, path: Path | None = None) -> Signer:
    """Make a private key in a file that its owner alone may read.

    It is encrypted when BTX_KEY_PASSPHRASE is set.

    Args:
        name: the person.
        path: the file; `key_file` unless it is given.

    Raises:
        Conflict: when the file exists.
    """
    path, key = path or key_file(name), Ed25519PrivateKey.generate()
    passphrase = os.environ.get("BTX_KEY_PASSPHRASE")
    cipher = BestAvailableEncryption(passphrase.encode()) if passphrase else None
    attestations.write_new_key(key, path, cipher)
    person = Signer(named(name), key)
    path.with_suffix(".pub").write_text(public_pem(person))
    return person


def signer(name: str, path: Path | None = None) -> Signer:
    """Return a person with the private key: BTX_KEY (PEM text), or else the key file.

    Raises:
        NotFound: where there is neither.
        Invalid: for what is no Ed25519 key.
    """
    text, path = os.environ.get("BTX_KEY"), path or key_file(name)
    if text is None and not path.is_file():
        raise NotFound(
            f"key of {name}",
            found=f"no file {path}",
            expected="a private key",
            next="btx key new, or set BTX_KEY_FILE to where your key is",
        )
    pem = text.encode() if text is not None else path.read_bytes()
    passphrase = _passphrase(pem)
    try:
        key = load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"key of {name}",
            found=str(error)[:120],
            expected="an Ed25519 private key in PEM form",
            next="set BTX_KEY_PASSPHRASE if it is encrypted",
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid(
            f"key of {name}",
            found=type(key).__name__,
            expected="an Ed25519 private key",
            next=f"btx actor add {name} --role approver",
        )
    return Signer(named(name), key)


def _passphrase(pem: bytes) -> str | None:
    """Return the passphrase of a key: BTX_KEY_PASSPHRASE, or what a person types."""
    given = os.environ.get("BTX_KEY_PASSPHRASE")
    if given is None and b"ENCRYPTED" in pem and sys.stdin.isatty():
        return getpass.getpass("passphrase of your key: ")
    return given


def key_id(person: Signer) -> str:
    """Return what names a person's key: the digest of its public half."""
    return attestations.key_id(person.key)


def public_pem(person: Signer) -> str:
    """Return the public half of a person's key, in PEM form."""
    return attestations.public_pem(person.key)


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


@dataclass(frozen=True)
class Change:
    """A change of one person on the list of actors.

    Attributes:
        name: the person.
        roles: some of ROLES; none takes them off the list.
        public_key: in PEM form.
        since: an ISO moment; what the person signed from then on is void.
        why: the reason.
    """

    name: str
    roles: tuple[str, ...]
    public_key: str
    since: str | None = None
    why: str = ""


def add_actor(
    catalog: Catalog,
    name: str,
    roles: tuple[str, ...],
    public_key: str,
    by: Signer | None = None,
) -> Event:
    """Put a person on the list of people, or change roles or key; no roles takes them off.

    Args:
        catalog: where it is logged.
        name: the person.
        roles: some of ROLES.
        public_key: the person's, in PEM form.
        by: an auditor, once the list names one.

    Raises:
        Refused: as `change_actor` does.
    """
    return change_actor(catalog, Change(name, roles, public_key), by)


def change_actor(catalog: Catalog, change: Change, by: Signer | None = None) -> Event:
    """Change the list of people.

    Args:
        catalog: where it is logged.
        change: what is changed.
        by: an auditor, once the list names one.

    Raises:
        Refused: as `draft_change` does.
    """
    act = draft_change(catalog, change, by.name if by else None)
    if by:
        return _signed(catalog, act, by, roll(catalog))
    return catalog.event(Acted(act=act), act.subject, kind=act.act)


def draft_change(catalog: Catalog, change: Change, by: str | None) -> Act:
    """Return the change of the list of people that an auditor signs.

    Args:
        catalog: the list as it is.
        change: what is changed.
        by: an auditor, once the list names one.

    Raises:
        Refused: without an auditor where the list names one, for a key that is another person's,
            and where no auditor would be left.
    """
    check_roles(change.roles)
    people = roll(catalog)
    auditors = [person.name for person in people.values() if "auditor" in person.roles]
    if auditors and by not in auditors:
        raise Refused(
            f"actor {change.name}",
            found="no auditor's signature",
            expected=f"one by {' or '.join(auditors)}",
            next="let an auditor do it: BTX_ACTOR=AUDITOR btx actor add",
        )
    if auditors == [change.name] and "auditor" not in change.roles:
        raise Refused(
            f"actor {change.name}",
            found="the last auditor",
            expected="an auditor who stays and keeps the list",
            next="btx actor add ANOTHER --role auditor --public-key FILE, then this again",
        )
    _refuse_shared_key(catalog, change)
    if change.since is not None:
        moment(change.since)
    act = Act(
        act="actor",
        subject=f"actor/{named(change.name)}",
        roles=tuple(sorted(set(change.roles))),
        public_key=change.public_key,
        at=now(),
    )
    stated_too = {"since": change.since, "why": change.why or None}
    given = {name: value for name, value in stated_too.items() if value is not None}
    return act.model_copy(update=given)


def _refuse_shared_key(catalog: Catalog, change: Change) -> None:
    """Refuse a key that is or was another person's: one key is one person."""
    own = attestations.key_id(_public(change.public_key))
    for event in catalog.events(kind="actor"):
        act = stated(event)
        name = event.subject.removeprefix("actor/")
        if act is None or not act.public_key or name == change.name:
            continue
        if own == Actor(name, (), act.public_key).key_id:
            raise Refused(
                f"actor {change.name}",
                found=f"the key of {name}",
                expected="a key of their own",
                next=f"let {change.name} run btx key new, and add the public half",
            )


def roll(catalog: Catalog, before: int | None = None) -> dict[str, Actor]:
    """Return who was on the list of people before event number `before` (default: now).

    An unsigned change of a closed list does not count.
    """
    return Roll.read(catalog).before(inf if before is None else before)


def asker(catalog: Catalog, name: str, sent: Sent | None = None) -> Asker:
    """Return what gates are told of the person who asks.

    That is name and roles, whether an auditor keeps the list, and if so whether the person's key
    is at hand: a name alone is anybody's to set.

    Args:
        catalog: the list.
        name: the person.
        sent: what the person signed elsewhere, which shows the key as well.
    """
    people = roll(catalog)
    roles = people[name].roles if name in people else ()
    if not _has_auditor(people):
        return Asker(name=name, roles=roles, roll="open", key=None)
    held = bool(roles) and _at_hand(people[name], sent)
    return Asker(name=name, roles=roles, roll="closed", key="held" if held else "not held")


def _at_hand(person: Actor, sent: Sent | None) -> bool:
    if sent is not None:
        return sent.drafting or bool(_acts(person, sent))
    try:
        return attestations.key_id(signer(person.name).key) == attestations.key_id(person.key)
    except BtxError:
        return False


def approve(catalog: Catalog, ref: str, by: Signer, why: str = "") -> Event:
    """Sign that this very version may be released.

    Raises:
        Refused: for whoever registered it, and without the role of an approver.
    """
    version = catalog.get(ref)
    act = _draft(catalog, "approved", str(version.ref), by.name)
    return _signed(catalog, act.model_copy(update={"why": why}), by, roll(catalog))


def waive(catalog: Catalog, grant: Grant, by: Signer, *, until: str, why: str) -> Event:
    """Sign an exception to one rule, for one content and the facts that it was judged by.

    Args:
        catalog: where it is logged.
        grant: what it is for.
        by: the approver.
        until: an ISO date, that day included.
        why: the reason.
    """
    act = draft_waiver(catalog, grant, by.name, until=until, why=why)
    return _signed(catalog, act, by, roll(catalog))


def draft_waiver(catalog: Catalog, grant: Grant, name: str, *, until: str, why: str) -> Act:
    """Return the waiver that a person would sign; the arguments are those of `waive`."""
    check_named(grant.rule, grant.subject)
    _require_why("waiver", why)
    end = moment(until)
    days = (end - datetime.now(UTC)).total_seconds() / 86_400
    if not 0 < days <= LONGEST_WAIVER_DAYS:
        raise Invalid(
            f"waiver until {until}",
            found=until,
            expected=f"a day within {LONGEST_WAIVER_DAYS} days from now",
            next="choose a nearer date and renew it when it comes",
        )
    granted = {
        "rule": grant.rule,
        "until": end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "why": why,
        "content": grant.content,
        "excused": grant.excused,
    }
    return _draft(catalog, "waived", grant.subject, name).model_copy(update=granted)


def _require_why(what: str, why: str) -> None:
    if not why.strip():
        raise Invalid(
            what,
            found="no reason",
            expected="why, in words an auditor can judge",
            next="--why TEXT",
        )


def retract(catalog: Catalog, event: Event, by: Signer, why: str) -> Event:
    """Take an approval or a waiver back: it counts no more from now on.

    Args:
        catalog: where it is logged.
        event: the approval or waiver.
        by: who signed it, or an auditor.
        why: the reason.

    Raises:
        Refused: for anybody else, and for an act that does not count anyway.
        Invalid: without a reason.
    """
    return _signed(catalog, draft_retraction(catalog, event, by.name, why), by, roll(catalog))


def draft_retraction(catalog: Catalog, event: Event, name: str, why: str) -> Act:
    """Return the retraction that a person would sign; the rest is as with `retract`."""
    subject = event.subject
    _require_why(f"retraction of {subject}", why)
    if event.digest not in {one.digest for one, _ in _held(catalog, event.kind, subject)}:
        raise Refused(
            f"retraction of {subject}",
            found=f"event {event.seq}, which does not count",
            expected="an approval or waiver that does",
            next=f"btx show {subject}",
        )
    people = roll(catalog)
    roles = people[name].roles if name in people else ()
    if name != event.actor and "auditor" not in roles:
        raise Refused(
            f"retraction of {subject}",
            found=f"{name}, with roles {', '.join(roles) or 'none'}",
            expected=f"{event.actor}, who signed it, or an auditor",
            next=f"ask {event.actor}",
        )
    return Act(act="retracted", subject=subject, digest=event.digest, actor=name, why=why, at=now())


def standing_acts(
    catalog: Catalog, kind: str, subject: str | None = None, before: float = inf
) -> list[Event]:
    """Return the approvals or waivers that count, of one subject or of all; or did by an event."""
    return [event for event, _ in _held(catalog, kind, subject, before)]


def vouched(
    catalog: Catalog,
    kind: str,
    subject: str,
    digest: str,
    *,
    why: str | None = None,
    sent: Sent | None = None,
) -> Envelope | None:
    """Sign for an event that lets something in or out, where the list of actors is closed.

    Args:
        catalog: the log, and who acts.
        kind: of the event.
        subject: of the event.
        digest: of what is let in or out.
        why: the reason, where it is signed too.
        sent: what the person signed elsewhere; a key of theirs here is then not used.

    Returns:
        The envelope for the event's body; None while the list of actors is open.

    Raises:
        Refused: where the person's key is not at hand, or not the one on the list.
    """
    people = roll(catalog)
    if not _has_auditor(people):
        return None
    if sent is not None:
        return _sent(catalog, Act(act=kind, subject=subject, digest=digest, why=why, at=""), sent)
    try:
        by = signer(catalog.actor)
    except NotFound as error:
        raise Refused(
            f"{kind} {subject}",
            found=f"no key of {catalog.actor}: {error.found}",
            expected="their signature, since an auditor keeps the list of actors",
            next="run the command where your key is, and not through a server",
        ) from None
    require_listed(catalog, by)
    act = drafted_for(catalog, kind, subject, digest, why)
    signed = attestations.sign(act.to_json(), by.key, ACT)
    return Envelope.from_json(signed, f"envelope on {subject}")


def drafted_for(
    catalog: Catalog, kind: str, subject: str, digest: str, why: str | None = None
) -> Act:
    """Return what the acting person signs for an event; the arguments are those of `vouched`."""
    act = Act(act=kind, subject=subject, digest=digest, actor=catalog.actor, at=now())
    return act if why is None else act.model_copy(update={"why": why})


def _sent(catalog: Catalog, wanted: Act, sent: Sent) -> Envelope:
    """Return the envelope over an act that was signed elsewhere, a moment ago, and not logged."""
    subject, kind = wanted.subject, wanted.act
    person = roll(catalog).get(catalog.actor)
    signed = _acts(person, sent) if person else []
    for act, envelope in signed:
        says = (act.act, act.subject, act.digest, act.actor, act.why)
        if says == (kind, subject, wanted.digest, catalog.actor, wanted.why):
            _require_new(catalog, kind, subject, envelope)
            return envelope
    raise Refused(
        f"{kind} {subject}",
        found=f"no fresh signature by {catalog.actor} over this act as it is now",
        expected="their signature, since an auditor keeps the list of actors",
        next="open the page again and sign there, or run the command where your key is",
    )


def _acts(person: Actor, sent: Sent) -> list[tuple[Act, Envelope]]:
    """Return the acts that a person signed elsewhere with the key on the list, while fresh."""
    found = []
    for envelope in sent.envelopes:
        try:
            payload = attestations.opened(envelope.to_json(), person.key, ACT)
            act = Act.from_json(payload, "act")
            age_s = (datetime.now(UTC) - moment(act.at)).total_seconds()
        except (Damaged, Invalid):
            continue
        if -60 < age_s < LONGEST_DRAFT_S:
            found.append((act, envelope))
    return found


def _require_new(catalog: Catalog, kind: str, subject: str, envelope: Envelope) -> None:
    """Refuse an envelope that stands in the log already: an act counts once."""
    if is_logged(envelope, catalog.events(subject, kind)):
        raise Refused(
            f"{kind} {subject}",
            found="an act that is in the log already",
            expected="a new one",
            next="open the page again and sign there",
        )


def withdraw(catalog: Catalog, ref: str, why: str, sent: Sent | None = None) -> Event:
    """Log a withdrawal, signed where the list of actors is closed. A second one changes nothing.

    The log's head is written down outside.

    Args:
        catalog: the log, and who acts.
        ref: the version.
        why: the reason.
        sent: what the person signed elsewhere.

    Raises:
        Refused: for somebody without a role, where the list of actors is closed.
    """
    version = catalog.get(ref)
    subject = str(version.ref)
    require_role(catalog, catalog.actor, ROLES, f"withdraw {subject}")
    envelope = vouched(catalog, Withdrawn.logged_as, subject, version.digest, why=why, sent=sent)
    event = catalog.withdraw(subject, why, envelope)
    pins.pin(catalog)
    return event


def require_listed(catalog: Catalog, by: Signer) -> None:
    """Require, where the list of actors is closed, that a key is the person's on it.

    Raises:
        Refused: otherwise.
    """
    people = roll(catalog)
    if not _has_auditor(people):
        return
    person = people.get(by.name)
    if person is None or not person.roles or person.key_id != attestations.key_id(by.key):
        raise Refused(
            f"key of {by.name}",
            found=f"a key that is not {by.name}'s on the list of actors",
            expected="the key that an auditor registered",
            next="btx actor list",
        )


def check_named(rule: str, subject: str) -> None:
    """Refuse a rule or a subject that no waiver can be for. Raises Invalid."""
    if not _RULE.fullmatch(rule):
        raise Invalid(
            f"rule {rule!r}",
            found=rule,
            expected="POLICY/RULE, as the refusal names it",
            next="btx policy check REF",
        )
    if parse(subject).version is None:
        raise Invalid(
            f"waiver for {subject}",
            found="no version",
            expected=f"{subject}@N, as the refusal names it",
            next="btx policy check REF",
        )


def approvals(catalog: Catalog, version: Version[Facts], before: float = inf) -> list[ApprovalLine]:
    """Return the approvals of this version that hold, each person and each key once, by name.

    A key that is the registrar's under another name does not count. With `before`, those that
    held before the event of that number.
    """
    lines: dict[str, ApprovalLine] = {}
    used = {person.key_id for person in _ever(catalog, version.actor)}
    for event, act in _held(catalog, "approved", str(version.ref), before):
        if act.digest != version.digest or not act.actor or act.actor == version.actor:
            continue
        person = roll(catalog, event.seq)[act.actor]
        if act.actor not in lines and person.key_id in used:
            continue
        used.add(person.key_id)
        lines[act.actor] = ApprovalLine(actor=act.actor, at=event.at, roles=person.roles)
    return sorted(lines.values(), key=lambda line: line.actor)


def _ever(catalog: Catalog, name: str) -> list[Actor]:
    """Return a person with each key that the list ever held for them."""
    acts = [stated(event) for event in catalog.events(f"actor/{name}", "actor")]
    return [Actor(name, (), act.public_key) for act in acts if act and act.public_key]


def waivers(
    catalog: Catalog, subject: str, registrar: str | None, *, registered: bool = False
) -> list[Waiver]:
    """Return the waivers for the subject that hold but for date and facts, which `judge` looks at.

    An older one names no content: it counts for what was registered after it was signed, whose
    content can no longer change.

    Args:
        catalog: the log.
        subject: the reference that they are for.
        registrar: whose own waivers do not count.
        registered: whether the subject is registered.
    """
    held = []
    for event, act in _held(catalog, "waived", subject):
        if act.actor == registrar or not (act.rule and act.until and act.actor):
            continue
        if act.content is None and not registered:
            continue
        held.append(
            Waiver(
                rule=act.rule,
                subject=act.subject,
                until=act.until,
                actor=act.actor,
                why=act.why or "",
                id=event.digest,
                content=act.content,
                excused=act.excused,
            )
        )
    return held


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
            closed = _has_auditor(people)
            act = _checked(event, people) if closed else stated(event)
            if act is not None and not (closed and _is_void(event, self._void)):
                name = event.subject.removeprefix("actor/")
                changed = {**people, name: Actor(name, act.roles or (), act.public_key or "")}
                if not closed or _has_auditor(changed):
                    people = changed
            lists.append(people)
        return lists

    def closed(self, seq: int) -> bool:
        """Return whether an auditor kept it before an event."""
        return _has_auditor(self.before(seq))

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


def drafted(catalog: Catalog, ref: str, name: str, why: str = "") -> Act:
    """Return the approval that this person would sign. Raises Refused as `approve` does."""
    act = _draft(catalog, "approved", str(catalog.get(ref).ref), name)
    return act.model_copy(update={"why": why})


def admit(catalog: Catalog, ref: str, envelope: Envelope) -> Event:
    """Log an approval that the acting person drafted here and signed elsewhere.

    Raises:
        Refused: as `admit_act` does.
    """
    subject = str(catalog.get(ref).ref)
    person = _signer_listed(catalog, "approved", subject)
    act = _opened(envelope, person, "approved", subject)
    wanted = _draft(catalog, "approved", subject, person.name)
    # The words are the person's own; all else is as it was drafted.
    return admit_act(catalog, wanted.model_copy(update={"why": act.why or ""}), envelope)


def admit_act(catalog: Catalog, wanted: Act, envelope: Envelope) -> Event:
    """Log an act that the acting person drafted here and signed elsewhere.

    So the key never comes here.

    Args:
        catalog: the log, and who acts.
        wanted: the act as it would be drafted now.
        envelope: what was signed.

    Raises:
        Refused: for a signature that is not by the key on the list, for an act that says something
            else, an old one, and one that was logged before.
    """
    kind, subject = wanted.act, wanted.subject
    person = _signer_listed(catalog, kind, subject)
    act = _opened(envelope, person, kind, subject)
    if act.to_json() != wanted.model_copy(update={"at": act.at}).to_json():
        raise _sign_again(kind, subject, "an act that says something else", "the act drafted here")
    age_s = (datetime.now(UTC) - moment(act.at)).total_seconds()
    if not -60 < age_s < LONGEST_DRAFT_S:
        raise _sign_again(kind, subject, f"drafted at {act.at}", "less than 15 minutes ago")
    _require_new(catalog, kind, subject, envelope)
    return catalog.event(Acted(act=act, envelope=envelope), subject, kind=kind)


def unsigned(act: Act) -> Refused:
    """Return the refusal of an act that came without a signature."""
    return _sign_again(act.act, act.subject, "no signature", "the act drafted here, signed")


def _signer_listed(catalog: Catalog, kind: str, subject: str) -> Actor:
    """Return the acting person as the list of people has them."""
    person = roll(catalog).get(catalog.actor)
    if person is None:
        raise Refused(
            f"{kind} {subject}",
            found=f"{catalog.actor}, not on the list of people",
            expected="a person on it",
            next="btx actor add",
        )
    return person


def _opened(envelope: Envelope, person: Actor, kind: str, subject: str) -> Act:
    """Return the act in the envelope, whose signature must be by this person's key."""
    try:
        payload = attestations.opened(envelope.to_json(), person.key, ACT)
        act = Act.from_json(payload, f"act on {subject}")
        moment(act.at)
    except (Damaged, Invalid) as error:
        expected = f"an act signed by {person.name}'s key"
        raise _sign_again(kind, subject, error.found, expected) from None
    return act


def _sign_again(kind: str, subject: str, found: str, expected: str) -> Refused:
    return Refused(f"{kind} {subject}", found=found, expected=expected, next="sign it again")


def to_sign(act: Act) -> tuple[bytes, bytes]:
    """Return the payload of an act's envelope, and the bytes that its signature is over."""
    payload = canonical_json(act.to_json())
    return payload, attestations.pre_authentication(ACT, payload)


def _draft(catalog: Catalog, kind: str, subject: str, name: str) -> Act:
    people = roll(catalog)
    registered = _registered(catalog, subject)
    roles = people[name].roles if name in people else ()
    if "approver" not in roles:
        raise Refused(
            f"{kind} {subject}",
            found=f"{name} with roles {', '.join(roles) or 'none'}",
            expected="an approver",
            next=f"btx actor add {name} --role approver, by an auditor",
        )
    if registered is not None and registered.actor == name:
        raise Refused(
            f"{kind} {subject}",
            found=f"{name}, who registered it",
            expected="a second person",
            next="ask another approver",
        )
    digest = registered.digest if registered else None
    return Act(act=kind, subject=subject, digest=digest, actor=name, at=now())


def is_closed(catalog: Catalog, before: int | None = None) -> bool:
    """Return whether an auditor kept the list of actors before an event (default: now)."""
    return _has_auditor(roll(catalog, before))


def _has_auditor(people: Mapping[str, Actor]) -> bool:
    return any("auditor" in person.roles for person in people.values())


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
    held = people[name].roles if name in people else ()
    if _has_auditor(people) and not set(held) & set(roles):
        raise Refused(
            f"{name} would {what}",
            found=f"roles {', '.join(held) or 'none'}",
            expected=" or ".join(roles),
            next="ask somebody with that role, or an auditor for it: btx actor list",
        )


def sign(catalog: Catalog, act: Act, by: Signer, documents: Sequence[JsonObject] = ()) -> Event:
    """Sign an act by a person on the list of actors, and log it.

    Raises:
        Refused: for a key that is not the one on the list, or a catalogue of somebody else.
    """
    return _signed(catalog, act, by, roll(catalog), documents)


def _signed(
    catalog: Catalog,
    act: Act,
    by: Signer,
    people: Mapping[str, Actor],
    documents: Sequence[JsonObject] = (),
) -> Event:
    if catalog.actor != by.name:
        raise Refused(
            f"{act.act} {act.subject}",
            found=f"{catalog.actor} with the key of {by.name}",
            expected="one person",
            next=f"set BTX_ACTOR={by.name}",
        )
    held = attestations.key_id(by.key)[:16]
    listed = attestations.key_id(people[by.name].key)[:16]
    if held != listed:
        raise Refused(
            f"key of {by.name}",
            found=held,
            expected=f"{listed}, as on the list of people",
            next="btx actor add, by an auditor",
        )
    envelope = attestations.sign(act.to_json(), by.key, ACT)
    body = Acted(act=act, envelope=Envelope.from_json(envelope, f"envelope on {act.subject}"))
    return catalog.event(body, act.subject, kind=act.act, documents=documents)


def _held(
    catalog: Catalog, kind: str, subject: str | None, before: float = inf
) -> list[tuple[Event, Act]]:
    """Return the acts of a kind that count, on one subject or on all, each with its event."""
    logged = first_uses(catalog.events(subject, kind))
    events = [event for event in logged if event.seq < before]
    if not events:
        return []
    people = Roll.read(catalog)
    retracted = set()
    for event in catalog.events(subject, "retracted"):
        act = people.act_of(event)
        if act is not None and event.seq < before:
            retracted.add(act.digest)
    held = []
    for event in events:
        act = people.act_of(event) if event.digest not in retracted else None
        if act is not None:
            held.append((event, act))
    return held


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
    found = []
    people: dict[str, Actor] = {}
    for event in changes:
        closed = _has_auditor(people)
        act = _checked(event, people) if closed else stated(event)
        if act is None:
            continue
        name = event.subject.removeprefix("actor/")
        people[name] = Actor(name, act.roles or (), act.public_key or "")
        if act.since is not None:
            found.append(_Void(name, _moment(act.since), event.seq))
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


def _registered(catalog: Catalog, subject: str) -> Version[Facts] | None:
    try:
        return catalog.get(subject)
    except NotFound:
        return None


def named(name: str) -> str:
    """Return the name of a person. Raises Invalid for what is none."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"actor {name!r}",
            found=name,
            expected="letters, digits and . _ @ + -, at most 64",
            next="choose another name",
        )
    return name


def _public(pem: str) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError) as error:
        raise Invalid(
            "public key", found=str(error)[:120], expected="an Ed25519 public key in PEM form"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise Invalid(
            "public key", found=type(key).__name__, expected="an Ed25519 public key in PEM form"
        )
    return key


def now() -> str:
    """Return the time as acts state it: so finely that no two acts of a person are equal."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
