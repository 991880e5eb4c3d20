"""Arithmetic on chunks of raw weights: unpack, combine in float64, pack again.

In:  streams of equal byte chunks, one a source.
Out: one stream of bytes. Which streams, and where they go, is left to `streams.py`.
Every step runs on one core and lets go of the interpreter, so that the threads that call keep all
cores busy.
Methods: task arithmetic (arXiv:2212.04089), TIES (arXiv:2306.01708), DARE (arXiv:2311.03099).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from btx_core.checkpoints.checkpoint import TORCH_NAMES

# Elements: few enough that a float64 sum of them stays near the core, enough that threads seldom
# wait for each other.
BLOCK = 1 << 16
NATIVE = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# Bits of the exponent, all set in NaN and infinity; the mask clears the sign.
EXPONENT = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
# Elements that an empty vote is divided by: no element, in any case less than one.
NO_VOTES = 1e-300

Raw = bytes | memoryview
# A change of each value, after combining: float64 [N] -> [N].
ChangeValues = Callable[[np.ndarray], np.ndarray]
# The next piece of a task vector, float64 [N] -> that piece, thinned.
Thin = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TaskVector:
    """What one member learnt: its weights minus the seed's.

    Attributes:
        chunks: the member's weights, chunk by chunk.
        weight: its weight in the mean.
        thin: what drops a part of it; None: nothing is dropped.
    """

    chunks: Iterable[Raw]
    weight: float
    thin: Thin | None = None


def finite(raw: Raw, dtype: str) -> bool:
    """Say whether no value of these bytes is NaN or infinity."""
    if dtype not in EXPONENT:
        return True
    unsigned, mask = EXPONENT[dtype]
    bits = np.frombuffer(raw, unsigned)
    return not len(bits) or bool((bits & unsigned(mask)).max() != mask)


def unpack(raw: Raw, dtype: str) -> np.ndarray:
    """Return the values of raw bytes: bfloat16 as float32, others in their own dtype."""
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.frombuffer(raw, NATIVE[dtype])


def pack(values: np.ndarray, dtype: str) -> Raw:
    """Return the values as raw bytes of a dtype, rounded to the nearest, ties to even."""
    if dtype == "BF16":
        # Numpy has no such type.
        import torch

        rounded: np.ndarray = torch.from_numpy(values).float().bfloat16().view(torch.uint8).numpy()
        return rounded.data
    return np.ascontiguousarray(values, NATIVE[dtype]).data.cast("B")


def mean(
    streams: Sequence[Iterable[Raw]],
    dtype: str,
    weights: Sequence[float],
    change: ChangeValues | None = None,
) -> Iterator[Raw]:
    """Average streams of weights in float64.

    Equal weights count as one each: then the sum is exact for longer.

    Args:
        streams: the sources' bytes, in equal chunks.
        dtype: of the sources and of the result.
        weights: one a stream.
        change: what happens to the mean before it is rounded.

    Yields:
        The mean's bytes, at most `BLOCK` elements at a time.
    """
    # Here, so that distances can be measured without it; it adds unlike types in one pass.
    import torch

    torch_dtype = getattr(torch, TORCH_NAMES[dtype])
    equal = len(set(weights)) == 1
    for chunks in zip(*streams, strict=True):
        sources = [torch.frombuffer(chunk, dtype=torch_dtype) for chunk in chunks]
        for start in range(0, len(sources[0]), BLOCK):
            first, *rest = (source[start : start + BLOCK] for source in sources)
            total = first.double() if equal else first.double() * weights[0]
            for block, weight in zip(rest, weights[1:], strict=True):
                total += block if equal else block.double() * weight
            total /= len(weights) if equal else sum(weights)
            values = total.numpy()
            yield pack(change(values) if change else values, dtype)


def add_task_vectors(
    seed: Iterable[Raw],
    vectors: Sequence[TaskVector],
    dtype: str,
    *,
    scale: float,
    elect: bool,
    change: ChangeValues | None = None,
) -> Iterator[Raw]:
    """Add the weighted mean of task vectors to a seed, in float64.

    Args:
        seed: the seed's bytes, in chunks equal to the members'.
        vectors: the members' task vectors.
        dtype: of all of them and of the result.
        scale: what the mean is multiplied by.
        elect: whether, value by value, the sign with the greater sum wins and only vectors of that
            sign are averaged (TIES).
        change: what happens to the sum before it is rounded.

    Yields:
        The sum's bytes, chunk by chunk.
    """
    weights = [vector.weight for vector in vectors]
    for base, *chunks in zip(seed, *(vector.chunks for vector in vectors), strict=True):
        start = unpack(base, dtype).astype(np.float64)
        # By sign: positive, negative.
        sums = np.zeros((2, len(start)))
        shares = np.zeros((2, len(start)))
        for chunk, vector in zip(chunks, vectors, strict=True):
            delta = unpack(chunk, dtype) - start
            if vector.thin:
                delta = vector.thin(delta)
            for sign, of_sign in enumerate((delta > 0, delta < 0)):
                sums[sign] += np.where(of_sign, delta, 0.0) * vector.weight
                shares[sign] += of_sign * vector.weight
        moved = _elected_mean(sums, shares) if elect else sums.sum(0) / sum(weights)
        total = start + scale * moved
        yield pack(change(total) if change else total, dtype)


def _elected_mean(sums: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The mean over the vectors of the winning sign; [2, N] -> [N]."""
    winner = (sums[0] < -sums[1]).astype(np.int64)[None]
    total = np.take_along_axis(sums, winner, 0)[0]
    share = np.take_along_axis(shares, winner, 0)[0]
    mean_of_winner: np.ndarray = total / np.maximum(share, NO_VOTES)
    return mean_of_winner


