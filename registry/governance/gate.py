"""Gates: judge a candidate, log the verdict, keep what it was judged by; and find what went past a gate.

In:  the catalogue, evidence, policies, a time.  Out: a Verdict, logged; or the gaps an audit reports.
The facts of governance (waivers, approvals, registrar) are read here from the log, whatever the caller says of them.
Rules are policy.py's, signatures people.py's.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog, Event, Version, spdx
from registry.errors import Invalid, NotFound
from registry.governance import expressions, people
from registry.governance.policies import Policy, Verdict, Waiver, from_document, judge, to_document

GATED = {"data": "register", "seed": "register", "expert": "register", "build": "build"}
PASSED = ("allowed", "waived")


class Gap(NamedTuple):
    """One thing that stands where no gate let it in."""

    subject: str
    found: str
    expected: str
    next: str


def decide(
    catalog: Catalog,
    *,
    gate: str,
    subject: str,
    kind: str,
    evidence: Mapping[str, Any],
    policies: Sequence[Policy],
    at: datetime,
) -> Verdict:
    """Judge, and log the verdict with policies and evidence kept by digest, in one transaction. A no is logged as "refused".

    The event's "documents" are their digests, in this order: see `kept`.
    """
    complete, waivers = _complete(catalog, subject, kind, evidence)
    verdict = judge(
        policies, gate=gate, kind=kind, evidence=complete, waivers=waivers, at=at, subject=subject
    )
    unreadable = (
        expressions.check_evidence(complete) if verdict.rules[0].name == "gate/evidence" else None
    )
    kept = {"unreadable": unreadable} if unreadable else complete
    body = {
        "gate": gate,
        "kind": kind,
        "outcome": verdict.outcome,
        "at": verdict.at,
        "waivers": [vars(waiver) for waiver in waivers],
        "engine": expressions.engine(),
        "rules": _outcomes(verdict),
        "reasons": [
            {"rule": rule.name, "message": rule.message, "remedy": rule.remedy}
            for rule in verdict.rules
            if rule.message
        ],
    }
    catalog.event(
        "refused" if verdict.outcome == "refused" else "verdict",
        subject,
        body,
        documents=[to_document(policies), kept],
    )
    return verdict


def check(
    catalog: Catalog,
    *,
    gate: str,
    subject: str,
    kind: str,
    evidence: Mapping[str, Any],
    policies: Sequence[Policy],
    at: datetime,
) -> Verdict:
    """What `decide` would say now. Nothing is logged."""
    complete, waivers = _complete(catalog, subject, kind, evidence)
    return judge(
        policies, gate=gate, kind=kind, evidence=complete, waivers=waivers, at=at, subject=subject
    )


def verdicts(catalog: Catalog, subject: str, gate: str | None = None) -> list[Event]:
    """Every logged verdict on the subject, oldest first."""
    found = [*catalog.events(subject, "verdict"), *catalog.events(subject, "refused")]
    return sorted(
        (event for event in found if gate in (None, event.body.get("gate"))),
        key=lambda event: event.seq,
    )


def kept(event: Event) -> tuple[str, str]:
    """Digests of the policies and of the evidence that a verdict was given by."""
    policies, evidence = event.body["documents"]
    return str(policies), str(evidence)


def judge_again(catalog: Catalog, event: Event) -> Verdict:
    """The verdict that the kept policies, evidence, waivers and time give today. Raises NotFound, Invalid for what was not kept whole."""
    body = event.body
    try:
        rules, evidence = (catalog.document(key) for key in kept(event))
        waivers = [Waiver(**waiver) for waiver in body["waivers"]]
        at = datetime.fromisoformat(body["at"])
        asked = {
            "gate": body["gate"],
            "kind": body["kind"],
            "subject": event.subject,
            "shapes": rules["shapes"],
        }
        return judge(from_document(rules), evidence=evidence, waivers=waivers, at=at, **asked)
    except (KeyError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise Invalid(
            f"verdict on {event.subject}",
            found=found,
            expected="a verdict kept whole",
            next="btx audit",
        ) from None


def disagreement(catalog: Catalog, event: Event) -> Gap | None:
    """None when the logged verdict is what its own policies and evidence give, and its waivers are signed acts of the log."""
    try:
        again = judge_again(catalog, event)
    except BtxError as error:
        found = f"{error.subject}: {error.found}"
        return Gap(
            event.subject,
            found,
            "policies and evidence kept by digest",
            "restore the registry from its copy",
        )
    if (again.outcome, _outcomes(again)) != (event.body["outcome"], dict(event.body["rules"])):
        changed = [
            name
            for name, outcome in _outcomes(again).items()
            if event.body["rules"].get(name) != outcome
        ]
        found = f"recorded {event.body['outcome']}, judged again {again.outcome} ({', '.join(changed) or 'rules missing'})"
        return Gap(
            event.subject,
            found,
            "the same verdict",
            "find who wrote the verdict: btx audit names the event",
        )
    for rule in again.rules:
        if rule.waiver and not _signed(catalog, rule.waiver):
            found = f"waiver of {rule.name} by {rule.waiver.actor} is no signed act"
            return Gap(
                event.subject,
                found,
                "a signed waiver in the log",
                f"btx waive {rule.name} {event.subject}",
            )
    return None


def ungated(catalog: Catalog, ref: str) -> list[Gap]:
    """Everything in the lineage of `ref` that no gate let in.

    That is: no verdict, a refusal, a verdict that judges differently today, a waiver nobody signed, or a verdict on other facts.
    """
    versions = catalog.lineage(ref).nodes
    gated = [version for version in versions if version.ref.kind in GATED]
    gaps = [
        gap
        for version in gated
        for gap in _gate_gaps(catalog, version, GATED[version.ref.kind], None)
    ]
    subject = catalog.get(ref)
    released = catalog.events(subject.ref, "released")
    return gaps + (_gate_gaps(catalog, subject, "release", released[-1].seq) if released else [])


def _gate_gaps(catalog: Catalog, version: Version, gate: str, before: int | None) -> list[Gap]:
    subject = str(version.ref)
    logged = [
        event for event in verdicts(catalog, subject, gate) if before is None or event.seq < before
    ]
    if not logged:
        advice = f"btx withdraw {subject}, then let it in through btx"
        return [Gap(subject, f"no verdict of gate {gate}", "an allowed or waived verdict", advice)]
    last = logged[-1]
    if last.body["outcome"] not in PASSED:
        broken = ", ".join(
            name for name, outcome in last.body["rules"].items() if outcome == "refused"
        )
        return [
            Gap(
                subject,
                f"refused at gate {gate}: {broken}",
                "an allowed or waived verdict",
                f"btx withdraw {subject}",
            )
        ]
    again = disagreement(catalog, last)
    if again:
        return [again]
    other = _other_facts(catalog.document(kept(last)[1]), version, gate)
    return (
        [
            Gap(
                subject,
                f"judged on {other}",
                "the registered facts",
                f"btx withdraw {subject}, then register it again",
            )
        ]
        if other
        else []
    )


def _other_facts(evidence: Mapping[str, Any], version: Version, gate: str) -> str | None:
    """Where the evidence speaks of something else than the row: the licence, the lineage, the members, what was measured."""
    facts = version.facts
    pairs: dict[str, tuple[Any, Any]] = {
        "ref": (evidence.get("ref"), str(version.ref)),
        "kind": (evidence.get("kind"), version.ref.kind),
    }
    if version.ref.kind in ("data", "seed"):
        pairs["license"] = (_licence(evidence.get("license")), _licence(facts.get("license")))
    if version.ref.kind == "data":
        pairs |= {
            key: (evidence.get(key), facts.get(key))
            for key in ("source", "pii", "retain_until", "bytes")
        }
    if version.ref.kind == "expert":
        pairs |= {
            "seed": (evidence.get("seed"), facts.get("seed")),
            "mode": (evidence.get("mode"), facts.get("mode")),
        }
        pairs["data"] = (_refs(evidence.get("data")), sorted(map(str, facts.get("data") or ())))
        registered = {
            "weights": "preflight",
            "evaluation": "evaluation",
            "contamination": "contamination",
        }
        pairs |= {key: (evidence.get(key), facts.get(name)) for key, name in registered.items()}
    if version.ref.kind == "build":
        pairs["seed"] = (evidence.get("seed"), facts.get("seed"))
        pairs["members"] = (_refs(evidence.get("members")), _refs(facts.get("members")))
        pairs |= _measured(evidence, facts) if gate == "release" else {}
    different = [
        f"{key} {found!r:.80} where {wanted!r:.80} is registered"
        for key, (found, wanted) in pairs.items()
        if found != wanted
    ]
    return different[0] if different else None


def _measured(evidence: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fact -> what a release was judged on, what the build's row says."""
    routing, cost = facts.get("routing"), facts.get("cost") or {}
    known = {
        "evaluation": facts.get("evaluation"),
        "routing": routing and {key: routing.get(key) for key in ("dead", "dominant")},
    }
    known |= {
        key: cost.get(key) for key in ("active_parameters", "total_parameters", "tokens_per_s")
    }
    return {key: (evidence.get(key), value) for key, value in known.items()}


