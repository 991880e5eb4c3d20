"""The bytes of the mixture's tensors, chunk by chunk, with the digests of what they are made of.

In:  an `Output` of the plan, the recipe, the routers' weights.
Out: chunks of bytes in the output's order, and afterwards the SHA-256 of what was taken from each
     source. Memory stays flat in the number and size of the experts. The arithmetic is left to
     `combine.py`, the files to `shards.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from btx_core.checkpoints.headers import ITEM_BYTES
from btx_core.checkpoints.operations import ElementWise, Halves
from btx_core.mixing import combine
from btx_core.mixing.combine import Raw, TaskVector, Thin
from btx_core.mixing.parameters import parameter_group
from btx_core.mixing.plan import Output, Part, Source
from btx_core.mixing.recipe import ANY_GROUP, MixRecipe
from btx_core.problems import NotFinite, Unsafe

# Elements: what is made of one chunk stays in cache.
CHUNK = 1 << 18
# Layer -> the router's weights [E, D], in float64.
RouterWeights = Mapping[int, np.ndarray]


class OutputStream:
    """The bytes of one tensor of the mixture."""

    def __init__(self, output: Output, recipe: MixRecipe, router: RouterWeights) -> None:
        """Prepare to read.

        Args:
            output: the tensor.
            recipe: how its sources are combined.
            router: the routers' weights, for an output that is one of them.
        """
        self.output = output
        self._router = router
        self._parts = [PartStream(part, output.dtype, recipe) for part in output.parts]

    def chunks(self) -> Iterator[Raw]:
        """Yield the tensor's bytes in order.

        Raises:
            NotFinite: naming the source that holds NaN or infinity.
            Unsafe: for a file that became shorter since it was opened.
        """
        output = self.output
        if output.rule == "router":
            yield combine.pack(self._router[output.layer].ravel(), output.dtype)
        elif output.rule == "constant":
            yield combine.pack(np.full(output.shape, output.value).ravel(), output.dtype)
        elif output.axis == 1:
            yield np.concatenate([part.items() for part in self._parts], axis=1).tobytes()
        else:
            for part in self._parts:
                yield from part.chunks()

    def source_digests(self) -> list[str]:
        """Return the SHA-256 of what was taken from each source, once all chunks are read."""
        return [source.sha256 for part in self._parts for source in part.sources]


class PartStream:
    """The bytes of one part: taken as they are or combined, then changed or reordered."""

    def __init__(self, part: Part, dtype: str, recipe: MixRecipe) -> None:
        """Prepare to read.

        Args:
            part: what is read.
            dtype: of its sources and of the result.
            recipe: how several sources are combined.
        """
        self.part = part
        self.dtype = dtype
        self.recipe = recipe
        single = len(part.sources) == 1
        self._copied = single and not isinstance(part.operation, ElementWise)
        self._averaged = not self._copied and (single or recipe.method == "mean")
        # NaN and infinity survive every sum, so one look at a mean serves for all its sources.
        checked = not self._averaged
        self.sources = [HashedStream(source, part, checked=checked) for source in part.sources]

    def chunks(self) -> Iterator[Raw]:
        """Yield the part's bytes in order."""
        operation = self.part.operation
        if isinstance(operation, Halves):
            yield operation.apply(_items(self._combined(), self.dtype, self.part)).tobytes()
        else:
            yield from self._combined()

    def items(self) -> np.ndarray:
        """Return the whole part as an array of its shape, of items without a numeric type."""
        return _items(self.chunks(), self.dtype, self.part)

    def _combined(self) -> Iterator[Raw]:
        if self._copied:
            return self.sources[0].chunks()
        operation = self.part.operation
        change = operation.apply if isinstance(operation, ElementWise) else None
        weights = _weights(self.part, self.recipe)
        streams = [source.chunks() for source in self.sources]
        if self._averaged:
            return self._require_finite(combine.mean(streams, self.dtype, weights, change))
        # The seed comes first, then the members.
        vectors = [
            TaskVector(stream, weight, self._thin(source))
            for source, stream, weight in zip(
                self.part.sources[1:], streams[1:], weights[1:], strict=True
            )
        ]
        return combine.add_task_vectors(
            streams[0],
            vectors,
            self.dtype,
            scale=self.recipe.scale,
            elect=self.recipe.method == "ties",
            change=change,
        )

    def _thin(self, source: Source) -> Thin | None:
        """What drops a part of this member's task vector."""
        density = self.recipe.density
        if self.recipe.method == "ties":
            pairs = partial(_pairs, self.part.sources[0], source, self.part)
            return combine.keep_large(combine.threshold(pairs, self.dtype, density))
        if self.recipe.method == "dare":
            tensor = source.tensor.name
            key = f"{self.recipe.random_seed}/{source.member}/{tensor}/{self.part.rows}"
            return combine.keep_by_chance(hashlib.sha256(key.encode()).digest(), density)
        return None

    def _require_finite(self, chunks: Iterable[Raw]) -> Iterator[Raw]:
        for chunk in chunks:
            if not combine.finite(chunk, self.dtype):
                self._blame_a_source()
            yield chunk

    def _blame_a_source(self) -> None:
        """Read the sources again to name the one that is not finite."""
        for source in self.part.sources:
            for _ in source_chunks(source, self.part):
                pass
        raise NotFinite(
            f"{self.part.sources[0].tensor.name}, mixed",
            found=f"values beyond {self.dtype}",
            expected="finite weights",
            next="compare the members' weights",
        )


