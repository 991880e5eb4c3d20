"""Policies: rules, and the judgement of evidence by them.

In:  policies; evidence as plain JSON, waivers, a time.  Out: a Verdict.
Judging is pure: nothing is read or written, and the time is an argument. A rule passes only by
being exactly true; what cannot be decided means no; a gate for which there is no policy is shut.
Numbers are doubles in policies as in evidence, so that evidence read back from its stored form
gives the same verdict: write 1.0 in arithmetic.
Reading files is left to `policy_files`, who may grant a waiver to `people`, storing verdicts to
`gate`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from registry.digest import canonical_json
from registry.errors import Invalid, Refused
from registry.governance.cel import expressions
from registry.governance.cel.shapes import Shape, ShapeJson, from_json, mismatch
from registry.records import evidence as evidence_records
from registry.records.kinds import Gate, Outcome
from registry.records.references import parse

if TYPE_CHECKING:
    from cel_expr_python import cel

# The kinds of version that a gate is asked about.
CandidateKind = Literal["data", "seed", "expert", "build"]
RuleOutcome = Literal["allowed", "waived", "refused", "warned", "noted"]
# The facts of each kind of candidate.
ShapesByKind: TypeAlias = Mapping[str, ShapeJson]

_LONGEST_VALUE_SHOWN = 80
# The kinds of candidate that each gate is asked about.
KINDS_BY_GATE: Mapping[str, tuple[str, ...]] = {
    "register": ("data", "seed", "expert"),
    "build": ("build",),
    "release": ("build",),
    "export": ("build",),
}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Settings):
    """Which questions a policy answers.

    Attributes:
        gates: the gates at which it is asked.
        kinds: the kinds of candidate that it is asked about.
        domains: shell patterns, one of which has to match the name of a data version or an expert
            that the candidate is or is made from.
    """

    gates: tuple[Gate, ...] = Field(min_length=1)
    kinds: tuple[CandidateKind, ...] = Field(min_length=1)
    domains: tuple[str, ...] = Field(default=("*",), min_length=1)

    def covers(self, gate: str, kind: str, domains: Sequence[str]) -> bool:
        """Return whether the policy is asked.

        Args:
            gate: the gate that is asked.
            kind: the candidate's kind.
            domains: names of the data versions and experts that the candidate is or is made from.
        """
        asked = gate in self.gates and kind in self.kinds and kind in KINDS_BY_GATE[gate]
        return asked and (self.domains == ("*",) or self._matches_any(domains))

    def _matches_any(self, domains: Sequence[str]) -> bool:
        return any(fnmatchcase(domain, pattern) for domain in domains for pattern in self.domains)


class Validation(_Settings):
    """One rule of a policy.

    Attributes:
        rule: its name in the policy.
        expression: what has to be true.
        message: what a person reads if it is not; `{expression}` is filled in.
        remedy: what a person can do then.
    """

    rule: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")
    expression: str = Field(min_length=1)
    message: str = Field(min_length=1)
    remedy: str = Field(min_length=1)


class Policy(_Settings):
    """One policy file.

    Attributes:
        name: the file's name without its ending.
        why: the reason for the policy, for people.
        match: which questions it answers.
        enforcement: whether a broken rule refuses, warns, or is only logged.
        waivable: whether a waiver can make an exception.
        parameters: what a company sets, read in expressions as `parameters.KEY`.
        validations: its rules.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")
    why: str = Field(min_length=1)
    match: Match
    enforcement: Literal["deny", "warn", "audit"] = "deny"
    waivable: bool = False
    parameters: dict[str, object] = Field(default_factory=dict)
    validations: tuple[Validation, ...] = Field(min_length=1)

    @field_validator("validations")
    @classmethod
    def _each_once(cls, validations: tuple[Validation, ...]) -> tuple[Validation, ...]:
        if len({validation.rule for validation in validations}) < len(validations):
            raise ValueError("each rule name once")
        return validations

    def to_json(self) -> dict[str, object]:
        """Return the policy as it is stored with every verdict, with all defaults written out."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Waiver:
    """A named person's exception to one rule for one subject until one moment.

    Attributes:
        rule: POLICY/RULE.
        subject: the reference of the version for which it holds.
        until: an ISO date, that day included, or an ISO moment, in UTC.
        actor: who granted it.
        why: the reason.
        id: the digest of the event that logged it; empty where there is none.
        content: the digest of the content that it is for; None in older ones.
        excused: the facts that the rule reads, as they were excused; None in older ones.
    """

    rule: str
    subject: str
    until: str
    actor: str
    why: str
    id: str = ""
    content: str | None = None
    excused: Mapping[str, object] | None = None

    def in_force(self, at: datetime) -> bool:
        """Return whether the waiver still holds at a moment.

        Raises:
            Invalid: if its end is no date.
        """
        return moment(self.until) >= at

    def mismatch(self, evidence: Mapping[str, object]) -> str | None:
        """Say what the waiver was not granted for: other content, or other facts.

        Returns:
            None where it was granted for this very candidate, or names no content, as older ones.
        """
        if self.content is not None and evidence.get("content") != self.content:
            return "is for other content"
        for fact, value in (self.excused or {}).items():
            if canonical_json({"": evidence.get(fact)}) != canonical_json({"": value}):
                return f"excuses {fact} {json.dumps(value)[:_LONGEST_VALUE_SHOWN]}"
        return None


@dataclass(frozen=True)
class RuleResult:
    """What one rule says of a candidate.

    Attributes:
        policy: the policy's name.
        rule: the rule's name in the policy.
        outcome: allowed, waived or refused; warned or noted where the policy does not deny.
        message: why the rule is not true; empty if it is.
        remedy: what a person can do; empty if the rule is true.
        waiver: the waiver that made the exception.
    """

    policy: str
    rule: str
    outcome: RuleOutcome
    message: str = ""
    remedy: str = ""
    waiver: Waiver | None = None

    @property
    def name(self) -> str:
        """The rule's full name, POLICY/RULE."""
        return f"{self.policy}/{self.rule}"


