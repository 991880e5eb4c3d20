"""Gates: judge a candidate, log the verdict, keep what it was judged by.

In:  the catalogue, and a question: a gate, a candidate's evidence, policies, a time.
Out: a verdict, logged with its policies and evidence by digest.
The facts of governance (waivers, approvals, registrar) are read here from the log, whatever the
caller says of them. Rules are `policies`, signatures are `people`; looking for what went past a
gate is `gaps`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.catalogue.catalog import Catalog
from registry.errors import Damaged, Invalid, NotFound
from registry.governance import people
from registry.governance.cel import expressions
from registry.governance.policies import (
    Candidate,
    Policy,
    Verdict,
    Waiver,
    from_document,
    judge,
    to_document,
)
from registry.records.events import Judged, Reason, WaiverUsed
from registry.records.evidence import (
    BuildEvidence,
    DataLine,
    Evidence,
    ExpertEvidence,
    MemberLine,
    WaiverLine,
)
from registry.records.facts import Facts
from registry.records.kinds import Gate, Kind, Outcome
from registry.records.version import Event, Version

# The gate that a version must have passed to be registered.
LET_IN_BY: Mapping[Kind, Gate] = {
    Kind.DATA: Gate.REGISTER,
    Kind.SEED: Gate.REGISTER,
    Kind.EXPERT: Gate.REGISTER,
    Kind.BUILD: Gate.BUILD,
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a gate is asked.

    Attributes:
        gate: which gate.
        subject: the candidate's reference; it need not be registered yet.
        evidence: what is known of it.
        policies: the rules that are asked.
        at: the moment of the question.
    """

    gate: Gate
    subject: str
    evidence: Evidence
    policies: Sequence[Policy]
    at: datetime

    @property
    def kind(self) -> Kind:
        """The candidate's kind."""
        return self.evidence.of


def decide(catalog: Catalog, question: Question) -> Verdict:
    """Judge, and log the verdict, its policies and its evidence in one transaction.

    A refusal is logged as an event of kind `refused`, any other verdict as `verdict`.
    """
    evidence, waivers = _completed(catalog, question)
    verdict = _judged(question, evidence, waivers)
    unreadable = None
    if verdict.rules[0].name == "gate/evidence":
        unreadable = expressions.check_evidence(evidence)
    reasons = [
        Reason(rule=rule.name, message=rule.message, remedy=rule.remedy)
        for rule in verdict.rules
        if rule.message
    ]
    body = Judged(
        gate=question.gate,
        kind=str(question.kind),
        outcome=Outcome(verdict.outcome),
        at=verdict.at,
        waivers=tuple(WaiverUsed(**vars(waiver)) for waiver in waivers),
        engine=expressions.engine_version(),
        rules=outcomes(verdict),
        reasons=tuple(reasons),
    )
    catalog.event(
        body,
        question.subject,
        kind="refused" if verdict.outcome == "refused" else "verdict",
        documents=[
            to_document(question.policies),
            {"unreadable": unreadable} if unreadable else evidence,
        ],
    )
    return verdict


def check(catalog: Catalog, question: Question) -> Verdict:
    """Return what `decide` would say now; nothing is logged."""
    evidence, waivers = _completed(catalog, question)
    return _judged(question, evidence, waivers)


def verdicts(catalog: Catalog, subject: str, gate: str | None = None) -> Sequence[Event]:
    """Return every logged verdict on the subject, oldest first; with `gate`, of that gate alone.

    Raises:
        Damaged: with `gate`, for an event that cannot be read.
    """
    logged = [*catalog.events(subject, "verdict"), *catalog.events(subject, "refused")]
    if gate is not None:
        logged = [event for event in logged if event.read(Judged).gate == gate]
    return sorted(logged, key=lambda event: event.seq)


def readable_verdicts(catalog: Catalog, subject: str) -> Sequence[Event]:
    """Return the logged verdicts that can be read, for pages; the audit names the others."""
    readable = []
    for event in verdicts(catalog, subject):
        with suppress(Damaged):
            event.read(Judged)
            readable.append(event)
    return readable


def judge_again(catalog: Catalog, event: Event) -> Verdict:
    """Return the verdict that the kept policies, evidence, waivers and time give today.

    Raises:
        NotFound: for a document that is not kept.
        Invalid: for a verdict that was not kept whole.
    """
    body = event.read(Judged)
    try:
        rules = catalog.document(body.policies)
        evidence = catalog.document(body.evidence)
        return judge(
            from_document(rules),
            Candidate(body.gate, body.kind, evidence, event.subject),
            waivers=[waiver_of(line) for line in body.waivers],
            at=datetime.fromisoformat(body.at),
            shapes=rules["shapes"],
        )
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise Invalid(
            f"verdict on {event.subject}",
            found=f"{type(error).__name__}: {error}",
            expected="a verdict kept whole",
            next="btx audit",
        ) from None


