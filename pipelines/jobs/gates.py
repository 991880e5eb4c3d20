"""Ask a gate from a job: judge under the workspace's policies, log the verdict, stop on a no."""

from datetime import UTC, datetime

from pipelines.workspace.workspace import Workspace
from registry.errors import Refused
from registry.governance import gate
from registry.governance.gate import Question
from registry.governance.policies import Verdict, load
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
    )


def ask(workspace: Workspace, of: Gate, subject: str, evidence: Evidence) -> Verdict:
    """Ask the gate, and log its verdict.

    Returns:
        The verdict, allowed or waived.

    Raises:
        Refused: naming every rule that said no, and how to satisfy it.
    """
    verdict = gate.decide(workspace.catalog, question(workspace, of, subject, evidence))
    if verdict.outcome == "refused":
        broken = verdict.refusals()
        remedies = dict.fromkeys(rule.remedy for rule in broken if rule.remedy)
        raise Refused(
            f"{subject} at gate {of}",
            found="; ".join(f"{rule.name}: {rule.message}" for rule in broken),
            expected="every rule of the gate satisfied or waived",
            next="; ".join(remedies) or f"btx policy check {subject}",
        )
    return verdict
