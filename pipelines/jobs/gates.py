"""Ask a gate from a job: judge under the workspace's policies, log the verdict, stop on a no."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pipelines.workspace.workspace import Workspace
from registry.errors import Refused
from registry.governance import adoption, gate, stating
from registry.governance.gate import Question
from registry.governance.policies import Policy, Verdict, load
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


def ask(workspace: Workspace, of: Gate, subject: str, evidence: Evidence) -> Verdict:
    """Ask the gate, and log its verdict.

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
        remedies = dict.fromkeys(rule.remedy for rule in broken if rule.remedy)
        raise Refused(
            f"{subject} at gate {of}",
            found="; ".join(f"{rule.name}: {rule.message}" for rule in broken),
            expected="every rule of the gate satisfied or waived",
            next="; ".join(remedies) or f"btx policy check {subject}",
        )
    return verdict