@dataclass(frozen=True)
class Verdict:
    """A gate's answer.

    Attributes:
        gate: the gate that was asked.
        subject: the candidate's reference.
        outcome: allowed; waived, which is allowed thanks to at least one waiver; or refused.
        at: the moment of the judgement, an ISO moment in UTC.
        rules: what each rule says, in the order of the policies.
    """

    gate: str
    subject: str
    outcome: Outcome
    at: str
    rules: tuple[RuleResult, ...]

    def refusals(self) -> list[RuleResult]:
        """Return the rules that refuse the candidate."""
        return [rule for rule in self.rules if rule.outcome == "refused"]

    # Any: plain JSON, for callers that print it or send it on.
    def to_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return asdict(self) | {"rules": [asdict(rule) for rule in self.rules]}


@dataclass(frozen=True)
class Candidate:
    """What a gate is asked about.

    Attributes:
        gate: the gate that is asked.
        kind: the candidate's kind.
        evidence: the facts about it, plain JSON.
        subject: its reference; None stands for the one that the evidence holds.
    """

    gate: str
    kind: str
    evidence: Mapping[str, object]
    subject: str | None = None


def judge(
    policies: Sequence[Policy],
    candidate: Candidate,
    *,
    at: datetime,
    waivers: Sequence[Waiver] = (),
    shapes: ShapesByKind | None = None,
    seed_data: bool = True,
) -> Verdict:
    """Judge a candidate by its evidence at one moment.

    Whatever policies or evidence hold, nothing is raised: a doubt is a refusal.

    Args:
        policies: the policies, in the order in which the verdict names them.
        candidate: the gate that is asked, and what it is asked about.
        at: the moment, with its time zone.
        waivers: those whose signatures and roles were checked already; here they are matched by
            rule, subject and date.
        shapes: the shapes of the facts of each kind, in their JSON form; those of `evidence_shapes`
            unless given.
        seed_data: whether the data behind the seed counts among the domains; in older verdicts it
            did not.

    Raises:
        Invalid: for a moment without a time zone, or shapes that are not in their JSON form.
    """
    if at.tzinfo is None:
        raise Invalid(
            "time of judgement",
            found=f"{at} without a zone",
            expected="a moment with its zone",
            next="datetime.now(UTC)",
        )
    subject = candidate.subject
    if subject is None:
        evidence = candidate.evidence
        subject = str(evidence.get("ref") if isinstance(evidence, Mapping) else None)
    problem = _evidence_problem(candidate, shapes)
    if problem is not None:
        rules = [_unreadable(problem)]
    else:
        judgement = _Judgement(subject, at, waivers, candidate.evidence)
        domains = _domains(candidate.evidence, seed_data=seed_data)
        rules = list(_results(policies, candidate, judgement, domains)) or [_uncovered(candidate)]
    return Verdict(
        gate=candidate.gate,
        subject=subject,
        outcome=_overall(rules),
        at=at.astimezone(UTC).isoformat(),
        rules=tuple(rules),
    )