def threshold(pairs: Callable[[], Iterable[tuple[Raw, Raw]]], dtype: str, density: float) -> float:
    """Return the size that a share of a task vector's values reaches.

    Two passes over the chunks, so that memory stays flat. Sizes are counted by the bits of their
    float32: for numbers that are not negative they are in the order of the numbers.

    Args:
        pairs: begins a new pass over (seed, member) chunks.
        dtype: of both.
        density: the share, above 0 and at most 1.
    """

    def size_bits() -> Iterator[np.ndarray]:
        for base, chunk in pairs():
            delta = unpack(chunk, dtype) - unpack(base, dtype).astype(np.float64)
            yield np.abs(delta).astype(np.float32).view(np.uint32)

    bins = 1 << 16
    coarse = np.zeros(bins, np.int64)
    for bits in size_bits():
        coarse += np.bincount(bits >> 16, minlength=bins)
    wanted = int(np.ceil(density * coarse.sum()))
    # How many values are in this bin or a higher one.
    reached = np.cumsum(coarse[::-1])[::-1]
    high = int(np.flatnonzero(reached >= wanted)[-1])
    fine = np.zeros(bins, np.int64)
    for bits in size_bits():
        fine += np.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=bins)
    rest = wanted - (int(reached[high + 1]) if high + 1 < bins else 0)
    low = int(np.flatnonzero(np.cumsum(fine[::-1])[::-1] >= rest)[-1])
    return float(np.array([(high << 16) | low], np.uint32).view(np.float32)[0])


def keep_large(least: float) -> Thin:
    """Return what drops every value of a task vector that is smaller than this (TIES)."""
    return lambda delta: np.where(np.abs(delta).astype(np.float32) >= np.float32(least), delta, 0.0)


def keep_by_chance(key: bytes, density: float) -> Thin:
    """Return what keeps each value with this probability, divided by it (DARE).

    Which values are kept depends on the key and on their position alone, however the vector is cut
    into chunks.

    Args:
        key: at least 16 bytes that fix the choice.
        density: the probability, above 0 and at most 1.
    """
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    return lambda delta: np.where(generator.random(len(delta)) < density, delta / density, 0.0)
