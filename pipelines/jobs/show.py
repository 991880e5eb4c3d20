"""List what is registered, and show one version."""

from collections.abc import Mapping
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.catalogue.reading import names_of
from registry.errors import Invalid
from registry.records.answers.figures import evaluation_of, expert_evaluation_of, routing_of
from registry.records.answers.listing import (
    BuildRow,
    DataRow,
    ExpertRow,
    ExportRow,
    RowEnd,
    SeedRow,
)
from registry.records.answers.registering import NoteAnswer
from registry.records.answers.shown import SHOWN, ContestLine, FileLine, Shown, recipe_of
from registry.records.events import Contested, Judged, Noted
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Facts,
    SeedFacts,
)
from registry.records.kinds import Kind, Status
from registry.records.references import Reference
from registry.records.version import Event, Version

LISTED: Mapping[str, type[Facts]] = {
    facts.kind.plural: facts
    for facts in (SeedFacts, DataFacts, ExpertFacts, BuildFacts, ExportFacts)
}
# Too long for a reader, or said elsewhere in the answer.
HIDDEN = ("status", "tensors", "given_recipe", "own")


def listed(workspace: Workspace, kind: str, filters: Mapping[str, str]) -> list[RowEnd]:
    """Return a row for each version of a kind, oldest first.

    Args:
        workspace: whose catalogue is read.
        kind: seeds, data, experts, builds or exports.
        filters: as the catalogue takes them; data and seed may be aliases.

    Raises:
        Invalid: for a word that is no kind.
        NotFound: for data or a seed that is not registered.
    """
    if kind not in LISTED:
        meant = (known for known in Kind if kind in (known, known.plural))
        raise Invalid(
            kind,
            found="no kind of thing",
            expected=" | ".join(LISTED),
            next=next(meant, Kind.SEED).look_up,
        )
    named = {}
    for part in (Kind.DATA, Kind.SEED):
        if filters.get(part):
            reference = workspace.catalog.reference(filters[part], part)
            # A misspelled name is an error, not an empty list.
            workspace.catalog.get(reference)
            named[str(part)] = str(reference)
    versions = workspace.catalog.versions(LISTED[kind], files=False, **{**filters, **named})
    statuses = workspace.catalog.statuses(versions)
    aliases = workspace.catalog.aliases()
    return [
        _row(version, statuses[version.ref], names_of(aliases, str(version.ref)))
        for version in versions
    ]


def _row(version: Version[Facts], status: Status, aliases: tuple[str, ...]) -> RowEnd:
    common: dict[str, Any] = {
        "ref": str(version.ref),
        "name": version.ref.name,
        "version": version.ref.version,
        "status": str(status),
        "digest": version.digest,
        "registered_at": version.registered_at,
        "aliases": aliases,
    }
    facts = version.facts
    rows: Mapping[Kind, type[RowEnd]] = {
        Kind.SEED: SeedRow,
        Kind.DATA: DataRow,
        Kind.EXPERT: ExpertRow,
        Kind.BUILD: BuildRow,
        Kind.EXPORT: ExportRow,
    }
    row = rows[facts.kind]
    own = {name: getattr(facts, name) for name in row.model_fields if name not in common}
    if isinstance(facts, BuildFacts):
        own["members"] = tuple(member.ref for member in facts.members)
    return row(**common, **own)


def shown(workspace: Workspace, reference: str) -> Shown:
    """Return everything that is recorded of one version, with its status, files and gates.

    Args:
        workspace: whose catalogue is read.
        reference: the version.

    Returns:
        The answer of the version's kind. It leaves the digests of tensors out, which are too long
        for a reader.
    """
    # Imported here: a list needs no policies.
    from registry.governance.gate import readable_verdicts
    from registry.governance.stating import own_facts_of

    catalog = workspace.catalog
    version = catalog.get(reference)
    logged = readable_verdicts(catalog, str(version.ref))
    verdicts = [event.read(Judged) for event in logged if event.kind == "verdict"]
    facts = version.facts
    recorded = {name: getattr(facts, name) for name in type(facts).model_fields}
    known = {**recorded, **(facts.model_extra or {})}
    kept = {name: value for name, value in known.items() if name not in HIDDEN}
    return SHOWN.get(facts.kind, Shown)(
        **{**kept, **_in_todays_keys(catalog, version), **_contested(workspace, version)},
        ref=str(version.ref),
        status=str(catalog.status(version.ref)),
        digest=version.digest,
        registered_at=version.registered_at,
        actor=version.actor,
        own=own_facts_of(catalog, version.ref),
        files=tuple(FileLine(**vars(file)) for file in version.files),
        gates=tuple(verdicts),
        aliases=names_of(catalog.aliases(), str(version.ref)),
        notes=tuple(_note(event) for event in catalog.events(version.ref, Noted.logged_as)),
    )


def _note(event: Event) -> NoteAnswer:
    text = event.read(Noted).text
    return NoteAnswer(ref=event.subject, text=text, actor=event.actor, at=event.at)


def _contested(workspace: Workspace, version: Version[Facts]) -> dict[str, Any]:
    """Return who contests the withdrawal of the version; nothing where nobody does."""
    # Imported here: a list needs no signatures.
    from registry.governance import contesting, private_words

    lines = []
    for event in contesting.contests(workspace.catalog, str(version.ref)):
        words = private_words.read(workspace.private, event.read(Contested).private)
        lines.append(ContestLine(by=event.actor, at=event.at, why=words["why"] if words else None))
    return {"contested": tuple(lines)} if lines else {}


def _in_todays_keys(catalog: Catalog, version: Version[Facts]) -> dict[str, Any]:
    """Return what the answer says in another form than the facts."""
    facts = version.facts
    if isinstance(facts, ExpertFacts):
        return {"evaluation": expert_evaluation_of(facts.results)}
    if isinstance(facts, BuildFacts):
        before = _build_before(catalog, version.of(BuildFacts))
        return {
            "evaluation": evaluation_of(facts.results),
            "previous": evaluation_of(before.facts.results) if before else None,
            "recipe": recipe_of(facts),
            "routing": routing_of(facts.routing, facts.results) if facts.routing else None,
        }
    return {}


def _build_before(catalog: Catalog, build: Version[BuildFacts]) -> Version[BuildFacts] | None:
    """Return the build that was its line's newest when this one was made."""
    for number in range((build.ref.version or 0) - 1, 0, -1):
        # A build that did not end leaves a number free.
        version = catalog.find(Reference(Kind.BUILD, "", number))
        before = version.of(BuildFacts) if version else None
        if before and before.facts.line == build.facts.line:
            return before
    return None
