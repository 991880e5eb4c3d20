"""Job: write a build out as a plain checkpoint folder with its model card, asked at gate "export"; sign it on request; log where it went."""

import shutil
from pathlib import Path
from typing import Any

from pipelines.jobs import gates
from pipelines.jobs.release import build_evidence
from pipelines.workspace import folders
from pipelines.workspace.progress import Report
from pipelines.workspace.workspace import Workspace
from registry.errors import Conflict, Invalid
from registry.formats import collect, render
from registry.governance import attestations, people


def export(
    workspace: Workspace,
    reference: str,
    out: Path,
    *,
    fused: bool = False,
    target: str = "transformers",
    sign: bool = False,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Write the build to the new folder `out`. fused: one weight file. target: transformers | vllm | llama.cpp.

    The folder appears whole or not at all. Raises Refused for a build with a withdrawn member or another broken rule, Conflict when
    `out` exists.
    """
    from btx_core.mixing.exporting import export_checkpoint  # torch stays out of the light commands

    build = workspace.catalog.get(reference)
    if build.ref.kind != "build":
        raise Invalid(reference, found=build.ref.kind, expected="a build", next="btx list builds")
    if out.exists():
        raise Conflict(
            str(out), found="something there", expected="a new folder", next="name another folder"
        )
    out = out.resolve()
    aside = out.with_name(f".{out.name}.incoming")
    with workspace.writing(f"export {reference}"):
        verdict = gates.ask(workspace, "export", str(build.ref), build_evidence(workspace, build))
        shutil.rmtree(aside, ignore_errors=True)
        try:
            export_checkpoint(
                workspace.root / build.facts["folder"],
                aside,
                fused=fused,
                target=target,
                progress=progress,
            )
            (aside / "README.md").write_text(
                render(collect(workspace.catalog, str(build.ref)), "model-card")
            )
            signed = _signed(workspace.catalog.actor, aside) if sign else {}
            body: dict[str, Any] = {
                "folder": str(out),
                "target": target,
                "fused": fused,
                "verdict": verdict.outcome,
                **signed,
            }
            files = folders.manifest(aside)
            # The row first: an export that nobody recorded would be missed when its data must go.
            workspace.catalog.register(
                "export",
                f"build-{build.ref.version}",
                body,
                files=files,
                parents=[(build.ref, "exported_from")],
            )
            workspace.catalog.event("exported", build.ref, body)
            aside.rename(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    verify = _verify(out, people.model_key(workspace.catalog.actor)) if sign else None
    return {
        "ref": str(build.ref),
        **body,
        "bytes_written": sum(file.bytes for file in files),
        "verify": verify,
    }


def _signed(name: str, folder: Path) -> dict[str, str]:
    """Sign the folder with the person's model key, made on first use; the log keeps the public half, a file beside the key as well."""
    key = people.model_key(name)
    public = (
        attestations.folder_public_key(key) if key.is_file() else attestations.new_folder_key(key)
    )
    key.with_suffix(".pub").write_text(public)
    attestations.sign_folder(folder, key)
    return {"public_key": public}


def _verify(out: Path, key: Path) -> str:
    """The command that checks the folder with OpenSSF's own tool."""
    signature, ignored = out / attestations.SIGNATURE, "--no-ignore-git-paths --ignore-paths"
    return f"model_signing verify key {out} --signature {signature} --public_key {key.with_suffix('.pub')} {ignored} {signature}"
