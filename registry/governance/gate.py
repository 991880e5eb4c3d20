"""Gates: judge a candidate, log the verdict, keep what it was judged by.

In:  the catalogue, and a question: a gate, a candidate's evidence, policies, a time.
Out: a verdict, logged with its policies and evidence by digest.
The facts of governance (waivers, approvals, registrar) are read here from the log, whatever the
caller says of them. Rules are `policies`, signatures are `people`; looking for what went past a
gate is `gaps`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from operator import attrgetter
from typing import Any

from registry.catalogue.catalog import Catalog
from registry.digest import digest
from registry.errors import Damaged, Invalid, NotFound
from registry.governance import acts, adoption, approving, stating
from registry.governance.cel import expressions
from registry.governance.out_of_use import out_of_use
from registry.governance.policies import (
    Candidate,
    Policy,
    RuleResult,
    Verdict,
    Waiver,
    facts_read,
    from_document,
    judge,
    moment,
    to_document,
)
from registry.records.events import Judged, Reason, Released, WaiverUsed
from registry.records.evidence import (
    ApprovalLine,
    BuildEvidence,
    DataLine,
    Evidence,
    ExpertEvidence,
    MemberLine,
    WaiverLine,
)
from registry.records.facts import Facts
from registry.records.kinds import KINDS, UNUSABLE, Gate, Kind, Outcome
from registry.records.own_facts import LICENCE_TEXT, ORGANISATION, FactSchema, plain
from registry.records.version import Event, Version

# The gate that a version must have passed to be registered.
LET_IN_BY: Mapping[Kind, Gate] = {
    Kind.DATA: Gate.REGISTER,
    Kind.SEED: Gate.REGISTER,
    Kind.EXPERT: Gate.REGISTER,
    Kind.BUILD: Gate.BUILD,
}


# Facts that the log knows; no waiver is bound to them.
GOVERNED = frozenset({"waivers", "actor", "approvals", "registrar", "ref", "content"})


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a gate is asked.

    Attributes:
        gate: which gate.
        subject: the candidate's reference; it need not be registered yet.
        evidence: what is known of it.
        policies: the rules that are asked.
        at: the moment of the question.
        proposed: whether the rules are tried out, and need not be those that were adopted.
        sent: what the person who asks signed elsewhere; None: their key is here.
        schema: the company's own facts: each that is not stated is null, for rules to name.
    """

    gate: Gate
    subject: str
    evidence: Evidence
    policies: Sequence[Policy]
    at: datetime
    proposed: bool = False
    sent: acts.Sent | None = None
    schema: FactSchema = field(default_factory=FactSchema)

    @property
    def kind(self) -> Kind:
        """The candidate's kind."""
        return self.evidence.of


def decide(catalog: Catalog, question: Question) -> Verdict:
    """Judge, and log the verdict, its policies and its evidence in one transaction.

    A refusal is logged as an event of kind `refused`, any other verdict as `verdict`.
    """
    evidence, waivers = _completed(catalog, question)
    verdict = _judged(catalog, question, evidence, waivers)
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
    judged = {"unreadable": unreadable} if unreadable else evidence
    if body.passed:
        envelope = acts.vouched(
            catalog, "verdict", question.subject, digest(judged), sent=question.sent
        )
        body = body.with_envelope(envelope)
    catalog.event(
        body,
        question.subject,
        kind="verdict" if body.passed else "refused",
        documents=[to_document(question.policies), judged],
    )
    return verdict


def check(catalog: Catalog, question: Question) -> Verdict:
    """Return what `decide` would say now; nothing is logged."""
    evidence, waivers = _completed(catalog, question)
    return _judged(catalog, question, evidence, waivers)


def evidence_digest(catalog: Catalog, question: Question) -> str:
    """Return the digest of the evidence that `decide` would judge now, which its verdict names."""
    return digest(_completed(catalog, question)[0])


def verdicts(catalog: Catalog, subject: str, gate: str | None = None) -> Sequence[Event]:
    """Return every logged verdict on the subject, oldest first; with `gate`, of that gate alone.

    Raises:
        Damaged: with `gate`, for an event that cannot be read.
    """
    logged = [*catalog.events(subject, "verdict"), *catalog.events(subject, "refused")]
    if gate is not None:
        logged = [event for event in logged if event.read(Judged).gate == gate]
    return sorted(logged, key=lambda event: event.seq)


