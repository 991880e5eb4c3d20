"""Job: take a registered version out of use, and tell all that it reached and what cures it."""

from typing import Any

from pipelines.workspace import Workspace
from registry.errors import Invalid


def withdraw(workspace: Workspace, reference: str, why: str) -> dict[str, Any]:
    """Log the withdrawal. Returns ref, why, reached[{ref, removal?, why?, folder?}], the clean builds and the command that cures it.

    Nothing is deleted: what was built stays readable, is marked everywhere, and passes no gate any more.
    """
    if not why.strip():
        raise Invalid(f"withdrawal of {reference}", found="no reason", expected="why, in words an auditor can judge", next="--why TEXT")
    with workspace.writing(f"withdraw {reference}"):
        version = workspace.catalog.get(reference)
        workspace.catalog.withdraw(version.ref, why)
        impact = workspace.catalog.impact(version.ref)
    reached: list[dict[str, Any]] = [{"ref": str(ref)} for ref in impact.experts]
    builds = [build for build in impact.builds if build.removal != "none"]
    reached += [{"ref": str(build.ref), "removal": build.removal, "why": build.why} for build in builds]
    reached += [{"ref": str(ref), "folder": workspace.catalog.get(ref).facts["folder"]} for ref in impact.exports]
    clean = [str(build.ref) for build in impact.builds if build.removal == "none"]
    return {"ref": str(version.ref), "why": why, "reached": reached, "clean": clean, "next": "btx rebuild" if builds else None}
