"""What differs between two versions, laid out for a page: figures beside each other, then the rest.

In:  the answer of `btx diff`.  Out: tables by what they are about. Pure.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from registry import units
from registry.records.answers.shown import Change, DiffAnswer, FileChanges

FIGURES = "evaluation."
BITS = "bits_per_byte"
UNKNOWN = "–"
# Of a result, what is no figure.
NO_FIGURES = ("data", "new_to_seed")
# The parts of a build, in the order of a reader's questions; of other facts the name itself.
TITLES = {
    "members": "Members",
    "seed": "Seed",
    "recipe": "Recipe",
    "tuned_on": "Tuned on",
    "tasks": "Tasks",
    "cost": "Cost",
}


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of one domain in both versions; `saved` is the bits per byte that right saves."""

    domain: str
    figure: str
    left: str
    right: str
    saved: float | None


@dataclass(frozen=True)
class ComparedFact:
    """One fact in both versions."""

    name: str
    left: str
    right: str


@dataclass(frozen=True)
class ComparedPart:
    """The facts of one part that differ."""

    title: str
    facts: tuple[ComparedFact, ...]


@dataclass(frozen=True)
class Comparison:
    """Two versions side by side."""

    left: str
    right: str
    figures: tuple[ComparedFigure, ...]
    parts: tuple[ComparedPart, ...]
    files: FileChanges
    notes: tuple[str, ...]


def comparison(answer: DiffAnswer) -> Comparison:
    """Lay out what `btx diff` prints for people."""
    changes = [change for change in answer.changes if not change.for_programs]
    figures = [
        change
        for change in changes
        if change.what.startswith(FIGURES) and change.what.rpartition(".")[2] not in NO_FIGURES
    ]
    others = [change for change in changes if not change.what.startswith(FIGURES)]
    return Comparison(
        left=answer.left,
        right=answer.right,
        figures=tuple(map(_figure, figures)),
        parts=tuple(_parts(others)),
        files=answer.files,
        notes=answer.notes,
    )


def _figure(change: Change) -> ComparedFigure:
    # A domain may have dots in its name, a figure has none.
    domain, _, figure = change.what.removeprefix(FIGURES).rpartition(".")
    saved = None
    if figure == BITS and isinstance(change.left, float) and isinstance(change.right, float):
        saved = change.left - change.right
    return ComparedFigure(
        domain=domain,
        figure=figure.replace("_", " "),
        left=_text(change.left),
        right=_text(change.right),
        saved=saved,
    )


def _parts(changes: Sequence[Change]) -> list[ComparedPart]:
    by_part: dict[str, list[ComparedFact]] = {}
    for change in changes:
        part, _, rest = change.what.partition(".")
        name = (rest or part).replace("_", " ")
        fact = ComparedFact(name, _text(change.left), _text(change.right))
        by_part.setdefault(part, []).append(fact)
    order = [*TITLES]
    named = sorted(by_part, key=lambda part: order.index(part) if part in order else len(order))
    return [
        ComparedPart(TITLES.get(part, part.replace("_", " ").capitalize()), tuple(by_part[part]))
        for part in named
    ]


def _text(value: object) -> str:
    """Write a fact of any type as a reader wants it."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return units.figure(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value) or UNKNOWN
    return json.dumps(value, ensure_ascii=False)
