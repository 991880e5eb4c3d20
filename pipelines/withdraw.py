"""Job: take a registered version out of use, and tell all that it reached and what cures it."""

from typing import Any

from pipelines.workspace import Workspace
from registry.lineage import impact


def withdraw(workspace: Workspace, reference: str, why: str) -> dict[str, Any]:
    """Log the withdrawal. Returns ref, why, reached[{ref, removal?}] and the rebuild that cures it.

    Nothing is deleted: what was built stays readable, is marked everywhere, and passes no gate any more.
    """
    with workspace.writing(f"withdraw {reference}"):
        version = workspace.catalog.get(reference)
        workspace.catalog.withdraw(version.ref, why)
    reached = impact(workspace.catalog, version.ref)
    cure = "btx rebuild" if any(item["ref"].startswith("build/") for item in reached) else None
    return {"ref": str(version.ref), "why": why, "reached": reached, "next": cure}
