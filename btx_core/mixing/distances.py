"""How far one checkpoint's weights are from another's.

In:  two open checkpoints with the same tensors.
Out: sums over tensors, in float64. Weights are streamed, so that memory stays flat. What a distance
     means is left to `preflight.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.headers import ITEM_BYTES, TensorInfo
from btx_core.mixing import combine
from btx_core.mixing.parameters import FEED_FORWARD, parameter_group

# Elements.
CHUNK = 1 << 20
MAX_THREADS = 8


@dataclass(frozen=True)
class Distance:
    """Sums over one or more tensors of a seed and a candidate.

    Attributes:
        seed: of the squares of the seed's values.
        candidate: of the squares of the candidate's.
        difference: of the squares of their difference.
        product: of their product.
        finite: whether no value is NaN or infinity.
        identical: whether all bytes are equal.
    """

    seed: float = 0.0
    candidate: float = 0.0
    difference: float = 0.0
    product: float = 0.0
    finite: bool = True
    identical: bool = True

    def __add__(self, other: Distance) -> Distance:
        """Return the sums over the tensors of both."""
        return Distance(
            seed=self.seed + other.seed,
            candidate=self.candidate + other.candidate,
            difference=self.difference + other.difference,
            product=self.product + other.product,
            finite=self.finite and other.finite,
            identical=self.identical and other.identical,
        )

    @property
    def relative(self) -> float:
        """Norm of the difference, as a share of the seed's norm."""
        if not self.seed:
            return float(self.difference > 0)
        return float(np.sqrt(self.difference / self.seed))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 0 where one of them is zero."""
        if not self.seed or not self.candidate:
            return 0.0
        return float(self.product / np.sqrt(self.seed * self.candidate))


NOT_FINITE = Distance(finite=False, identical=False)


def distances(seed: Checkpoint, candidate: Checkpoint) -> dict[str, Distance]:
    """Measure every parameter, in parallel.

    Args:
        seed: the seed, canonical.
        candidate: a canonical checkpoint with the same parameters, in shape and dtype.

    Returns:
        Distances by tensor name.
    """
    ours, theirs = seed.tensors, candidate.tensors

    def measure(name: str) -> Distance:
        return distance(ours[name], theirs[name])

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return dict(zip(ours, pool.map(measure, ours), strict=True))


def distance(ours: TensorInfo, theirs: TensorInfo) -> Distance:
    """Measure one tensor of the seed against the candidate's of equal shape and dtype."""
    total = Distance()
    for left, right in zip(chunks(ours), chunks(theirs), strict=True):
        if not combine.finite(right, theirs.dtype) or not combine.finite(left, ours.dtype):
            return NOT_FINITE
        total += _chunk_distance(left, right, ours.dtype)
    return total


def _chunk_distance(left: bytes, right: bytes, dtype: str) -> Distance:
    a = combine.unpack(left, dtype).astype(np.float64)
    if left == right:
        square = float(a @ a)
        return Distance(seed=square, candidate=square, product=square)
    b = combine.unpack(right, dtype).astype(np.float64)
    return Distance(
        seed=float(a @ a),
        candidate=float(b @ b),
        difference=float((a - b) @ (a - b)),
        product=float(a @ b),
        identical=False,
    )


def chunks(tensor: TensorInfo) -> Iterator[bytes]:
    """Yield a tensor's bytes, `CHUNK` elements at a time."""
    step = CHUNK * ITEM_BYTES[tensor.dtype]
    with open(tensor.file, "rb", buffering=0) as file:
        for start in range(tensor.start, tensor.end, step):
            yield os.pread(file.fileno(), min(step, tensor.end - start), start)


def all_finite(checkpoint: Checkpoint) -> bool:
    """Say whether no tensor of a checkpoint holds NaN or infinity."""
    return all(
        combine.finite(chunk, tensor.dtype)
        for tensor in checkpoint.tensors.values()
        for chunk in chunks(tensor)
    )


def task_cosine(seed: Checkpoint, left: Checkpoint, right: Checkpoint) -> float:
    """Return the cosine between two experts' task vectors, over the feed-forward blocks.

    A task vector is an expert's weights minus its seed's.
    """
    # Their product, and the squares of either.
    sums = np.zeros(3)
    for name, info in seed.tensors.items():
        if parameter_group(name) != FEED_FORWARD or name not in right.tensors:
            continue
        tensors = (info, left.tensors[name], right.tensors[name])
        for raw in zip(*map(chunks, tensors), strict=True):
            base, a, b = (combine.unpack(chunk, info.dtype).astype(np.float64) for chunk in raw)
            a, b = a - base, b - base
            sums += (a @ b, a @ a, b @ b)
    product, left_square, right_square = sums
    if not left_square or not right_square:
        return 0.0
    return float(product / np.sqrt(left_square * right_square))
