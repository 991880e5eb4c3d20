"""Lineage as a picture: which nodes to draw, and where.

In:  nodes and edges around a subject.  Out: at most MOST of them, nearest first, placed in columns from data to release. No SVG here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MOST = 200
COLUMNS = ("data", "seed", "expert", "snapshot", "build", "evaluation", "export")
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, TITLES = 176, 24, 66, 8, 12, 22

Pair = tuple[str, str]  # (made from, it): an edge's two ends, the newer one first


@dataclass(frozen=True)
class Box:
    ref: str
    kind: str
    status: str
    x: int
    y: int


@dataclass(frozen=True)
class Line:
    path: str
    ends: tuple[str, str]  # older, newer


@dataclass(frozen=True)
class Picture:
    titles: list[tuple[str, int]]  # of the columns: kind, x
    boxes: list[Box]
    lines: list[Line]
    width: int
    height: int


def nearest(subject: str, edges: Iterable[Pair], most: int = MOST) -> list[str]:
    """The subject, then what can be reached from it going only up or only down, fewest steps first."""
    up: dict[str, list[str]] = {}
    down: dict[str, list[str]] = {}
    for newer, older in edges:
        up.setdefault(newer, []).append(older)
        down.setdefault(older, []).append(newer)
    found: dict[str, None] = {subject: None}
    rings = [(up, [subject]), (down, [subject])]
    while any(ring for _, ring in rings) and len(found) < most:
        following = []
        for way, ring in rings:
            seen = [ref for near in ring for ref in way.get(near, ())]
            fresh = [ref for ref in dict.fromkeys(seen) if ref not in found]
            found |= dict.fromkeys(fresh)
            following.append((way, fresh))
        rings = following
    return list(found)[:most]


def draw(nodes: Sequence[Mapping[str, str]], edges: Iterable[Pair]) -> Picture:
    """nodes: ref, kind, status. Columns by kind; within one, each node stands near those it is joined to."""
    kinds = [kind for kind in COLUMNS if any(node["kind"] == kind for node in nodes)]
    there = {node["ref"]: node for node in nodes}
    known = [
        (newer, older) for newer, older in dict.fromkeys(edges) if newer in there and older in there
    ]
    columns = _ordered(
        [[node["ref"] for node in nodes if node["kind"] == kind] for kind in kinds], known
    )
    tallest = max(map(len, columns), default=0)
    spot: dict[str, tuple[int, int]] = {}
    for number, column in enumerate(columns):
        # By whole rows, so that the gaps between rows go through all columns: lines that pass over one run there.
        top = MARGIN + TITLES + (tallest - len(column)) // 2 * (HEIGHT + GAP_Y)
        for place, ref in enumerate(column):
            spot[ref] = (MARGIN + number * (WIDTH + GAP_X), top + place * (HEIGHT + GAP_Y))
    boxes = [
        Box(ref, there[ref]["kind"], there[ref]["status"], *spot[ref])
        for column in columns
        for ref in column
    ]
    lines = [Line(_path(spot[older], spot[newer]), (older, newer)) for newer, older in known]
    titles = [(kind, MARGIN + number * (WIDTH + GAP_X)) for number, kind in enumerate(kinds)]
    width = 2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X
    return Picture(
        titles, boxes, lines, max(width, 1), 2 * MARGIN + TITLES + tallest * (HEIGHT + GAP_Y)
    )


def _ordered(columns: list[list[str]], edges: Sequence[Pair]) -> list[list[str]]:
    """A few sweeps to and fro, each node moved to the mean place of its neighbours: few lines cross."""
    near: dict[str, list[str]] = {}
    for newer, older in edges:
        near.setdefault(newer, []).append(older)
        near.setdefault(older, []).append(newer)
    place = {
        ref: number / max(1, len(column)) for column in columns for number, ref in enumerate(column)
    }
    for sweep in range(4):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = {
                ref: sum(place[other] for other in near[ref]) / len(near[ref])
                if near.get(ref)
                else place[ref]
                for ref in column
            }
            column.sort(key=lambda ref: wanted[ref])
            place |= {ref: number / len(column) for number, ref in enumerate(column)}
    return columns


def _path(older: tuple[int, int], newer: tuple[int, int]) -> str:
    x1, y1, x2, y2 = older[0] + WIDTH, older[1] + HEIGHT // 2, newer[0], newer[1] + HEIGHT // 2
    if x2 - x1 > GAP_X:  # over a column: along the gap under the newer one's row
        gap, half = newer[1] + HEIGHT + GAP_Y // 2, GAP_X // 2
        return f"M{x1} {y1}C{x1 + half} {y1} {x1 + half} {gap} {x1 + GAP_X} {gap}H{x2 - GAP_X}C{x2 - half} {gap} {x2 - half} {y2} {x2} {y2}"
    bend = max(24, (x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
