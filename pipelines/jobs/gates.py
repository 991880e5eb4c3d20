"""Ask a gate from a job: judge under the workspace's policies, log the verdict, stop on a no."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pipelines.workspace.workspace import Workspace
from registry.errors import Refused
from registry.governance import adoption, gate, stating
from registry.governance.gate import Question
from registry.governance.policies import Policy, RuleResult, Verdict, load
from registry.records.evidence import Evidence
from registry.records.kinds import Gate


def question(workspace: Workspace, of: Gate, subject: str, evidence: Evidence) -> Question:
    """Return the question as it stands now, under the workspace's policies."""
    return Question(
        gate=of,
        subject=subject,
        evidence=evidence,
        policies=load(workspace.policies),
        at=datetime.now(UTC),
        schema=stating.read_schema(workspace.facts),
    )


def _adopt_first(workspace: Workspace, policies: Sequence[Policy]) -> None:
    """Adopt the policies that lie in a new workspace, before its first gate is asked.

    A registry that has judged something without an adopted set is older, and stays as it is until
    somebody adopts one.
    """
    catalog = workspace.catalog
    if catalog.events(kind=adoption.ADOPTED):
        return
    if catalog.events(kind="verdict") or catalog.events(kind="refused"):
        return
    adoption.adopt(catalog, policies, why="the set of a new workspace")


def ask(
    workspace: Workspace,
    of: Gate,
    subject: str,
    evidence: Evidence,
    *,
    at_best: Evidence | None = None,
) -> Verdict:
    """Ask the gate, and log its verdict.

    Args:
        workspace: where it is logged.
        of: the gate.
        subject: the candidate.
        evidence: what is known of it.
        at_best: the same with what could not be measured at its best. A rule that would then say
            yes is named last, as one that was not measured.

    Returns:
        The verdict, allowed or waived.

    Raises:
        Refused: naming every rule that said no, and how to satisfy it.
    """
    asked = question(workspace, of, subject, evidence)
    _adopt_first(workspace, asked.policies)
    verdict = gate.decide(workspace.catalog, asked)
    if verdict.outcome == "refused":
        broken = verdict.refusals()
        unmeasured: set[str] = set()
        if at_best is not None:
            best = gate.check(workspace.catalog, replace(asked, evidence=at_best))
            unmeasured = {rule.name for rule in broken} - {one.name for one in best.refusals()}
        # Where nothing else says no, these are the causes themselves.
        causes = [rule for rule in broken if rule.name not in unmeasured] or broken
        left = sorted(unmeasured) if causes is not broken else []
        raise refusal(f"{subject} at gate {of}", causes, not_measured=left)
    return verdict


def refusal(
    subject: str,
    broken: Sequence[RuleResult],
    *,
    not_measured: Sequence[str] = (),
    advice: str = "",
) -> Refused:
    """Return the error that names every rule that said no, and how to satisfy it.

    Args:
        subject: the candidate, and where it was asked about.
        broken: the rules.
        not_measured: the names of rules that could not be answered because of these.
        advice: what else can be done.
    """
    remedies = dict.fromkeys(rule.remedy for rule in broken if rule.remedy)
    found = "; ".join(f"{rule.name}: {rule.message}" for rule in broken)
    if not_measured:
        found += f" (because of that not measured: {', '.join(not_measured)})"
    steps = [*remedies, *([advice] if advice else [])]
    return Refused(
        subject,
        found=found,
        expected="every rule of the gate satisfied or waived",
        next="; ".join(steps) or f"btx policy check {subject}",
    )