def require_waivable(policies: Sequence[Policy], rule: str) -> None:
    """Check that a waiver of a rule can count, before anybody signs one.

    Args:
        policies: the policies that are in force.
        rule: the rule as a refusal names it, POLICY/RULE.

    Raises:
        Invalid: if there is no such rule; it names those that can be waived.
        Refused: if the rule's policy allows no waiver.
    """
    by_rule: dict[str, Policy] = {}
    for policy in policies:
        for validation in policy.validations:
            by_rule[f"{policy.name}/{validation.rule}"] = policy
    if rule not in by_rule:
        possible = ", ".join(name for name, policy in by_rule.items() if policy.waivable)
        raise Invalid(
            f"rule {rule!r}",
            found="no such rule",
            expected=f"POLICY/RULE: {possible}",
            next="btx policy check REF",
        )
    if not by_rule[rule].waivable:
        raise Refused(
            rule,
            found="a rule without exceptions",
            expected=f"waivable: true in policies/{by_rule[rule].name}.yaml",
            next="fix what the rule found",
        )


def facts_read(policies: Sequence[Policy], rule: str) -> tuple[str, ...]:
    """Return the facts of the evidence that a rule names, in the order of their names.

    Args:
        policies: those that hold the rule.
        rule: POLICY/RULE.
    """
    facts: set[str] = set()
    for policy in policies:
        for validation in policy.validations:
            if f"{policy.name}/{validation.rule}" == rule:
                facts |= expressions.members_of(validation.expression, "evidence")
    return tuple(sorted(facts))


def from_document(document: Mapping[str, Any]) -> list[Policy]:
    """Read the policies that a verdict was given by.

    Facts that have been renamed since are no error here.

    Args:
        document: what `to_document` returned; JSON whose form is checked here.

    Raises:
        Invalid: for a document of another form.
    """
    try:
        return [Policy.model_validate(item) for item in document["policies"]]
    except (ValidationError, KeyError, TypeError) as error:
        raise Invalid(
            "policies of a verdict",
            found=str(error).splitlines()[0],
            expected="policies as judged",
            next="btx audit",
        ) from None


def to_document(policies: Sequence[Policy]) -> dict[str, object]:
    """Return what a verdict keeps of its rules: the policies, and the shapes of facts."""
    return {
        "policies": [policy.to_json() for policy in policies],
        "shapes": evidence_shapes(),
        "seed_data": True,
    }


@cache
def evidence_shapes() -> ShapesByKind:
    """Return the shapes of the facts of each kind of candidate, in their JSON form.

    This is the one place that says which facts a policy may name, and the form in which verdicts
    keep it.
    """
    return evidence_records.shapes()


@cache
def current_shape(kind: str) -> Shape | None:
    """Return the shape that the facts of a kind of candidate have today; None for no such kind."""
    return _shape_of_kind(kind, evidence_shapes())


def moment(text: str) -> datetime:
    """Read an ISO moment.

    Args:
        text: a moment, in UTC unless it has a time zone; or a date, which means the end of that
            day.

    Raises:
        Invalid: for any other text.
    """
    try:
        value = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Invalid(
            "date", found=repr(text), expected="YYYY-MM-DD", next="write the date in full"
        ) from None
    if len(text) == len("YYYY-MM-DD"):
        value = value.replace(hour=23, minute=59, second=59)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


@dataclass(frozen=True)
class _Judgement:
    """What stays the same for all rules of one judgement."""

    subject: str
    at: datetime
    waivers: Sequence[Waiver]
    evidence: Mapping[str, object]

    def waivers_of(self, rule: str) -> list[Waiver]:
        return [
            waiver
            for waiver in self.waivers
            if waiver.rule == rule and waiver.subject == self.subject
        ]

    def problem_of(self, waiver: Waiver) -> str | None:
        """Say why a waiver does not count; None where it does."""
        try:
            ended = not waiver.in_force(self.at)
        except Invalid:
            ended = True
        return f"ended {waiver.until}" if ended else waiver.mismatch(self.evidence)


class _Activations:
    """The values that expressions read, converted once for all policies with equal parameters.

    Converting the evidence costs more than evaluating the rules.
    """

    def __init__(self, evidence: Mapping[str, object], at: datetime) -> None:
        self._evidence = _with_doubles(evidence)
        self._at = at
        self._by_parameters: dict[bytes, cel.Activation] = {}

    def under(self, parameters: Mapping[str, object]) -> "cel.Activation":
        key = canonical_json(parameters)
        if key not in self._by_parameters:
            self._by_parameters[key] = expressions.activation(
                self._evidence, _with_doubles(parameters), self._at
            )
        return self._by_parameters[key]