def given_for(catalog: Catalog, gate: Gate, act: Event) -> Sequence[Event]:
    """Return the verdicts of a gate by which a release or export may have been done.

    That is those that were given to who acted, before the act, oldest first: what the gate said to
    somebody else in between is about another attempt.
    """
    given = verdicts(catalog, act.subject, gate)
    return [event for event in given if event.seq < act.seq and event.actor == act.actor]


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
        policies = from_document(rules)
        verdict = judge(
            policies,
            Candidate(body.gate, body.kind, evidence, event.subject),
            waivers=[Waiver(**vars(line)) for line in body.waivers],
            at=datetime.fromisoformat(body.at),
            shapes=rules["shapes"],
            seed_data=rules.get("seed_data", False),
        )
        verdict = _if_adopted(catalog, verdict, policies, event.seq)
        return _if_in_use_then(catalog, verdict, event)
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


def waivers_counted(catalog: Catalog, event: Event) -> tuple[WaiverUsed, ...]:
    """Return the waivers that a verdict made its exceptions by, one for each rule.

    Others may have been granted for other content, or have ended. Where the evidence is not kept,
    nobody can tell them apart.
    """
    body = event.read(Judged)
    waived = [name for name, outcome in body.rules.items() if outcome == Outcome.WAIVED]
    granted = [line for line in body.waivers if line.rule in waived]
    counted: dict[str, WaiverUsed] = {}
    try:
        evidence = catalog.document(body.evidence) if granted else {}
        for line in sorted(granted, key=attrgetter("until"), reverse=True):
            waiver = Waiver(**vars(line))
            if waiver.mismatch(evidence) is None and waiver.in_force(moment(body.at)):
                counted.setdefault(line.rule, line)
    except (NotFound, Damaged, Invalid, IndexError):
        return tuple(granted)
    return tuple(counted.values())


def grant(catalog: Catalog, rule: str, subject: str) -> approving.Grant:
    """Return what a waiver of a rule would be for: the newest candidate that the rule judged.

    Args:
        catalog: the log.
        rule: POLICY/RULE.
        subject: the candidate's reference, which need not be registered.

    Raises:
        Invalid: for what is no rule, or a subject without a version.
        NotFound: where no logged verdict on the subject holds the rule, or says of what content.
    """
    approving.check_named(rule, subject)
    for event in reversed(readable_verdicts(catalog, subject)):
        body = event.read(Judged)
        if rule not in body.rules or len(body.documents) < len(("policies", "evidence")):
            continue
        evidence = catalog.document(body.evidence)
        if not isinstance(evidence.get("content"), str):
            continue
        policies = from_document(catalog.document(body.policies))
        read = set(facts_read(policies, rule)) - GOVERNED
        if "license" in read and LICENCE_TEXT in (evidence.get("own") or {}):
            # Whoever waived a private licence read that text.
            read.add("own")
        excused = {fact: evidence.get(fact) for fact in sorted(read)}
        return approving.Grant(rule, subject, evidence["content"], excused)
    raise NotFound(
        f"waiver of {rule} for {subject}",
        found="no verdict that asked this rule",
        expected="a refused attempt, whose content the waiver is for",
        next="try it first: the command that is refused leaves what can be waived",
    )


def _judged(
    catalog: Catalog,
    question: Question,
    evidence: Mapping[str, Any],
    waivers: Sequence[Waiver],
) -> Verdict:
    candidate = Candidate(question.gate, question.kind, evidence, question.subject)
    verdict = judge(question.policies, candidate, at=question.at, waivers=waivers)
    if question.proposed:
        return verdict
    return _if_in_use(catalog, _if_adopted(catalog, verdict, question.policies))


