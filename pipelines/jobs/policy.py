"""Job: what would the gates say of one version now? Nothing is logged."""

from datetime import UTC, datetime
from typing import Any

from pipelines.jobs import evidence
from pipelines.jobs.release import build_evidence
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Version
from registry.governance import gate
from registry.governance.policies import load

GATES = {
    "data": ("register",),
    "seed": ("register",),
    "expert": ("register",),
    "build": ("build", "release", "export"),
}


def check(workspace: Workspace, reference: str) -> dict[str, Any]:
    """ref, verdicts{gate: {outcome, rules}}."""
    version = workspace.catalog.get(reference)
    ref, kind = str(version.ref), version.ref.kind
    facts, policies, at = _evidence(workspace, version), load(workspace.policies), datetime.now(UTC)

    def judged(name: str) -> dict[str, Any]:
        return gate.check(
            workspace.catalog,
            gate=name,
            subject=ref,
            kind=kind,
            evidence=facts,
            policies=policies,
            at=at,
        ).to_json()

    return {"ref": ref, "verdicts": {name: judged(name) for name in GATES[kind]}}


def _evidence(workspace: Workspace, version: Version) -> dict[str, Any]:
    ref, facts = str(version.ref), version.facts
    match version.ref.kind:
        case "data":
            return evidence.of_data(ref, facts, len(version.files))
        case "seed":
            return evidence.of_seed(ref, version.ref.name, facts)
        case "expert":
            return evidence.of_expert(workspace.catalog, ref, version.ref.name, facts)
        case _:
            return build_evidence(workspace, version)
