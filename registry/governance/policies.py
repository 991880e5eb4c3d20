"""Policies: YAML files into rules, and the judgement of evidence by them.

In:  a folder of policies, evidence as plain JSON, waivers, a time.  Out: a Verdict. Pure: nothing is written, time is an argument.
A rule passes only by being exactly true; what cannot be decided is a no; a gate that no policy speaks for is shut.
Numbers are doubles on both sides, so that evidence read back from its stored form gives the same verdict: write 1.0 in arithmetic.
Who may waive is people.py's, keeping verdicts gate.py's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from registry.digest import canonical_json
from registry.errors import Invalid, NotFound, Refused
from registry.governance import expressions
from registry.records import evidence as evidence_records
from registry.records.references import parse

Gate = Literal["register", "build", "release", "export"]
Kind = Literal["data", "seed", "expert", "build"]
Outcome = Literal["allowed", "waived", "refused"]
LARGEST_FILE_BYTES = 1 << 18
ASKED: Mapping[str, tuple[str, ...]] = {
    "register": ("data", "seed", "expert"),
    "build": ("build",),
    "release": ("build",),
    "export": ("build",),
}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Settings):
    """Which questions a policy answers. domains: shell patterns over the names of the data and experts concerned."""

    gates: tuple[Gate, ...] = Field(min_length=1)
    kinds: tuple[Kind, ...] = Field(min_length=1)
    domains: tuple[str, ...] = Field(default=("*",), min_length=1)

    def covers(self, gate: str, kind: str, domains: Sequence[str]) -> bool:
        named = self.domains == ("*",) or any(
            fnmatchcase(domain, pattern) for domain in domains for pattern in self.domains
        )
        return gate in self.gates and kind in self.kinds and kind in ASKED[gate] and named


class Validation(_Settings):
    """One rule: the expression that has to be true; what to tell a person when it is not, and how to mend it."""

    rule: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")
    expression: str = Field(min_length=1)
    message: str = Field(min_length=1)
    remedy: str = Field(min_length=1)


class Policy(_Settings):
    """One policy file. parameters: what a company sets, read in expressions as `parameters.KEY`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")
    why: str = Field(min_length=1)
    match: Match
    enforcement: Literal["deny", "warn", "audit"] = "deny"
    waivable: bool = False
    parameters: dict[str, Any] = Field(default_factory=dict)
    validations: tuple[Validation, ...] = Field(min_length=1)

    @field_validator("validations")
    @classmethod
    def _each_once(cls, validations: tuple[Validation, ...]) -> tuple[Validation, ...]:
        if len({validation.rule for validation in validations}) < len(validations):
            raise ValueError("each rule name once")
        return validations

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Waiver:
    """A named person's exception to one rule (POLICY/RULE) for one subject until one moment. id: digest of its event."""

    rule: str
    subject: str
    until: str  # ISO date (that day included) or moment, UTC
    actor: str
    why: str
    id: str = ""

    def in_force(self, at: datetime) -> bool:
        return moment(self.until) >= at


@dataclass(frozen=True)
class RuleResult:
    """outcome: allowed, waived, refused; warned or noted where the policy does not deny."""

    policy: str
    rule: str
    outcome: Literal["allowed", "waived", "refused", "warned", "noted"]
    message: str = ""
    remedy: str = ""
    waiver: Waiver | None = None

    @property
    def name(self) -> str:
        return f"{self.policy}/{self.rule}"


@dataclass(frozen=True)
class Verdict:
    """A gate's answer. waived: allowed thanks to at least one waiver."""

    gate: str
    subject: str
    outcome: Outcome
    at: str
    rules: tuple[RuleResult, ...]

    def refusals(self) -> list[RuleResult]:
        return [rule for rule in self.rules if rule.outcome == "refused"]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rules": [asdict(rule) for rule in self.rules]}


