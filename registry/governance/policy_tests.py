"""Tests of policies, written beside them: evidence in, verdict expected.

In:  a folder of policies with a folder `tests` in it.
Out: one result for each case, and one for each rule that no case breaks.
A test file holds a gate and the facts of a candidate; each case changes some of the facts and names
the rules, as POLICY/RULE, that then refuse. It is about the policies that it names, so that another
policy breaks none of its cases; without names it is about the policy that it is called like, if
its cases expect no other to break, or else about all.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import Invalid, NotFound
from registry.governance.policies import (
    Candidate,
    Policy,
    Verdict,
    Waiver,
    evidence_shapes,
    judge,
    moment,
)
from registry.governance.policy_files import load, read_strict_yaml

# What governance adds: a test states it, or it is not there.
TOLD = ("waivers", "actor")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CaseWaiver(_Settings):
    """A waiver that a case takes as granted."""

    rule: str
    subject: str
    until: str
    actor: str = "dora"
    why: str = "a test"


class Case(_Settings):
    """One case: what is changed, and what the verdict should then be.

    Attributes:
        name: what the case is about.
        change: new values of facts, by dotted path.
        refused: the rules that refuse; without any rule here or below, all rules pass.
        warned: the rules that warn.
        waived: the rules that a waiver makes an exception to.
        message: what the messages of the broken rules have to contain.
        waivers: the waivers that there are.
        at: the moment of the judgement; that of the suite unless given.
        gate: the gate that is asked; that of the suite unless given.
    """

    name: str
    change: dict[str, object] = Field(default_factory=dict)
    refused: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    message: str = ""
    waivers: tuple[CaseWaiver, ...] = ()
    at: str | None = None
    gate: str | None = None


class Suite(_Settings):
    """One test file.

    Attributes:
        gate: the gate that is asked.
        policies: the policies that it is about.
        at: the moment of the judgement.
        evidence: the facts of a candidate.
        cases: what is tried with them.
    """

    gate: str
    policies: tuple[str, ...] = ()
    at: str = "2026-06-01"
    evidence: dict[str, object]
    cases: tuple[Case, ...]

    @property
    def expected(self) -> set[str]:
        """The names of the policies whose rules its cases expect to be broken."""
        rules = [rule for one in self.cases for rule in (*one.refused, *one.warned, *one.waived)]
        return {rule.partition("/")[0] for rule in rules}


@dataclass(frozen=True)
class Result:
    """What came of one case.

    Attributes:
        suite: the name of the test file, or `rules` for a rule that no case breaks.
        case: the name of the case or of the rule.
        expected: the verdict that the case names.
        found: the verdict that the policies give; equal to `expected` if all is well.
    """

    suite: str
    case: str
    expected: str
    found: str

    @property
    def ok(self) -> bool:
        """Whether the case gave the expected verdict."""
        return self.expected == self.found


def run(folder: Path, name: str | None = None) -> list[Result]:
    """Run every case in the folder `tests` of a folder of policies.

    Args:
        folder: the folder of the policies.
        name: the only policy that is tested, by the cases in which its rules say something.

    Returns:
        A result for each case, then one for each rule that no case breaks.

    Raises:
        NotFound: if there is no such folder or policy.
        Invalid: for a policy or a test file that cannot be read, or one that names no policy.
    """
    every = load(folder)
    tested = [policy for policy in every if name in (None, policy.name)]
    if not tested:
        raise NotFound(
            f"policy {name}",
            found="nothing",
            expected=f"one of {', '.join(policy.name for policy in every)}",
            next=f"write {folder / f'{name}.yaml'}",
        )
    results: list[Result] = []
    broken: set[str] = set()
    for path in sorted((folder / "tests").glob("*.yaml")):
        suite = read_suite(path)
        names = _about(path, suite, every)
        judging = [policy for policy in tested if policy.name in names]
        for case in suite.cases if judging else ():
            asked = case if name is None else _only(case, name)
            verdict = verdict_of(judging, suite, asked)
            result = _result(verdict if name is None else _covered(verdict), path.stem, asked)
            if name is None or names == {name} or _says(result):
                results.append(result)
            broken.update(case.refused, case.warned)
    for policy in tested:
        for validation in policy.validations:
            rule = f"{policy.name}/{validation.rule}"
            if rule not in broken:
                results.append(Result("rules", rule, "a case that breaks this rule", "none"))
    return results


def _about(path: Path, suite: Suite, every: Sequence[Policy]) -> set[str]:
    """Return the names of the policies that a test file is about. Raises Invalid."""
    known = {policy.name for policy in every}
    unknown = sorted(set(suite.policies) - known)
    if unknown:
        raise Invalid(
            f"policy test {path}",
            found=f"policies: {', '.join(unknown)}",
            expected="names of policies beside it",
            next="fix the file",
        )
    own = {path.stem} & known
    # A file that expects other policies to break is about all, as files were before they had names.
    return set(suite.policies) or (own if suite.expected <= own else known)


def _only(case: Case, name: str) -> Case:
    """Return a case that expects what the rules of one policy say, and those that are of none."""

    def kept(rules: Sequence[str]) -> tuple[str, ...]:
        own = ("gate/evidence", f"{name}/")
        return tuple(rule for rule in rules if rule.startswith(own))

    update: dict[str, object] = {
        "refused": kept(case.refused),
        "warned": kept(case.warned),
        "waived": kept(case.waived),
    }
    if any(getattr(case, key) != rules for key, rules in update.items()):
        # The message may be that of a rule that is left out.
        update["message"] = ""
    return case.model_copy(update=update)


def _covered(verdict: Verdict) -> Verdict:
    """Return a verdict of one policy, which need not speak for every gate."""
    rules = tuple(rule for rule in verdict.rules if rule.name != "gate/covered")
    return replace(verdict, rules=rules)


def _says(result: Result) -> bool:
    return not result.ok or result.expected != "allowed"


def read_suite(path: Path) -> Suite:
    """Read a test file.

    Raises:
        Invalid: for a file that is no policy's test, saying why.
    """
    try:
        return Suite.model_validate(read_strict_yaml(path))
    except (ValidationError, yaml.YAMLError) as error:
        raise Invalid(
            f"policy test {path}",
            found=" ".join(str(error).split())[:200],
            expected="a policy's test",
            next="fix the file",
        ) from None


def verdict_of(policies: Sequence[Policy], suite: Suite, case: Case) -> Verdict:
    """Judge the candidate of one case.

    Args:
        policies: the policies that are tested.
        suite: the test file, whose evidence the case changes.
        case: the case.

    Raises:
        Invalid: for a change of a fact that the suite's evidence does not hold, or a date that is
            none.
    """
    shape = evidence_shapes().get(str(suite.evidence.get("kind")), {})
    evidence = changed(completed(suite.evidence, shape), case.change)
    waivers = [
        Waiver(waiver.rule, waiver.subject, waiver.until, waiver.actor, waiver.why)
        for waiver in case.waivers
    ]
    candidate = Candidate(case.gate or suite.gate, str(evidence.get("kind")), evidence)
    return judge(policies, candidate, at=moment(case.at or suite.at), waivers=waivers)


# Any: the facts are JSON of every form, as YAML holds it; a shape is JSON too.
def completed(facts: Any, shape: Any) -> Any:
    """Copy facts with every fact that evidence has: one that the test leaves out is unknown.

    So a test that was written before there was a fact stays as it was.

    Args:
        facts: as a test file holds them.
        shape: their shape, in its JSON form.
    """
    if isinstance(shape, Mapping) and "*" in shape and isinstance(facts, Mapping):
        return {key: completed(value, shape["*"]) for key, value in facts.items()}
    if isinstance(shape, Mapping) and isinstance(facts, Mapping):
        unknown: dict[str, Any] = {
            key: [] if isinstance(one, list) else None for key, one in shape.items()
        }
        known = {key: completed(value, shape.get(key)) for key, value in facts.items()}
        return {key: value for key, value in unknown.items() if key not in TOLD} | known
    if isinstance(shape, list) and isinstance(facts, list):
        return [completed(value, shape[0]) for value in facts]
    return facts


# Any: as above.
def changed(facts: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Copy facts with new values at some paths.

    Args:
        facts: the facts.
        change: new values by dotted path; a number in a path is a position in a list.

    Raises:
        Invalid: for a path that leads to nothing.
    """
    result = copy.deepcopy(dict(facts))
    for path, value in change.items():
        *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        target: Any = result
        try:
            for part in parents:
                target = target[part]
            target[last] = value
        except (KeyError, IndexError, TypeError):
            raise Invalid(
                f"change {path}",
                found="no such fact",
                expected="a path in the evidence",
                next="fix the policy's test",
            ) from None
    return result


def _result(verdict: Verdict, suite_name: str, case: Case) -> Result:
    expected = _summary(case.refused, case.warned, case.waived)
    actual = _summary(
        _rules_with(verdict, "refused"),
        _rules_with(verdict, "warned"),
        _rules_with(verdict, "waived"),
    )
    messages = "; ".join(rule.message for rule in verdict.rules if rule.message)
    if expected == actual and case.message not in messages:
        expected = f"{expected}, saying {case.message!r}"
        actual = f"{actual}, saying {messages!r}"
    return Result(suite_name, case.name, expected, actual)


def _rules_with(verdict: Verdict, outcome: str) -> list[str]:
    return [rule.name for rule in verdict.rules if rule.outcome == outcome]


def _summary(refused: Sequence[str], warned: Sequence[str], waived: Sequence[str]) -> str:
    by_outcome = {"refused": refused, "warned": warned, "waived": waived}
    parts = [
        f"{outcome} {', '.join(sorted(rules))}" for outcome, rules in by_outcome.items() if rules
    ]
    return "; ".join(parts) or "allowed"
