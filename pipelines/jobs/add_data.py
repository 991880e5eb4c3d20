"""Job: register a corpus as a data version: copy it in, ask the gate, hold it with DVC, write the row."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

from btx_core import texts as data
from pipelines.jobs import evidence, gates
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Version, spdx
from registry.errors import Invalid


def add_data(
    workspace: Workspace,
    name: str,
    source: Path | str,
    *,
    license: str | None,
    origin: str | None,
    holder: str | None = None,
    purpose: str | None = None,
    pii: str = "none",
    retain_until: str | None = None,
) -> Version:
    """Register `source` (a file, a folder or a URL) as data/NAME@next; the same content and facts again give the version that holds them.

    origin: where it comes from, in words; of a URL, the URL unless stated. pii: none | reviewed | present. retain_until: ISO date.
    Raises Refused when a policy says no, Unreadable for what is no text: then no byte stays.
    """
    _check_date(retain_until)
    licence = spdx(license) if license else None
    catalog, url = workspace.catalog, source if isinstance(source, str) else None
    with workspace.writing(f"data add {name}"):
        number = catalog.next_version("data", name)
        ref, target = f"data/{name}@{number}", workspace.folder("data", name, number)
        with folders.incoming(source, target) as aside:
            _check_text(aside, source)
            files = folders.manifest(aside)
            facts = {
                "domain": name,
                "license": licence,
                "source": origin or url,
                "holder": holder,
                "purpose": purpose,
                "pii": pii,
                "retain_until": retain_until,
                "bytes": sum(file.bytes for file in files),
            } | ({"url": url} if url else {})
            known = (
                _same(workspace, name, facts, folders.files_digest(files)) if number > 1 else None
            )
            if known:
                return replace(known, created=False)
            gates.ask(workspace, "register", ref, evidence.of_data(ref, facts, len(files)))
            folders.accept(aside, target)
        held = folders.track(workspace.root, target)
        return catalog.register("data", name, facts | {"dvc": held}, files=files, version=number)


def _check_date(retain_until: str | None) -> None:
    """Written as the policies read it: YYYY-MM-DD, and a day that is."""
    try:
        held = retain_until is None or date.fromisoformat(retain_until).isoformat() == retain_until
    except ValueError:
        held = False
    if not held:
        raise Invalid(
            "--retain-until",
            found=repr(retain_until),
            expected="an ISO date, such as 2030-12-31",
            next="write it so, or leave it out",
        )


def _check_text(folder: Path, source: Path | str) -> None:
    """Everything that reads a data version reads text: what is none is told where the corpus comes in, by the caller's path."""
    try:
        data.check(folder)
    except data.Unreadable as error:
        inside = error.subject.removeprefix(f"{folder}/")
        where = (
            (source.parent if source.is_file() else source) / inside
            if isinstance(source, Path)
            else f"{source}, {inside}"
        )
        raise data.Unreadable(
            where, found=error.found, expected=error.expected, next=error.next
        ) from None


def _same(
    workspace: Workspace, name: str, facts: Mapping[str, object], content: str
) -> Version | None:
    newest = workspace.catalog.get(f"data/{name}")
    same_facts = {key: newest.facts.get(key) for key in facts} == facts
    if (
        same_facts
        and folders.files_digest(newest.files) == content
        and workspace.catalog.status(newest.ref) != "withdrawn"
    ):
        return newest
    return None
