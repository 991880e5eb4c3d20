"""Ask a gate from a job: judge the evidence under the workspace's policies, log the verdict, stop the job on a no."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.errors import Refused
from registry.governance.gate import decide
from registry.governance.policies import Verdict, load


def ask(workspace: Workspace, gate: str, subject: str, evidence: Mapping[str, Any]) -> Verdict:
    """The verdict, allowed or waived. Raises Refused, naming every rule that said no and how to mend it."""
    verdict = decide(
        workspace.catalog,
        gate=gate,
        subject=subject,
        kind=evidence["kind"],
        evidence=evidence,
        policies=load(workspace.policies),
        at=datetime.now(UTC),
    )
    if verdict.outcome == "refused":
        broken = verdict.refusals()
        raise Refused(
            f"{subject} at gate {gate}",
            found="; ".join(f"{rule.name}: {rule.message}" for rule in broken),
            expected="every rule of the gate satisfied or waived",
            next="; ".join(dict.fromkeys(rule.remedy for rule in broken if rule.remedy))
            or f"btx policy check {subject}",
        )
    return verdict
