"""Find what went past a gate: versions that no verdict let in, or that a verdict let in as others.

In:  the catalogue and a reference.  Out: gaps, each with what to do about it.
Giving verdicts is `gate`; the audit reports these gaps as findings.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog
from registry.digest import canonical_json
from registry.digest import digest as digest_of
from registry.errors import Invalid
from registry.governance import adoption, approving, erasure, people
from registry.governance.claims import LONGEST_TO_LOG, Claims
from registry.governance.first_uses import repetitions, signed_act
from registry.governance.gate import LET_IN_BY, given_for, judge_again, outcomes, verdicts
from registry.governance.policies import Waiver, moment
from registry.licences import alternatives, spelled
from registry.records import division
from registry.records.base import JsonObject
from registry.records.events import (
    Acted,
    AliasMoved,
    Contested,
    Erased,
    ErasureAsked,
    EventBody,
    Exported,
    Judged,
    Noted,
    Released,
    Retired,
    TokenIssued,
    Withdrawn,
)
from registry.records.evidence import (
    EVIDENCE,
    BuildEvidence,
    DataEvidence,
    Evidence,
    ExpertEvidence,
    ResultLine,
    SeedEvidence,
    result_lines,
)
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Facts,
    SeedFacts,
    Spent,
)
from registry.records.kinds import Gate, Outcome
from registry.records.own_facts import plain
from registry.records.references import parse
from registry.records.results import Result
from registry.records.version import Event, Version, content_digest, older_content_digest

# Bodies that carry the signature of whoever let something in or out.
SignedBody = (
    Judged
    | Released
    | Exported
    | Withdrawn
    | TokenIssued
    | ErasureAsked
    | Erased
    | Contested
    | Retired
    | AliasMoved
    | Noted
)
ACTS = frozenset({"approved", "waived", "retracted", "actor", "adopted", "declared", "fact"})
# What is signed where the list of actors is closed, by the kind of event.
SIGNED: Mapping[str, type[EventBody]] = {
    **dict.fromkeys(ACTS, Acted),
    "verdict": Judged,
    "released": Released,
    "exported": Exported,
    "withdrawn": Withdrawn,
    "retired": Retired,
    "alias": AliasMoved,
    "noted": Noted,
    "token": TokenIssued,
    "erasure": ErasureAsked,
    "erased": Erased,
    "contested": Contested,
}

# Where a recorded build is judged by what holds of it then, own facts among them.
LET_OUT = (Gate.RELEASE, Gate.EXPORT)
# A fact that the evidence and the row both state: its name, as judged, as registered.
Compared = tuple[str, object, object]
# The figures that evidence had before it named samples.
ALWAYS_TOLD = frozenset(
    {
        "data",
        "domain",
        "bits_per_byte",
        "seed_bits_per_byte",
        "specialist_bits_per_byte",
        "accuracy",
        "seed_accuracy",
        "new_to_seed",
    }
)


class Gap(NamedTuple):
    """One version, or one verdict, that does not rest on a gate."""

    subject: str
    found: str
    expected: str
    next: str


def disagreement(catalog: Catalog, event: Event) -> Gap | None:
    """Check a logged verdict against its own policies, evidence and waivers.

    Returns:
        None when they give the logged verdict, and its waivers are signed acts of the log.
    """
    try:
        again = judge_again(catalog, event)
        body = event.read(Judged)
    except BtxError as error:
        return Gap(
            event.subject,
            f"{error.subject}: {error.found}",
            "policies and evidence kept by digest",
            "restore the registry from its copy",
        )
    now, logged = outcomes(again), dict(body.rules)
    if (again.outcome, now) != (body.outcome, logged):
        changed = [name for name, outcome in now.items() if logged.get(name) != outcome]
        rules = ", ".join(changed) or "rules missing"
        return Gap(
            event.subject,
            f"recorded {body.outcome}, judged again {again.outcome} ({rules})",
            "the same verdict",
            "find who wrote the verdict: btx audit names the event",
        )
    for rule in again.rules:
        if rule.waiver and not _signed(catalog, rule.waiver, event.seq):
            return Gap(
                event.subject,
                f"waiver of {rule.name} by {rule.waiver.actor} is no signed act",
                "a signed waiver in the log",
                f"btx waive {rule.name} {event.subject}",
            )
    return None


def ungated(catalog: Catalog, ref: str) -> list[Gap]:
    """Return everything in the lineage of `ref` that no gate let in.

    That is: no verdict, a refusal, a verdict that judges differently today, a waiver that nobody
    signed, or a verdict on other facts than those that are registered.
    """
    gaps = []
    for version in catalog.lineage(ref).nodes:
        gaps += _let_in(catalog, version)
    return gaps + _let_out(catalog, catalog.get(ref))


def ungated_anywhere(catalog: Catalog, versions: Iterable[Version[Facts]]) -> list[Gap]:
    """Return all that no gate let in among these versions, and what of it no gate let out."""
    gaps = []
    for version in versions:
        gaps += [*_let_in(catalog, version), *_let_out(catalog, version)]
    return gaps


def _let_in(catalog: Catalog, version: Version[Facts]) -> list[Gap]:
    gate = LET_IN_BY.get(version.ref.kind)
    return _gaps(catalog, version, gate, None) if gate is not None else []


def _let_out(catalog: Catalog, version: Version[Facts]) -> list[Gap]:
    """Return the gaps of a build's releases and exports; what several have in common once."""
    gaps = []
    for released in catalog.events(version.ref, Released.logged_as):
        gaps += _gaps(catalog, version, Gate.RELEASE, released)
    for exported in catalog.events(version.ref, Exported.logged_as):
        gaps += _gaps(catalog, version, Gate.EXPORT, exported)
        gaps += _recorded_otherwise(catalog, version, exported)
    return list(dict.fromkeys(gaps))


