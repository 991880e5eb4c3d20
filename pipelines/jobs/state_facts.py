"""State own facts: read and check what is given, keep attached files, log amendments.

What is given is checked by the company's `facts.yaml` before a command does any work.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pipelines.workspace.given_facts import GivenFacts
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.digest import sha256_file
from registry.errors import Conflict, Invalid, Refused
from registry.governance import acts, build_licence, stating
from registry.records.answers.registering import FactRow, FactsAnswer
from registry.records.facts import ExportFacts, Facts
from registry.records.kinds import Kind
from registry.records.own_facts import (
    ORGANISATION,
    Attachment,
    FactDefinition,
    FactSchema,
    FactType,
    OwnFact,
    OwnValue,
    checked,
    plain,
)
from registry.records.version import Version

F = TypeVar("F", bound=Facts)
# What an export states itself; its licence is that of the build.
SAID_BY_EXPORT = {build_licence.STATED_AS, *(ExportFacts.model_fields.keys() - Facts.model_fields)}


@dataclass(frozen=True)
class StatedFacts:
    """Own facts that were checked by the schema.

    Attributes:
        values: by name, in their types.
        files: what is attached, by the digest of its bytes.
    """

    values: Mapping[str, OwnValue] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def evidence(self) -> dict[str, Any]:
        """The values as gates are shown them: plain JSON."""
        return plain(self.values)

    def on(self, facts: F) -> F:
        """Return the facts of a version with these beside them."""
        return facts.model_copy(update={"own": dict(self.values)}) if self.values else facts

    def keep(self, workspace: Workspace) -> None:
        """Put the attached files into the store.

        Called once nothing is left that can refuse: what is refused leaves nothing there.
        """
        for sha256, path in self.files.items():
            workspace.store.put(path, sha256, copy=True)

    def require_same(self, workspace: Workspace, version: Version[Facts]) -> None:
        """Refuse to answer with a registered version of which something else is stated.

        Raises:
            Conflict: naming the first fact, and the command that amends it.
        """
        known = stating.own_values(stating.own_facts_of(workspace.catalog, version.ref))
        for key, value in self.values.items():
            if known.get(key) != value:
                raise Conflict(
                    f"{version.ref}, registered already",
                    found=f"fact {key} {known.get(key)!r:.60}",
                    expected=f"{value!r:.60}",
                    next=f"btx fact set {version.ref} {key}=VALUE --why TEXT",
                )


def stated(
    workspace: Workspace,
    kind: Kind,
    *,
    unsaid: Mapping[str, str] | None = None,
) -> StatedFacts:
    """Return what is stated of what a command registers, checked before it does any work.

    Nothing is written: where no schema was adopted yet, a gate that is asked adopts it.

    Args:
        workspace: whose user gave the facts, and whose schema they are checked by.
        kind: of what is registered.
        unsaid: of an export: what it cannot state of itself now, by name, and what to do about it;
            all else that an export states itself counts as stated.

    Raises:
        Invalid: for an unknown fact, a value of another type, or a required fact that is missing.
        Refused: for a person who may not state one, or a schema that is not the adopted one.
    """
    schema = _schema(workspace, kind, used=workspace.given.any)
    found = _checked(workspace.given, schema, kind)
    unsaid = unsaid or {}
    names = set(found.values)
    if kind == Kind.EXPORT:
        names |= SAID_BY_EXPORT - unsaid.keys()
    stating.require_complete(schema, kind, names, unsaid)
    stating.require_roles(workspace.catalog, schema, found.values)
    if found.values and stating.valid_schema(workspace.catalog) is None:
        stating.require_open(workspace.catalog)
    return found


def amend(workspace: Workspace, reference: str, given: GivenFacts, why: str) -> FactsAnswer:
    """Log what is stated of a version from now on, or of the organisation.

    A value that is left empty takes a fact back.

    Args:
        workspace: where it is registered.
        reference: the version, or `organisation`.
        given: the facts.
        why: the reason.

    Raises:
        Invalid, Refused: as `stated` does, and without a reason.
    """
    catalog = workspace.catalog
    whole = _subject(catalog, reference)
    kind = stating.subject_kind(whole)
    schema = _schema(workspace, kind, used=True)
    # A value may end in "=" too, as base64 does.
    empty = [pair for pair in given.pairs if pair.endswith("=") and pair.count("=") == 1]
    taken_back = [pair.removesuffix("=").strip() for pair in empty]
    kept = tuple(pair for pair in given.pairs if pair not in empty)
    found = _checked(replace(given, pairs=kept), schema, kind)
    values: dict[str, OwnValue | None] = {**dict.fromkeys(taken_back), **found.values}
    if not values:
        raise Invalid(
            f"facts of {whole}",
            found="none",
            expected="KEY=VALUE, --facts FILE or --attach KEY=FILE",
            next="btx fact list says which there are",
        )
    signer = acts.signer_if_closed(catalog)
    # Signed first: what is refused adopts no schema and leaves no file.
    stated = stating.amendment(catalog, whole, values, why, signer, schema)
    adopt_first(workspace, schema)
    with workspace.store.holding():
        found.keep(workspace)
        event = stating.log(catalog, stated)
    return FactsAnswer(ref=whole, stated=tuple(values), at=event.at, by=event.actor, why=why)


def _subject(catalog: Catalog, reference: str) -> str:
    """Return the whole reference of a version; that of the organisation as it is."""
    return reference if reference == ORGANISATION else str(catalog.get(reference).ref)


def rows(workspace: Workspace, reference: str) -> list[FactRow]:
    """Return a row for each fact that is stated of a version, or that the schema has of its kind.

    Args:
        workspace: where it is registered.
        reference: the version, its alias, or `organisation`.
    """
    catalog = workspace.catalog
    whole = _subject(catalog, reference)
    known = stating.own_facts_of(catalog, whole)
    schema = stating.valid_schema(catalog) or stating.read_schema(workspace.facts)
    declared = schema.of_kind(stating.subject_kind(whole))
    if stating.subject_kind(whole) == Kind.EXPORT:
        known = {**known, **_said_by(catalog.get(whole, ExportFacts), declared)}
    lines = []
    for name in sorted({*known, *declared}):
        fact, definition = known.get(name), declared.get(name)
        lines.append(
            FactRow(
                key=name,
                value=fact.value if fact else None,
                type=str(fact.type if fact else definition.type if definition else FactType.TEXT),
                title=fact.title if fact else definition.title if definition else "",
                public=fact.public if fact else bool(definition and definition.public),
                required=bool(definition and definition.required),
                at=fact.at if fact else None,
                by=fact.actor if fact else None,
                why=fact.why if fact else "",
            )
        )
    return lines


def _said_by(
    export: Version[ExportFacts], declared: Mapping[str, FactDefinition]
) -> dict[str, OwnFact]:
    """Return what an export states itself of the facts that the schema has."""
    said = {}
    for name in SAID_BY_EXPORT & declared.keys():
        value = getattr(export.facts, "license" if name == build_licence.STATED_AS else name)
        if value is not None:
            said[name] = OwnFact(
                key=name,
                value=value,
                title=declared[name].title,
                public=declared[name].public,
                at=export.registered_at,
                actor=export.actor,
            )
    return said


def adopt(workspace: Workspace, why: str = "", *, dry_run: bool = False) -> str:
    """Make the schema that lies in the workspace the valid one.

    Returns:
        unchanged, planned or adopted.

    Raises:
        Refused: without an auditor where the list of actors is closed.
    """
    catalog = workspace.catalog
    schema = stating.read_schema(workspace.facts)
    valid = stating.valid_schema(catalog)
    before = valid or FactSchema()
    if stating.schema_digest(schema) == stating.schema_digest(before):
        return "unchanged"
    if dry_run:
        return "planned"
    stating.declare(catalog, schema, acts.signer_if_closed(catalog), why)
    return "adopted"


def _schema(workspace: Workspace, kind: str, *, used: bool) -> FactSchema:
    """Return the schema that lies in the workspace. Raises Refused where another was adopted."""
    found = stating.read_schema(workspace.facts)
    valid = stating.valid_schema(workspace.catalog)
    if valid is None or stating.schema_digest(found) == stating.schema_digest(valid):
        return found
    if not used and not _required(found, kind) and not _required(valid, kind):
        return found
    raise Refused(
        str(workspace.facts),
        found="facts that differ from those that were adopted",
        expected="the adopted facts",
        next="btx policy adopt, by an auditor once there is one; or put the file back",
    )


def adopt_first(workspace: Workspace, schema: FactSchema | None = None) -> None:
    """Adopt the schema of a new workspace, once something is stated by it.

    Args:
        workspace: the workspace.
        schema: its own unless it is given.

    Raises:
        Refused: where the list of actors is closed: an auditor adopts it.
    """
    if stating.valid_schema(workspace.catalog) is None:
        schema = schema or stating.read_schema(workspace.facts)
        stating.declare(workspace.catalog, schema, why="the facts of a new workspace")


def _required(schema: FactSchema, kind: str) -> list[str]:
    return [name for name, one in schema.of_kind(kind).items() if one.required]


def _refuse_said_by_export(names: Iterable[str]) -> None:
    """Refuse facts that an export states itself, so that its folder and its row cannot disagree.

    Raises:
        Invalid: naming the first.
    """
    for name in names:
        if name in SAID_BY_EXPORT:
            raise Invalid(
                f"fact {name} of an export",
                found="a value",
                expected=f"none: the export states its {name} itself",
                next="state a licence of the build: btx fact set build/N licence=VALUE --why TEXT; "
                "another fact, under another name in facts.yaml",
            )


def _checked(given: GivenFacts, schema: FactSchema, kind: str) -> StatedFacts:
    typed, attached = given.values(schema)
    stating.require_known(schema, kind, [*typed, *attached])
    if kind == Kind.EXPORT:
        _refuse_said_by_export([*typed, *attached])
    values = {key: checked(key, schema.facts[key], value) for key, value in typed.items()}
    files: dict[str, Path] = {}
    for key, path in attached.items():
        sha256 = sha256_file(path)
        attachment = Attachment(name=path.name, sha256=sha256, bytes=path.stat().st_size)
        values[key] = checked(key, schema.facts[key], attachment)
        files[sha256] = path
    return StatedFacts(values, files)