def judge(
    policies: Sequence[Policy],
    *,
    gate: str,
    kind: str,
    evidence: Mapping[str, Any],
    waivers: Sequence[Waiver] = (),
    at: datetime,
    subject: str | None = None,
    shapes: Mapping[str, Any] | None = None,
) -> Verdict:
    """The verdict on this evidence at this moment. Never raises for what policies or evidence hold: a doubt is a refusal.

    waivers: those whose signatures and roles were checked already; here they are matched by rule, subject and date.
    shapes: the types of facts by kind; those of the evidence records unless given.
    """
    subject = (
        subject
        if subject is not None
        else str(evidence.get("ref") if isinstance(evidence, Mapping) else None)
    )
    at = _aware(at)
    doubt = expressions.check_evidence(evidence)
    if doubt is None and evidence.get("kind") != kind:
        doubt = f"evidence of kind {evidence.get('kind')!r} where {kind!r} was asked about"
    if doubt is None:
        doubt = expressions.misshapen(
            evidence, (known_shapes() if shapes is None else shapes).get(kind, "text")
        )
    if doubt is not None:
        rules = [
            RuleResult(
                "gate",
                "evidence",
                "refused",
                doubt,
                "hand the gate the facts of this very candidate",
            )
        ]
    else:
        domains = _domains(evidence)
        chosen = [policy for policy in policies if policy.match.covers(gate, kind, domains)]
        facts = _Facts(evidence, at)
        rules = [
            result
            for policy in chosen
            for result in _judge_policy(
                policy, facts.under(policy.parameters), waivers, at, subject
            )
        ]
        if not rules:
            remedy = f"write a policy whose match names gate {gate} and kind {kind}"
            rules = [
                RuleResult(
                    "gate",
                    "covered",
                    "refused",
                    f"no policy speaks for {kind} at gate {gate}",
                    remedy,
                )
            ]
    outcomes = {rule.outcome for rule in rules}
    outcome: Outcome = (
        "refused" if "refused" in outcomes else "waived" if "waived" in outcomes else "allowed"
    )
    return Verdict(gate, subject, outcome, at.astimezone(UTC).isoformat(), tuple(rules))


def load(folder: Path) -> list[Policy]:
    """Every *.yaml of the folder, by name. Raises NotFound for no folder, Invalid for a file that is not a sound policy."""
    if not folder.is_dir():
        raise NotFound(
            str(folder),
            found="no folder",
            expected="policies",
            next="btx init lays the default policies down",
        )
    policies = [_checked(path) for path in sorted(folder.glob("*.yaml"))]
    names = [policy.name for policy in policies]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(
                f"policy {name}",
                found="two files with this name",
                expected="each name once",
                next=f"rename one in {folder}",
            )
    return policies


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


def from_document(document: Mapping[str, Any]) -> list[Policy]:
    """The policies of a kept document, as they were. Facts that have been renamed since are no error here."""
    try:
        return [Policy.model_validate(item) for item in document["policies"]]
    except (ValidationError, KeyError, TypeError) as error:
        raise Invalid(
            "kept policies",
            found=str(error).splitlines()[0],
            expected="policies as judged",
            next="btx audit",
        ) from None


def to_document(policies: Sequence[Policy]) -> dict[str, Any]:
    """What a verdict keeps of its rules: the policies, and the types of facts as they were."""
    return {"policies": [policy.to_json() for policy in policies], "shapes": known_shapes()}


def moment(text: str) -> datetime:
    """An ISO moment; a bare date means the end of that day, UTC. Raises Invalid."""
    try:
        value = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Invalid(
            "date", found=repr(text), expected="YYYY-MM-DD", next="write the date in full"
        ) from None
    if len(text) == 10:
        value = value.replace(hour=23, minute=59, second=59)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


class _Facts:
    """The evidence as expressions see it, converted once for all policies whose parameters are the same: converting costs the most."""

    def __init__(self, evidence: Mapping[str, Any], at: datetime) -> None:
        self._evidence, self._at = _doubles(evidence), at
        self._made: dict[bytes, expressions.Facts] = {}

    def under(self, parameters: Mapping[str, Any]) -> expressions.Facts:
        key = canonical_json(parameters)
        if key not in self._made:
            self._made[key] = expressions.facts(self._evidence, _doubles(parameters), self._at)
        return self._made[key]


def _judge_policy(
    policy: Policy, facts: expressions.Facts, waivers: Sequence[Waiver], at: datetime, subject: str
) -> list[RuleResult]:
    return [
        _judge_rule(policy, validation, facts, waivers, at, subject)
        for validation in policy.validations
    ]


