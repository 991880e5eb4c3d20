"""Job: take a registered version out of use, and tell all that it reached and what cures it."""

from collections.abc import Collection
from typing import Any

from pipelines.jobs.build_plan import BAD, MAIN
from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid


def withdraw(workspace: Workspace, reference: str, why: str) -> dict[str, Any]:
    """Log the withdrawal. Returns ref, why, reached[{ref, removal?, why?, folder?}], the clean builds, and next: what cures it, or None.

    Nothing is deleted: what was built stays readable, is marked everywhere, and passes no gate any more.
    """
    if not why.strip():
        raise Invalid(
            f"withdrawal of {reference}",
            found="no reason",
            expected="why, in words an auditor can judge",
            next="--why TEXT",
        )
    with workspace.writing(f"withdraw {reference}"):
        version = workspace.catalog.get(reference)
        workspace.catalog.withdraw(version.ref, why)
        impact = workspace.catalog.impact(version.ref)
    reached: list[dict[str, Any]] = [{"ref": str(ref)} for ref in impact.experts]
    builds = [build for build in impact.builds if build.removal != "none"]
    reached += [
        {"ref": str(build.ref), "removal": build.removal, "why": build.why} for build in builds
    ]
    reached += [
        {"ref": str(ref), "folder": workspace.catalog.get(ref).facts["folder"]}
        for ref in impact.exports
    ]
    clean = [str(build.ref) for build in impact.builds if build.removal == "none"]
    cure = _cure(workspace, {str(build.ref) for build in builds})
    return {"ref": str(version.ref), "why": why, "reached": reached, "clean": clean, "next": cure}


def _cure(workspace: Workspace, reached: Collection[str]) -> str | None:
    """A rebuild of each line whose newest build is reached; None where no line's is, and what it was is past."""
    catalog = workspace.catalog
    newest = {
        str(build.facts.get("line", MAIN)): str(build.ref) for build in catalog.list("build")
    }  # by number: the newest stays
    lines = [line for line, build in newest.items() if build in reached]
    experts = catalog.statuses(catalog.list("expert")).values()
    if lines and all(status in BAD for status in experts):
        return (
            "no expert in good standing is left: btx train or btx register others, then btx rebuild"
        )
    return (
        " && ".join("btx rebuild" + ("" if line == MAIN else f" --line {line}") for line in lines)
        or None
    )