def _if_in_use(catalog: Catalog, verdict: Verdict) -> Verdict:
    """Return the verdict; a refusal to let out what is out of use, though no policy says so.

    A build may hold what its members do not tell: it grew from one that was tuned on other data.
    """
    registered = catalog.find(verdict.subject)
    let_out = verdict.gate in (Gate.RELEASE, Gate.EXPORT)
    if verdict.outcome == Outcome.REFUSED or not let_out or registered is None:
        return verdict
    status = catalog.status(registered.ref)
    if status not in UNUSABLE:
        return verdict
    rule = RuleResult(
        policy="gate",
        rule="in-use",
        outcome="refused",
        message=f"{verdict.subject} is {status}",
        remedy="btx rebuild, and release what it makes",
    )
    return replace(verdict, outcome=Outcome.REFUSED, rules=(*verdict.rules, rule))


def _if_in_use_then(catalog: Catalog, verdict: Verdict, event: Event) -> Verdict:
    """Return the verdict; the logged refusal of what was out of use before its event."""
    said = event.read(Judged).rules.get("gate/in-use")
    if said != Outcome.REFUSED:
        return verdict
    if out_of_use(catalog).get(event.subject, event.seq) >= event.seq:
        return verdict
    rule = RuleResult(policy="gate", rule="in-use", outcome="refused")
    return replace(verdict, outcome=Outcome.REFUSED, rules=(*verdict.rules, rule))


def _if_adopted(
    catalog: Catalog, verdict: Verdict, policies: Sequence[Policy], before: int | None = None
) -> Verdict:
    """Return the verdict; a refusal where another set of policies was valid at that time."""
    valid = adoption.adopted(catalog, before)
    if valid is None or verdict.rules[0].name == "gate/evidence":
        return verdict
    asked = adoption.set_digest(policies)
    if asked == valid.digest:
        return verdict
    rule = RuleResult(
        policy="gate",
        rule="adopted",
        outcome="refused",
        message=(
            f"the policies of digest {asked[:12]} were not adopted; valid is {valid.digest[:12]}, "
            f"adopted by {valid.actor} on {valid.at[:10]}"
        ),
        remedy="put the files in policies/ back, or have an auditor adopt them: btx policy adopt",
    )
    return replace(verdict, outcome=Outcome.REFUSED, rules=(rule,))


def completed(catalog: Catalog, question: Question) -> Evidence:
    """Return the evidence with what only the log knows of it: as policies are told it."""
    evidence, subject = question.evidence, question.subject
    version = catalog.find(subject)
    registrar = version.actor if version else catalog.actor
    let_in = {ref: newest(catalog, ref) for ref in dict.fromkeys([subject, *_named(evidence)])}
    own: dict[str, object] = {
        "kind": str(evidence.of),
        "waivers": _relied_on(catalog, let_in),
        "actor": acts.asker(catalog, catalog.actor, question.sent),
    }
    if isinstance(evidence, BuildEvidence):
        own["registrar"] = registrar
        own["approvals"] = tuple(approving.approvals(catalog, version)) if version else ()
    complete = _with_gates(evidence, let_in).model_copy(update=own)
    return _with_own(catalog, complete, version, question.schema)


def _completed(catalog: Catalog, question: Question) -> tuple[dict[str, Any], list[Waiver]]:
    """Add governance's own facts to the evidence, and find the waivers that may be used."""
    complete, subject = completed(catalog, question), question.subject
    version = catalog.find(subject)
    registrar = version.actor if version else catalog.actor
    waivers = approving.waivers(catalog, subject, registrar, registered=version is not None)
    try:
        return complete.to_json(), waivers
    except Invalid as error:
        # Judging refuses this, as it refuses whatever is no evidence.
        return {"unreadable": f"evidence is not plain JSON: {error.found}"}, waivers


def newest(catalog: Catalog, ref: str, before: float = inf) -> Event | None:
    """Return the newest verdict of the gate that the version had to pass to be registered.

    With `before`, the newest before the event of that number.
    """
    kind = ref.partition("/")[0]
    gate = LET_IN_BY.get(Kind(kind)) if kind in KINDS else None
    try:
        given = verdicts(catalog, ref, gate) if gate else ()
    except Damaged:
        # What cannot be read lets nobody in; the audit names it.
        return None
    earlier = [event for event in given if event.seq < before]
    return earlier[-1] if earlier else None


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


