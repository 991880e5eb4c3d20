"""Acts that people sign: here with their own key, or elsewhere, such as in a browser.

In:  an act, the list of people, a key or what was signed elsewhere.  Out: the event in the log.
Which acts count is decided where they are read (`people`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog
from registry.digest import canonical_json
from registry.errors import Damaged, Invalid, NotFound, Refused
from registry.governance import attestations
from registry.governance.first_uses import is_logged
from registry.governance.keys import Signer, signer
from registry.governance.people import ACT, Actor, has_auditor, is_closed, roles_of, roll
from registry.governance.policies import moment
from registry.records.base import JsonObject
from registry.records.events import Act, Acted, Envelope
from registry.records.evidence import Asker
from registry.records.version import Event

LONGEST_DRAFT_S = 900


@dataclass(frozen=True)
class Sent:
    """What the acting person signed elsewhere, such as in a browser: no key is looked for here.

    Attributes:
        envelopes: each over one act that was drafted here.
        drafting: whether the acts are still to be signed, so that none is asked for yet.
    """

    envelopes: tuple[Envelope, ...] = ()
    drafting: bool = False


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
    roles = roles_of(people, name)
    if not has_auditor(people):
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
    if not has_auditor(people):
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
    return _sealed(drafted_for(catalog, kind, subject, digest, why), by)


def signer_if_closed(catalog: Catalog) -> Signer | None:
    """Return the key of who acts, where the list of actors is closed; None while it is open."""
    return signer(catalog.actor) if is_closed(catalog) else None


def _sealed(act: Act, by: Signer) -> Envelope:
    """Return the envelope of an act, signed with a person's key."""
    signed = attestations.sign(act.to_json(), by.key, ACT)
    return Envelope.from_json(signed, f"envelope on {act.subject}")


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
            act = _opened(envelope, person)
        except (Damaged, Invalid):
            continue
        if _is_fresh(act):
            found.append((act, envelope))
    return found


def _opened(envelope: Envelope, person: Actor) -> Act:
    """Return the act in the envelope, which this person's key signed.

    Raises:
        Damaged: for another key, and for bytes that are no envelope.
        Invalid: for what says no time.
    """
    payload = attestations.opened(envelope.to_json(), person.key, ACT)
    act = Act.from_json(payload, f"act of {person.name}")
    moment(act.at)
    return act


def _is_fresh(act: Act) -> bool:
    """Say whether an act was drafted a moment ago, by any two clocks that nearly agree."""
    age_s = (datetime.now(UTC) - moment(act.at)).total_seconds()
    return -60 < age_s < LONGEST_DRAFT_S


def _require_new(catalog: Catalog, kind: str, subject: str, envelope: Envelope) -> None:
    """Refuse an envelope that stands in the log already: an act counts once."""
    if is_logged(envelope, catalog.events(subject, kind)):
        raise Refused(
            f"{kind} {subject}",
            found="an act that is in the log already",
            expected="a new one",
            next="open the page again and sign there",
        )


def require_listed(catalog: Catalog, by: Signer) -> None:
    """Require, where the list of actors is closed, that a key is the person's on it.

    Raises:
        Refused: otherwise.
    """
    people = roll(catalog)
    if not has_auditor(people):
        return
    person = people.get(by.name)
    if person is None or not person.roles or person.key_id != attestations.key_id(by.key):
        raise Refused(
            f"key of {by.name}",
            found=f"a key that is not {by.name}'s on the list of actors",
            expected="the key that an auditor registered",
            next="btx actor list",
        )


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
    _, act = signed_elsewhere(catalog, kind, subject, envelope)
    if act.to_json() != wanted.model_copy(update={"at": act.at}).to_json():
        raise _sign_again(kind, subject, "an act that says something else", "the act drafted here")
    if not _is_fresh(act):
        raise _sign_again(kind, subject, f"drafted at {act.at}", "less than 15 minutes ago")
    _require_new(catalog, kind, subject, envelope)
    return catalog.event(Acted(act=act, envelope=envelope), subject, kind=kind)


def unsigned(act: Act) -> Refused:
    """Return the refusal of an act that came without a signature."""
    return _sign_again(act.act, act.subject, "no signature", "the act drafted here, signed")


def signed_elsewhere(
    catalog: Catalog, kind: str, subject: str, envelope: Envelope
) -> tuple[Actor, Act]:
    """Return the acting person, and the act in the envelope, which that person signed.

    Raises:
        Refused: for somebody who is not on the list, and for another key.
    """
    person = roll(catalog).get(catalog.actor)
    if person is None:
        raise Refused(
            f"{kind} {subject}",
            found=f"{catalog.actor}, not on the list of people",
            expected="a person on it",
            next="btx actor add",
        )
    try:
        return person, _opened(envelope, person)
    except (Damaged, Invalid) as error:
        expected = f"an act signed by {person.name}'s key"
        raise _sign_again(kind, subject, error.found, expected) from None


def _sign_again(kind: str, subject: str, found: str, expected: str) -> Refused:
    return Refused(f"{kind} {subject}", found=found, expected=expected, next="sign it again")


def require_reason(
    subject: str, why: str, expected: str = "why, in words an auditor can judge"
) -> None:
    """Refuse an act without a reason. Raises Invalid."""
    if not why.strip():
        raise Invalid(subject, found="no reason", expected=expected, next="--why TEXT")


def to_sign(act: Act) -> tuple[bytes, bytes]:
    """Return the payload of an act's envelope, and the bytes that its signature is over."""
    payload = canonical_json(act.to_json())
    return payload, attestations.pre_authentication(ACT, payload)


def sign(catalog: Catalog, act: Act, by: Signer, documents: Sequence[JsonObject] = ()) -> Event:
    """Sign an act by a person on the list of people, and log it. Raises as `signed` does."""
    body = signed(catalog, act, by)
    return catalog.event(body, act.subject, kind=act.act, documents=documents)


def signed(catalog: Catalog, act: Act, by: Signer) -> Acted:
    """Return an act, signed by a person on the list of people; nothing is logged.

    Raises:
        Refused: for a key that is not the one on the list, or a catalogue of somebody else.
    """
    if catalog.actor != by.name:
        raise Refused(
            f"{act.act} {act.subject}",
            found=f"{catalog.actor} with the key of {by.name}",
            expected="one person",
            next=f"set BTX_ACTOR={by.name}",
        )
    held = attestations.key_id(by.key)[:16]
    listed = attestations.key_id(roll(catalog)[by.name].key)[:16]
    if held != listed:
        raise Refused(
            f"key of {by.name}",
            found=held,
            expected=f"{listed}, as on the list of people",
            next="btx actor add, by an auditor",
        )
    return Acted(act=act, envelope=_sealed(act, by))


def now() -> str:
    """Return the time as acts state it: so finely that no two acts of a person are equal."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
