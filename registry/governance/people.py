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

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    load_pem_public_key,
)

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog
from registry.digest import canonical_json
from registry.errors import Damaged, Invalid, NotFound, Refused
from registry.governance import attestations
from registry.governance.policies import Waiver, moment
from registry.records.events import Act, Acted, Envelope
from registry.records.evidence import ApprovalLine, Asker
from registry.records.facts import Facts
from registry.records.references import parse
from registry.records.version import Event, Version

ROLES = ("registrar", "approver", "auditor")
ACT = "application/vnd.btx.act+json"
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
    return Signer(named(name), key)


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
            next=f"btx actor add {name} --role approver, or set BTX_KEY_FILE",
        )
    passphrase = os.environ.get("BTX_KEY_PASSPHRASE")
    pem = text.encode() if text is not None else path.read_bytes()
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
        Refused: without the signature of an auditor where the list names one.
    """
    check_roles(roles)
    _public(public_key)
    people = roll(catalog)
    auditors = [person.name for person in people.values() if "auditor" in person.roles]
    if auditors and (by is None or by.name not in auditors):
        raise Refused(
            f"actor {name}",
            found="no auditor's signature",
            expected=f"one by {' or '.join(auditors)}",
            next="let an auditor do it: BTX_ACTOR=AUDITOR btx actor add",
        )
    act = Act(
        act="actor",
        subject=f"actor/{named(name)}",
        roles=tuple(sorted(set(roles))),
        public_key=public_key,
        at=_now(),
    )
    if by:
        return _signed(catalog, act, by, people)
    return catalog.event(Acted(act=act), act.subject, kind=act.act)


def roll(catalog: Catalog, before: int | None = None) -> dict[str, Actor]:
    """Return who was on the list of people before event number `before` (default: now).

    An unsigned change of a closed list does not count.
    """
    return _rolls(catalog.events(kind="actor"), before)


def asker(catalog: Catalog, name: str) -> Asker:
    """Return what gates are told of the person who asks.

    That is name and roles, whether an auditor keeps the list, and if so whether the person's key
    is at hand: a name alone is anybody's to set.
    """
    people = roll(catalog)
    roles = people[name].roles if name in people else ()
    if not any("auditor" in person.roles for person in people.values()):
        return Asker(name=name, roles=roles, roll="open", key=None)
    held = bool(roles) and _at_hand(people[name])
    return Asker(name=name, roles=roles, roll="closed", key="held" if held else "not held")


def _at_hand(person: Actor) -> bool:
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


def waive(catalog: Catalog, rule: str, subject: str, by: Signer, *, until: str, why: str) -> Event:
    """Sign an exception to one rule for one subject until one date.

    Args:
        catalog: where it is logged.
        rule: POLICY/RULE.
        subject: the reference of a version, which need not be registered yet.
        by: the approver.
        until: an ISO date, that day included.
        why: the reason.
    """
    _check_waiver(rule, subject, why)
    end = moment(until)
    days = (end - datetime.now(UTC)).total_seconds() / 86_400
    if not 0 < days <= LONGEST_WAIVER_DAYS:
        raise Invalid(
            f"waiver until {until}",
            found=until,
            expected=f"a day within {LONGEST_WAIVER_DAYS} days from now",
            next="choose a nearer date and renew it when it comes",
        )
    last = end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    act = _draft(catalog, "waived", subject, by.name)
    act = act.model_copy(update={"rule": rule, "until": last, "why": why})
    return _signed(catalog, act, by, roll(catalog))


def _check_waiver(rule: str, subject: str, why: str) -> None:
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
    if not why.strip():
        raise Invalid(
            "waiver",
            found="no reason",
            expected="why, in words an auditor can judge",
            next="--why TEXT",
        )


def approvals(catalog: Catalog, version: Version[Facts]) -> list[ApprovalLine]:
    """Return the approvals of this version that hold, each person once, by name."""
    lines: dict[str, ApprovalLine] = {}
    for event, act in _held(catalog, "approved", str(version.ref)):
        if act.digest == version.digest and act.actor and act.actor != version.actor:
            lines[act.actor] = ApprovalLine(actor=act.actor, at=event.at)
    return sorted(lines.values(), key=lambda line: line.actor)


def waivers(catalog: Catalog, subject: str, registrar: str | None) -> list[Waiver]:
    """Return the waivers for the subject that hold but for their date, which `judge` looks at.

    Args:
        catalog: the log.
        subject: the reference that they are for.
        registrar: whose own waivers do not count.
    """
    held = []
    for event, act in _held(catalog, "waived", subject):
        if act.actor != registrar and act.rule and act.until and act.actor:
            why = act.why or ""
            held.append(Waiver(act.rule, act.subject, act.until, act.actor, why, event.digest))
    return held


def act_of(catalog: Catalog, event: Event) -> Act | None:
    """Return what the event's signer signed, or None when it does not count."""
    return _checked(event, roll(catalog, event.seq))