def _recorded_otherwise(catalog: Catalog, version: Version[Facts], exported: Event) -> list[Gap]:
    """Return the gaps of an export that is recorded otherwise than the gate was told of it."""
    try:
        given = given_for(catalog, Gate.EXPORT, exported)
        logged = [event for event in given if event.read(Judged).passed]
        told = catalog.document(logged[-1].read(Judged).evidence) if logged else {}
        marked, own = exported.read(Exported).draft, _own_of_export(catalog, version, exported)
    except BtxError:
        # The gaps of the verdict, and the check of the log, say what cannot be read.
        return []
    found, seq = [], exported.seq
    if told.get("draft") and not marked:
        said = f"let out as a draft, and exported without the mark in event {seq}"
        found.append((said, "an export that is marked as a draft"))
    stated = told.get("export_own")
    if own is not None and isinstance(stated, Mapping):
        judged = {name: value for name, value in stated.items() if value is not None}
        if canonical_json(judged) != canonical_json(own):
            said = f"let out with own facts {judged!r:.80}, and recorded with {own!r:.80}"
            found.append((f"{said} in event {seq}", "the facts that the gate was told"))
    advice = "find out where that export went, and ask for it back"
    return [Gap(str(version.ref), said, expected, advice) for said, expected in found]


def _own_of_export(catalog: Catalog, version: Version[Facts], exported: Event) -> JsonObject | None:
    """Return the own facts in the row of an export; None where there is no row."""
    folder = exported.read(Exported).folder
    rows = [
        row
        for row in catalog.versions(ExportFacts, files=False, name=f"build-{version.ref.version}")
        if (row.facts.folder, row.actor) == (folder, exported.actor)
        and any(event.seq < exported.seq for event in catalog.events(row.ref, "registered"))
    ]
    return plain(rows[-1].facts.own) if rows else None


