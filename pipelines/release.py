"""Job: release a build: ask the gate with all that is known of it now, log the release."""

from typing import Any

from pipelines import evidence, gates
from pipelines.workspace import Workspace
from registry.catalog import Version
from registry.errors import Invalid


def build_evidence(workspace: Workspace, build: Version) -> dict[str, Any]:
    """What the gates release and export are asked about: the recorded build, its members and approvals as they stand today."""
    catalog = workspace.catalog
    members = [catalog.get(member["ref"]) for member in build.facts["members"]]
    approvals = [{"actor": event.actor, "at": event.at} for event in catalog.events(build.ref, kind="approved")]
    return evidence.of_build(catalog, str(build.ref), build.facts["seed"], members, {**build.facts, "approvals": approvals})


def release(workspace: Workspace, reference: str) -> dict[str, Any]:
    """Release the build. Raises Refused, naming the rule, for withdrawn members or what the policies demand besides."""
    build = workspace.catalog.get(reference)
    if build.ref.kind != "build":
        raise Invalid(reference, found=f"a {build.ref.kind}", expected="a build", next="btx list builds")
    with workspace.writing(f"release {reference}"):
        verdict = gates.ask(workspace, "release", str(build.ref), build_evidence(workspace, build))
        workspace.catalog.event("released", build.ref, {"verdict": verdict.outcome})
    return {"ref": str(build.ref), "status": workspace.catalog.status(build.ref), "verdict": verdict.to_json()}
