"""Lineage as a picture: which versions to draw, and where.

In:  versions and edges around a subject.
Out: at most MOST of them, nearest first, placed in columns from data to release. No SVG here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from registry.records.answers.auditing import LineageNode

MOST = 200
COLUMNS = ("data", "seed", "expert", "snapshot", "build", "evaluation", "export")
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, TITLES = 176, 24, 66, 8, 12, 22
SWEEPS = 4  # over all columns, to bring joined nodes near each other


class Link(NamedTuple):
    """Two versions, the newer of which was made from the older."""

    newer: str
    older: str


class Ends(NamedTuple):
    """The two ends of a drawn line."""

    older: str
    newer: str


class Corner(NamedTuple):
    """The upper left corner of a box."""

    x: int
    y: int


@dataclass(frozen=True)
class Title:
    """The heading of a column."""

    kind: str
    x: int


@dataclass(frozen=True)
class Box:
    """A version as it is drawn; x and y are its upper left corner."""

    ref: str
    kind: str
    status: str
    x: int
    y: int


@dataclass(frozen=True)
class Line:
    """An edge as it is drawn: the `d` of an SVG path, and the versions that it joins."""

    path: str
    ends: Ends


@dataclass(frozen=True)
class Picture:
    """A drawn lineage, in pixels."""

    titles: list[Title]
    boxes: list[Box]
    lines: list[Line]
    width: int
    height: int


def nearest(subject: str, links: Iterable[Link], most: int = MOST) -> list[str]:
    """Return the subject, then what is reached from it going only up or only down.

    Args:
        subject: where the walk starts.
        links: of the whole lineage.
        most: how many to return; those that are the fewest steps away.
    """
    up: dict[str, list[str]] = {}
    down: dict[str, list[str]] = {}
    for newer, older in links:
        up.setdefault(newer, []).append(older)
        down.setdefault(older, []).append(newer)
    found: dict[str, None] = {subject: None}
    rings = [(up, [subject]), (down, [subject])]
    while any(ring for _, ring in rings) and len(found) < most:
        following = []
        for neighbours, ring in rings:
            reached: list[str] = []
            for ref in ring:
                reached += neighbours.get(ref, ())
            fresh = [ref for ref in dict.fromkeys(reached) if ref not in found]
            found |= dict.fromkeys(fresh)
            following.append((neighbours, fresh))
        rings = following
    return list(found)[:most]


def draw(nodes: Sequence[LineageNode], links: Iterable[Link]) -> Picture:
    """Lay out a lineage in columns by kind; within one, joined nodes stand near each other.

    Args:
        nodes: the versions to draw.
        links: among them; others are left out.
    """
    known = {node.ref: node for node in nodes}
    drawn = [link for link in dict.fromkeys(links) if known.keys() >= set(link)]
    kinds = [kind for kind in COLUMNS if any(node.kind == kind for node in nodes)]
    columns = [[node.ref for node in nodes if node.kind == kind] for kind in kinds]
    _bring_near(columns, drawn)
    tallest = max(map(len, columns), default=0)
    corners = _corners(columns, tallest)
    boxes = []
    for ref, corner in corners.items():
        boxes.append(Box(ref, known[ref].kind, known[ref].status, corner.x, corner.y))
    lines = []
    for newer, older in drawn:
        lines.append(Line(_path(corners[older], corners[newer]), Ends(older, newer)))
    titles = [Title(kind, _column_x(number)) for number, kind in enumerate(kinds)]
    width = 2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + TITLES + tallest * (HEIGHT + GAP_Y)
    return Picture(titles, boxes, lines, max(width, 1), height)


def _column_x(number: int) -> int:
    return MARGIN + number * (WIDTH + GAP_X)


def _corners(columns: Sequence[Sequence[str]], tallest: int) -> dict[str, Corner]:
    """Return where each node stands, column by column."""
    corners = {}
    for number, column in enumerate(columns):
        # By whole rows, so that the gaps between rows go through all columns: a line that passes
        # over a column runs in one of them.
        top = MARGIN + TITLES + (tallest - len(column)) // 2 * (HEIGHT + GAP_Y)
        for position, ref in enumerate(column):
            corners[ref] = Corner(_column_x(number), top + position * (HEIGHT + GAP_Y))
    return corners


def _bring_near(columns: list[list[str]], links: Sequence[Link]) -> None:
    """Sort each column by the mean position of a node's neighbours, so that few lines cross."""
    near: dict[str, list[str]] = {}
    for newer, older in links:
        near.setdefault(newer, []).append(older)
        near.setdefault(older, []).append(newer)
    position: dict[str, float] = {}
    for column in columns:
        position |= _spread(column)

    def wanted(ref: str) -> float:
        neighbours = near.get(ref)
        if not neighbours:
            return position[ref]
        return sum(position[other] for other in neighbours) / len(neighbours)

    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            column.sort(key=wanted)
            position |= _spread(column)


def _spread(column: Sequence[str]) -> dict[str, float]:
    """Return each node's position in its column, from 0 at the top to 1."""
    return {ref: number / max(1, len(column)) for number, ref in enumerate(column)}


def _path(older: Corner, newer: Corner) -> str:
    """Return the path from the right edge of the older box to the left edge of the newer."""
    x1, y1 = older.x + WIDTH, older.y + HEIGHT // 2
    x2, y2 = newer.x, newer.y + HEIGHT // 2
    if x2 - x1 > GAP_X:
        # Over a column: along the gap under the newer box's row.
        gap, half = newer.y + HEIGHT + GAP_Y // 2, GAP_X // 2
        return (
            f"M{x1} {y1}C{x1 + half} {y1} {x1 + half} {gap} {x1 + GAP_X} {gap}"
            f"H{x2 - GAP_X}C{x2 - half} {gap} {x2 - half} {y2} {x2} {y2}"
        )
    bend = max(24, (x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