def _judge_rule(
    policy: Policy,
    validation: Validation,
    facts: expressions.Facts,
    waivers: Sequence[Waiver],
    at: datetime,
    subject: str,
) -> RuleResult:
    try:
        why_not = expressions.compile_expression(validation.expression).holds(facts)
    except Invalid as error:
        why_not = f"error: {error.found}"
    if why_not is None:
        return RuleResult(policy.name, validation.rule, "allowed")
    message = _message(validation.message, facts)
    message += (
        ""
        if why_not == "false"
        else f" (a fact that this needs is unknown or cannot be read: {why_not.removeprefix('error: ')})"
    )
    if policy.enforcement != "deny":
        outcome: Literal["warned", "noted"] = "warned" if policy.enforcement == "warn" else "noted"
        return RuleResult(policy.name, validation.rule, outcome, message, validation.remedy)
    granted = [
        waiver
        for waiver in waivers
        if (waiver.rule, waiver.subject) == (f"{policy.name}/{validation.rule}", subject)
    ]
    valid = [waiver for waiver in granted if policy.waivable and _in_force(waiver, at)]
    if valid:
        return RuleResult(
            policy.name,
            validation.rule,
            "waived",
            message,
            validation.remedy,
            max(valid, key=lambda waiver: waiver.until),
        )
    if granted:
        message += f"; the waiver by {granted[-1].actor} " + (
            f"ended {granted[-1].until}" if policy.waivable else "does not count here"
        )
    return RuleResult(policy.name, validation.rule, "refused", message, validation.remedy)


def _in_force(waiver: Waiver, at: datetime) -> bool:
    try:
        return waiver.in_force(at)
    except Invalid:
        return False


def _message(template: str, facts: expressions.Facts) -> str:
    try:
        return expressions.render(template, facts)
    except Invalid:
        return template


def _doubles(value: Any) -> Any:
    """Plain lists and dicts with every number a double."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {key: _doubles(item) for key, item in value.items()}
    return [_doubles(item) for item in value] if isinstance(value, list | tuple) else float(value)


def _domains(evidence: Mapping[str, Any]) -> list[str]:
    """Names of the data and experts that the evidence is about."""
    refs = [evidence, *_dicts(evidence.get("data")), *_dicts(evidence.get("members"))]
    refs += [
        line for member in _dicts(evidence.get("members")) for line in _dicts(member.get("data"))
    ]
    names = [str(evidence["name"])] if isinstance(evidence.get("name"), str) else []
    for item in refs:
        try:
            names.append(parse(str(item.get("ref"))).name)
        except Invalid:
            continue
    return names


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return (
        [item for item in value if isinstance(item, Mapping)]
        if isinstance(value, list | tuple)
        else []
    )


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise Invalid(
            "time of judgement",
            found=f"{at} without a zone",
            expected="a moment with its zone",
            next="datetime.now(UTC)",
        )
    return at


def _checked(path: Path) -> Policy:
    """One file, its expressions compiled and its facts known."""
    policy = _parsed(path)
    for gate in policy.match.gates:
        if not set(policy.match.kinds) & set(ASKED[gate]):
            asked = ", ".join(ASKED[gate])
            raise _unsound(
                path,
                f"gate {gate} with kinds {', '.join(policy.match.kinds)}",
                f"gate {gate} asks about {asked}",
            )
    parameters: dict[str, Any] = dict.fromkeys(policy.parameters)
    for validation in policy.validations:
        try:
            used = [
                expressions.compile_expression(validation.expression),
                *expressions.check_template(validation.message),
            ]
            expressions.check_truth(used[0])
            for kind in policy.match.kinds:
                for expression in used:
                    expressions.check_names(
                        expression, {"evidence": known_shapes()[kind], "parameters": parameters}
                    )
        except Invalid as error:
            raise _unsound(
                path, f"rule {validation.rule}: {error.found} in {error.subject}", error.expected
            ) from None
    return policy


def _parsed(path: Path) -> Policy:
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise _unsound(path, f"{path.stat().st_size} bytes", f"at most {LARGEST_FILE_BYTES}")
    try:
        policy = Policy.model_validate(
            yaml.load(path.read_text(), Loader=StrictLoader)
        )  # StrictLoader is a SafeLoader
        canonical_json(policy.to_json())
    except ValidationError as error:
        first = error.errors()[0]
        raise _unsound(
            path,
            ".".join(str(part) for part in first["loc"]) + f": {str(first['input'])[:80]}",
            first["msg"],
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unsound(path, " ".join(str(error).split())[:200], "YAML") from None
    except Invalid as error:
        raise _unsound(path, error.found, error.expected) from None
    if policy.name != path.stem:
        raise _unsound(path, f"name {policy.name}", path.stem)
    return policy


def _unsound(path: Path, found: str, expected: str) -> Invalid:
    return Invalid(
        f"policy file {path}",
        found=found,
        expected=expected,
        next="mend the file, then btx policy test",
    )


@cache
def known_shapes() -> Mapping[str, Any]:
    """Return what evidence holds, by kind of candidate."""
    return evidence_records.shapes()


class StrictLoader(yaml.SafeLoader):
    """YAML without aliases (they can grow without bound) and without a key twice (the later one would win unseen)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"key {key!r} is no text: quote it")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} twice")
        return super().construct_mapping(node, deep)