def unsigned(catalog: Catalog) -> tuple[int, list[Gap]]:
    """Find acts that a closed list of actors wants signed, and that no key on it signed.

    Registries are looked at from their first adopted policies on: older ones did not sign so much.

    Returns:
        The number of acts that were looked at, and a gap for each that nobody vouched for.
    """
    start = adoption.first(catalog)
    if start is None:
        return 0, []
    people_then = people.Roll.read(catalog)
    closed_from = _first_closed(people_then)
    examined, found = 0, []
    acts = [event for event in catalog.events() if event.kind in SIGNED]
    repeated = repetitions(acts)
    for event in acts:
        if event.seq <= max(start, closed_from):
            continue
        examined += 1
        problem = _unsigned(people_then, event)
        if event.seq in repeated:
            first = repeated[event.seq]
            problem = (
                f"{event.kind} by {event.actor}, whose signature stands in event {first} already"
            )
        if problem is not None:
            advice = f"find out who wrote event {event.seq}; if it was not {event.actor}: btx audit"
            found.append(
                Gap(f"{event.subject}, event {event.seq}", problem, "the actor's signature", advice)
            )
    return examined, found


def _first_closed(people_then: people.Roll) -> float:
    """Return the number of the event that closed the list; infinity where none did."""
    for event in people_then.changes:
        if people_then.closed(event.seq + 1):
            return event.seq
    return inf


def _unsigned(people_then: people.Roll, event: Event) -> str | None:
    """Say why an event is not its actor's act; None where it is."""
    if _is_late(event):
        return f"{event.kind} by {event.actor}, signed at {signed_act(event).get('at')}"
    if event.kind in ACTS:
        counts = people_then.act_of(event) is not None
        return None if counts else f"{event.kind} by {event.actor}, which does not count"
    body = event.read(SIGNED[event.kind])
    if not isinstance(body, SignedBody):
        return None
    why = body.why if isinstance(body, Withdrawn) else None
    if people_then.vouches(event, body.envelope, _signed_digest(body), why):
        return None
    return f"{event.kind} in the name of {event.actor}, without their signature"


def _is_late(event: Event) -> bool:
    """Whether an act was signed at quite another time than it was logged at."""
    at = signed_act(event).get("at")
    if not isinstance(at, str):
        return False
    try:
        return abs(moment(event.at) - moment(at)) > LONGEST_TO_LOG
    except Invalid:
        return True


def _signed_digest(body: SignedBody) -> str | None:
    """Return the digest that was signed for, where the event says it."""
    match body:
        case Withdrawn():
            return body.digest
        case Judged() if len(body.documents) > 1:
            return body.evidence
        case ErasureAsked():
            return erasure.parts_digest(body.parts)
        case Erased():
            return digest_of(body.part.to_json())
        case Contested():
            return body.withdrawal
        case Retired() | AliasMoved() | Noted():
            return body.signed
        case _:
            return None


def unconfirmed(catalog: Catalog) -> list[Gap]:
    """Return a gap for each tombstone that no second person confirmed."""
    return [
        Gap(
            f"{one.event.subject}, event {one.event.seq}",
            one.found,
            "an erasure that one person asked for and another confirmed",
            f"find out who wrote event {one.event.seq}; restore the bytes from a copy, if there is",
        )
        for one in erasure.unconfirmed(catalog)
    ]


def _gaps(catalog: Catalog, version: Version[Facts], gate: Gate, act: Event | None) -> list[Gap]:
    """Return the gaps of one version at one gate; a verdict that cannot be read is one.

    Args:
        catalog: where it is registered.
        version: what was let in or out.
        gate: by which.
        act: the release or export; None for what was registered.
    """
    try:
        return _gaps_of_readable(catalog, version, gate, act)
    except BtxError as error:
        advice = "restore the registry from its copy"
        found = f"{error.subject}: {error.found}"
        return [Gap(str(version.ref), found, "facts and verdicts as they were written", advice)]


