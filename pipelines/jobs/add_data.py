"""Register a corpus: copy it in, ask the gate, hold it with DVC, write the row."""

from dataclasses import replace
from datetime import date
from pathlib import Path

from btx_core import texts
from btx_core.measuring import overlap
from pipelines.jobs import collect_evidence, gates, state_facts
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.digest import digest
from registry.errors import Invalid
from registry.governance import seen_before
from registry.licences import is_choice, spelled
from registry.records.facts import DataFacts, DataStatement, Sketch
from registry.records.kinds import DataUse, Gate, HeldOutRule, Kind, Status
from registry.records.version import Version
from registry.urls import without_secrets


def add_data(
    workspace: Workspace, name: str, source: Path | str, statement: DataStatement
) -> Version[DataFacts]:
    """Register a corpus as the next version of `data/NAME`.

    Args:
        workspace: where it is registered.
        name: the data version's name, which is its domain too.
        source: a file, a folder, or a URL that DVC can fetch.
        statement: what is said of it. Its source, where it is not stated, is the URL.

    Returns:
        The version; the one that holds it already where content and statement are the same.

    Raises:
        Refused: when a policy says no; then no byte stays.
        Unreadable: for what is no text; then no byte stays.
    """
    _check_date(statement.retain_until)
    statement = statement.model_copy(update=_licence(statement))
    own = state_facts.stated(workspace, Kind.DATA)
    catalog = workspace.catalog
    with (
        workspace.writing(f"data add {name}"),
        workspace.numbering(Kind.DATA, name) as number,
    ):
        ref, target = f"data/{name}@{number}", workspace.folder(Kind.DATA, name, number)
        with folders.incoming(source, target) as incoming:
            _check_text(incoming, source)
            files = folders.manifest(incoming)
            size = sum(file.bytes for file in files)
            facts = _facts(name, source, statement, size)
            if number > 1:
                known = _same(workspace, facts, folders.files_digest(files))
                if known:
                    own.require_same(workspace, known)
                    return replace(known, created=False)
            sketch = _sketch(incoming)
            facts = own.on(facts.model_copy(update={"sketch": digest(sketch.to_json())}))
            seen = seen_before.of_data(catalog, files, sketch)
            asked = collect_evidence.of_data(ref, facts, files, seen)
            gates.ask(workspace, Gate.REGISTER, ref, asked)
            with folders.placed(workspace.root, incoming, target, files) as held:
                own.keep(workspace)
                facts = facts.model_copy(update={"dvc": held})
                return catalog.register(
                    name, facts, files=files, version=number, documents=[sketch.to_json()]
                )


def _sketch(folder: Path) -> Sketch:
    """Return the sample of the text by which later corpora are compared with this one."""
    bits, hashes = overlap.sketch(folder)
    return Sketch(bits=bits, hashes=tuple(f"{one:016x}" for one in hashes))


def _licence(statement: DataStatement) -> dict[str, str | None]:
    """Return licence and choice in SPDX's spelling."""
    license, choice = statement.license, statement.license_choice
    if choice and not (license and is_choice(choice, license)):
        raise Invalid(
            "--license-choice",
            found=choice,
            expected=f"one of the ways to comply with {license or 'a licence'}",
            next='as in --license "MIT OR Apache-2.0" --license-choice MIT',
        )
    return {
        "license": spelled(license) if license else None,
        "license_choice": spelled(choice) if choice else None,
    }


def _facts(name: str, source: Path | str, statement: DataStatement, size: int) -> DataFacts:
    # What is recorded can never be taken out again, and everybody reads it.
    url = without_secrets(source) if isinstance(source, str) else None
    stated = statement.stated()
    stated["source"] = statement.source or url
    # What is for evaluation alone is held out whole.
    only_measured = statement.use == DataUse.EVALUATION
    held_out = HeldOutRule.ALL if only_measured else HeldOutRule.DOCUMENTS
    facts = DataFacts(domain=name, bytes=size, held_out=held_out, **stated)
    return facts.model_copy(update={"url": url}) if url else facts


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
    """Refuse what is no text, by the path that the caller gave: all readers of data read text."""
    try:
        texts.check(folder)
    except texts.Unreadable as error:
        inside = error.subject.removeprefix(f"{folder}/")
        where = (
            (source.parent if source.is_file() else source) / inside
            if isinstance(source, Path)
            else f"{without_secrets(source)}, {inside}"
        )
        raise texts.Unreadable(
            where, found=error.found, expected=error.expected, next=error.next
        ) from None


def _same(workspace: Workspace, facts: DataFacts, content: str) -> Version[DataFacts] | None:
    """Return the newest version where it holds the same bytes and says the same of them."""
    newest = workspace.catalog.get(f"data/{facts.domain}", DataFacts)
    before = newest.facts
    said = (before.domain, before.url, before.stated())
    if said != (facts.domain, facts.url, facts.stated()):
        return None
    if folders.files_digest(newest.files) != content:
        return None
    # What was withdrawn is no answer: it asks the gate, which is shown what it holds.
    withdrawn = workspace.catalog.status(newest.ref) == Status.WITHDRAWN
    return None if withdrawn else newest
