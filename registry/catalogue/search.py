"""Search terms: the labels of a registered thing, and filters over them.

In:  a version's kind, name and facts; or a filter's key and value.  Out: labels; or a condition in SQL and its values.
Labels are derived from facts alone, so an audit can derive them again.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from registry.digest import canonical_json
from registry.errors import Invalid
from registry.records.references import parse

# Terms that an expert has from the data it was trained on, and a build from all that is in it; a seed's are its own.
INHERITED = ("license", "holder", "domain", "data")
NOT_INHERITED_OVER = "('branched_from', 'seed', 'supersedes')"
METRIC = re.compile(r"\s*([\w./-]+)\s*(<=|>=|<|>|=)\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*")
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


class Label(NamedTuple):
    key: str
    value: str
    number: float | None = None


def labels(kind: str, name: str, facts: Mapping[str, Any]) -> list[Label]:
    """Sorted, each once."""
    return sorted(set(_labels(kind, name, facts)), key=lambda label: label[:2])


def condition(kind: str, key: str, value: str) -> tuple[str, dict[str, Any]]:
    """What a version v must satisfy. Raises Invalid for an unknown filter or an unreadable value."""
    if key == "name":
        return "v.name = :name", {"name": parse(value, kind).name if "/" in value else value}
    if key in ("after", "before"):
        return f"v.registered_at {'>=' if key == 'after' else '<'} :{key}", {
            key: _moment(key, value)
        }
    if key == "digest":
        return _digest(value)
    if key == "metric":
        return _metric(value)
    if key not in FILTERS:
        raise Invalid("filter", found=key, expected=", ".join(FILTERS))
    if key in ("data", "seed"):
        value = str(parse(value, key))
    matches = f"(l.value = :{key}" + (
        f" OR l.value LIKE :{key}_any)" if key in ("data", "seed") and "@" not in value else ")"
    )
    values = {key: value, **({f"{key}_any": f"{value}@%"} if "_any" in matches else {})}
    if key == "license":
        matches, values = "lower(l.value) = :license", {"license": value.lower()}
    own = f"SELECT l.version_id FROM label l WHERE l.key = '{key}' AND {matches}"
    return (
        f"v.id IN ({own})"
        if key not in INHERITED or kind in ("data", "seed")
        else f"v.id IN ({_reached(kind, own)})"
    ), values


def _reached(kind: str, own: str) -> str:
    """Versions with the label, and those that have it from what they were made of."""
    only = " JOIN version m ON m.id = e.from_id AND m.kind = 'expert'" if kind == "expert" else ""
    step = f"SELECT e.from_id FROM has JOIN edge e ON e.to_id = has.id{only} WHERE e.relation NOT IN {NOT_INHERITED_OVER}"
    return f"WITH RECURSIVE has(id) AS ({own} UNION {step}) SELECT id FROM has"


def _digest(value: str) -> tuple[str, dict[str, Any]]:
    start = value.lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{6,64}", start):
        raise Invalid("digest", found=value, expected="at least 6 hexadecimal digits")
    of_a_file = (
        "SELECT f.version_id FROM file f WHERE f.sha256 >= :digest AND f.sha256 < :digest_end"
    )
    return f"((v.digest >= :digest AND v.digest < :digest_end) OR v.id IN ({of_a_file}))", {
        "digest": start,
        "digest_end": start + "g",
    }


def _metric(value: str) -> tuple[str, dict[str, Any]]:
    read = METRIC.fullmatch(value)
    if not read:
        raise Invalid(
            "metric filter",
            found=value,
            expected="NAME and a bound, such as math.bits_per_byte<1.2",
        )
    found = f"SELECT l.version_id FROM label l WHERE l.key = :metric AND l.number {read[2]} :bound"
    return f"v.id IN ({found})", {"metric": f"metric:{read[1]}", "bound": float(read[3])}


def _moment(key: str, value: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?Z?)?", value):
        raise Invalid(
            key, found=value, expected="a date such as 2026-03-01, or 2026-03-01T12:00:00Z, in UTC"
        )
    return value.rstrip("Z")


def _labels(kind: str, name: str, facts: Mapping[str, Any]) -> Iterator[Label]:
    if kind in ("data", "expert"):
        yield Label("domain", str(facts.get("domain") or name))
    for fact in ("license", "licenses", "holder", "data", "seed"):
        yield from (
            Label("license" if fact == "licenses" else fact, text)
            for text in _texts(facts.get(fact))
        )
    yield from _metrics("metric:", facts.get("evaluation"))


def _texts(value: Any) -> Iterator[str]:
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, Mapping):
            item = item.get("ref")
        if isinstance(item, str) and item:
            yield item


def _metrics(prefix: str, value: Any) -> Iterator[Label]:
    """`metric:math.bits_per_byte` for {"math": {"bits_per_byte": 1.1}}."""
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _metrics(f"{prefix}{key}.", item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield Label(f"{prefix}{key}", canonical_json(item).decode(), float(item))
