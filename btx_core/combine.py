"""Arithmetic on chunks of raw weights: unpack, combine in float64, pack again.

In:  streams of equal byte chunks, one per source.  Out: one stream of bytes. Which streams, and where they go, is mix.py's work.
NumPy only: it runs on one core and lets go of the interpreter, so that mix.py's threads keep all cores busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

NATIVE = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
# Bits of the exponent, all set in NaN and infinity; sign bit cleared by the same mask.
EXPONENT = {"F64": (np.uint64, 0x7FF0000000000000), "F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


def finite(raw: bytes, dtype: str) -> bool:
    if dtype not in EXPONENT:
        return True
    kind, mask = EXPONENT[dtype]
    bits = np.frombuffer(raw, kind)
    return not bool(((bits & kind(mask)) == kind(mask)).any())


def unpack(raw: bytes, dtype: str) -> np.ndarray:
    """Raw bytes as float32, or float64 where they are."""
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.frombuffer(raw, NATIVE[dtype])


def pack(values: np.ndarray, dtype: str) -> Any:
    """Round to the nearest, ties to even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16).data.cast("B")
    return np.ascontiguousarray(values, NATIVE[dtype]).data.cast("B")


def one_plus(values: np.ndarray) -> np.ndarray:
    return values + 1.0


def times_root(width: int, values: np.ndarray) -> np.ndarray:
    return values * np.sqrt(np.float64(width))


ELEMENTS: dict[str, Callable[..., np.ndarray]] = {"one_plus": one_plus, "times_root": times_root}


def rearranged(rows: np.ndarray, kind: str, head: int = 0, rotated: int = 0) -> Any:
    """Whole rows, moved. transpose; or halves: in each head, of its first `rotated` rows the even ones first, then the odd."""
    if kind == "transpose":
        return np.ascontiguousarray(rows.T).tobytes()
    order = [*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, head)]
    heads = rows.reshape(-1, head, *rows.shape[1:])
    return np.ascontiguousarray(heads[:, order]).tobytes()


def mean(streams: Sequence[Iterator[bytes]], dtype: str, element: Callable[[np.ndarray], np.ndarray] | None = None) -> Iterator[Any]:
    """The mean over the streams, then `element`, in float64."""
    for chunks in zip(*streams, strict=True):
        total = unpack(chunks[0], dtype).astype(np.float64)
        for chunk in chunks[1:]:
            total += unpack(chunk, dtype)
        total /= len(chunks)
        yield pack(element(total) if element else total, dtype)
