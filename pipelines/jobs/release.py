"""Job: release a build: ask the gate with all that is known of it now, log the release."""

from typing import Any

from pipelines.jobs import evidence, gates
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Version
from registry.errors import Invalid


def build_evidence(workspace: Workspace, build: Version) -> dict[str, Any]:
    """What the gates release and export are asked about: the recorded build, its members and approvals as they stand today."""
    catalog = workspace.catalog
    members = [catalog.get(member["ref"]) for member in build.facts["members"]]
    before = last_release(workspace, build)
    known = {**build.facts, "previous": before.facts["evaluation"] if before else None}
    return evidence.of_build(catalog, str(build.ref), build.facts["seed"], members, known)


def last_release(workspace: Workspace, build: Version) -> Version | None:
    """The build that was released last, other than this one: what its users have now, and what this one is compared with."""
    released = [
        event.subject
        for event in workspace.catalog.events(kind="released")
        if event.subject != str(build.ref)
    ]
    return workspace.catalog.get(released[-1]) if released else None


def release(workspace: Workspace, reference: str) -> dict[str, Any]:
    """Release the build. Raises Refused, naming the rule, for withdrawn members or what the policies demand besides."""
    build = workspace.catalog.get(reference)
    if build.ref.kind != "build":
        raise Invalid(reference, found=build.ref.kind, expected="a build", next="btx list builds")
    with workspace.writing(f"release {reference}"):
        verdict = gates.ask(workspace, "release", str(build.ref), build_evidence(workspace, build))
        workspace.catalog.event("released", build.ref, {"verdict": verdict.outcome})
    return {
        "ref": str(build.ref),
        "status": workspace.catalog.status(build.ref),
        "verdict": verdict.to_json(),
    }
