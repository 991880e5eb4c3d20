"""Find versions by whatever is recorded, stated or logged of them.

In:  the catalogue; terms such as `holder=Acme` or `ends<2027-01-01`, or a plain word, which may
     stand in any field.
Out: a row for each version of which all terms hold, with the values that were asked about.
A version has several values of a field, where there are several licences, approvals or copies: a
term holds where it holds of one of them. The fields are those of its facts, `own.NAME` for facts of
the company's own, and what the log says: who approved it, what ends when, where copies went.
"""

import csv
import io
import operator
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry.catalogue import reading
from registry.catalogue import search as narrowing
from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.governance import approving, gate, stating
from registry.records.answers.listing import SearchRow
from registry.records.events import Acted, Exported, Noted, Withdrawn
from registry.records.facts import FACTS, Facts
from registry.records.kinds import Status
from registry.records.own_facts import Attachment
from registry.records.version import Version

Value = str | int | float | bool
Fields = dict[str, list[Value]]
_TERM = re.compile(r"(?P<field>[a-z][a-zA-Z0-9_.]*)\s*(?P<sign>!=|<=|>=|=|<|>|~)\s*(?P<value>.*)")
_SIGNS = frozenset("=<>~!")
_ORDERED: Mapping[str, Callable[[Value, Value], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# Too long for a reader, or a digest for every tensor.
_HIDDEN = frozenset({"tensors", "own", "sketch", "given_recipe"})
LOGGED = (
    "approved_by",
    "approved_at",
    "waived",
    "waived_by",
    "waived_until",
    "released_by",
    "released_at",
    "withdrawn_by",
    "withdrawn_at",
    "withdrawn_why",
    "alias",
    "note",
    "exported_by",
    "exported_at",
    "exported_to",
    "ends",
)
# The field of a plain word, and how a row names where the word was found.
ANY, MATCH = "*", "match"
MOST_MATCHES = 3
AT_ONCE = 500  # versions that are read together
ROW = ("kind", "ref", "name", "version", "status", "digest", "registered_at", "registered_by")
OF_FILES = ("file", "sha256")


@dataclass(frozen=True)
class Term:
    """One condition.

    Attributes:
        field: what is looked at; ANY for all of a version's fields.
        sign: = != ~ < <= > >=, of which ~ means "holds".
        value: what it is compared with; `*` with = means any.
    """

    field: str
    sign: str
    value: str

    def holds(self, fields: Fields) -> bool:
        """Return whether the term holds of a version with these fields."""
        if self.field == ANY:
            return bool(self.matches(fields))
        return self._holds_of_one(fields.get(self.field, ()))

    @property
    def stands_in_the_rows(self) -> bool:
        """Whether its value, letter for letter, stands in every row of which it holds.

        A number and a truth are written in several ways, a status is worked out, and what JSON
        escapes or a database compares in a way of its own is left to the slower look.
        """
        value = self.value
        plain = value.isascii() and value.isprintable() and not set(value) & set('"\\')
        written_so = _number(value) is None and value.lower() not in ("true", "false", "*")
        of_status = self.field == "status" or (self.field == ANY and _is_in_a_status(value))
        return self.sign in ("=", "~") and plain and written_so and not of_status

    def matches(self, fields: Fields) -> list[str]:
        """Return the fields in which the word stands, each with the value that holds it."""
        found = []
        for name, values in fields.items():
            found += [f"{name}: {_text(value)}" for value in values if self._holds_of(value)]
        return found

    def _holds_of_one(self, values: Sequence[Value]) -> bool:
        """Return whether the term holds of one of the values; != of all of them."""
        if self.sign == "!=":
            return not any(_equal(value, self.value) for value in values)
        if self.sign == "=" and self.value == "*":
            return bool(values)
        return any(self._holds_of(value) for value in values)

    def _holds_of(self, value: Value) -> bool:
        if self.sign == "=":
            return _equal(value, self.value)
        if self.sign == "~":
            return self.value.lower() in _text(value).lower()
        bound = _number(self.value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return bound is not None and _ORDERED[self.sign](value, bound)
        return _ORDERED[self.sign](_text(value), self.value)


def read_terms(words: Iterable[str]) -> list[Term]:
    """Read terms, each a plain word or one such as `holder=Acme`. Raises Invalid for others."""
    terms = []
    for word in words:
        read = _TERM.fullmatch(word.strip())
        if read is None and word.strip() and not _SIGNS.intersection(word):
            terms.append(Term(ANY, "~", word.strip()))
            continue
        if read is None or not read["value"]:
            raise Invalid(
                f"search {word!r}",
                found="no term",
                expected="a word, or FIELD=VALUE, or with != ~ < <= > >= in place of =",
                next="btx search --help",
            )
        terms.append(Term(read["field"], read["sign"], read["value"]))
    return terms


def split_words(text: str) -> list[str]:
    """Split a line into words as a shell does. Raises Invalid for a quote that is not closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Invalid(
            "search", found=str(error), expected="each quote closed", next="close it"
        ) from None


def search(
    catalog: Catalog,
    words: Sequence[str],
    shown: Sequence[str] = (),
    only: set[str] | None = None,
    most: int | None = None,
) -> list[SearchRow]:
    """Return a row for each version of which every term holds, oldest first within a kind.

    Args:
        catalog: what is searched.
        words: the terms; of none, everything is found.
        shown: fields whose values stand in the rows beside those of the terms.
        only: references that are looked at; None for all.
        most: rows after which nothing more is looked for; None for no end.

    Raises:
        Invalid: for what is no term, and for a field that nothing has.
    """
    terms = read_terms(words)
    narrowed = _candidates(catalog, terms)
    found = _look(catalog, terms, shown, only, narrowed, most)
    if narrowed is not None and found.unknown(terms, shown):
        # What was left out may have the field after all.
        found = _look(catalog, terms, shown, only, None, most)
    unknown = found.unknown(terms, shown)
    if unknown:
        raise Invalid(
            f"field {unknown[0]}",
            found="nothing that has it",
            expected=f"one of {', '.join(sorted(found.seen))}",
            next="btx search --help",
        )
    return found.rows


@dataclass(frozen=True)
class _Found:
    """What a search found, and every field that it saw."""

    rows: list[SearchRow]
    seen: set[str]

    def unknown(self, terms: Sequence[Term], shown: Sequence[str]) -> list[str]:
        """Return the fields that are asked for and that no version has."""
        named = _named(terms, shown)
        return [name for name in named if name not in self.seen and not _is_fact(name)]


def _named(terms: Sequence[Term], shown: Sequence[str]) -> list[str]:
    asked = [term.field for term in terms if term.field != ANY]
    return list(dict.fromkeys([*asked, *shown]))


def _look(
    catalog: Catalog,
    terms: Sequence[Term],
    shown: Sequence[str],
    only: set[str] | None,
    narrowed: set[int] | None,
    most: int | None,
) -> _Found:
    """Look at versions one by one.

    Args:
        catalog: what is searched.
        terms: all of which must hold.
        shown: fields whose values stand in the rows beside those of the terms.
        only: references that are looked at; None for all.
        narrowed: the only row ids that can be found; None for all.
        most: rows after which nothing more is looked for; None for no end.
    """
    named = _named(terms, shown)
    anywhere = [term for term in terms if term.field == ANY]
    files = bool(anywhere or set(named) & set(OF_FILES))
    known = _Known.read(catalog)
    seen = {*ROW, *LOGGED, *OF_FILES, *(f"own.{name}" for name in known.declared)}
    rows: list[SearchRow] = []
    for version, status in _versions(catalog, _ordered(catalog, terms, narrowed), files=files):
        fields = known.fields(version, status)
        seen |= fields.keys()
        if only is not None and str(version.ref) not in only:
            continue
        if all(term.holds(fields) for term in terms):
            row = _row(version, fields, named)
            rows.append(_with_matches(row, anywhere, fields) if anywhere else row)
        if most is not None and len(rows) >= most:
            break
    return _Found(rows, seen)


def _candidates(catalog: Catalog, terms: Sequence[Term]) -> set[int] | None:
    """Return the row ids of which the terms can hold, as the database finds them; None for all."""
    sets = list[set[int]]()
    with catalog.database.read() as rows:
        sets += [narrowing.holding(rows, term.value) for term in terms if term.stands_in_the_rows]
        for term in terms:
            if term.field in LOGGED and term.sign != "!=":
                # What ends is a waiver, which is logged, or the retention of data.
                kept = narrowing.holding(rows, "retain_until") if term.field == "ends" else set()
                sets.append(narrowing.told_of(rows) | kept)
    return set.intersection(*sets) if sets else None


def as_csv(rows: Sequence[SearchRow]) -> str:
    """Return the rows as CSV, a column for each field; several values with a semicolon between."""
    own = ("ref", "kind", "status", "registered_at")
    columns = rows[0].fields_beside(own) if rows else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*own, *columns])
    for row in rows:
        values = [row.ref, row.kind, row.status, row.registered_at]
        values += ["; ".join(row.values[name]) for name in columns]
        writer.writerow([harmless(value) for value in values])
    return out.getvalue()


def harmless(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell


def _row(version: Version[Facts], fields: Fields, named: Sequence[str]) -> SearchRow:
    return SearchRow(
        ref=str(version.ref),
        kind=str(version.ref.kind),
        status=_text(fields["status"][0]),
        registered_at=version.registered_at,
        values={
            name: tuple(map(_text, fields.get(name, ()))) for name in named if name not in ROW[:2]
        },
    )


def _with_matches(row: SearchRow, anywhere: Sequence[Term], fields: Fields) -> SearchRow:
    """Return the row with the places where plain words were found."""
    found: list[str] = []
    for term in anywhere:
        found += term.matches(fields)[:MOST_MATCHES]
    return row.model_copy(update={"values": {**row.values, MATCH: tuple(dict.fromkeys(found))}})


def _ordered(catalog: Catalog, terms: Sequence[Term], narrowed: set[int] | None) -> list[int]:
    """Return the row ids that are looked at, by kind, name and number."""
    kinds = {term.value for term in terms if (term.field, term.sign) == ("kind", "=")}
    order = {str(kind): place for place, kind in enumerate(FACTS)}
    with catalog.database.read() as rows:
        found = rows("SELECT id, kind, name, number FROM version")
    wanted = [
        row
        for row in found
        if (narrowed is None or row[0] in narrowed) and (not kinds or row[1] in kinds)
    ]
    return [row[0] for row in sorted(wanted, key=lambda row: (order[row[1]], row[2], row[3]))]


def _versions(
    catalog: Catalog, ids: Sequence[int], *, files: bool
) -> Iterator[tuple[Version[Facts], Status]]:
    """Yield versions with their status, some at a time: who has found enough reads no more."""
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        with catalog.database.read() as rows:
            versions = reading.versions_by_id(rows, some, files=files)
            statuses = catalog.statuses(versions.values())
        for version_id in some:
            version = versions[version_id]
            yield version, statuses[version.ref]


@dataclass(frozen=True)
class _Known:
    """What the log says of everything, read once."""

    statements: stating.Statements
    logged: Mapping[str, Fields]

    @classmethod
    def read(cls, catalog: Catalog) -> "_Known":
        logged: dict[str, Fields] = {}
        _add_acts(catalog, logged)
        for alias, ref in catalog.aliases().items():
            _put(logged.setdefault(ref, {}), "alias", alias)
        for event in catalog.events(kind="noted"):
            if isinstance(event.body, Noted):
                _put(logged.setdefault(event.subject, {}), "note", event.body.text)
        for kind in ("released", "withdrawn", "exported"):
            for event in catalog.events(kind=kind):
                own = logged.setdefault(event.subject, {})
                _put(own, f"{kind}_by", event.actor)
                _put(own, f"{kind}_at", event.at)
                body = event.body
                if isinstance(body, Exported):
                    _put(own, "exported_to", body.folder)
                if isinstance(body, Withdrawn):
                    _put(own, "withdrawn_why", body.why)
        waived = [ref for ref, own in logged.items() if "waived" in own]
        for line in gate.relied_on(catalog, waived):
            if line.subject and line.until:
                _put(logged.setdefault(line.subject, {}), "ends", line.until)
        return cls(stating.Statements.read(catalog), logged)

    @property
    def declared(self) -> Iterable[str]:
        return self.statements.schema.facts

    def fields(self, version: Version[Facts], status: Status) -> Fields:
        """Return every field of a version with its values."""
        ref = version.ref
        fields: Fields = {
            "kind": [str(ref.kind)],
            "ref": [str(ref)],
            "name": [ref.name],
            "version": [ref.version or 0],
            "digest": [version.digest],
            "registered_at": [version.registered_at],
            "registered_by": [version.actor],
            "file": [file.path for file in version.files],
            "sha256": [file.sha256 for file in version.files],
        }
        for name, value in version.facts.to_json().items():
            if name not in _HIDDEN and name not in fields:
                _put_recorded(fields, name, value)
        fields["status"] = [str(status)]
        for name, values in self.logged.get(str(ref), {}).items():
            fields[name] = [*values]
        for until in fields.get("retain_until", ()):
            _put(fields, "ends", until)
        for key, fact in self.statements.of_ref(str(ref)).items():
            value = fact.value
            if isinstance(value, Attachment):
                fields[f"own.{key}"] = [value.name, value.sha256]
            else:
                fields[f"own.{key}"] = [*value] if isinstance(value, tuple) else [value]
        return fields


def _add_acts(catalog: Catalog, logged: dict[str, Fields]) -> None:
    """Add approvals and waivers that count."""
    for kind in ("approved", "waived"):
        for event in approving.standing_acts(catalog, kind):
            own = logged.setdefault(event.subject, {})
            _put(own, f"{kind}_by", event.actor)
            body = event.body
            act = body.act if isinstance(body, Acted) else None
            if kind == "approved":
                _put(own, "approved_at", event.at)
            elif act is not None:
                _put(own, "waived", act.rule or "")
                _put(own, "waived_until", act.until or "")


def _put(fields: Fields, name: str, value: Value) -> None:
    fields.setdefault(name, []).append(value)


def _put_recorded(fields: Fields, name: str, value: object) -> None:
    """Add a recorded fact: text, number or truth, lists of them, and references in lists."""
    if isinstance(value, str | int | float | bool):
        _put(fields, name, value)
    elif isinstance(value, list):
        for item in value:
            _put_recorded(fields, name, item.get("ref") if isinstance(item, dict) else item)


def _is_in_a_status(text: str) -> bool:
    return any(text.lower() in status for status in Status)


def _equal(value: Value, text: str) -> bool:
    number = _number(text)
    if number is not None and isinstance(value, int | float) and not isinstance(value, bool):
        return value == number
    return _text(value).lower() == text.lower()


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_fact(name: str) -> bool:
    """Return whether some kind of version may have the field, though none here does."""
    return any(name in facts.model_fields for facts in FACTS.values()) and name not in _HIDDEN
