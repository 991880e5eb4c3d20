"""People: who may approve, waive and keep the roll; their signed acts, checked whenever they are read.

In:  the catalogue's log, a person's private key.  Out: signed events; the acts among them that hold.
An act counts when its signature is by the key that the roll held for that person at that moment, the role allowed it, it names the
subject's digest, and the person is not the one who registered the subject. What does not count is left out, never an error.
The roll is open (anyone adds) until it names an auditor; from then on every change of it is signed by one.
Rules for acts are policies'; the log is audit_log.py's.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog, Event, Version
from registry.digest import canonical_json
from registry.errors import Conflict, Damaged, Invalid, NotFound, Refused
from registry.governance import attestations
from registry.governance.policies import Waiver, moment
from registry.records.references import parse

ROLES = ("registrar", "approver", "auditor")
ACT = "application/vnd.btx.act+json"
LONGEST_WAIVER_DAYS = 366
LONGEST_DRAFT_S = 900
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_RULE = re.compile(r"[a-z][a-z0-9-]{0,63}/[a-z][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Actor:
    """One person on the roll. No roles: taken off."""

    name: str
    roles: tuple[str, ...]
    public_key: str  # PEM

    @property
    def key(self) -> Ed25519PublicKey:
        return _public(self.public_key)


@dataclass(frozen=True)
class Signer:
    """A person with the private key at hand."""

    name: str
    key: Ed25519PrivateKey


def key_file(name: str) -> Path:
    """BTX_KEY_FILE, else ~/.config/btx/keys/NAME.pem: outside every workspace, so that no commit can carry it."""
    return Path(
        os.environ.get("BTX_KEY_FILE")
        or Path.home() / ".config" / "btx" / "keys" / f"{named(name)}.pem"
    )


def model_key(name: str) -> Path:
    """The key that signs exported folders: BTX_MODEL_KEY_FILE, else ~/.config/btx/keys/NAME.model.pem; its public half ends in .pub."""
    return Path(
        os.environ.get("BTX_MODEL_KEY_FILE")
        or Path.home() / ".config" / "btx" / "keys" / f"{named(name)}.model.pem"
    )


def new_key(name: str, path: Path | None = None) -> Signer:
    """Make a key, readable by its owner alone, encrypted when BTX_KEY_PASSPHRASE is set. Raises Conflict when the file is there."""
    path, key = path or key_file(name), Ed25519PrivateKey.generate()
    passphrase = os.environ.get("BTX_KEY_PASSPHRASE")
    cipher = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher))
    except FileExistsError:
        raise Conflict(
            f"key file {path}",
            found="a file",
            expected="none",
            next="use that key, or name another file",
        ) from None
    return Signer(named(name), key)


def signer(name: str, path: Path | None = None) -> Signer:
    """The person's key: BTX_KEY (PEM text) or the key file. Raises NotFound, Invalid."""
    text, path = os.environ.get("BTX_KEY"), path or key_file(name)
    if text is None and not path.is_file():
        advice = f"btx actor add {name} --role approver, or set BTX_KEY_FILE"
        raise NotFound(
            f"key of {name}", found=f"no file {path}", expected="a private key", next=advice
        )
    passphrase = os.environ.get("BTX_KEY_PASSPHRASE")
    try:
        key = load_pem_private_key(
            text.encode() if text is not None else path.read_bytes(),
            passphrase.encode() if passphrase else None,
        )
    except (ValueError, TypeError) as error:
        expected, advice = (
            "an Ed25519 private key in PEM form",
            "set BTX_KEY_PASSPHRASE if it is encrypted",
        )
        raise Invalid(
            f"key of {name}", found=str(error)[:120], expected=expected, next=advice
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
    return attestations.public_pem(person.key)


def check_roles(roles: Iterable[str]) -> None:
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise Invalid(
            f"role {unknown[0]}",
            found=unknown[0],
            expected=f"one of {', '.join(ROLES)}",
            next="btx actor add --help",
        )


def add_actor(
    catalog: Catalog, name: str, roles: tuple[str, ...], public_key: str, by: Signer | None = None
) -> Event:
    """Put a person on the roll, or change roles or key; no roles takes them off. by: an auditor, once the roll names one."""
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
    subject = f"actor/{named(name)}"
    act = {
        "act": "actor",
        "subject": subject,
        "roles": sorted(set(roles)),
        "public_key": public_key,
        "at": _now(),
    }
    return (
        _signed(catalog, act, by, people) if by else catalog.event("actor", subject, {"act": act})
    )


def roll(catalog: Catalog, before: int | None = None) -> dict[str, Actor]:
    """Who was on the roll before event number `before` (default: now). An unsigned change of a closed roll does not count."""
    return _rolls(catalog.events(kind="actor"), before)


def standing(catalog: Catalog, name: str) -> dict[str, Any]:
    """What gates are told of the person who asks: name, roles, whether the roll is kept by an auditor, and if so whether the person's key
    is at hand: a name alone is anybody's to set.
    """
    people = roll(catalog)
    roles = list(people[name].roles) if name in people else []
    if not any("auditor" in person.roles for person in people.values()):
        return {"name": name, "roles": roles, "roll": "open", "key": None}
    return {
        "name": name,
        "roles": roles,
        "roll": "closed",
        "key": "held" if roles and _at_hand(people[name]) else "not held",
    }


def _at_hand(person: Actor) -> bool:
    try:
        return attestations.key_id(signer(person.name).key) == attestations.key_id(person.key)
    except BtxError:
        return False


def approve(catalog: Catalog, ref: str, by: Signer, why: str = "") -> Event:
    """Sign that this very version may be released. Raises Refused for the registrar, or without the role."""
    version = catalog.get(ref)
    return _act(catalog, "approved", str(version.ref), by, {"why": why})


def waive(catalog: Catalog, rule: str, subject: str, by: Signer, *, until: str, why: str) -> Event:
    """Sign an exception to POLICY/RULE for one subject until one date. The subject need not be registered yet."""
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
    end, now = moment(until), datetime.now(UTC)
    if not 0 < (end - now).total_seconds() <= LONGEST_WAIVER_DAYS * 86_400:
        advice = "choose a nearer date and renew it when it comes"
        raise Invalid(
            f"waiver until {until}",
            found=until,
            expected=f"a day within {LONGEST_WAIVER_DAYS} days from now",
            next=advice,
        )
    if not why.strip():
        raise Invalid(
            "waiver",
            found="no reason",
            expected="why, in words an auditor can judge",
            next="--why TEXT",
        )
    return _act(
        catalog,
        "waived",
        subject,
        by,
        {"rule": rule, "until": end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "why": why},
    )


def approvals(catalog: Catalog, version: Version) -> list[dict[str, str]]:
    """Approvals of this version that hold: actor and time, each person once."""
    held = [
        (event, act)
        for event, act in _held(catalog, "approved", str(version.ref))
        if act["digest"] == version.digest
    ]
    found = {
        act["actor"]: {"actor": act["actor"], "at": event.at}
        for event, act in held
        if act["actor"] != version.actor
    }
    return sorted(found.values(), key=lambda line: line["actor"])


def waivers(catalog: Catalog, subject: str, registrar: str | None) -> list[Waiver]:
    """Waivers for the subject that hold but for their date, which `judge` looks at. registrar: whose own waivers do not count."""
    return [
        Waiver(act["rule"], act["subject"], act["until"], act["actor"], act["why"], event.digest)
        for event, act in _held(catalog, "waived", subject)
        if act["actor"] != registrar
    ]


def act_of(catalog: Catalog, event: Event) -> dict[str, Any] | None:
    """What the event's signer signed, or None when it does not count."""
    return _checked(event, roll(catalog, event.seq))


def drafted(catalog: Catalog, ref: str, name: str, why: str = "") -> dict[str, Any]:
    """The approval that this person would sign. Raises Refused as `approve` does."""
    return _draft(catalog, "approved", str(catalog.get(ref).ref), name, {"why": why})


def admit(catalog: Catalog, ref: str, envelope: Mapping[str, Any]) -> Event:
    """Log an approval of `ref` that the acting person drafted here and signed elsewhere, so that the key never comes here.

    Raises Refused for a signature that is not by the key on the roll, for an act on something else, an old one, and one logged before.
    """
    person, subject = roll(catalog).get(catalog.actor), str(catalog.get(ref).ref)
    if person is None:
        raise Refused(
            f"approved {subject}",
            found=f"{catalog.actor}, not on the roll",
            expected="an approver",
            next="btx actor add",
        )
    try:
        act = attestations.opened(envelope, person.key, ACT)
        age_s = (datetime.now(UTC) - moment(str(act["at"]))).total_seconds()
    except (Damaged, Invalid, KeyError) as error:
        found = getattr(error, "found", "no time in it")
        raise Refused(
            f"approved {subject}",
            found=found,
            expected=f"an act signed by {person.name}'s key",
            next="sign it again",
        ) from None
    wanted = _draft(
        catalog, "approved", subject, person.name, {"why": act.get("why"), "at": act["at"]}
    )
    if act != wanted or not isinstance(act["why"], str):
        raise Refused(
            f"approved {subject}",
            found="an act that says something else",
            expected="the act drafted here",
            next="sign it again",
        )
    if not -60 < age_s < LONGEST_DRAFT_S:
        raise Refused(
            f"approved {subject}",
            found=f"drafted at {act['at']}",
            expected="less than 15 minutes ago",
            next="sign it again",
        )
    if any(
        (event.body.get("envelope") or {}).get("payload") == envelope["payload"]
        for event in catalog.events(subject, "approved")
    ):
        raise Refused(
            f"approved {subject}",
            found="an act that is in the log already",
            expected="a new one",
            next="nothing: it counts",
        )
    return catalog.event("approved", subject, {"act": act, "envelope": dict(envelope)})


def to_sign(act: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The payload of an act's envelope, and the bytes that its signature is over."""
    payload = canonical_json(act)
    return payload, attestations.pre_authentication(ACT, payload)


def _act(catalog: Catalog, kind: str, subject: str, by: Signer, more: Mapping[str, Any]) -> Event:
    return _signed(catalog, _draft(catalog, kind, subject, by.name, more), by, roll(catalog))


def _draft(
    catalog: Catalog, kind: str, subject: str, name: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    people = roll(catalog)
    registered = _registered(catalog, subject)
    role = people[name].roles if name in people else ()
    if "approver" not in role:
        advice = f"btx actor add {name} --role approver, by an auditor"
        raise Refused(
            f"{kind} {subject}",
            found=f"{name} with roles {', '.join(role) or 'none'}",
            expected="an approver",
            next=advice,
        )
    if registered is not None and registered.actor == name:
        raise Refused(
            f"{kind} {subject}",
            found=f"{name}, who registered it",
            expected="a second person",
            next="ask another approver",
        )
    return {
        "act": kind,
        "subject": subject,
        "digest": registered.digest if registered else None,
        "actor": name,
        "at": _now(),
        **more,
    }


def _signed(
    catalog: Catalog, act: Mapping[str, Any], by: Signer, people: Mapping[str, Actor]
) -> Event:
    if catalog.actor != by.name:
        found = f"{catalog.actor} with the key of {by.name}"
        raise Refused(
            f"{act['act']} {act['subject']}",
            found=found,
            expected="one person",
            next=f"set BTX_ACTOR={by.name}",
        )
    held, listed = attestations.key_id(by.key)[:16], attestations.key_id(people[by.name].key)[:16]
    if held != listed:
        raise Refused(
            f"key of {by.name}",
            found=held,
            expected=f"{listed}, as on the roll",
            next="btx actor add, by an auditor",
        )
    return catalog.event(
        str(act["act"]),
        str(act["subject"]),
        {"act": dict(act), "envelope": attestations.sign(act, by.key, ACT)},
    )


def _held(catalog: Catalog, kind: str, subject: str) -> list[tuple[Event, dict[str, Any]]]:
    events = catalog.events(subject, kind)
    if not events:
        return []
    changes = catalog.events(kind="actor")
    checked = [(event, _checked(event, _rolls(changes, event.seq))) for event in events]
    return [(event, act) for event, act in checked if act is not None]


def _checked(event: Event, people: Mapping[str, Actor]) -> dict[str, Any] | None:
    """The signed act, when its person held the key and the role, and event and act say the same."""
    person = people.get(event.actor)
    needed = "auditor" if event.kind == "actor" else "approver"
    if person is None or needed not in person.roles:
        return None
    try:
        act = attestations.opened(event.body["envelope"], person.key, ACT)
    except (Damaged, KeyError, TypeError):
        return None
    wanted = {"act": event.kind, "subject": event.subject}
    by = act.get("actor", event.actor)
    return (
        act
        if all(act.get(key) == value for key, value in wanted.items()) and by == event.actor
        else None
    )


def _rolls(changes: list[Event], before: int | None) -> dict[str, Actor]:
    people: dict[str, Actor] = {}
    for event in changes:
        if before is not None and event.seq >= before:
            break
        closed = any("auditor" in person.roles for person in people.values())
        act = _checked(event, people) if closed else event.body.get("act")
        if act is not None:
            name = event.subject.removeprefix("actor/")
            people[name] = Actor(name, tuple(act["roles"]), act["public_key"])
    return people


def _registered(catalog: Catalog, subject: str) -> Version | None:
    try:
        return catalog.get(subject)
    except NotFound:
        return None


def named(name: str) -> str:
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
