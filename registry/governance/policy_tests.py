"""Tests of policies, written beside them: evidence in, verdict expected.

In:  a folder of policies with a folder `tests` in it.  Out: one result per case, and per rule that no case refuses.
A test file holds a gate and the facts of a candidate; each case changes some facts and names the rules (POLICY/RULE) that then refuse.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import Invalid
from registry.governance.policies import Policy, StrictLoader, Verdict, Waiver, judge, load, moment


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CaseWaiver(_Settings):
    rule: str
    subject: str
    until: str
    actor: str = "dora"
    why: str = "a test"


class Case(_Settings):
    """change: facts by dotted path. refused, warned, waived: rules; none of them: all pass. message: what the refusal must say."""

    name: str
    change: dict[str, Any] = Field(default_factory=dict)
    refused: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    message: str = ""
    waivers: tuple[CaseWaiver, ...] = ()
    at: str | None = None
    gate: str | None = None


class Suite(_Settings):
    gate: str
    at: str = "2026-06-01"
    evidence: dict[str, Any]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Result:
    """One case. found equals expected when it is as it should be."""

    suite: str
    case: str
    expected: str
    found: str

    @property
    def ok(self) -> bool:
        return self.expected == self.found


def run(folder: Path) -> list[Result]:
    """Every case in `folder`/tests, then every rule that no case breaks. Raises Invalid for a file that cannot be read."""
    policies = load(folder)
    suites = {path.stem: _suite(path) for path in sorted((folder / "tests").glob("*.yaml"))}
    results = [
        _result(policies, name, suite, case)
        for name, suite in suites.items()
        for case in suite.cases
    ]
    tried = {
        rule
        for suite in suites.values()
        for case in suite.cases
        for rule in (*case.refused, *case.warned)
    }
    rules = [
        f"{policy.name}/{validation.rule}"
        for policy in policies
        for validation in policy.validations
    ]
    return results + [
        Result("rules", rule, "a case that breaks this rule", "none")
        for rule in rules
        if rule not in tried
    ]


def verdict_of(policies: Sequence[Policy], suite: Suite, case: Case) -> Verdict:
    evidence = changed(suite.evidence, case.change)
    waivers = [
        Waiver(item.rule, item.subject, item.until, item.actor, item.why) for item in case.waivers
    ]
    at = moment(case.at or suite.at)
    return judge(
        policies,
        gate=case.gate or suite.gate,
        kind=str(evidence.get("kind")),
        evidence=evidence,
        waivers=waivers,
        at=at,
    )


def changed(facts: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the facts with those at dotted paths replaced; a number in a path is a place in a list."""
    result = copy.deepcopy(dict(facts))
    for path, value in change.items():
        target: Any = result
        *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        try:
            for part in way:
                target = target[part]
            target[last] = value
        except (KeyError, IndexError, TypeError):
            raise Invalid(
                f"change {path}",
                found="no such fact",
                expected="a path in the evidence",
                next="mend the policy's test",
            ) from None
    return result


def _suite(path: Path) -> Suite:
    try:
        return Suite.model_validate(
            yaml.load(path.read_text(), Loader=StrictLoader)
        )  # StrictLoader is a SafeLoader
    except (ValidationError, yaml.YAMLError) as error:
        raise Invalid(
            f"policy test {path}",
            found=" ".join(str(error).split())[:200],
            expected="a policy's test",
            next="mend it",
        ) from None


def _result(policies: Sequence[Policy], suite_name: str, suite: Suite, case: Case) -> Result:
    verdict = verdict_of(policies, suite, case)
    expected = _words(case.refused, case.warned, case.waived)
    found = _words(
        *(
            [rule.name for rule in verdict.rules if rule.outcome == outcome]
            for outcome in ("refused", "warned", "waived")
        )
    )
    said = "; ".join(rule.message for rule in verdict.rules if rule.message)
    if expected == found and case.message not in said:
        expected, found = f"{expected}, saying {case.message!r}", f"{found}, saying {said!r}"
    return Result(suite_name, case.name, expected, found)


def _words(refused: Sequence[str], warned: Sequence[str], waived: Sequence[str]) -> str:
    named = (("refused", refused), ("warned", warned), ("waived", waived))
    return (
        "; ".join(f"{word} {', '.join(sorted(rules))}" for word, rules in named if rules)
        or "allowed"
    )
