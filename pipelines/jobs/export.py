"""Write a build out as a plain checkpoint folder with its model card.

The gate `export` is asked; the folder is signed on request; where it went is logged. With it go the
licence, attributions and terms of others. What stands in the folder is the public form: it names
nobody who works here, no waiver and no contract.
"""

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.jobs import gates, state_facts
from pipelines.jobs.release import build_evidence
from pipelines.workspace import folders
from pipelines.workspace.bars import Report
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.workspace import Workspace
from registry.catalogue import pins
from registry.errors import Conflict, Invalid
from registry.formats import Dossier, collect, public, render
from registry.formats.licence_files import LicenceFiles, licence_files
from registry.governance import acts, attestations, build_licence, keys
from registry.records.answers.building import ExportAnswer
from registry.records.events import Exported
from registry.records.facts import BuildFacts, ExportFacts
from registry.records.kinds import Gate, Kind, Relation
from registry.records.own_facts import Attachment
from registry.records.version import Version

# The file that says that a folder is one.
DRAFT = "DRAFT"
# The end of an export's card.
LOADING = """
## Loading

Loads in transformers {least} or newer. An older release may load it as another model, with no more
than a warning.
"""


# How each program takes the folder.
NEXT = {
    "transformers": "AutoModelForCausalLM.from_pretrained({text})",
    "vllm": "vllm serve {word}",
    "llama.cpp": "python llama.cpp/convert_hf_to_gguf.py {word} --outtype bf16",
}


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What the caller wants.

    Attributes:
        fused: one weight file.
        target: transformers, vllm or llama.cpp.
        sign: sign the folder with the person's model key.
        draft: mark the folder as a draft, which need not be released.
    """

    fused: bool = False
    target: str = "transformers"
    sign: bool = False
    draft: bool = False


def export(
    workspace: Workspace,
    reference: str,
    out: Path,
    request: ExportRequest | None = None,
    progress: Report | None = None,
) -> ExportAnswer:
    """Write the build to the new folder `out`, which appears whole or not at all.

    Args:
        workspace: where the build lies.
        reference: the build.
        out: the new folder.
        request: what the caller wants; a plain folder for transformers unless given.
        progress: called before each weight file.

    Raises:
        Damaged: for a file of the build that is not what was registered.
        Invalid: for a target that is none of these.
        Refused: for a build that is not released, has a withdrawn member, or breaks another rule.
        Conflict: when `out` exists.
    """
    # Imported here: torch stays out of the light commands.
    from btx_core.mixing.exporting import Built, export_checkpoint, least_transformers

    request = request or ExportRequest()
    if request.target not in NEXT:
        raise Invalid(
            "--for", found=request.target, expected=", ".join(NEXT), next="name one of these"
        )
    catalog = workspace.catalog
    build = catalog.get(reference, BuildFacts)
    if out.exists():
        raise Conflict(
            str(out), found="something there", expected="a new folder", next="name another folder"
        )
    own = state_facts.stated(workspace, Kind.EXPORT, unsaid=_unsaid(workspace, build, request))
    folder = folders.require_here(folders.build_folder(workspace.root, build), str(build.ref))
    out = out.resolve()
    incoming = out.with_name(f".{out.name}.incoming")
    with workspace.writing(f"export {reference}"):
        folder = folders.opened(workspace.root, build)
        stated = {"draft": request.draft, "export_own": own.evidence}
        asked = build_evidence(workspace, build).model_copy(update=stated)
        verdict = gates.ask(workspace, Gate.EXPORT, str(build.ref), asked)
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            least = least_transformers(Built.open(folder), fused=request.fused)
            export_checkpoint(
                folder,
                incoming,
                fused=request.fused,
                target=request.target,
                progress=progress,
            )
            dossier = collect(catalog, str(build.ref))
            card = render(public(dossier), "model-card")
            (incoming / "README.md").write_text(
                card + LOADING.format(least=least), encoding="utf-8"
            )
            licences = _write_licences(workspace, dossier, incoming)
            facts = ExportFacts(
                folder=str(out),
                target=request.target,
                fused=request.fused,
                verdict=verdict.outcome,
                transformers=least,
                license=dossier.licence.expression if dossier.licence else None,
            )
            if request.draft:
                (incoming / DRAFT).write_text(
                    f"{build.ref} is a draft: it was not released.\n", encoding="utf-8"
                )
                facts = facts.model_copy(update={"draft": True})
            if request.sign:
                key = _sign(catalog.actor, incoming)
                facts = facts.model_copy(update={"public_key": key})
            files = folders.manifest(incoming)
            body = Exported.from_json(facts.to_json(), "export")
            envelope = acts.vouched(catalog, body.logged_as, str(build.ref), build.digest)
            own.keep(workspace)
            # The row first: an export that nobody recorded would be missed when its data must go.
            catalog.register(
                f"build-{build.ref.version}",
                own.on(facts),
                files=files,
                parents=[(build.ref, Relation.EXPORTED_FROM)],
            )
            catalog.event(body.with_envelope(envelope), build.ref)
            incoming.rename(out)
            pins.pin(catalog)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
    return ExportAnswer(
        ref=str(build.ref),
        folder=str(out),
        target=request.target,
        fused=request.fused,
        verdict=verdict.outcome,
        bytes_written=sum(file.bytes for file in files),
        transformers=facts.transformers,
        verify=_verify(out, keys.model_key(catalog.actor)) if request.sign else None,
        public_key=facts.public_key,
        license=facts.license,
        open=licences.open,
        next=NEXT[request.target].format(text=repr(str(out)), word=shlex.quote(str(out))),
    )


def _unsaid(
    workspace: Workspace, build: Version[BuildFacts], request: ExportRequest
) -> Mapping[str, str]:
    """Return what the export cannot state of itself, by name, and what to do about it."""
    unsaid: dict[str, str] = {}
    licence = build_licence.of_build(workspace.catalog, build)
    if licence.expression is None:
        cure = f"give {build.ref} a licence to go out under: {'; '.join(licence.questions)}"
        unsaid |= {build_licence.STATED_AS: cure, "license": cure}
    if not request.sign:
        unsaid["public_key"] = "--sign"
    return unsaid


def _write_licences(workspace: Workspace, dossier: Dossier, folder: Path) -> LicenceFiles:
    """Write LICENSE, NOTICE and what belongs to them."""

    def read(attached: Attachment) -> str | None:
        if not workspace.store.has(attached.sha256) or not workspace.store.verify(attached.sha256):
            return None
        return workspace.store.path(attached.sha256).read_text(errors="replace", encoding="utf-8")

    files = licence_files(public(dossier), read, dossier)
    for name, text in files.texts.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return files


def _sign(name: str, folder: Path) -> str:
    """Sign the folder with the person's model key, which is made on first use.

    Returns:
        The public half, in PEM form; a file beside the key holds it as well.
    """
    key = keys.model_key(name)
    if key.is_file():
        public = attestations.folder_public_key(key)
    else:
        public = attestations.new_folder_key(key)
        remark(f"made your model key: {key}; hand on {key.with_suffix('.pub')}, keep the key")
    key.with_suffix(".pub").write_text(public, encoding="utf-8")
    attestations.sign_folder(folder, key)
    return public


def _verify(out: Path, key: Path) -> str:
    """Return the command that checks the folder with OpenSSF's own tool."""
    signature = str(out / attestations.SIGNATURE)
    command = ["model_signing", "verify", "key", str(out), "--signature", signature]
    command += ["--public_key", str(key.with_suffix(".pub"))]
    return shlex.join([*command, "--no-ignore-git-paths", "--ignore-paths", signature])