def outcomes(verdict: Verdict) -> dict[str, str]:
    """Return what each rule said, by its name."""
    return {rule.name: str(rule.outcome) for rule in verdict.rules}


def waiver_of(line: WaiverUsed) -> Waiver:
    """Return a waiver that a verdict was given with."""
    return Waiver(line.rule, line.subject, line.until, line.actor, line.why, line.id)


def _judged(question: Question, evidence: Mapping[str, Any], waivers: Sequence[Waiver]) -> Verdict:
    candidate = Candidate(question.gate, question.kind, evidence, question.subject)
    return judge(question.policies, candidate, at=question.at, waivers=waivers)


def _completed(catalog: Catalog, question: Question) -> tuple[dict[str, Any], list[Waiver]]:
    """Add governance's own facts to the evidence, and find the waivers that may be used."""
    evidence, subject = question.evidence, question.subject
    version = _registered(catalog, subject)
    registrar = version.actor if version else catalog.actor
    let_in = {ref: _let_in(catalog, ref) for ref in dict.fromkeys([subject, *_named(evidence)])}
    own: dict[str, object] = {
        "kind": str(evidence.of),
        "waivers": _relied_on(catalog, let_in),
        "actor": people.asker(catalog, catalog.actor),
    }
    if isinstance(evidence, BuildEvidence):
        own["registrar"] = registrar
        own["approvals"] = tuple(people.approvals(catalog, version)) if version else ()
    complete = _with_gates(evidence, let_in).model_copy(update=own)
    waivers = people.waivers(catalog, subject, registrar)
    try:
        return complete.to_json(), waivers
    except Invalid as error:
        # Judging refuses this, as it refuses whatever is no evidence.
        return {"unreadable": f"evidence is not plain JSON: {error.found}"}, waivers


def _registered(catalog: Catalog, subject: str) -> Version[Facts] | None:
    try:
        return catalog.get(subject)
    except NotFound:
        return None


def _let_in(catalog: Catalog, ref: str) -> Event | None:
    """Return the newest verdict of the gate that the version had to pass to be registered."""
    kind = ref.partition("/")[0]
    gate = LET_IN_BY.get(Kind(kind)) if kind in set(Kind) else None
    try:
        given = verdicts(catalog, ref, gate) if gate else ()
    except Damaged:
        # What cannot be read lets nobody in; the audit names it.
        return None
    return given[-1] if given else None


def _with_gates(evidence: Evidence, let_in: Mapping[str, Event | None]) -> Evidence:
    """Add what its gate said of everything that the evidence names: None where none was asked."""

    def said(ref: str | None) -> str | None:
        event = let_in.get(ref) if ref else None
        return str(event.read(Judged).outcome) if event else None

    def data(lines: Iterable[DataLine]) -> tuple[DataLine, ...]:
        return tuple(line.model_copy(update={"gate": said(line.ref)}) for line in lines)

    def member(line: MemberLine) -> MemberLine:
        return line.model_copy(update={"gate": said(line.ref), "data": data(line.data)})

    if isinstance(evidence, ExpertEvidence):
        own = {"seed_gate": said(evidence.seed), "data": data(evidence.data)}
        return evidence.model_copy(update=own)
    if isinstance(evidence, BuildEvidence):
        return evidence.model_copy(
            update={
                "seed_gate": said(evidence.seed),
                "seed_data": data(evidence.seed_data),
                "members": tuple(member(line) for line in evidence.members),
            }
        )
    return evidence


def _named(evidence: Evidence) -> list[str]:
    """Return every reference that the evidence names: seed, data, members, and their data."""
    if isinstance(evidence, ExpertEvidence):
        refs = [evidence.seed, *(line.ref for line in evidence.data)]
    elif isinstance(evidence, BuildEvidence):
        refs = [evidence.seed, *(line.ref for line in evidence.seed_data)]
        for member in evidence.members:
            refs += [member.ref, *(line.ref for line in member.data)]
    else:
        refs = []
    return [ref for ref in refs if ref]


def _relied_on(catalog: Catalog, let_in: Mapping[str, Event | None]) -> tuple[WaiverLine, ...]:
    """Return the waivers that let these in, each renewed to its latest end."""
    lines = []
    for subject, event in let_in.items():
        if event is None:
            continue
        verdict = event.read(Judged)
        if not verdict.passed:
            continue
        waived = [name for name, outcome in verdict.rules.items() if outcome == Outcome.WAIVED]
        signed = people.waivers(catalog, subject, event.actor) if waived else []
        for rule in waived:
            same = [waiver for waiver in signed if waiver.rule == rule]
            best = max(same, key=lambda waiver: waiver.until, default=None)
            lines.append(
                WaiverLine(
                    rule=rule,
                    subject=subject,
                    until=best.until if best else None,
                    actor=best.actor if best else None,
                )
            )
    return tuple(lines)
