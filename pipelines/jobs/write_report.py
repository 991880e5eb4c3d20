"""Write what is recorded of one version in a format that people or other tools read.

In:  a version, the name of a format.  Out: the text, or a new file; signed on request.
What is gathered and how it is laid out is left to `registry.formats`. A signature is a DSSE
envelope by the acting person's key: around an in-toto statement itself, and for every other format
in a file beside it, over the file's SHA-256.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.workspace import folders
from pipelines.workspace.new_files import write_new
from pipelines.workspace.workspace import Workspace
from registry.digest import sha256_bytes
from registry.errors import Invalid
from registry.formats import STATEMENTS, Dossier, collect, in_toto, public, render
from registry.governance import acts, attestations, keys, worth
from registry.governance.keys import Signer
from registry.records.answers.auditing import ReportAnswer
from registry.records.facts import BuildFacts

PDF = "pdf"
# The format that a file's name asks for where nobody names one.
BY_SUFFIX = {".html": "html", ".htm": "html", ".pdf": PDF}
USUAL = "md"
SIGNED = "urn:btx:report:v1"


@dataclass(frozen=True)
class _File:
    """A report as it is written to a file."""

    path: Path
    form: str
    content: bytes

    @property
    def sha256(self) -> str:
        return sha256_bytes(self.content)

    @property
    def beside(self) -> Path:
        """The file that holds the signature, where the report is no statement."""
        return self.path.with_name(f"{self.path.name}.dsse.json")


def report(
    workspace: Workspace,
    reference: str,
    form: str | None = None,
    *,
    out: Path | None = None,
    sign: bool = False,
    outside: bool = False,
) -> ReportAnswer:
    """Write a report. Nothing is logged.

    Args:
        workspace: whose catalogue is read.
        reference: the version.
        form: one of the names in `registry.formats.FORMATS`, or `pdf`: one page on a build.
            Left out, it is what the name of the file says, else `md`.
        out: the new file; the text itself is returned unless it is given.
        sign: sign with the acting person's key.
        outside: the public form, which names no people, waivers and contracts.

    Raises:
        Conflict: when `out` exists.
        Damaged: when a file that a signature would speak for is not what was registered.
        Invalid: for an unknown format, and for a signature that would have no file.
    """
    form = form or (BY_SUFFIX.get(out.suffix.lower(), USUAL) if out else USUAL)
    catalog = workspace.catalog
    dossier = collect(catalog, reference)
    by = keys.signer(catalog.actor) if sign else None
    if by and out is None and form not in STATEMENTS:
        raise Invalid(
            f"signature of a {form} report",
            found="no file",
            expected="a file to sign",
            next="name one with -o FILE",
        )
    if by:
        acts.require_listed(catalog, by)
        folders.verify_here(workspace, catalog.get(reference))
    shown = public(dossier) if outside else dossier
    if form == PDF:
        return _write(dossier, _File(_file_for_pdf(out), form, _sheet(workspace, shown)), by)
    text = render(shown, form, as_page=out is not None and out.suffix.lower() in (".html", ".htm"))
    if by and form in STATEMENTS:
        text = in_toto.envelope(text, by.key)
    if out is None:
        return ReportAnswer(ref=dossier.ref, format=form, text=text)
    return _write(dossier, _File(out, form, text.encode()), by if form not in STATEMENTS else None)


def _write(dossier: Dossier, file: _File, by: Signer | None) -> ReportAnswer:
    """Write a report, and its signature beside it where somebody signs."""
    written = {file.path: file.content}
    if by:
        written[file.beside] = _signature(dossier, file, by).encode()
    write_new(written)
    return ReportAnswer(
        ref=dossier.ref,
        format=file.form,
        file=str(file.path.resolve()),
        sha256=file.sha256,
        signature=str(file.beside.resolve()) if by else None,
    )


def _sheet(workspace: Workspace, dossier: Dossier) -> bytes:
    """Return the release sheet of a build, as PDF."""
    if dossier.build is None:
        raise Invalid(
            f"format {PDF!r} of {dossier.ref}",
            found=str(dossier.kind),
            expected="a build",
            next=f"btx report build/1 --format {PDF} -o build-1.pdf",
        )
    # Imported here: its packages are an extra.
    from registry.formats import release_sheet

    build = workspace.catalog.get(dossier.ref, BuildFacts)
    price = workspace.settings.cost.price()
    return release_sheet.pdf(dossier, worth.of_build(workspace.catalog, build, price))


def _file_for_pdf(out: Path | None) -> Path:
    if out is None:
        raise Invalid(
            f"format {PDF!r}", found="no file", expected="a file to write", next="name one: -o FILE"
        )
    return out


def _signature(dossier: Dossier, file: _File, by: Signer) -> str:
    envelope = attestations.sign(_claim(dossier, file), by.key)
    return json.dumps(envelope, indent=1) + "\n"


def _claim(dossier: Dossier, file: _File) -> dict[str, Any]:
    """Return the in-toto statement: which file, about which version, at which head of the log."""
    predicate = {
        "ref": dossier.ref,
        "digest": dossier.subject.digest,
        "format": file.form,
        "head": dossier.head,
        "madeAt": dossier.made_at,
    }
    subject = [{"name": file.path.name, "digest": {"sha256": file.sha256}}]
    return {
        "_type": in_toto.STATEMENT,
        "subject": subject,
        "predicateType": SIGNED,
        "predicate": predicate,
    }