class HashedStream:
    """What a part takes of one source, hashed on the way unless its digest is on record."""

    def __init__(self, source: Source, part: Part, *, checked: bool) -> None:
        """Prepare to read.

        Args:
            source: the tensor.
            part: which rows and columns of it.
            checked: whether NaN and infinity are refused on the way.
        """
        self._source = source
        self._part = part
        self._checked = checked
        # The digest on record is that of a whole tensor.
        whole = part.rows is None and part.columns is None
        self._recorded = source.sha256 if whole else ""
        self._hash = None if self._recorded else hashlib.sha256()

    def chunks(self) -> Iterator[Raw]:
        """Yield the source's bytes in order."""
        for chunk in source_chunks(self._source, self._part, checked=self._checked):
            if self._hash:
                self._hash.update(chunk)
            yield chunk

    @property
    def sha256(self) -> str:
        """The digest of what was taken, once all chunks are read."""
        return self._hash.hexdigest() if self._hash else self._recorded


def source_chunks(source: Source, part: Part, *, checked: bool = True) -> Iterator[Raw]:
    """Yield the bytes of a source's rows and columns.

    Args:
        source: the tensor.
        part: which rows and columns of it.
        checked: whether NaN and infinity are refused on the way.

    Yields:
        Bytes, about `CHUNK` elements at a time, each of whole rows if there are columns.

    Raises:
        NotFinite: naming the source.
        Unsafe: for a file that became shorter since it was opened.
    """
    tensor = source.tensor
    start, end = tensor.start, tensor.end
    if part.rows:
        start, end = (tensor.start + row * tensor.row_bytes for row in part.rows)
    step = CHUNK * ITEM_BYTES[tensor.dtype]
    if part.columns:
        step = max(1, step // tensor.row_bytes) * tensor.row_bytes
    with open(tensor.file, "rb", buffering=0) as file:
        while start < end:
            chunk = np.empty(min(step, end - start), np.uint8)
            if os.preadv(file.fileno(), [chunk.data], start) < len(chunk):
                raise Unsafe(
                    tensor.file,
                    found="a file that ends early",
                    expected="the file as it was opened",
                    next="mix again",
                )
            start += len(chunk)
            if part.columns:
                chunk = _columns(chunk, source, part.columns)
            if checked and not combine.finite(chunk.data, tensor.dtype):
                raise NotFinite(
                    f"{source.member}, {tensor.name}",
                    found="NaN or infinity",
                    expected="finite weights",
                    next="look at the training that made it",
                )
            yield chunk.data


def _columns(chunk: np.ndarray, source: Source, columns: tuple[int, int]) -> np.ndarray:
    """These columns of whole rows, as bytes."""
    tensor = source.tensor
    rows = chunk.reshape(-1, tensor.shape[1], ITEM_BYTES[tensor.dtype])
    first, last = columns
    return np.ascontiguousarray(rows[:, first:last]).reshape(-1)


def _items(chunks: Iterable[Raw], dtype: str, part: Part) -> np.ndarray:
    """All chunks as one array of the part's shape; its items are moved, never computed with."""
    return np.frombuffer(b"".join(chunks), f"V{ITEM_BYTES[dtype]}").reshape(part.shape)


def _pairs(seed: Source, member: Source, part: Part) -> Iterator[tuple[Raw, Raw]]:
    return zip(source_chunks(seed, part), source_chunks(member, part), strict=True)


def _weights(part: Part, recipe: MixRecipe) -> Sequence[float]:
    """Each source's weight in the recipe, by the tensor's group."""
    group = parameter_group(part.sources[0].tensor.name)
    given = {**recipe.weights.get(ANY_GROUP, {}), **recipe.weights.get(group, {})}
    return [float(given.get(source.member, 1.0)) for source in part.sources]
