"""Approvals and waivers: given, taken back, and those that hold.

In:  a version or a rule, an approver.  Out: signed events; what of them counts for a gate.
An approval names the version's digest, a waiver the content and the facts that it excuses, and
neither is by who registered the subject. What gates make of them is the policies'.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf

from registry.catalogue.catalog import Catalog
from registry.errors import Invalid, Refused
from registry.governance.acts import admit_act, now, require_reason, sign, signed_elsewhere
from registry.governance.first_uses import first_uses
from registry.governance.keys import Signer
from registry.governance.people import Actor, Roll, roles_of, roll
from registry.governance.policies import Waiver, moment
from registry.records.base import JsonObject
from registry.records.events import Act, Envelope
from registry.records.evidence import ApprovalLine
from registry.records.facts import Facts
from registry.records.references import parse
from registry.records.version import Event, Version

LONGEST_WAIVER_DAYS = 366
_RULE = re.compile(r"[a-z][a-z0-9-]{0,63}/[a-z][a-z0-9-]{0,63}")


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


def approve(catalog: Catalog, ref: str, by: Signer, why: str = "") -> Event:
    """Sign that this very version may be released.

    Raises:
        Refused: for whoever registered it, and without the role of an approver.
    """
    version = catalog.get(ref)
    act = _draft(catalog, "approved", str(version.ref), by.name)
    return sign(catalog, act.model_copy(update={"why": why}), by)


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
    return sign(catalog, act, by)


def draft_waiver(catalog: Catalog, grant: Grant, name: str, *, until: str, why: str) -> Act:
    """Return the waiver that a person would sign; the arguments are those of `waive`."""
    check_named(grant.rule, grant.subject)
    require_reason("waiver", why)
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
    return sign(catalog, draft_retraction(catalog, event, by.name, why), by)


def draft_retraction(catalog: Catalog, event: Event, name: str, why: str) -> Act:
    """Return the retraction that a person would sign; the rest is as with `retract`."""
    subject = event.subject
    require_reason(f"retraction of {subject}", why)
    if event.digest not in {one.digest for one, _ in _held(catalog, event.kind, subject)}:
        raise Refused(
            f"retraction of {subject}",
            found=f"event {event.seq}, which does not count",
            expected="an approval or waiver that does",
            next=f"btx show {subject}",
        )
    people = roll(catalog)
    roles = roles_of(people, name)
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
    return [person for person in Roll.read(catalog).ever() if person.name == name]


def waivers(
    catalog: Catalog,
    subject: str,
    registrar: str | None,
    *,
    registered: bool = False,
    before: float = inf,
) -> list[Waiver]:
    """Return the waivers for the subject that hold but for date and facts, which `judge` looks at.

    An older one names no content: it counts for what was registered after it was signed, whose
    content can no longer change.

    Args:
        catalog: the log.
        subject: the reference that they are for.
        registrar: whose own waivers do not count.
        registered: whether the subject is registered.
        before: the number of the event before which they held.
    """
    held = []
    for event, act in _held(catalog, "waived", subject, before):
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
    person, act = signed_elsewhere(catalog, "approved", subject, envelope)
    wanted = _draft(catalog, "approved", subject, person.name)
    # The words are the person's own; all else is as it was drafted.
    return admit_act(catalog, wanted.model_copy(update={"why": act.why or ""}), envelope)


def _draft(catalog: Catalog, kind: str, subject: str, name: str) -> Act:
    people = roll(catalog)
    registered = catalog.find(subject)
    roles = roles_of(people, name)
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