def _licence(text: Any) -> Any:
    try:
        return spdx(text) if text is not None else None
    except Invalid:
        return text


def _refs(lines: Any) -> list[str]:
    return sorted(str(line["ref"]) for line in lines or ())


def _complete(
    catalog: Catalog, subject: str, kind: str, evidence: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Waiver]]:
    """The evidence with governance's own facts read from the log, and the waivers that may be used for the subject."""
    try:
        version: Version | None = catalog.get(subject)
    except NotFound:
        version = None
    registrar = version.actor if version else catalog.actor
    let_in = {ref: _let_in(catalog, ref) for ref in dict.fromkeys([subject, *_named(evidence)])}
    complete = {
        **_gated(evidence, let_in),
        "waivers": _relied_on(catalog, let_in),
        "actor": people.standing(catalog, catalog.actor),
    }
    if kind == "build":
        complete |= {
            "registrar": registrar,
            "approvals": people.approvals(catalog, version) if version else [],
        }
    return complete, people.waivers(catalog, subject, registrar)


def _let_in(catalog: Catalog, ref: str) -> Event | None:
    """The newest verdict of the gate that the thing had to pass to be registered."""
    gate = GATED.get(ref.partition("/")[0])
    found = [
        event
        for event in catalog.events(ref)
        if event.kind in ("verdict", "refused") and event.body.get("gate") == gate
    ]
    return found[-1] if found else None


