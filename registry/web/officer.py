"""What officers and auditors look at: acts that stand, refusals, people, policies, what ends.

In:  the catalogue.  Out: records of `records.officer_answers`. Reads only.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from registry.catalogue.catalog import Catalog
from registry.errors import Invalid, NotFound
from registry.governance import adoption, approving, build_licence, due, gate, people
from registry.governance.policies import Policy, moment
from registry.records.answers.people_and_tokens import ActorRow
from registry.records.answers.upkeep import DueRow
from registry.records.events import Act, Judged
from registry.records.evidence import BuildEvidence, WaiverLine
from registry.records.facts import BuildFacts
from registry.records.kinds import Outcome
from registry.records.officer_answers import (
    AdoptionLine,
    Attempt,
    DuePage,
    PeoplePage,
    PoliciesPage,
    PolicyLine,
    RuleLine,
    StandingAct,
    WaiverDraft,
    WaiversPage,
)
from registry.records.pages import LicenceLine
from registry.records.version import Event, Version
from registry.web.access import Tokens

MOST_REFUSED = 100  # refusals on the page of waivers
MOST_CHANGES = 400  # lines of what an adoption changed


def waivers(catalog: Catalog) -> WaiversPage:
    """Return every approval and waiver that counts, and what rules refused and could be waived."""
    acts = [*standing(catalog, "waived"), *standing(catalog, "approved")]
    return WaiversPage(acts=tuple(acts), refused=tuple(_refused(catalog)))


def standing(catalog: Catalog, kind: str, subject: str | None = None) -> list[StandingAct]:
    """Return the approvals or waivers that count, newest first."""
    lines = []
    for event in reversed(approving.standing_acts(catalog, kind, subject)):
        act = people.stated(event)
        if act is not None:
            lines.append(_standing(event, act))
    return lines


def standing_act(catalog: Catalog, seq: int) -> tuple[Event, StandingAct]:
    """Return the approval or waiver with this number. Raises NotFound where none counts."""
    for kind in ("waived", "approved"):
        for event in approving.standing_acts(catalog, kind):
            act = people.stated(event) if event.seq == seq else None
            if act is not None:
                return event, _standing(event, act)
    raise NotFound(
        f"event {seq}",
        found="nothing that counts",
        expected="an approval or a waiver that does",
        next="open Waivers: it lists them",
    )


def _standing(event: Event, act: Act) -> StandingAct:
    state: Literal["ends", "ended", "stands"] = "stands"
    if act.until:
        state = "ended" if moment(act.until) < datetime.now(UTC) else "ends"
    return StandingAct(
        seq=event.seq,
        kind="waived" if event.kind == "waived" else "approved",
        subject=event.subject,
        actor=event.actor,
        at=event.at,
        why=act.why or "",
        rule=act.rule,
        until=act.until,
        state=state,
        excused=act.excused,
    )


def _refused(catalog: Catalog) -> list[Attempt]:
    """Return what was refused and not let in since, newest first, by rules that may be waived."""
    newest: dict[tuple[str, str], Event] = {}
    for kind in ("verdict", "refused"):
        for event in catalog.events(kind=kind):
            body = event.body
            if not isinstance(body, Judged):
                continue
            key = (event.subject, str(body.gate))
            if key not in newest or newest[key].seq < event.seq:
                newest[key] = event
    fixed = {policy.name for policy in _valid(catalog) if not policy.waivable}
    lines: list[Attempt] = []
    for event in sorted(newest.values(), key=lambda one: -one.seq):
        if event.kind == "refused":
            lines += _attempts(event, fixed)
    return lines[:MOST_REFUSED]


def _attempts(event: Event, fixed: Iterable[str]) -> list[Attempt]:
    body = event.read(Judged)
    reasons = {reason.rule: reason for reason in body.reasons}
    lines = []
    for rule, outcome in body.rules.items():
        policy = rule.partition("/")[0]
        if outcome != Outcome.REFUSED or policy == "gate" or policy in fixed:
            continue
        reason = reasons.get(rule)
        lines.append(
            Attempt(
                subject=event.subject,
                gate=str(body.gate),
                at=event.at,
                actor=event.actor,
                rule=rule,
                message=reason.message if reason else "",
                remedy=reason.remedy if reason else "",
            )
        )
    return lines


def waiver_draft(catalog: Catalog, subject: str, rule: str) -> WaiverDraft:
    """Return what a waiver would be for: the newest candidate of this name that the rule judged.

    Raises:
        NotFound: where the rule judged none.
        Invalid: for what is no rule, or a subject without a version.
    """
    grant = gate.grant(catalog, rule, subject)
    verdicts = (event.read(Judged) for event in gate.readable_verdicts(catalog, subject))
    body = [one for one in verdicts if rule in one.rules][-1]
    reason = next((one for one in body.reasons if one.rule == rule), None)
    return WaiverDraft(
        subject=subject,
        rule=rule,
        content=grant.content,
        excused=grant.excused,
        gate=str(body.gate),
        outcome=str(body.rules[rule]),
        message=reason.message if reason else "",
        remedy=reason.remedy if reason else "",
    )


def relied_on(catalog: Catalog, lines: Sequence[WaiverLine]) -> tuple[StandingAct, ...]:
    """Return the waivers that something stands on, each with who signed it and why.

    One that has no act any more is shown as ended.
    """
    found = []
    # All at once: each reading of the acts reads the list of actors too.
    acts = standing(catalog, "waived") if lines else []
    by_line = {(act.subject, act.rule, act.until): act for act in reversed(acts)}
    for line in lines:
        ended = StandingAct(
            seq=0,
            kind="waived",
            subject=line.subject or "",
            actor=line.actor or "",
            at="",
            rule=line.rule,
            until=line.until,
            state="ended",
            why="no waiver of it holds any more",
        )
        found.append(by_line.get((line.subject or "", line.rule, line.until), ended))
    return tuple(found)


def due_rows(catalog: Catalog, tokens: Tokens, days: float = due.SOON_DAYS) -> list[DueRow]:
    """Return what has ended of all that is in use, and what ends within some days; soonest first.

    Tokens that have ended open nothing, and are left out.
    """
    at = datetime.now(UTC)
    rows = due.due(catalog, at, days)
    for token in tokens.all():
        ends = moment(token.expires)
        if not token.revoked and at < ends <= at + timedelta(days=days):
            ref = f"token/{token.id}"
            rows.append(due.row("token", ref, token.expires, at, f"btx token add {token.name}"))
    return sorted(rows, key=lambda row: (row.until, row.what, row.ref))


def due_page(catalog: Catalog, tokens: Tokens, days: int) -> DuePage:
    """Return what has ended, and what ends within some days."""
    return DuePage(days=days, rows=tuple(due_rows(catalog, tokens, days)))


def due_in(catalog: Catalog, ref: str, evidence: BuildEvidence, days: int) -> tuple[DueRow, ...]:
    """Return what of a build and all that it was made from has ended, or ends within some days."""
    refs = [ref, evidence.seed, *(line.ref for line in evidence.seed_data)]
    for member in evidence.members:
        refs += [member.ref, *(line.ref for line in member.data)]
    versions = [catalog.get(one) for one in dict.fromkeys(refs) if one]
    return tuple(due.of_versions(catalog, versions, datetime.now(UTC), days))


def licence_line(catalog: Catalog, build: Version[BuildFacts]) -> LicenceLine | None:
    """Return under which licence a build may be passed on; None where it cannot be computed."""
    try:
        found = build_licence.of_build(catalog, build)
    except (NotFound, Invalid):
        return None
    return LicenceLine(
        answer=str(found.answer),
        expression=found.expression,
        reasons=found.reasons,
        questions=found.questions,
    )


def people_rows(catalog: Catalog) -> list[ActorRow]:
    """Return everybody who is on the list of actors, or was, by name."""
    closed = people.is_closed(catalog)
    rows = []
    for person in sorted(people.roll(catalog).values(), key=lambda one: one.name):
        changes = catalog.events(f"actor/{person.name}", "actor")
        rows.append(
            ActorRow(
                actor=person.name,
                roles=person.roles,
                key_id=(person.key_id or "")[:16],
                since=changes[0].at,
                changed=changes[-1].at,
                list="closed" if closed else "open",
                public_key=person.public_key,
            )
        )
    return rows


def people_page(catalog: Catalog) -> PeoplePage:
    """Return who is on the list of actors, or was."""
    return PeoplePage(closed=people.is_closed(catalog), people=tuple(people_rows(catalog)))


def policies_page(catalog: Catalog, files: Sequence[Policy]) -> PoliciesPage:
    """Return the policies in force and their history, newest first.

    Args:
        catalog: whose log.
        files: the policies as they lie in the workspace.
    """
    valid = _valid(catalog)
    shown = sorted(valid or files, key=lambda policy: policy.name)
    waiting = adoption.changes(valid, files) if valid else []
    return PoliciesPage(
        policies=tuple(_policy_line(policy) for policy in shown),
        history=tuple(_history(catalog)),
        waiting=tuple(waiting[:MOST_CHANGES]),
    )


def _valid(catalog: Catalog) -> Sequence[Policy]:
    adopted = adoption.adopted(catalog)
    return adoption.policies_of(catalog, adopted) if adopted else ()


def _history(catalog: Catalog) -> list[AdoptionLine]:
    lines: list[AdoptionLine] = []
    before: Sequence[Policy] | None = None
    whys: Mapping[int, str] = {
        event.seq: act.why or ""
        for event in catalog.events(kind=adoption.ADOPTED)
        if (act := people.stated(event)) is not None
    }
    for one in adoption.all_adopted(catalog):
        now = adoption.policies_of(catalog, one)
        changes = adoption.changes(before, now) if before is not None else []
        lines.append(
            AdoptionLine(
                seq=one.seq,
                at=one.at,
                actor=one.actor,
                why=whys.get(one.seq, ""),
                signed=one.signed,
                digest=one.digest,
                policies=len(now),
                changes=tuple(changes[:MOST_CHANGES]),
            )
        )
        before = now
    return lines[::-1]


def _policy_line(policy: Policy) -> PolicyLine:
    return PolicyLine(
        name=policy.name,
        why=policy.why,
        enforcement=policy.enforcement,
        waivable=policy.waivable,
        gates=tuple(map(str, policy.match.gates)),
        kinds=tuple(map(str, policy.match.kinds)),
        parameters=policy.parameters,
        rules=tuple(RuleLine(**vars(rule)) for rule in policy.validations),
    )
