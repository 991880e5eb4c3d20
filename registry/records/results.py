"""Figures measured on held-out text: one result for each data version, for experts and builds.

In:  nothing but figures.  Out: results, and the few questions that every reader asks of them:
which specialist is the best, what share of its gain a build keeps, how a result is labelled.
Two versions of one data name are two texts, so their results are never put under one key.
A figure is measured on a sample of the held-out text, in blocks. How much the blocks differ gives
the interval in which the figure of such text lies (95 % confidence); of two models on one sample
the blocks are compared one by one, which tells far smaller differences apart than two intervals do.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from registry.records.base import Record

# Student's t, two-sided 95 %, for 1, 2, ... degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201),
    *(2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074),
    *(2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042, 2.040),
)


@dataclass(frozen=True)
class Interval:
    """Where a figure lies, with 95 % confidence."""

    low: float
    high: float


class Sample(Record):
    """What of a data version's held-out text was measured."""

    digest: str  # of data, tokenizer and rule: figures of one digest are figures of the same text
    documents: int | None = None  # that the text is from
    tokens_in_all: int | None = None  # of the held-out text that it was drawn from
    block_bytes: tuple[int, ...] = ()  # bytes of text in each block


class Figures(Record):
    """What one model was measured to do on one held-out text."""

    bits_per_byte: float | None = None  # lower is better
    tokens: int | None = None  # of held-out text that were read
    accuracy: float | None = None  # 0 to 1, where answers can be checked
    answers: int | None = None  # how many answers were checked
    sample: Sample | None = None  # None in rows from before samples
    block_bits: tuple[float, ...] = ()  # that the model takes for each block of the sample

    @property
    def interval(self) -> Interval | None:
        """Where the bits per byte lie; None where the text was not measured in blocks."""
        return ratio_interval(self.block_bits, self.sample.block_bytes if self.sample else ())


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
    seed_block_bits: tuple[float, ...] = ()
    specialists: tuple[Specialist, ...] = ()  # of a build: the members trained on this data
    new_to_seed: bool | None = None  # the seed was not trained on it, where that is known
    general: bool | None = None  # shows what the seed could do: its own data, or for evaluation

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

    @property
    def seed_factor(self) -> Interval | None:
        """Where the bits lie as a multiple of the seed's on the same blocks; below 1 is better."""
        return ratio_interval(self.block_bits, self.seed_block_bits)


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


# Any: the fields of a result, of several types.
def beside_seed(own: Figures, seed: Figures | None) -> dict[str, Any]:
    """Return the fields of a result that hold its seed's figures on the same text.

    Args:
        own: the figures of an expert or a build on a data version.
        seed: its seed's on that data version.

    Returns:
        The fields; none where the seed was not measured, or on another part of the text.
    """
    if seed is None or not same_sample(own, seed):
        return {}
    return {
        "seed_bits_per_byte": seed.bits_per_byte,
        "seed_accuracy": seed.accuracy,
        "seed_answers": seed.answers,
        "seed_tokens": seed.tokens,
        "seed_block_bits": seed.block_bits,
    }


def ratio_interval(over: Sequence[float], under: Sequence[float]) -> Interval | None:
    """Return where the ratio of two sums lies that were measured block by block.

    Args:
        over: one number a block.
        under: one number for each of the same blocks.

    Returns:
        The 95 % interval, by the variance of a ratio estimator over blocks (Cochran, Sampling
        Techniques, chapter 6) and Student's t; None for fewer than two blocks, or unlike ones.
    """
    count, total = len(over), sum(under)
    if count < 2 or count != len(under) or total <= 0:
        return None
    ratio = sum(over) / total
    squares = sum((a - ratio * b) ** 2 for a, b in zip(over, under, strict=True))
    error = math.sqrt(squares * count / (count - 1)) / total
    half = _T[min(count - 1, len(_T)) - 1] * error
    return Interval(ratio - half, ratio + half)


def same_text(left: Result, right: Result) -> bool:
    """Tell whether two results were measured on the same held-out text."""
    return left.data == right.data and same_sample(left, right)


def same_sample(left: Figures, right: Figures) -> bool:
    """Tell whether two figures of one data version are of the same part of its held-out text."""
    if left.sample is None and right.sample is None:
        # Before samples it was the first tokens.
        return left.tokens == right.tokens
    if left.sample is None or right.sample is None:
        return False
    return left.sample.digest == right.sample.digest


def by_data(results: Sequence[Result]) -> dict[str, Result]:
    """Return the results by data version."""
    return {result.data: result for result in results}


def comparable(before: Sequence[Result], now: Sequence[Result]) -> dict[str, Result]:
    """Return the earlier results that today's are of the same text as, by data version."""
    today = by_data(now)
    return {
        result.data: result
        for result in before
        if result.data in today and same_text(result, today[result.data])
    }


def _difference(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low