def _gated(evidence: Mapping[str, Any], let_in: Mapping[str, Event | None]) -> dict[str, Any]:
    """The evidence with, beside everything it names, what its gate said of that: allowed, waived, refused, or null."""

    def said(ref: Any) -> str | None:
        event = let_in.get(ref) if isinstance(ref, str) else None
        return str(event.body["outcome"]) if event else None

    def marked(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [_line(line) if isinstance(line, Mapping) else line for line in value]

    def _line(line: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **line,
            "gate": said(line.get("ref")),
            **({"data": marked(line["data"])} if "data" in line else {}),
        }

    named = {
        key: marked(evidence[key]) for key in ("data", "seed_data", "members") if key in evidence
    }
    return {
        **evidence,
        **named,
        **({"seed_gate": said(evidence["seed"])} if "seed" in evidence else {}),
    }


def _relied_on(catalog: Catalog, let_in: Mapping[str, Event | None]) -> list[dict[str, Any]]:
    """The waivers that let these in, each renewed to its latest end: rule, subject, until (null: none that holds), actor."""
    found = []
    for subject, verdict in let_in.items():
        if verdict is None or verdict.body["outcome"] not in PASSED:
            continue
        for rule in [
            name for name, outcome in verdict.body["rules"].items() if outcome == "waived"
        ]:
            held = [
                waiver
                for waiver in people.waivers(catalog, subject, verdict.actor)
                if waiver.rule == rule
            ]
            best = max(held, key=lambda waiver: waiver.until, default=None)
            found.append(
                {
                    "rule": rule,
                    "subject": subject,
                    "until": best.until if best else None,
                    "actor": best.actor if best else None,
                }
            )
    return found


def _named(evidence: Mapping[str, Any]) -> list[str]:
    """Every reference that the evidence names: seed, data, members, their data. Facts of another form are for `judge` to refuse."""
    members = _lines(evidence.get("members"))
    lines = [
        *_lines(evidence.get("data")),
        *_lines(evidence.get("seed_data")),
        *members,
        *(line for member in members for line in _lines(member.get("data"))),
    ]
    return [
        ref
        for ref in (evidence.get("seed"), *(line.get("ref") for line in lines))
        if isinstance(ref, str)
    ]


def _lines(value: Any) -> list[Mapping[str, Any]]:
    return (
        [line for line in value if isinstance(line, Mapping)]
        if isinstance(value, list | tuple)
        else []
    )


def _signed(catalog: Catalog, waiver: Waiver) -> bool:
    events = [
        event for event in catalog.events(waiver.subject, "waived") if event.digest == waiver.id
    ]
    act = people.act_of(catalog, events[0]) if events else None
    return act is not None and all(
        act[key] == getattr(waiver, key) for key in ("rule", "subject", "until", "actor")
    )


def _outcomes(verdict: Verdict) -> dict[str, str]:
    return {rule.name: rule.outcome for rule in verdict.rules}
