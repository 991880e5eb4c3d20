"""Job: register a corpus as a data version: copy it in, ask the gate, hold it with DVC, write the row."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipelines import evidence, gates
from pipelines import versioned_folders as folders
from pipelines.workspace import Workspace
from registry.catalog import Version, spdx


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
    Raises Refused when a policy says no: then no byte stays.
    """
    catalog, url = workspace.catalog, source if isinstance(source, str) else None
    with workspace.writing(f"data add {name}"):
        number = catalog.next_version("data", name)
        ref, target = f"data/{name}@{number}", workspace.folder("data", name, number)
        with folders.incoming(source, target) as aside:
            files = folders.manifest(aside)
            facts = {
                "domain": name,
                "license": spdx(license) if license else None,
                "source": origin or url,
                "holder": holder,
                "purpose": purpose,
                "pii": pii,
                "retain_until": retain_until,
                "bytes": sum(file.bytes for file in files),
            } | ({"url": url} if url else {})
            known = _same(workspace, name, facts, folders.files_digest(files)) if number > 1 else None
            if known:
                return replace(known, created=False)
            gates.ask(workspace, "register", ref, evidence.of_data(ref, facts, len(files)))
            folders.accept(aside, target)
        held = folders.track(workspace.root, target)
        return catalog.register("data", name, facts | {"dvc": held}, files=files, version=number)


def _same(workspace: Workspace, name: str, facts: Mapping[str, object], content: str) -> Version | None:
    newest = workspace.catalog.get(f"data/{name}")
    same_facts = {key: newest.facts.get(key) for key in facts} == facts
    if same_facts and folders.files_digest(newest.files) == content and workspace.catalog.status(newest.ref) != "withdrawn":
        return newest
    return None