def _with_own(
    catalog: Catalog, evidence: Evidence, version: Version[Facts] | None, schema: FactSchema
) -> Evidence:
    """Add the own facts of the candidate, of everything that it names, and of the organisation."""
    statements = stating.Statements.read(catalog)
    declared = {**statements.schema.facts, **schema.facts}
    every = FactSchema.model_construct(facts=declared)

    def all_of(kind: str, stated: Mapping[str, Any]) -> dict[str, Any]:
        return {**dict.fromkeys(every.of_kind(kind)), **stated}

    def own(kind: str, ref: str | None) -> dict[str, Any]:
        facts = statements.of_ref(ref) if ref else {}
        return all_of(kind, plain(stating.own_values(facts)))

    def data(lines: Iterable[DataLine]) -> tuple[DataLine, ...]:
        return tuple(line.model_copy(update={"own": own(Kind.DATA, line.ref)}) for line in lines)

    def member(line: MemberLine) -> MemberLine:
        approved = _approvals(catalog, line.ref)
        update = {"own": own(Kind.EXPERT, line.ref), "data": data(line.data)}
        return line.model_copy(update={**update, "approvals": approved})

    kind = str(evidence.of)
    current = own(kind, str(version.ref)) if version else all_of(kind, evidence.own)
    organisation = plain(stating.own_values(statements.of_organisation()))
    update: dict[str, Any] = {
        "own": current,
        "organisation": all_of(ORGANISATION, organisation),
    }
    if isinstance(evidence, ExpertEvidence):
        update["data"] = data(evidence.data)
    if isinstance(evidence, BuildEvidence):
        update["seed_own"] = own(Kind.SEED, evidence.seed)
        update["seed_data"] = data(evidence.seed_data)
        update["members"] = tuple(member(line) for line in evidence.members)
        update["export_own"] = all_of(Kind.EXPORT, evidence.export_own)
    return evidence.model_copy(update=update)


def _approvals(catalog: Catalog, ref: str) -> tuple[ApprovalLine, ...]:
    """Return who approved a member; without a look at its row where nobody did."""
    if not catalog.events(ref, "approved"):
        return ()
    version = catalog.find(ref)
    return tuple(approving.approvals(catalog, version)) if version else ()


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


def relied_on(catalog: Catalog, refs: Iterable[str], before: float = inf) -> tuple[WaiverLine, ...]:
    """Return the waivers that let these versions in, each renewed to its latest end.

    With `before`, as the log stood before the event of that number.
    """
    return _relied_on(catalog, {ref: newest(catalog, ref, before) for ref in refs}, before)


def released_by(catalog: Catalog, ref: str) -> tuple[WaiverLine, ...]:
    """Return the waivers that let a build be released last, each renewed to its latest end."""
    released = catalog.events(ref, Released.logged_as)
    if not released:
        return ()
    last = released[-1]
    given = [
        event
        for event in readable_verdicts(catalog, ref)
        if event.seq < last.seq
        and event.actor == last.actor
        and event.read(Judged).gate == Gate.RELEASE
    ]
    return _relied_on(catalog, {ref: given[-1]}) if given else ()


def _granted(catalog: Catalog, event: Event, before: float) -> list[Waiver]:
    """Return the waivers for what a verdict let in: for its content, judged by its facts."""
    logged = catalog.events(event.subject, "registered")
    registered = bool(logged) and logged[0].seq < before
    signed = approving.waivers(
        catalog, event.subject, event.actor, registered=registered, before=before
    )
    try:
        evidence = catalog.document(event.read(Judged).evidence)
    except (NotFound, Damaged, IndexError):
        # The audit names the document that is lost.
        return []
    return [waiver for waiver in signed if waiver.mismatch(evidence) is None]


def _relied_on(
    catalog: Catalog, let_in: Mapping[str, Event | None], before: float = inf
) -> tuple[WaiverLine, ...]:
    """Return the waivers that let these in, each renewed to its latest end."""
    lines = []
    for subject, event in let_in.items():
        if event is None:
            continue
        verdict = event.read(Judged)
        if not verdict.passed:
            continue
        waived = [name for name, outcome in verdict.rules.items() if outcome == Outcome.WAIVED]
        signed = _granted(catalog, event, before) if waived else []
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