def _evidence_problem(candidate: Candidate, shapes: ShapesByKind | None) -> str | None:
    """Why the evidence cannot be judged; None if it can."""
    problem = expressions.check_evidence(candidate.evidence)
    if problem is not None:
        return problem
    kind = candidate.evidence.get("kind")
    if kind != candidate.kind:
        return f"evidence of kind {kind!r} where '{candidate.kind}' was asked about"
    shape = _shape_of_kind(candidate.kind, shapes)
    if shape is None:
        return f"no facts are described for kind {kind!r}"
    return mismatch(candidate.evidence, shape)


def _shape_of_kind(kind: str, shapes: ShapesByKind | None) -> Shape | None:
    if shapes is None:
        return current_shape(kind)
    return from_json(shapes[kind]) if kind in shapes else None


def _results(
    policies: Sequence[Policy], candidate: Candidate, judgement: _Judgement, domains: Sequence[str]
) -> Iterator[RuleResult]:
    activations = _Activations(candidate.evidence, judgement.at)
    for policy in policies:
        if policy.match.covers(candidate.gate, candidate.kind, domains):
            values = activations.under(policy.parameters)
            for validation in policy.validations:
                yield _judge_rule(policy, validation, values, judgement)


def _judge_rule(
    policy: Policy, validation: Validation, values: "cel.Activation", judgement: _Judgement
) -> RuleResult:
    try:
        answer = expressions.compile_expression(validation.expression).evaluate(values)
    except Invalid as error:
        answer = expressions.Answer("ERROR", error.found)
    if answer.is_true:
        return RuleResult(policy.name, validation.rule, "allowed")
    message = _message(validation.message, values)
    if answer.problem is not None:
        message += f" (a fact that this needs is unknown or cannot be read: {answer.problem})"
    return _broken_rule(policy, validation, message, judgement)


def _broken_rule(
    policy: Policy, validation: Validation, message: str, judgement: _Judgement
) -> RuleResult:
    """What follows from a rule that is not true."""
    outcome: RuleOutcome = "refused"
    usable: Waiver | None = None
    if policy.enforcement != "deny":
        outcome = "warned" if policy.enforcement == "warn" else "noted"
    else:
        granted = judgement.waivers_of(f"{policy.name}/{validation.rule}")
        valid = [waiver for waiver in granted if judgement.problem_of(waiver) is None]
        if policy.waivable and valid:
            outcome = "waived"
            usable = max(valid, key=lambda waiver: waiver.until)
        elif granted:
            last = granted[-1]
            reason = judgement.problem_of(last) if policy.waivable else "does not count here"
            message += f"; the waiver by {last.actor} {reason}"
    return RuleResult(policy.name, validation.rule, outcome, message, validation.remedy, usable)


def _unreadable(problem: str) -> RuleResult:
    return RuleResult(
        policy="gate",
        rule="evidence",
        outcome="refused",
        message=problem,
        remedy="hand the gate the facts of this very candidate",
    )


def _uncovered(candidate: Candidate) -> RuleResult:
    return RuleResult(
        policy="gate",
        rule="covered",
        outcome="refused",
        message=f"no policy speaks for {candidate.kind} at gate {candidate.gate}",
        remedy=f"write a policy whose match names gate {candidate.gate} and kind {candidate.kind}",
    )


def _overall(rules: Sequence[RuleResult]) -> Outcome:
    outcomes = {rule.outcome for rule in rules}
    if "refused" in outcomes:
        return Outcome.REFUSED
    return Outcome.WAIVED if "waived" in outcomes else Outcome.ALLOWED


def _message(template: str, values: "cel.Activation") -> str:
    try:
        return expressions.render(template, values)
    except Invalid:
        return template


# Any: JSON of every form goes in, and the same form with doubles comes out.
def _with_doubles(value: Any) -> Any:
    """Return plain lists and dicts in which every number is a double."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {key: _with_doubles(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_doubles(item) for item in value]
    return float(value)


def _domains(evidence: Mapping[str, object], *, seed_data: bool) -> list[str]:
    """Names of the data versions and experts that the evidence is about."""
    members = _mappings(evidence.get("members"))
    behind = _mappings(evidence.get("seed_data")) if seed_data else []
    versions = [evidence, *_mappings(evidence.get("data")), *behind, *members]
    for member in members:
        versions.extend(_mappings(member.get("data")))
    name = evidence.get("name")
    domains = [name] if isinstance(name, str) else []
    for version in versions:
        try:
            domains.append(parse(str(version.get("ref"))).name)
        except Invalid:
            continue
    return domains


def _mappings(value: object) -> list[Mapping[str, object]]:
    if not isinstance(value, list | tuple):
        return []
    return [item for item in value if isinstance(item, Mapping)]