def _gaps_of_readable(
    catalog: Catalog, version: Version[Facts], gate: Gate, act: Event | None
) -> list[Gap]:
    subject = str(version.ref)
    logged = given_for(catalog, gate, act) if act else verdicts(catalog, subject, gate)
    expected = "an allowed or waived verdict"
    if not logged:
        advice = f"btx withdraw {subject}, then let it in through btx"
        return [Gap(subject, f"no verdict of gate {gate}", expected, advice)]
    last = logged[-1].read(Judged)
    if not last.passed:
        rules = [name for name, outcome in last.rules.items() if outcome == Outcome.REFUSED]
        said = f"refused at gate {gate}: {', '.join(rules)}"
        return [Gap(subject, said, expected, f"btx withdraw {subject}")]
    again = disagreement(catalog, logged[-1])
    if again:
        return [again]
    document = catalog.document(last.evidence)
    other = _other_facts(document, version, gate)
    if other is not None:
        advice = f"btx withdraw {subject}, then register it again"
        return [Gap(subject, f"judged on {other}", "the registered facts", advice)]
    claims = Claims(catalog)
    claim = claims.contradiction(logged[-1], document)
    if claim is None:
        given = logged[-1]
        claim = claims.lapsed(given, act, document) if act else claims.misnamed(given, version)
    if claim is None:
        return []
    advice = f"find out who wrote event {logged[-1].seq}; btx withdraw {subject}, and ask again"
    return [Gap(subject, claim, "what log and rows said then", advice)]


def _other_facts(document: JsonObject, version: Version[Facts], gate: Gate) -> str | None:
    """Say where the evidence speaks of something else than the row; None where it nowhere does."""
    kind = EVIDENCE[version.ref.kind]
    try:
        evidence = kind.from_json(document, "evidence")
    except BtxError as error:
        return f"{error.subject}, {error.found}"
    for name, judged, registered in _compared(evidence, version, gate):
        if judged != registered:
            return f"{name} {judged!r:.80} where {registered!r:.80} is registered"
    return None


def _compared(evidence: Evidence, version: Version[Facts], gate: Gate) -> Sequence[Compared]:
    """Return what the evidence says of the row's own facts, beside the row."""
    pairs: list[Compared] = [
        ("ref", evidence.ref, str(version.ref)),
        ("kind", evidence.kind, str(version.ref.kind)),
    ]
    facts = version.facts
    if isinstance(facts, DataFacts) and isinstance(evidence, DataEvidence):
        pairs.append(("license", _licence(evidence.license), _licence(facts.license)))
        pairs.append(("bytes", evidence.bytes, facts.bytes))
        registered = facts.stated()
        for name, judged in evidence.stated().items():
            if name != "license":
                pairs.append((name, judged, registered[name]))
        if evidence.license_alternatives:
            ways = alternatives(facts.applying_license or "")
            pairs.append(("license_alternatives", evidence.license_alternatives, ways))
        documents = sorted(one.license for one in evidence.document_licenses)
        pairs.append(("document_licenses", documents, sorted(facts.document_licenses)))
        pairs.append(("name", evidence.name, facts.domain or version.ref.name))
    if isinstance(facts, SeedFacts) and isinstance(evidence, SeedEvidence):
        pairs.append(("license", _licence(evidence.license), _licence(facts.license)))
        pairs.append(("finite", evidence.finite, facts.finite))
        pairs.append(("model_type", evidence.model_type, facts.model_type))
        pairs.append(("name", evidence.name, version.ref.name))
    if isinstance(facts, ExpertFacts) and isinstance(evidence, ExpertEvidence):
        pairs += _compared_expert(evidence, facts)
        pairs.append(("name", evidence.name, version.ref.name))
    if isinstance(facts, BuildFacts) and isinstance(evidence, BuildEvidence):
        members = sorted(member.ref for member in facts.members)
        pairs.append(("seed", evidence.seed, facts.seed))
        pairs.append(("members", sorted(line.ref for line in evidence.members), members))
        if gate in LET_OUT:
            pairs += _compared_release(evidence, facts)
    if gate not in LET_OUT:
        judged = {name: value for name, value in evidence.own.items() if value is not None}
        pairs.append(("own", canonical_json(judged), canonical_json(plain(facts.own))))
    older = not isinstance(facts, BuildFacts) and older_content_digest(version.files)
    if evidence.content is not None and evidence.content != older:
        pairs.append(("content", evidence.content, _content(version, gate)))
    return pairs


