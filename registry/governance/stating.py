"""Own facts as they stand: stated with a registration, amended by events, typed by a schema.

In:  the log and the rows; a company's `facts.yaml`.
Out: which schema is valid; the own facts of a version or of the organisation; new events.
A schema is adopted like policies are: by an act that an auditor signs once the list of actors is
closed. A fact counts where the schema that was valid when it was stated has it, its value is of its
type, and the person had a role that may state it. Reading files in is a job's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml
from pydantic import ValidationError

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog
from registry.digest import digest
from registry.errors import Invalid, Refused
from registry.governance import acts, keys, people
from registry.governance.first_uses import first_uses
from registry.governance.policy_files import read_strict_yaml
from registry.records.base import JsonObject
from registry.records.events import Act, Acted
from registry.records.facts import Facts
from registry.records.own_facts import (
    KINDS_STATED,
    ORGANISATION,
    Attachment,
    FactDefinition,
    FactSchema,
    FactType,
    OwnFact,
    OwnValue,
    OwnValues,
    attachment,
    checked,
)
from registry.records.references import Reference, parse
from registry.records.version import Event, Version

SCHEMA = "facts"  # the subject of a schema's event
DECLARED = "declared"
STATED = "fact"


def own_facts_of(catalog: Catalog, ref: str | Reference) -> dict[str, OwnFact]:
    """Return the own facts of a version as they are stated now, by name.

    Args:
        catalog: where it is registered.
        ref: the version; without a number, the newest; or `organisation`.

    Raises:
        NotFound: where nothing of that name is registered.
    """
    statements = Statements.read(catalog)
    if str(ref) == ORGANISATION:
        return statements.of_organisation()
    return statements.of(catalog.get(ref))


def read_schema(path: Path) -> FactSchema:
    """Read a company's `facts.yaml`; without a file there are no facts to state.

    Raises:
        Invalid: for a file that is no such schema.
    """
    if not path.is_file():
        return FactSchema()
    try:
        return FactSchema.model_validate({"facts": read_strict_yaml(path) or {}})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        found, expected = f"{where}: {str(first['input'])[:80]}", first["msg"]
    except (yaml.YAMLError, ValueError) as error:
        found, expected = " ".join(str(error).split())[:200], "YAML"
    raise Invalid(str(path), found=found, expected=expected, next="fix the file")


def valid_schema(catalog: Catalog) -> FactSchema | None:
    """Return the schema that was adopted last; None where none ever was."""
    history = _schemas(catalog)
    return history[-1].schema if history else None


def schema_digest(schema: FactSchema) -> str:
    """Return the digest of a schema.

    What equals its default is left out: a later version of the program may know more of it.
    """
    return digest(schema.model_dump(mode="json", exclude_defaults=True))


def declare(
    catalog: Catalog, schema: FactSchema, by: keys.Signer | None = None, why: str = ""
) -> Event:
    """Make a schema the valid one.

    Args:
        catalog: where it is logged.
        schema: the facts that may be stated from now on.
        by: an auditor, where the list of actors is closed.
        why: the reason.

    Raises:
        Refused: without an auditor's signature where the list of actors is closed.
    """
    document = schema.to_json()
    act = Act(
        act=DECLARED,
        subject=SCHEMA,
        digest=schema_digest(schema),
        actor=catalog.actor,
        why=why,
        at=acts.now(),
    )
    if by is None:
        require_open(catalog)
    if by is None or not people.is_closed(catalog):
        return catalog.event(Acted(act=act), SCHEMA, kind=DECLARED, documents=[document])
    people.require_role(catalog, by.name, ("auditor",), "adopt facts.yaml")
    return acts.sign(catalog, act, by, documents=[document])


def require_open(catalog: Catalog) -> None:
    """Refuse to make a schema valid without an auditor where the list of actors is closed."""
    if people.is_closed(catalog):
        raise Refused(
            "facts.yaml",
            found="a schema that no auditor adopted",
            expected="an auditor, who keeps the list of actors",
            next="let an auditor look at it: BTX_ACTOR=AUDITOR btx policy adopt",
        )


def require_known(schema: FactSchema, kind: str, names: Iterable[str]) -> None:
    """Refuse facts that the schema does not state of this kind. Raises Invalid, naming them."""
    known = schema.of_kind(kind)
    for name in names:
        if name not in known:
            stated = ", ".join(known) or f"none for {kind}: declare it in facts.yaml"
            raise Invalid(
                f"fact {name}",
                found=f"no such fact of {kind}",
                expected=f"one of {stated}" if known else stated,
                next="facts.yaml names the facts that may be stated, of what, and by whom",
            )


def require_roles(catalog: Catalog, schema: FactSchema, names: Iterable[str]) -> None:
    """Refuse, on a closed list of actors, who may not state these facts. Raises Refused."""
    for name in names:
        allowed = schema.facts[name].set_by
        people.require_role(catalog, catalog.actor, allowed, f"state fact {name}")


def require_complete(
    schema: FactSchema, kind: str, stated: Iterable[str], cures: Mapping[str, str]
) -> None:
    """Refuse a registration of this kind without a fact that it requires.

    Args:
        schema: what is required.
        kind: of what is registered.
        stated: the names of what is stated.
        cures: how else than by an option of the command a fact can be stated, by name.

    Raises:
        Invalid: naming what is missing.
    """
    required = [name for name, one in schema.of_kind(kind).items() if one.required]
    missing = sorted(set(required) - set(stated))
    if missing:
        option = "--attach" if schema.facts[missing[0]].type == FactType.FILE else "--fact"
        raise Invalid(
            f"facts of this {kind}",
            found=f"{', '.join(missing)} not stated",
            expected="every fact that facts.yaml requires of it",
            next=cures.get(missing[0], f"{option} {missing[0]}=..."),
        )


def amend(
    catalog: Catalog,
    ref: str | Reference,
    values: Mapping[str, OwnValue | None],
    why: str,
    by: keys.Signer | None = None,
) -> Event:
    """Log what is stated of a version from now on, or of the organisation.

    What was stated before stays in the log. Arguments and errors are those of `amendment`; the
    schema is the valid one.
    """
    schema = valid_schema(catalog) or FactSchema()
    return log(catalog, amendment(catalog, ref, values, why, by, schema))


def log(catalog: Catalog, stated: Acted) -> Event:
    """Log an amendment: it counts from now on."""
    return catalog.event(stated, stated.act.subject, kind=STATED)


def amendment(
    catalog: Catalog,
    ref: str | Reference,
    values: Mapping[str, OwnValue | None],
    why: str,
    by: keys.Signer | None,
    schema: FactSchema,
) -> Acted:
    """Return what is stated of a version or of the organisation, signed; nothing is logged.

    Args:
        catalog: where it is registered.
        ref: the version, or `organisation`.
        values: typed by the schema; None takes a fact back.
        why: the reason.
        by: the person, where the list of actors is closed.
        schema: the facts that may be stated.

    Raises:
        Invalid: without a reason, for an unknown fact, or one that is required and taken back.
        Refused: for a person who may not state it.
    """
    version = None if str(ref) == ORGANISATION else catalog.get(ref)
    subject = str(version.ref) if version else ORGANISATION
    kind = str(version.ref.kind) if version else ORGANISATION
    expected = "why they change, in words an auditor can judge"
    acts.require_reason(f"facts of {subject}", why, expected)
    require_known(schema, kind, values)
    require_roles(catalog, schema, values)
    stated: dict[str, object] = {}
    for name, value in values.items():
        if value is None and schema.facts[name].required and kind != ORGANISATION:
            raise Invalid(
                f"fact {name} of {subject}",
                found="no value",
                expected="one: facts.yaml requires it",
                next=f"btx fact set {subject} {name}=VALUE --why TEXT",
            )
        typed = None if value is None else checked(name, schema.facts[name], value)
        stated[name] = typed.to_json() if isinstance(typed, Attachment) else typed
    act = Act(
        act=STATED,
        subject=subject,
        digest=version.digest if version else None,
        actor=catalog.actor,
        why=why,
        at=acts.now(),
        facts=stated,
    )
    if not people.is_closed(catalog):
        return Acted(act=act)
    if by is None:
        raise Refused(
            f"facts of {subject}",
            found="no signature",
            expected="that of the person who states them",
            next="run the command where your key is",
        )
    return acts.signed(catalog, act, by)


@dataclass(frozen=True)
class _Adopted:
    """A schema, and the number of the event that made it valid."""

    seq: int
    schema: FactSchema


@dataclass(frozen=True)
class Statements:
    """All that is stated, read once for many versions.

    Attributes:
        catalog: where versions are registered.
        schemas: each schema that was valid, oldest first.
        events: the amendments by their subject, oldest first.
    """

    catalog: Catalog
    schemas: Sequence[_Adopted]
    events: Mapping[str, Sequence[Event]]

    @classmethod
    def read(cls, catalog: Catalog) -> "Statements":
        """Read them from the log."""
        events: dict[str, list[Event]] = {}
        for event in first_uses(catalog.events(kind=STATED)):
            events.setdefault(event.subject, []).append(event)
        return cls(catalog, _schemas(catalog), events)

    def before(self, seq: int) -> "Statements":
        """Return what was stated before an event."""
        events = {
            subject: [event for event in several if event.seq < seq]
            for subject, several in self.events.items()
        }
        return replace(self, schemas=[one for one in self.schemas if one.seq < seq], events=events)

    @property
    def schema(self) -> FactSchema:
        """The valid schema; an empty one where none was adopted."""
        return self.schemas[-1].schema if self.schemas else FactSchema()

    def of(self, version: Version[Facts]) -> dict[str, OwnFact]:
        """Return the own facts of a version, by name."""
        facts: dict[str, OwnFact] = {}
        own = version.facts.own
        if own:
            seq = self._registered(version)
            for key, value in own.items():
                known = self._counted(key, value, (seq, version.actor))
                if known is not None:
                    facts[key] = self._fact(key, known, version.registered_at, version.actor)
        return self._amended(facts, str(version.ref), version.digest)

    def of_ref(self, ref: str) -> dict[str, OwnFact]:
        """Return the own facts under a reference with its number; none where nothing is there.

        A row is read only where there is something to find.
        """
        if ref not in self.events and ref not in self._with_own:
            return {}
        version = self.catalog.find(ref)
        return self.of(version) if version else {}

    def of_organisation(self) -> dict[str, OwnFact]:
        """Return the facts of the organisation itself, by name."""
        return self._amended({}, ORGANISATION, None)

    @cached_property
    def _with_own(self) -> frozenset[str]:
        return frozenset(map(str, self.catalog.with_own()))

    @cached_property
    def _roll(self) -> people.Roll:
        return people.Roll.read(self.catalog)

    def _registered(self, version: Version[Facts]) -> int:
        events = self.catalog.events(version.ref, "registered")
        return events[0].seq if events else 0

    def _amended(
        self, facts: dict[str, OwnFact], subject: str, content: str | None
    ) -> dict[str, OwnFact]:
        for event in self.events.get(subject, ()):
            act = self._act(event)
            if act is None or act.facts is None or act.digest != content:
                continue
            for key, value in act.facts.items():
                if value is None:
                    if self._may(key, event.seq, event.actor):
                        facts.pop(key, None)
                    continue
                known = self._counted(key, value, (event.seq, event.actor))
                if known is not None:
                    facts[key] = self._fact(key, known, event.at, event.actor, act.why or "")
        return dict(sorted(facts.items()))

    def _act(self, event: Event) -> Act | None:
        """Return what an event states, signed where the list of actors was closed."""
        if self._roll.closed(event.seq):
            return self._roll.act_of(event)
        return people.stated(event)

    def _then(self, seq: int) -> FactSchema | None:
        """Return the schema that was valid before an event; None where none was yet."""
        before = [one.schema for one in self.schemas if one.seq < seq]
        return before[-1] if before else None

    def _may(self, key: str, seq: int, actor: str) -> bool:
        schema = self._then(seq)
        if schema is None or key not in schema.facts or not self._roll.closed(seq):
            return schema is None or key in schema.facts
        person = self._roll.before(seq).get(actor)
        return person is not None and bool(set(person.roles) & set(schema.facts[key].set_by))

    def _counted(self, key: str, value: object, by: tuple[int, str]) -> OwnValue | None:
        """Return the value in its type, where it was stated as the schema of then allowed."""
        if not self._may(key, *by):
            return None
        schema = self._then(by[0])
        definition = schema.facts[key] if schema else _undeclared(value)
        typed = attachment(value) if isinstance(value, Mapping) else value
        try:
            return checked(key, definition, typed)
        except BtxError:
            return None

    def _fact(self, key: str, value: OwnValue, at: str, actor: str, why: str = "") -> OwnFact:
        definition = self.schema.facts.get(key) or _undeclared(value)
        return OwnFact(
            key=key,
            value=value,
            type=definition.type,
            title=definition.title,
            public=definition.public,
            at=at,
            actor=actor,
            why=why,
        )


def _undeclared(value: object) -> FactDefinition:
    """Return how a fact is read that no schema has: by its value, and kept inside the company."""
    types: Sequence[tuple[type | tuple[type, ...], FactType]] = (
        (bool, FactType.TRUTH),
        ((int, float), FactType.NUMBER),
        ((list, tuple), FactType.TEXTS),
        ((Attachment, Mapping), FactType.FILE),
    )
    for python, kind in types:
        if isinstance(value, python):
            return FactDefinition(type=kind, kinds=KINDS_STATED)
    return FactDefinition(kinds=KINDS_STATED)


def _schemas(catalog: Catalog) -> list[_Adopted]:
    """Return every schema that counted, oldest first."""
    found = []
    for event in first_uses(catalog.events(kind=DECLARED)):
        act = people.act_of(catalog, event)
        if act is None and not people.is_closed(catalog, event.seq):
            act = people.stated(event)
        schema = _kept_schema(catalog, event)
        if act is not None and schema is not None and schema_digest(schema) == act.digest:
            found.append(_Adopted(event.seq, schema))
    return found


def _kept_schema(catalog: Catalog, event: Event) -> FactSchema | None:
    body = people.acted(event)
    if body is None or not body.documents:
        return None
    try:
        document: JsonObject = catalog.document(body.documents[0])
        return FactSchema.model_validate(document)
    except (BtxError, ValidationError):
        return None


def own_values(facts: Mapping[str, OwnFact]) -> OwnValues:
    """Return the values alone."""
    return {key: fact.value for key, fact in facts.items()}


def subject_kind(ref: str | Reference) -> str:
    """Return of which kind facts are stated under a reference."""
    return ORGANISATION if str(ref) == ORGANISATION else str(parse(ref).kind)
