"""Job: write what is recorded of one version in a format that people or other tools read, signed on request.

What is gathered and how it is laid out is registry/export's.  A signature is a DSSE envelope by the acting person's key: around an in-toto
statement itself, for every other format in a file beside it, over the file's SHA-256.
"""

import json
from pathlib import Path
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.digest import sha256_bytes
from registry.errors import Conflict, Invalid
from registry.formats import STATEMENTS, Dossier, collect, in_toto, render
from registry.governance import attestations, people

SIGNED = "urn:btx:report:v1"


def report(
    workspace: Workspace, reference: str, form: str, *, out: Path | None = None, sign: bool = False
) -> dict[str, Any]:
    """ref, format, text; with `out` also file, sha256 and signature. Nothing is logged. Raises Conflict when `out` exists."""
    catalog = workspace.catalog
    dossier = collect(catalog, reference)
    by = people.signer(catalog.actor) if sign else None
    if by and out is None and form not in STATEMENTS:
        raise Invalid(
            f"signature of a {form} report",
            found="no file",
            expected="a file to sign",
            next="name one with -o FILE",
        )
    text = render(dossier, form)
    if by and form in STATEMENTS:
        text = in_toto.envelope(text, by.key)
    answer: dict[str, Any] = {"ref": dossier.ref, "format": form, "text": text}
    if out is None:
        return answer
    sha256 = sha256_bytes(text.encode())
    written = {out: text}
    beside = out.with_name(f"{out.name}.dsse.json")
    if by and form not in STATEMENTS:
        written[beside] = (
            json.dumps(attestations.sign(_claim(dossier, form, out.name, sha256), by.key), indent=1)
            + "\n"
        )
    _write_new(written)
    return answer | {
        "file": str(out.resolve()),
        "sha256": sha256,
        "signature": str(beside.resolve()) if beside in written else None,
    }


def _claim(dossier: Dossier, form: str, name: str, sha256: str) -> dict[str, Any]:
    """What is signed of a report: which file, about which version, at which head of the log."""
    predicate = {
        "ref": dossier.ref,
        "digest": dossier.subject.digest,
        "format": form,
        "head": dossier.head,
        "madeAt": dossier.made_at,
    }
    subject = [{"name": name, "digest": {"sha256": sha256}}]
    return {
        "_type": in_toto.STATEMENT,
        "subject": subject,
        "predicateType": SIGNED,
        "predicate": predicate,
    }


def _write_new(texts: dict[Path, str]) -> None:
    for path in texts:
        if path.exists():
            raise Conflict(
                str(path), found="something there", expected="a new file", next="name another file"
            )
        if not path.parent.is_dir():
            raise Invalid(
                str(path),
                found=f"no folder {path.parent}",
                expected="a file in an existing folder",
                next="make the folder",
            )
    for path, text in texts.items():
        path.write_text(text)
