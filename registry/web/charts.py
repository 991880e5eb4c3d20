"""Small pictures as numbers: where lines, bars and cells stand. The templates write them as SVG.

In:  plain facts.  Out: dicts of points and labels, or None where there is nothing to draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

Facts = dict[str, Any]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 220, 54, 26, 12
MOST_LABELS = 12  # under the bars, that they do not touch


@dataclass(frozen=True)
class Axis:
    """The upright one: from a round number below the values to one above, a line at each step."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, low: float, high: float) -> "Axis":
        rough = ((high - low) or 1) / 6
        power = 10.0 ** floor(log10(rough))
        step = next(part * power for part in (1, 2, 5, 10) if part * power >= rough)
        return cls(floor(low / step) * step, ceil(high / step) * step, step)

    def y(self, value: float) -> float:
        return round(
            TOP
            + (1 - (value - self.low) / ((self.high - self.low) or 1)) * (HEIGHT - BOTTOM - TOP),
            1,
        )

    def frame(self) -> Facts:
        ticks = [
            self.low + self.step * number
            for number in range(round((self.high - self.low) / self.step) + 1)
        ]
        return {
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "ticks": [(self.y(tick), tick) for tick in ticks],
        }


def gains(domains: Sequence[Mapping[str, Any]]) -> Facts | None:
    """Gain over the seed in bits per byte, build over build, a line a domain."""
    builds = [point["build"] for point in domains[0]["builds"]] if domains else []
    values = [
        point["gain"]
        for domain in domains
        for point in domain["builds"]
        if point["gain"] is not None
    ]
    if not values:
        return None
    axis = Axis.over(min(0.0, *values), max(0.1, *values))
    x = [_spread(number, len(builds)) for number in range(len(builds))]
    lines = []
    for number, domain in enumerate(domains):
        points = [
            (x[place], axis.y(point["gain"]))
            for place, point in enumerate(domain["builds"])
            if point["gain"] is not None
        ]
        lines.append(
            {
                "name": domain["domain"],
                "hue": f"h{1 + number % 7}",
                "points": points,
                "path": _path(points),
            }
        )
    return axis.frame() | {"lines": lines, "labels": list(zip(x, builds, strict=True))}


def curve(points: Sequence[Sequence[float]]) -> Facts | None:
    """Training loss over steps."""
    if len(points) < 2:
        return None
    axis = Axis.over(min(loss for _, loss in points), max(loss for _, loss in points))
    first, last = points[0][0], points[-1][0]
    placed = [
        (LEFT + (step - first) / ((last - first) or 1) * (WIDTH - LEFT - 10), axis.y(loss))
        for step, loss in points
    ]
    return axis.frame() | {"path": _path(placed), "first": int(first), "last": int(last)}


def bars(values: Sequence[float]) -> Facts | None:
    """One bar a layer."""
    if not values:
        return None
    axis = Axis.over(0, max(*values, 1e-9))
    step, every = (WIDTH - LEFT) / len(values), ceil(len(values) / MOST_LABELS)
    width = min(60.0, max(1.0, step * 0.7))
    placed = [
        {
            "x": round(LEFT + (number + 0.5) * step - width / 2, 1),
            "y": axis.y(value),
            "width": round(width, 1),
            "value": value,
            "layer": number,
            "labelled": number % every == 0,
        }
        for number, value in enumerate(values)
    ]
    return axis.frame() | {"bars": placed, "base": HEIGHT - BOTTOM}


def heat(shares: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> list[Facts]:
    """Per domain: rows by layer, a cell an expert, its share of the gate weight."""
    return [
        {
            "domain": domain,
            "names": [
                names[place] if place < len(names) else f"expert {place}"
                for place in range(len(layers[0]) if layers else 0)
            ],
            "layers": [list(layer) for layer in layers],
        }
        for domain, layers in sorted(shares.items())
    ]


def _spread(place: int, count: int) -> float:
    return LEFT + 40 + (WIDTH - LEFT - 90) * (place / (count - 1) if count > 1 else 0.5)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
