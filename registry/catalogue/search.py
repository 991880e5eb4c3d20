"""Search terms: the labels of a registered thing, and filters over them.

In:  a version's name and facts; or a filter's key and value.
Out: labels; or a condition in SQL and its values.
Labels are derived from facts alone, so an audit can derive them again.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from registry.catalogue.database import Rows
from registry.digest import canonical_json
from registry.errors import Invalid
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    Facts,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.kinds import Kind, Relation
from registry.records.references import Reference, parse
from registry.records.results import Result
from registry.records.results import labels as result_labels

# Terms that an expert has from the data it was trained on, and a build from all that is in it;
# an export has its build's; a seed's are its own.
INHERITED = ("license", "holder", "domain", "data", "seed")
NOT_INHERITED_OVER = f"('{Relation.BRANCHED_FROM}', '{Relation.SEED}', '{Relation.SUPERSEDES}')"
METRIC = re.compile(r"\s*([\w./@-]+)\s*(<=|>=|<|>|=)\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?Z?)?")
FILTERS = (
    "name",
    "license",
    "data",
    "digest",
    "holder",
    "domain",
    "seed",
    "metric",
    "after",
    "before",
)
_OWN = ("bits_per_byte", "tokens", "accuracy", "answers", "seed_bits_per_byte", "seed_accuracy")
# The last two are labels of older rows alone.
FIGURES = (
    *_OWN,
    "specialist_bits_per_byte",
    "specialist_accuracy",
    "seed_tokens",
    "seed_answers",
)

# Subjects of which the log says more than that they were registered, judged or made.
_TOLD = "SELECT DISTINCT subject FROM event WHERE kind NOT IN ('verdict', 'registered', 'stage')"

# A condition over a version v, and the values that it names.
Condition = tuple[str, dict[str, str | float]]


class Label(NamedTuple):
    """A search term of one version; number is its value where it is one."""

    key: str
    value: str
    number: float | None = None


def holding(rows: Rows, text: str) -> set[int]:
    """Return the row ids of the versions with which a text stands anywhere.

    That is in their reference, their facts, their files and what the log says of them, in capital
    letters or small. More may be returned than a closer look finds.

    Args:
        rows: of the open database.
        text: plain ASCII, without quotes and backslashes, which JSON escapes.
    """
    held = f"%{_escaped(text.lower())}%"
    like = "LIKE :text ESCAPE '!'"
    own = (
        "SELECT id, kind, name, number, "
        f"lower(facts) {like} OR lower(digest || ' ' || actor || ' ' || registered_at) {like} "
        "FROM version"
    )
    found: set[int] = set()
    for version_id, kind, name, number, holds in rows(own, text=held):
        ref = str(Reference(Kind(kind), name, number))
        if holds or text.lower() in ref.lower():
            found.add(version_id)
    files = f"SELECT DISTINCT version_id FROM file WHERE lower(path || ' ' || sha256) {like}"
    found |= {row[0] for row in rows(files, text=held)}
    logged = f"{_TOLD} AND lower(body || ' ' || actor || ' ' || at) {like}"
    return found | _ids(rows, (row[0] for row in rows(logged, text=held)))


def _escaped(text: str) -> str:
    """Return a text for LIKE, in which no character of it stands for another."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def told_of(rows: Rows) -> set[int]:
    """Return the row ids of the versions of which the log says more than that they were made."""
    return _ids(rows, (row[0] for row in rows(_TOLD)))


def _ids(rows: Rows, refs: Iterable[str]) -> set[int]:
    """Return the row ids of these references, as far as they are registered."""
    wanted = set(refs)
    ids = set[int]()
    for version_id, kind, name, number in rows("SELECT id, kind, name, number FROM version"):
        if str(Reference(Kind(kind), name, number)) in wanted:
            ids.add(version_id)
    return ids


def labels(name: str, facts: Facts) -> list[Label]:
    """Return the search terms of a version, sorted, each once."""
    return sorted(set(_labels(name, facts)), key=lambda label: label[:2])


def condition(kind: Kind, key: str, value: str) -> Condition:
    """Translate one filter into SQL.

    Args:
        kind: of the versions that are searched.
        key: one of FILTERS.
        value: what the user gave.

    Raises:
        Invalid: for an unknown filter or a value that cannot be read.
    """
    if key == "name":
        return "v.name = :name", {"name": parse(value, kind).name if "/" in value else value}
    if key in ("after", "before"):
        return f"v.registered_at {'>=' if key == 'after' else '<'} :{key}", {key: _moment(value)}
    if key == "digest":
        return _digest(value)
    if key == "metric":
        return _metric(value)
    if key not in FILTERS:
        raise Invalid("filter", found=key, expected=", ".join(FILTERS))
    return _label(kind, key, value)


