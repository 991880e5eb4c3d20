"""Register a corpus: copy it in, ask the gate, hold it with DVC, write the row."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from btx_core import texts
from btx_core.columns import Unreadable
from btx_core.measuring import overlap
from pipelines.jobs import collect_evidence, gates, state_facts
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace, check_name
from registry.digest import digest
from registry.errors import Invalid
from registry.governance import erasure, seen_before
from registry.licences import is_choice, spelled
from registry.records.facts import DataFacts, DataStatement, DocumentCounts, Sketch, TextReading
from registry.records.kinds import DataUse, Gate, HeldOutRule, Kind
from registry.records.version import FileFact, Version, content_digest
from registry.urls import without_secrets

# More licences than any corpus has: a column that holds other text.
MOST_LICENCES = 100


def add_data(
    workspace: Workspace,
    name: str,
    source: Path | str,
    statement: DataStatement,
    *,
    text_field: str | None = None,
) -> Version[DataFacts]:
    """Register a corpus as the next version of `data/NAME`.

    Args:
        workspace: where it is registered.
        name: the data version's name, which is its domain too.
        source: a file, a folder, or a URL that DVC can fetch.
        statement: what is said of it. Its source, where it is not stated, is the URL.
        text_field: the column that holds the text of every row; one of the known forms unless it is
            given.

    Returns:
        The version; the one that holds it already where content and statement are the same.

    Raises:
        Invalid: for a name that no version can have, and for a licence, date or other statement
            that is not one of the known words.
        Refused: when a policy says no, or for what was erased; then no byte stays.
        Unreadable: for what is no text, and where there is none to train on or to measure on; then
            no byte stays.
    """
    check_name(Kind.DATA, name)
    _check_date(statement.retain_until)
    _check_use(statement.use)
    # That it is trained on is what is meant where nothing is stated.
    use = None if statement.use == DataUse.TRAINING else statement.use
    statement = statement.model_copy(update={**_licence(statement), "use": use})
    own = state_facts.stated(workspace, Kind.DATA)
    catalog = workspace.catalog
    with (
        workspace.writing(f"data add {name}"),
        workspace.numbering(Kind.DATA, name) as number,
    ):
        ref = f"data/{name}@{number}"
        target = workspace.folder(ref)
        with folders.incoming(source, target) as incoming:
            facts = _facts(name, source, statement)
            facts = facts.model_copy(update={"reading": _reading(text_field, whole=True)})
            text = folders.text_as_stated(incoming, facts)
            facts = facts.model_copy(update=_measured(text, source))
            files = folders.manifest(incoming)
            _refuse_erased(workspace, ref, text, files)
            facts = facts.model_copy(update={"bytes": sum(file.bytes for file in files)})
            newest = catalog.newest_in_use(DataFacts, name)
            if newest and _same(newest, facts, content_digest(files)):
                own.require_same(workspace, newest)
                return replace(newest, created=False)
            sketch = Sketch.of(*overlap.sketch(text))
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


def _reading(text_field: str | None, *, whole: bool) -> TextReading:
    """Return how a corpus is read, as it is recorded: without what is not so."""
    stated = {"text_field": text_field, "whole": whole}
    return TextReading.model_validate({key: value for key, value in stated.items() if value})


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


def _facts(name: str, source: Path | str, statement: DataStatement) -> DataFacts:
    # What is recorded can never be taken out again, and everybody reads it.
    url = without_secrets(source) if isinstance(source, str) else None
    stated = statement.stated()
    stated["source"] = statement.source or url
    # What is for evaluation alone is held out whole.
    only_measured = statement.use == DataUse.EVALUATION
    held_out = HeldOutRule.ALL if only_measured else HeldOutRule.DOCUMENTS
    facts = DataFacts(domain=name, held_out=held_out, **stated)
    return facts.model_copy(update={"url": url}) if url else facts


def _check_use(use: str | None) -> None:
    if use is not None and use not in set(DataUse):
        raise Invalid(
            "--use",
            found=repr(use),
            expected=", ".join(DataUse),
            next="state one of these, or leave it out",
        )


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


def _measured(text: texts.TextFolder, source: Path | str) -> dict[str, object]:
    """Read every document once; return what is recorded of them.

    Raises:
        Unreadable: for what is no text, by the path that the caller gave, and for text that no
            branch could be trained on.
    """
    try:
        counted = _count(text)
        texts.refuse_unusable(text)
    except Unreadable as error:
        if error.subject == str(text.path):
            where: Path | str = source if isinstance(source, Path) else without_secrets(source)
        else:
            inside = error.subject.removeprefix(f"{text.path}/")
            where = (
                (source.parent if source.is_file() else source) / inside
                if isinstance(source, Path)
                else f"{without_secrets(source)}, {inside}"
            )
        raise Unreadable(
            where, found=error.found, expected=error.expected, next=error.next
        ) from None
    return counted


def _count(text: texts.TextFolder) -> dict[str, object]:
    licences: set[str] = set()
    counts = dict.fromkeys(DocumentCounts.model_fields, 0)
    takes_in = False
    for one in texts.documents_of(text):
        if one.marked:
            raise Unreadable(
                f"{text.path}/{one.file}:{one.number}",
                found=one.marked,
                expected="rows of which every answer is to be learnt",
                next="leave the row out, or what marks it; write calls as tool_calls of messages, "
                "and functions as tools",
            )
        if one.holds_rows:
            raise Unreadable(
                f"{text.path}/{one.file}",
                found="rows of JSON in a file whose name says that it is one text",
                expected="rows in a file that ends in .jsonl",
                next="rename the file",
            )
        takes_in = takes_in or one.takes_in
        counts["documents"] += 1
        counts["text_bytes"] += one.text_bytes
        counts["conversations"] += one.is_conversation
        counts["with_id"] += one.about.id is not None
        counts["with_author"] += one.about.author is not None
        if one.about.license is not None:
            counts["with_license"] += 1
            licences.add(one.about.license)
        if len(licences) > MOST_LICENCES:
            raise Unreadable(
                text.path,
                found=f"over {MOST_LICENCES} different licences of documents",
                expected="SPDX identifiers in the column license",
                next="rename the column if it holds something else",
            )
    spelt = {_spelled_or_as_is(one) for one in licences}
    # Where no row needs it, the version is as those from before there was a choice.
    reading = _reading(text.reading.text_field, whole=takes_in)
    facts: dict[str, object] = {"counts": DocumentCounts(**counts), "reading": reading}
    return facts | ({"document_licenses": tuple(sorted(spelt))} if spelt else {})


def _spelled_or_as_is(licence: str) -> str:
    """Return a licence in SPDX's spelling; what is none stays, and no list of licences holds it."""
    try:
        return spelled(licence)
    except Invalid:
        return licence[:80]


def _same(newest: Version[DataFacts], facts: DataFacts, content: str) -> bool:
    """Whether a version holds the same bytes and says the same of them."""
    before = newest.facts
    said = (before.domain, before.url, before.reading or TextReading(), before.stated())
    if said != (facts.domain, facts.url, facts.reading, facts.stated()):
        return False
    return content_digest(newest.files) == content


def _refuse_erased(
    workspace: Workspace, ref: str, text: texts.TextFolder, files: Sequence[FileFact]
) -> None:
    """Refuse files and documents that were erased, whatever the policies say."""
    if not workspace.catalog.tombstones():
        return
    digests = [document.digest for document in texts.every(text)]
    erasure.refuse_erased(workspace.catalog, ref, files, digests)
