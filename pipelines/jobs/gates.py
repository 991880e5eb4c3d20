"""Ask a gate from a job: judge under the workspace's policies, log the verdict, stop on a no."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pipelines.jobs import state_facts
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.errors import BrokenRule, Conflict, Refused
from registry.governance import acts, adoption, gate, stating
from registry.governance.gate import Question
from registry.governance.policies import RuleResult, Verdict
from registry.governance.policy_files import load
from registry.records.evidence import Evidence
from registry.records.facts import Facts
from registry.records.kinds import UNUSABLE, Gate, Outcome
from registry.records.version import Version


def question(
    workspace: Workspace,
    of: Gate,
    subject: str,
    evidence: Evidence,
    sent: acts.Sent | None = None,
) -> Question:
    """Return the question as it stands now, under the workspace's policies."""
    return Question(
        gate=of,
        subject=subject,
        evidence=evidence,
        policies=load(workspace.policies),
        at=datetime.now(UTC),
        sent=sent,
        schema=stating.read_schema(workspace.facts),
    )


def check(catalog: Catalog, asked: Question) -> Verdict:
    """Return what `ask` would say now; nothing is logged and nothing adopted."""
    return _without_policies(catalog, asked) or gate.check(catalog, asked)


def _without_policies(catalog: Catalog, asked: Question) -> Verdict | None:
    """Return the refusal of a gate that waits for an auditor to adopt policies."""
    if not adoption.awaits_auditor(catalog):
        return None
    rule = RuleResult(
        policy="gate",
        rule="adopted",
        outcome="refused",
        message="no policies were adopted yet, and an auditor keeps the list of actors",
        remedy="let an auditor look at those in policies/: BTX_ACTOR=AUDITOR btx policy adopt",
    )
    at = asked.at.isoformat()
    return Verdict(asked.gate, asked.subject, Outcome.REFUSED, at, (rule,))


def _adopt_first(workspace: Workspace, asked: Question) -> None:
    """Adopt the policies that lie in a new workspace, before its first gate is asked.

    Raises:
        Refused: where the list of actors is closed: an auditor adopts them.
    """
    catalog = workspace.catalog
    refused = _without_policies(catalog, asked)
    if refused is not None:
        require_passed(refused)
    if adoption.is_lacking(catalog):
        adoption.adopt(catalog, asked.policies, why="the set of a new workspace")


def ask(
    workspace: Workspace,
    of: Gate,
    subject: str,
    evidence: Evidence,
    sent: acts.Sent | None = None,
    *,
    at_best: Evidence | None = None,
) -> Verdict:
    """Ask the gate, log its verdict, and say what it warns of.

    Args:
        workspace: whose policies are asked, and where the verdict is logged.
        of: the gate.
        subject: the candidate's reference.
        evidence: what is known of it.
        sent: what the person who asks signed elsewhere.
        at_best: the same with what could not be measured at its best. A rule that would then say
            yes is named last, as one that was not measured.

    Returns:
        The verdict, allowed or waived.

    Raises:
        Refused: with every rule that said no, and how to satisfy it.
    """
    asked = question(workspace, of, subject, evidence, sent)
    _adopt_first(workspace, asked)
    if workspace.given.any:
        state_facts.adopt_first(workspace)
    verdict = gate.decide(workspace.catalog, asked)
    unmeasured: set[str] = set()
    if verdict.outcome == "refused" and at_best is not None:
        best = gate.check(workspace.catalog, replace(asked, evidence=at_best))
        refused = {rule.name for rule in verdict.refusals()}
        unmeasured = refused - {rule.name for rule in best.refusals()}
    require_passed(verdict, unmeasured)
    for rule in verdict.rules:
        if rule.outcome == "warned":
            remark(f"warning: {subject} at gate {of}: {rule.name}: {rule.message}")
            remark(f"  next: {rule.remedy}")
    return verdict


def require_passed(verdict: Verdict, unmeasured: Collection[str] = ()) -> None:
    """Raise Refused for a refusal, naming every rule that said no, and how to satisfy it.

    Args:
        verdict: of the gate.
        unmeasured: the names of rules that say no because something was not measured.
    """
    if verdict.outcome != "refused":
        return
    broken = verdict.refusals()
    # Where nothing else says no, these are the causes themselves.
    causes = [rule for rule in broken if rule.name not in unmeasured] or broken
    left = sorted(unmeasured) if causes is not broken else []
    raise refusal(f"{verdict.subject} at gate {verdict.gate}", causes, not_measured=left)


def withdrawn_meanwhile(
    workspace: Workspace, versions: Iterable[Version[Facts]], advice: str
) -> Conflict | None:
    """Say which of these versions may not be used any more, though stages run that use it.

    Args:
        workspace: where they are registered.
        versions: what the stages use.
        advice: the command to run next.
    """
    for ref, status in workspace.catalog.statuses(versions).items():
        if status in UNUSABLE:
            return Conflict(
                str(ref),
                found=f"{status} while the stages ran",
                expected="members and data that may be used",
                next=advice,
            )
    return None


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
    left = f"because of that not measured: {', '.join(not_measured)}"
    return Refused.by(
        subject,
        [BrokenRule(rule.name, rule.message, rule.remedy) for rule in broken],
        otherwise=f"btx policy check {subject}",
        besides=(left,) if not_measured else (),
        advice=advice,
    )
