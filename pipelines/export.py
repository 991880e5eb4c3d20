"""Job: write a build out as a plain checkpoint folder, asked at gate "export", and log where it went."""

from pathlib import Path
from typing import Any

from pipelines import gates
from pipelines.release import build_evidence
from pipelines.workspace import Workspace
from registry.errors import Conflict, Invalid


def export(workspace: Workspace, reference: str, out: Path, *, fused: bool = False, target: str = "transformers") -> dict[str, Any]:
    """Write the build to the new folder `out`. fused: one weight file. target: transformers | vllm | llama.cpp.

    Raises Refused for a build with a withdrawn member or another broken rule, Conflict when `out` exists.
    """
    from btx_core.export import export_checkpoint  # torch stays out of the light commands

    build = workspace.catalog.get(reference)
    if build.ref.kind != "build":
        raise Invalid(reference, found=f"a {build.ref.kind}", expected="a build", next="btx list builds")
    if out.exists():
        raise Conflict(str(out), found="something there", expected="a new folder", next="name another folder")
    with workspace.writing(f"export {reference}"):
        verdict = gates.ask(workspace, "export", str(build.ref), build_evidence(workspace, build))
        written = export_checkpoint(workspace.root / build.facts["folder"], out, fused=fused, target=target)
        body = {"folder": str(out.resolve()), "target": target, "fused": fused, "verdict": verdict.outcome}
        workspace.catalog.event("exported", build.ref, body)
    return {"ref": str(build.ref), **body, "bytes_written": written}
