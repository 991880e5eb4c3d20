"""Ask a gate from a job: judge under the workspace's policies, log the verdict, stop on a no."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pipelines.workspace.workspace import Workspace
from registry.errors import Conflict, Refused
from registry.governance import adoption, gate, people, stating
from registry.governance.gate import Question
from registry.governance.policies import Policy, Verdict, load
from registry.records.evidence import Evidence
from registry.records.facts import Facts
from registry.records.kinds import UNUSABLE, Gate
from registry.records.version import Version


def question(
    workspace: Workspace,
    of: Gate,
    subject: str,
    evidence: Evidence,
    sent: people.Sent | None = None,
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
    sent: people.Sent | None = None,
) -> Verdict:
    """Ask the gate, and log its verdict.

    Args:
        workspace: whose policies are asked.
        of: the gate.
        subject: the candidate's reference.
        evidence: what is known of it.
        sent: what the person who asks signed elsewhere.

    Returns:
        The verdict, allowed or waived.

    Raises:
        Refused: naming every rule that said no, and how to satisfy it.
    """
    asked = question(workspace, of, subject, evidence, sent)
    _adopt_first(workspace, asked.policies)
    verdict = gate.decide(workspace.catalog, asked)
    require_passed(verdict)
    return verdict


def require_passed(verdict: Verdict) -> None:
    """Raise Refused for a refusal, naming every rule that said no, and how to satisfy it."""
    subject, of = verdict.subject, verdict.gate
    if verdict.outcome == "refused":
        broken = verdict.refusals()
        remedies = dict.fromkeys(rule.remedy for rule in broken if rule.remedy)
        raise Refused(
            f"{subject} at gate {of}",
            found="; ".join(f"{rule.name}: {rule.message}" for rule in broken),
            expected="every rule of the gate satisfied or waived",
            next="; ".join(remedies) or f"btx policy check {subject}",
        )


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
