"""Figures measured on held-out text: one result for each data version, for experts and builds.

In:  nothing but figures.  Out: results, and the few questions that every reader asks of them:
which specialist is the best, what share of its gain a build keeps, how a result is labelled.
Two versions of one data name are two texts, so their results are never put under one key.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from registry.records.base import Record


class Figures(Record):
    """What one model was measured to do on one held-out text."""

    bits_per_byte: float | None = None  # lower is better
    tokens: int | None = None  # of held-out text that were read
    accuracy: float | None = None  # 0 to 1, where answers can be checked
    answers: int | None = None  # how many answers were checked


class Specialist(Record):
    """One expert's own figures on the text, as measured when it was registered."""

    ref: str | None = None  # None in rows that did not name it
    bits_per_byte: float | None = None
    accuracy: float | None = None


class Result(Figures):
    """The figures of an expert or a build on one data version, beside those of its seed."""

    data: str
    domain: str
    seed_bits_per_byte: float | None = None
    seed_accuracy: float | None = None
    specialists: tuple[Specialist, ...] = ()  # of a build: the members trained on this data
    new_to_seed: bool | None = None  # the seed was not trained on it, where that is known

    @property
    def specialist(self) -> Specialist | None:
        """The member with the lowest bits per byte on this text."""
        measured = [one for one in self.specialists if one.bits_per_byte is not None]
        return min(measured, key=lambda one: one.bits_per_byte or 0.0, default=None)

    @property
    def gain(self) -> float | None:
        """Bits per byte below the seed's."""
        return _difference(self.seed_bits_per_byte, self.bits_per_byte)

    @property
    def gain_kept(self) -> float | None:
        """Share of the best specialist's gain over the seed that this model has too.

        None where something was not measured, and where the specialist gains nothing.
        """
        best = self.specialist
        specialist = best.bits_per_byte if best else None
        return share_of_gain(self.bits_per_byte, self.seed_bits_per_byte, specialist)

    @property
    def change(self) -> float | None:
        """Change against the seed, as a share of the seed's bits per byte; above zero is worse."""
        if self.gain is None or not self.seed_bits_per_byte:
            return None
        return -self.gain / self.seed_bits_per_byte


class OfData(Protocol):
    """Anything that belongs to one data version of a domain."""

    @property
    def data(self) -> str:
        """The data version."""

    @property
    def domain(self) -> str:
        """The domain."""


def share_of_gain(own: float | None, seed: float | None, specialist: float | None) -> float | None:
    """Return which share of a specialist's gain over the seed a model has too.

    Args:
        own: the model's bits per byte on a text.
        seed: the seed's on that text.
        specialist: those of the best model that was trained for it.

    Returns:
        1.0 where the model is as good as the specialist, 0.0 where it is as good as the seed. None
        where something was not measured, and where the specialist gains nothing.
    """
    gain, most = _difference(seed, own), _difference(seed, specialist)
    if gain is None or most is None or most <= 0:
        return None
    return gain / most


def labels(results: Iterable[OfData]) -> dict[str, str]:
    """Name each result for a reader.

    Returns:
        Data version to label: the domain where it stands for one data version alone, else the data
        version itself without its kind, such as `legal@2`.
    """
    domains = {result.data: result.domain for result in results}
    times = Counter(domains.values())
    return {
        data: domain if times[domain] == 1 else data.removeprefix("data/")
        for data, domain in domains.items()
    }


class Measured(OfData, Protocol):
    """Figures of one data version, beside those of the seed."""

    @property
    def bits_per_byte(self) -> float | None:
        """The model's."""

    @property
    def seed_bits_per_byte(self) -> float | None:
        """The seed's."""


M = TypeVar("M", bound=Measured)


def worst_of(results: Iterable[M]) -> M | None:
    """Return the result that is worst against its seed, whatever the order of the results.

    A figure that is missing is worse than any; of equals the first data version counts.
    """

    def against_seed(result: M) -> float:
        if result.bits_per_byte is None or result.seed_bits_per_byte is None:
            return float("inf")
        return result.bits_per_byte / max(result.seed_bits_per_byte, 1e-12)

    ordered = sorted(results, key=lambda result: result.data)
    return max(ordered, key=against_seed, default=None)


def same_text(left: Result, right: Result) -> bool:
    """Tell whether two results were measured on the same held-out text."""
    return left.data == right.data and left.tokens == right.tokens


def by_data(results: Sequence[Result]) -> dict[str, Result]:
    """Return the results by data version."""
    return {result.data: result for result in results}


def _difference(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low
