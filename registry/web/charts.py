"""Small pictures as numbers: where lines, bars and cells stand. The templates write them as SVG.

In:  plain facts.  Out: dicts of points and labels, or None where there is nothing to draw.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Facts = dict[str, Any]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 220, 44, 26, 12


def gains(domains: Sequence[Mapping[str, Any]]) -> Facts | None:
    """Gain over the seed in bits per byte, build over build, a line a domain."""
    builds = [point["build"] for point in domains[0]["builds"]] if domains else []
    values = [point["gain"] for domain in domains for point in domain["builds"] if point["gain"] is not None]
    if not values:
        return None
    low, high = min(0.0, *values), max(0.1, *values)
    x = [_spread(number, len(builds)) for number in range(len(builds))]
    lines = []
    for number, domain in enumerate(domains):
        points = [
            (x[place], _height(point["gain"], low, high)) for place, point in enumerate(domain["builds"]) if point["gain"] is not None
        ]
        lines.append({"name": domain["domain"], "hue": f"h{1 + number % 7}", "points": points, "path": _path(points)})
    return _frame(low, high) | {"lines": lines, "labels": list(zip(x, builds, strict=True))}


def curve(points: Sequence[Sequence[float]]) -> Facts | None:
    """Training loss over steps."""
    if len(points) < 2:
        return None
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    first, last = points[0][0], points[-1][0]
    placed = [(LEFT + (step - first) / ((last - first) or 1) * (WIDTH - LEFT - 10), _height(loss, low, high)) for step, loss in points]
    return _frame(low, high) | {"path": _path(placed), "first": int(first), "last": int(last)}


def bars(values: Sequence[float]) -> Facts | None:
    """One bar a layer."""
    if not values:
        return None
    high = max(*values, 1e-9) if len(values) > 1 else max(values[0], 1e-9)
    step = (WIDTH - LEFT) / len(values)
    placed = [
        {"x": LEFT + number * step, "y": _height(value, 0, high), "width": max(1.0, step * 0.7), "value": value, "layer": number}
        for number, value in enumerate(values)
    ]
    return _frame(0, high) | {"bars": placed, "base": HEIGHT - BOTTOM}


def heat(shares: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> list[Facts]:
    """Per domain: rows by layer, a cell an expert, its share of the gate weight."""
    return [
        {
            "domain": domain,
            "names": [names[place] if place < len(names) else f"expert {place}" for place in range(len(layers[0]) if layers else 0)],
            "layers": [list(layer) for layer in layers],
        }
        for domain, layers in sorted(shares.items())
    ]


def _frame(low: float, high: float) -> Facts:
    ticks = [low + (high - low) * part / 4 for part in range(5)]
    return {"width": WIDTH, "height": HEIGHT, "left": LEFT, "ticks": [(_height(tick, low, high), tick) for tick in ticks]}


def _spread(place: int, count: int) -> float:
    return LEFT + 40 + (WIDTH - LEFT - 90) * (place / (count - 1) if count > 1 else 0.5)


def _height(value: float, low: float, high: float) -> float:
    return round(TOP + (1 - (value - low) / ((high - low) or 1)) * (HEIGHT - BOTTOM - TOP), 1)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