def _content(version: Version[Facts], gate: Gate) -> str | None:
    """Return the digest of what a gate judges of a registered version."""
    facts = version.facts
    if not isinstance(facts, BuildFacts):
        return content_digest(version.files)
    return facts.content if gate == Gate.BUILD else version.digest


def _compared_expert(evidence: ExpertEvidence, facts: ExpertFacts) -> list[Compared]:
    judged_on = sorted(line.ref for line in evidence.data)
    return [
        ("seed", evidence.seed, facts.seed),
        ("mode", evidence.mode, facts.mode),
        ("data", judged_on, sorted(facts.data)),
        ("weights", evidence.weights, facts.preflight),
        ("results", *_figures(evidence.results, facts.results)),
        ("general", *_figures(evidence.general, facts.general)),
        ("contamination", evidence.contamination, facts.contamination),
        ("cost", _spent(evidence.cost), _spent(facts.train) if evidence.cost else None),
    ]


def _spent(cost: Spent | None) -> object:
    return (cost.tokens, cost.flops, cost.wall_s) if cost else None


def _compared_release(evidence: BuildEvidence, facts: BuildFacts) -> list[Compared]:
    routing = facts.routing
    outliers = evidence.routing
    used = (outliers.dead or (), outliers.dominant or ()) if outliers else None
    divided = division.line(facts) if evidence.division else None
    return [
        ("division", evidence.division, divided),
        ("results", *_figures(evidence.results or (), facts.results)),
        ("routing", used, (routing.dead, routing.dominant) if routing else None),
        ("active_parameters", evidence.active_parameters, facts.cost.active_parameters),
        ("total_parameters", evidence.total_parameters, facts.cost.total_parameters),
        ("tokens_per_s", evidence.tokens_per_s, facts.cost.tokens_per_s),
    ]


def _figures(
    judged: Sequence[ResultLine], registered: Sequence[Result]
) -> tuple[set[ResultLine], set[ResultLine]]:
    """Return the figures that were judged and those that are registered, as far as both say.

    Of a domain that a row of older code names without a version, the data version is left out, and
    so is what came with samples, where the evidence is from before there were any.
    """
    lines = result_lines(registered)
    told = ALWAYS_TOLD
    if any(line.sample for line in judged):
        told |= ResultLine.model_fields.keys()
    unnamed = {line.domain for line in lines if parse(line.data).version is None}

    def stripped(line: ResultLine) -> ResultLine:
        own = {name: getattr(line, name) for name in ResultLine.model_fields if name in told}
        # Of a release that may have been another one.
        own |= {name: None for name in own if name.startswith("previous_")}
        # Of the data, not of the figures.
        own["data_registered_at"] = None
        if line.domain in unnamed:
            own["data"] = ""
        return ResultLine(**own)

    return {stripped(line) for line in judged}, {stripped(line) for line in lines}


def _licence(text: str | None) -> str | None:
    try:
        return spelled(text) if text is not None else None
    except Invalid:
        return text


def _signed(catalog: Catalog, waiver: Waiver, before: int) -> bool:
    """Whether the waiver is a signed act that stood before an event, and says the same."""
    standing = approving.standing_acts(catalog, "waived", waiver.subject, before)
    events = [event for event in standing if event.digest == waiver.id]
    act = people.act_of(catalog, events[0]) if events else None
    if act is None:
        return False
    says = (act.rule, act.subject, act.until, act.actor, act.content, act.excused)
    used = (waiver.rule, waiver.subject, waiver.until, waiver.actor)
    return says == (*used, waiver.content, waiver.excused)