def drafted(catalog: Catalog, ref: str, name: str, why: str = "") -> Act:
    """Return the approval that this person would sign. Raises Refused as `approve` does."""
    act = _draft(catalog, "approved", str(catalog.get(ref).ref), name)
    return act.model_copy(update={"why": why})


def admit(catalog: Catalog, ref: str, envelope: Envelope) -> Event:
    """Log an approval that the acting person drafted here and signed elsewhere.

    So the key never comes here.

    Raises:
        Refused: for a signature that is not by the key on the list, for an act on something else,
            an old one, and one that was logged before.
    """
    subject = str(catalog.get(ref).ref)
    person = roll(catalog).get(catalog.actor)
    if person is None:
        raise Refused(
            f"approved {subject}",
            found=f"{catalog.actor}, not on the list of people",
            expected="an approver",
            next="btx actor add",
        )
    act = _opened(envelope, person, subject)
    wanted = _draft(catalog, "approved", subject, person.name)
    wanted = wanted.model_copy(update={"why": act.why, "at": act.at})
    if act.to_json() != wanted.to_json() or act.why is None:
        raise _sign_again(subject, "an act that says something else", "the act drafted here")
    age_s = (datetime.now(UTC) - moment(act.at)).total_seconds()
    if not -60 < age_s < LONGEST_DRAFT_S:
        raise _sign_again(subject, f"drafted at {act.at}", "less than 15 minutes ago")
    for event in catalog.events(subject, "approved"):
        logged = _acted(event)
        if logged and logged.envelope and logged.envelope.payload == envelope.payload:
            raise Refused(
                f"approved {subject}",
                found="an act that is in the log already",
                expected="a new one",
                next="nothing: it counts",
            )
    return catalog.event(Acted(act=act, envelope=envelope), subject)


def _opened(envelope: Envelope, person: Actor, subject: str) -> Act:
    """Return the act in the envelope, whose signature must be by this person's key."""
    try:
        payload = attestations.opened(envelope.to_json(), person.key, ACT)
        act = Act.from_json(payload, f"act on {subject}")
        moment(act.at)
    except (Damaged, Invalid) as error:
        expected = f"an act signed by {person.name}'s key"
        raise _sign_again(subject, error.found, expected) from None
    return act


def _sign_again(subject: str, found: str, expected: str) -> Refused:
    return Refused(f"approved {subject}", found=found, expected=expected, next="sign it again")


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
    return Act(act=kind, subject=subject, digest=digest, actor=name, at=_now())


def _signed(catalog: Catalog, act: Act, by: Signer, people: Mapping[str, Actor]) -> Event:
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
    return catalog.event(body, act.subject, kind=act.act)


def _held(catalog: Catalog, kind: str, subject: str) -> list[tuple[Event, Act]]:
    """Return the acts of a kind on the subject that count, each with its event."""
    events = catalog.events(subject, kind)
    if not events:
        return []
    changes = catalog.events(kind="actor")
    held = []
    for event in events:
        act = _checked(event, _rolls(changes, event.seq))
        if act is not None:
            held.append((event, act))
    return held


def _acted(event: Event) -> Acted | None:
    """Return the event's body, or None where it holds no act."""
    try:
        return event.read(Acted)
    except Damaged:
        return None


def _stated(event: Event) -> Act | None:
    """Return the act that the event holds, signed or not."""
    logged = _acted(event)
    return logged.act if logged else None


def _checked(event: Event, people: Mapping[str, Actor]) -> Act | None:
    """Return the signed act, where it counts.

    Its person must have held the key and the role, and event and act must say the same.
    """
    person = people.get(event.actor)
    needed = "auditor" if event.kind == "actor" else "approver"
    if person is None or needed not in person.roles:
        return None
    logged = _acted(event)
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


def _rolls(changes: Sequence[Event], before: int | None) -> dict[str, Actor]:
    people: dict[str, Actor] = {}
    for event in changes:
        if before is not None and event.seq >= before:
            break
        closed = any("auditor" in person.roles for person in people.values())
        act = _checked(event, people) if closed else _stated(event)
        if act is not None:
            name = event.subject.removeprefix("actor/")
            people[name] = Actor(name, act.roles or (), act.public_key or "")
    return people


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


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
