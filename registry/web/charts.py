"""Small pictures as numbers: where lines, bars and cells stand. The templates write them as SVG.

In:  figures.  Out: points and labels in pixels, or None where there is nothing to draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

from registry.records.facts import RoutedShare
from registry.records.pages import Gain, RunPoint
from registry.records.results import labels

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 220, 54, 26, 12
MOST_LABELS = 12  # under the bars, so that they do not touch
MOST_STEPS = 6  # between the lowest and the highest line of an axis


class Spot(NamedTuple):
    """A place in a picture, in pixels from its upper left corner."""

    x: float
    y: float


@dataclass(frozen=True)
class Tick:
    """A line across the picture, and the value that it stands for."""

    y: float
    text: str


@dataclass(frozen=True)
class Label:
    """A word under the picture."""

    x: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What every chart has: its size, its left edge and the lines across it."""

    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its colour class, and the `d` of its SVG path."""

    name: str
    hue: str
    points: tuple[Spot, ...]
    path: str


@dataclass(frozen=True, kw_only=True)
class GainChart(Chart):
    """A line for each data version over the builds."""

    lines: tuple[Line, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True, kw_only=True)
class Curve(Chart):
    """One line from the first step to the last."""

    path: str
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class LossChart(Chart):
    """The loss of training and the loss on held-out text, from the first step to the last."""

    lines: tuple[Line, ...]
    first: int
    last: int


@dataclass(frozen=True)
class Bar:
    """The bar of one layer; `labelled` says whether its number is written under it."""

    layer: int
    value: float
    x: float
    y: float
    width: float
    labelled: bool


@dataclass(frozen=True, kw_only=True)
class BarChart(Chart):
    """A bar for each layer; `base` is where they stand."""

    bars: tuple[Bar, ...]
    base: int


@dataclass(frozen=True)
class HeatMap:
    """Where the tokens of one text went: a row for each layer, a share for each expert."""

    label: str
    names: tuple[str, ...]
    layers: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Axis:
    """The upright axis: from a round number below the values to one above, in round steps."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, low: float, high: float) -> "Axis":
        """Return an axis over these values."""
        smallest = ((high - low) or 1) / MOST_STEPS
        power = 10.0 ** floor(log10(smallest))
        step = next(part * power for part in (1, 2, 5, 10) if part * power >= smallest)
        return cls(floor(low / step) * step, ceil(high / step) * step, step)

    def y(self, value: float) -> float:
        """Return the height of a value in the picture."""
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(TOP + (1 - share) * (HEIGHT - BOTTOM - TOP), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Return a line for each step."""
        steps = round((self.high - self.low) / self.step)
        decimals = max(0, -floor(log10(self.step)))
        ticks = []
        for number in range(steps + 1):
            value = self.low + self.step * number
            ticks.append(Tick(self.y(value), f"{value:.{decimals}f}"))
        return tuple(ticks)


def gains(rows: Sequence[Gain]) -> GainChart | None:
    """Draw the gain over the seed in bits per byte: a line for each row, a point for each build."""
    builds = [point.build for point in rows[0].builds] if rows else []
    values: list[float] = []
    for row in rows:
        values += [point.gain for point in row.builds if point.gain is not None]
    if not values:
        return None
    axis = Axis.over(min(0.0, *values), max(0.1, *values))
    columns = [_column(number, len(builds)) for number in range(len(builds))]
    lines = []
    for number, row in enumerate(rows):
        spots = []
        for x, point in zip(columns, row.builds, strict=True):
            if point.gain is not None:
                spots.append(Spot(x, axis.y(point.gain)))
        lines.append(Line(row.label, f"h{1 + number % 7}", tuple(spots), _path(spots)))
    named = [Label(x, build) for x, build in zip(columns, builds, strict=True)]
    return GainChart(ticks=axis.ticks(), lines=tuple(lines), labels=tuple(named))


def curve(reported: object) -> Curve | None:
    """Draw the training loss over steps.

    Args:
        reported: the `curve` of a training report: [[step, loss], ...]. Who trained elsewhere may
            have reported anything, and what is no such list is not drawn.
    """
    points = _steps_and_losses(reported)
    if len(points) < 2:
        return None
    axis = Axis.over(min(point.y for point in points), max(point.y for point in points))
    first, last = points[0].x, points[-1].x
    spots = []
    for step, loss in points:
        share = (step - first) / ((last - first) or 1)
        spots.append(Spot(LEFT + share * (WIDTH - LEFT - 10), axis.y(loss)))
    return Curve(ticks=axis.ticks(), path=_path(spots), first=int(first), last=int(last))


def losses(points: Sequence[RunPoint]) -> LossChart | None:
    """Draw the losses of a run over its steps: of training, and on held-out text where looked."""
    trained = [Spot(point.step, point.loss) for point in points if point.loss is not None]
    looked = [
        Spot(point.step, point.heldout_loss) for point in points if point.heldout_loss is not None
    ]
    values = [spot.y for spot in (*trained, *looked)]
    if len(trained) < 2:
        return None
    axis = Axis.over(min(values), max(values))
    first, last = points[0].step, points[-1].step
    lines = []
    for name, hue, series in (("training", "h1", trained), ("held-out text", "h2", looked)):
        spots = []
        for step, loss in series:
            share = (step - first) / ((last - first) or 1)
            spots.append(Spot(LEFT + share * (WIDTH - LEFT - 10), axis.y(loss)))
        if spots:
            lines.append(Line(name, hue, tuple(spots), _path(spots)))
    return LossChart(ticks=axis.ticks(), lines=tuple(lines), first=first, last=last)


def _steps_and_losses(reported: object) -> list[Spot]:
    if not isinstance(reported, list | tuple):
        return []
    points = []
    for pair in reported:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return []
        step, loss = pair
        if not isinstance(step, int | float) or not isinstance(loss, int | float):
            return []
        if not (isfinite(step) and isfinite(loss)):
            return []
        points.append(Spot(step, loss))
    return points


def bars(values: Sequence[float]) -> BarChart | None:
    """Draw one bar for each layer."""
    if not values:
        return None
    axis = Axis.over(0, max(*values, 1e-9))
    step = (WIDTH - LEFT) / len(values)
    label_every = ceil(len(values) / MOST_LABELS)
    width = min(60.0, max(1.0, step * 0.7))
    drawn = []
    for layer, value in enumerate(values):
        bar = Bar(
            layer=layer,
            value=value,
            x=round(LEFT + (layer + 0.5) * step - width / 2, 1),
            y=axis.y(value),
            width=round(width, 1),
            labelled=layer % label_every == 0,
        )
        drawn.append(bar)
    return BarChart(ticks=axis.ticks(), bars=tuple(drawn), base=HEIGHT - BOTTOM)


def heat(shares: Sequence[RoutedShare], experts: Sequence[str]) -> list[HeatMap]:
    """Return a map for each data version: by layer, the share of every expert.

    Args:
        shares: as they were measured.
        experts: references in the order of the router's outputs.
    """
    named = labels(shares)
    maps = []
    for share in sorted(shares, key=lambda share: named[share.data]):
        count = len(share.layers[0]) if share.layers else 0
        names = [*experts[:count]]
        names += [f"expert {number}" for number in range(len(names), count)]
        maps.append(HeatMap(named[share.data], tuple(names), share.layers))
    return maps


def _column(number: int, count: int) -> float:
    """Return where one of several builds stands, from left to right."""
    share = number / (count - 1) if count > 1 else 0.5
    return LEFT + 40 + (WIDTH - LEFT - 90) * share


def _path(spots: Sequence[Spot]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots) if spots else ""
