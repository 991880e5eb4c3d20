"""Arithmetic on chunks of raw weights: unpack, combine in float64, pack again.

In:  streams of equal byte chunks, one per source.  Out: one stream of bytes. Which streams, and where they go, is mix.py's work.
Every step runs on one core and lets go of the interpreter, so that the threads that call keep all cores busy.
Methods: task arithmetic (arXiv:2212.04089), TIES (arXiv:2306.01708), DARE (arXiv:2311.03099).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from btx_core.checkpoints.checkpoint import TORCH_NAMES

BLOCK = (
    1 << 16
)  # elements: few enough that a float64 sum of them stays near the core, enough that threads seldom wait for each other
NATIVE = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# Bits of the exponent, all set in NaN and infinity; the mask clears the sign.
EXPONENT = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}

Raw = bytes | np.ndarray
Element = Callable[[np.ndarray], np.ndarray]  # a change of each value, after combining
Keep = Callable[[np.ndarray], np.ndarray]  # the next piece of a task vector -> that piece, thinned


def finite(raw: Raw, dtype: str) -> bool:
    if dtype not in EXPONENT:
        return True
    kind, mask = EXPONENT[dtype]
    bits = np.frombuffer(raw, kind)
    return not len(bits) or bool((bits & kind(mask)).max() != mask)


def unpack(raw: Raw, dtype: str) -> np.ndarray:
    """Raw bytes as float32, or float64 where they are."""
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.frombuffer(raw, NATIVE[dtype])


def pack(values: np.ndarray, dtype: str) -> Any:
    """Round to the nearest, ties to even."""
    if dtype == "BF16":
        import torch  # numpy has no such type

        return torch.from_numpy(values).float().bfloat16().view(torch.uint8).numpy()
    return np.ascontiguousarray(values, NATIVE[dtype]).data.cast("B")


def one_plus(values: np.ndarray) -> np.ndarray:
    return values + 1.0


def times(factor: int, values: np.ndarray) -> np.ndarray:
    return values * factor


def times_root(width: int, values: np.ndarray) -> np.ndarray:
    return np.asarray(values * np.sqrt(np.float64(width)))


ELEMENTS: dict[str, Callable[..., np.ndarray]] = {
    "one_plus": one_plus,
    "times": times,
    "times_root": times_root,
}


def halves(rows: np.ndarray, head: int, rotated: int) -> Any:
    """In each head, of its first `rotated` rows the even ones first, then the odd; the rest stays."""
    order = [*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, head)]
    return np.ascontiguousarray(rows.reshape(-1, head, *rows.shape[1:])[:, order]).tobytes()


def mean(
    streams: Sequence[Iterator[Raw]],
    dtype: str,
    weights: Sequence[float],
    element: Element | None = None,
) -> Iterator[Any]:
    """The weighted mean over the streams. Equal weights count as one each: then the sum is exact for longer."""
    import torch  # here, so that distances can be measured without it; it adds unlike types in one pass

    kind, equal = getattr(torch, TORCH_NAMES[dtype]), len(set(weights)) == 1
    for chunks in zip(*streams, strict=True):
        sources = [torch.frombuffer(chunk, dtype=kind) for chunk in chunks]
        for start in range(0, len(sources[0]), BLOCK):
            first, *rest = (source[start : start + BLOCK] for source in sources)
            total = first.double() if equal else first.double() * weights[0]
            for block, weight in zip(rest, weights[1:], strict=True):
                total += block if equal else block.double() * weight
            total /= len(weights) if equal else sum(weights)
            yield pack(element(total.numpy()) if element else total.numpy(), dtype)


def task(
    base: Iterator[Raw],
    streams: Sequence[Iterator[Raw]],
    dtype: str,
    weights: Sequence[float],
    scale: float,
    keeps: Sequence[Keep | None],
    elect: bool,
    element: Element | None = None,
) -> Iterator[Any]:
    """base + scale * the weighted mean of the task vectors (stream minus base), each thinned by its `keep`.

    elect: per value, the sign with the greater sum wins, and only vectors of that sign are averaged (TIES).
    """
    for seed, *chunks in zip(base, *streams, strict=True):
        start = unpack(seed, dtype).astype(np.float64)
        sums, shares = (
            np.zeros((2, len(start))),
            np.zeros((2, len(start))),
        )  # by sign: positive, negative
        for chunk, weight, keep in zip(chunks, weights, keeps, strict=True):
            delta = unpack(chunk, dtype) - start
            delta = keep(delta) if keep else delta
            for sign, here in enumerate((delta > 0, delta < 0)):
                sums[sign] += np.where(here, delta, 0.0) * weight
                shares[sign] += here * weight
        if elect:
            wins = (sums[0] < -sums[1]).astype(np.int64)[None]
            moved = np.take_along_axis(sums, wins, 0)[0] / np.maximum(
                np.take_along_axis(shares, wins, 0)[0], 1e-300
            )
        else:
            moved = (sums[0] + sums[1]) / sum(weights)
        total = start + scale * moved
        yield pack(element(total) if element else total, dtype)


def threshold(pairs: Callable[[], Iterable[tuple[Raw, Raw]]], dtype: str, density: float) -> float:
    """The size that this share of a task vector reaches. Two passes over (base, stream) chunks, memory flat.

    Counts by the bits of float32: for numbers that are not negative they are in the order of the numbers.
    """

    def sizes() -> Iterator[np.ndarray]:
        for base, chunk in pairs():
            yield (
                np.abs(unpack(chunk, dtype) - unpack(base, dtype).astype(np.float64))
                .astype(np.float32)
                .view(np.uint32)
            )

    coarse = sum(
        (np.bincount(bits >> 16, minlength=1 << 16) for bits in sizes()),
        np.zeros(1 << 16, np.int64),
    )
    wanted = int(np.ceil(density * coarse.sum()))
    above = np.cumsum(coarse[::-1])[::-1]  # how many are in this bin or a higher one
    high = int(np.flatnonzero(above >= wanted)[-1])
    fine = sum(
        (np.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16) for bits in sizes()),
        np.zeros(1 << 16, np.int64),
    )
    rest = wanted - (int(above[high + 1]) if high + 1 < len(above) else 0)
    low = int(np.flatnonzero(np.cumsum(fine[::-1])[::-1] >= rest)[-1])
    return float(np.array([(high << 16) | low], np.uint32).view(np.float32)[0])


def keep_large(least: float) -> Keep:
    return lambda delta: np.where(np.abs(delta).astype(np.float32) >= np.float32(least), delta, 0.0)


def keep_by_chance(key: bytes, density: float) -> Keep:
    """Each value with this probability, and in proportion larger. Depends on the key and the value's place alone, however it is cut up."""
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    return lambda delta: np.where(generator.random(len(delta)) < density, delta / density, 0.0)