def _label(kind: Kind, key: str, value: str) -> Condition:
    matches, values = f"l.value = :{key}", {key: value}
    if key == "license":
        # It may stand in an expression, between blanks and brackets.
        words = "' ' || replace(replace(lower(l.value), '(', ' '), ')', ' ') || ' '"
        matches = f"{words} LIKE :license ESCAPE '!'"
        values = {"license": f"% {_escaped(value.lower())} %"}
    if key in ("data", "seed"):
        values = {key: str(parse(value, key))}
        if "@" not in value:
            matches = f"({matches} OR l.value LIKE :{key}_any ESCAPE '!')"
            values[f"{key}_any"] = f"{_escaped(values[key])}@%"
    own = f"SELECT l.version_id FROM label l WHERE l.key = '{key}' AND {matches}"
    if key in INHERITED and kind not in (Kind.DATA, Kind.SEED):
        return f"v.id IN ({_reached(kind, own)})", {**values}
    return f"v.id IN ({own})", {**values}


def _reached(kind: Kind, own: str) -> str:
    """Select the versions with the label, and those that have it from what they were made of."""
    experts = " JOIN version m ON m.id = e.from_id AND m.kind = 'expert'"
    only = experts if kind == Kind.EXPERT else ""
    step = (
        f"SELECT e.from_id FROM has JOIN edge e ON e.to_id = has.id{only} "
        f"WHERE e.relation NOT IN {NOT_INHERITED_OVER}"
    )
    return f"WITH RECURSIVE has(id) AS ({own} UNION {step}) SELECT id FROM has"


def _digest(value: str) -> Condition:
    start = value.lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{6,64}", start):
        raise Invalid("digest", found=value, expected="at least 6 hexadecimal digits")
    of_a_file = (
        "SELECT f.version_id FROM file f WHERE f.sha256 >= :digest AND f.sha256 < :digest_end"
    )
    test = f"((v.digest >= :digest AND v.digest < :digest_end) OR v.id IN ({of_a_file}))"
    return test, {"digest": start, "digest_end": start + "g"}


def _metric(value: str) -> Condition:
    read = METRIC.fullmatch(value)
    if not read:
        expected = "NAME and a bound, such as math.bits_per_byte<1.2"
        raise Invalid("metric filter", found=value, expected=expected)
    if read[1].rpartition(".")[2] not in FIGURES:
        raise Invalid("metric filter", found=value, expected=f"one of {', '.join(FIGURES)}")
    # Rows written before results were a list label an expert's domains one level deeper.
    found = (
        "SELECT l.version_id FROM label l "
        f"WHERE l.key IN (:metric, :metric_older) AND l.number {read[2]} :bound"
    )
    # A filter that was written for those rows names that level itself.
    name = read[1].removeprefix("domains.")
    names = {"metric": f"metric:{name}", "metric_older": f"metric:domains.{name}"}
    return f"v.id IN ({found})", {**names, "bound": float(read[3])}


def _moment(value: str) -> str:
    try:
        if not MOMENT.fullmatch(value):
            raise ValueError(value)
        datetime.fromisoformat(value)
    except ValueError as error:
        expected = "a day such as 2026-03-01, or 2026-03-01T12:00:00Z, in UTC"
        raise Invalid("date", found=value, expected=expected) from error
    return value.rstrip("Z")


def _labels(name: str, facts: Facts) -> Iterator[Label]:
    match facts:
        case DataFacts():
            yield Label("domain", facts.domain or name)
            yield from _each("license", [facts.license, *facts.document_licenses])
            yield from _each("holder", [facts.holder])
        case SeedFacts():
            yield from _each("license", [facts.license])
            yield from _each("data", facts.data)
        case ExpertFacts():
            yield Label("domain", facts.domain or name)
            yield from _each("domain", [result.domain for result in facts.results])
            yield from _each("license", facts.licenses)
            yield from _each("data", facts.data)
            yield from _each("seed", [facts.seed])
            yield from _figures(facts.results)
        case BuildFacts():
            yield from _each("seed", [facts.seed])
            yield from _figures(facts.results)
        case SnapshotFacts():
            yield from _each("seed", [facts.seed])
        case _:
            return


def _each(key: str, values: Iterable[str | None]) -> Iterator[Label]:
    yield from (Label(key, value) for value in values if value)


def _figures(results: Iterable[Result]) -> Iterator[Label]:
    """Yield every figure by domain, by data version, and by its own name alone."""
    results = tuple(results)
    named = result_labels(results)
    for result in results:
        version = result.data.removeprefix("data/")
        for figure, number in _measured(result):
            text = canonical_json(number).decode()
            for prefix in {"", f"{result.domain}.", f"{named[result.data]}.", f"{version}."}:
                yield Label(f"metric:{prefix}{figure}", text, float(number))


def _measured(result: Result) -> Iterator[tuple[str, float]]:
    for figure in _OWN:
        number = getattr(result, figure)
        if number is not None:
            yield figure, number
    best = result.specialist
    if best is not None and best.bits_per_byte is not None:
        yield "specialist_bits_per_byte", best.bits_per_byte
    if best is not None and best.accuracy is not None:
        yield "specialist_accuracy", best.accuracy
