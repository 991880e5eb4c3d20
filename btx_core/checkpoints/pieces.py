"""The sizes of a dense model, and the pieces of its tensors that a mixture is made from.

In:  names of sizes, not numbers: the table of families is written before any model is seen.
Out: `Piece`: which rows of which dense tensor, and what happens to their values.
The sizes of one model come from its headers (`mixing.plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from btx_core.checkpoints.operations import Halves, Identity, OnePlus, Operation, TimesRoot


@dataclass(frozen=True)
class Sizes:
    """The sizes of one dense model, in elements.

    Attributes:
        width: D, of the residual stream.
        inner: F, of the feed-forward block.
        expert_inner: of one expert's block; F unless each is split into narrower ones.
        heads: attention heads.
        head: width of one head.
        rotated: the part of each head that the rotary embedding turns.
        joined_rows: rows of the joined query, key and value matrix; 0 where they are separate.
    """

    width: int
    inner: int
    expert_inner: int
    heads: int
    head: int
    rotated: int
    joined_rows: int = 0

    def split(self, chunks: int) -> Sizes:
        """Return the sizes when each expert is split into this many narrower ones."""
        return replace(self, expert_inner=self.inner // chunks)

    @property
    def queries(self) -> int:
        """Rows of the queries in the joined matrix."""
        return self.heads * self.head

    @property
    def queries_and_keys(self) -> int:
        """Rows of the queries and the keys; as many values as keys follow them."""
        return (self.queries + self.joined_rows) // 2


Rows = tuple[int, int]
RowsOf = Callable[[Sizes], Rows]
OperationOf = Callable[[Sizes], Operation]


def query_rows(sizes: Sizes) -> Rows:
    """The queries of a joined attention matrix."""
    return 0, sizes.queries


def key_rows(sizes: Sizes) -> Rows:
    """The keys of a joined attention matrix."""
    return sizes.queries, sizes.queries_and_keys


def value_rows(sizes: Sizes) -> Rows:
    """The values of a joined attention matrix."""
    return sizes.queries_and_keys, sizes.joined_rows


def gate_rows(sizes: Sizes) -> Rows:
    """The gate of a joined gate and up matrix."""
    return 0, sizes.inner


def up_rows(sizes: Sizes) -> Rows:
    """The up matrix of a joined gate and up matrix."""
    return sizes.inner, 2 * sizes.inner


def unchanged(sizes: Sizes) -> Operation:
    """Leave the bytes as they are."""
    return Identity()


def one_plus(sizes: Sizes) -> Operation:
    """Add one to each weight."""
    return OnePlus()


def times_root_of_width(sizes: Sizes) -> Operation:
    """Multiply each weight by the root of the model's width."""
    return TimesRoot(sizes.width)


def rotated_halves(sizes: Sizes) -> Operation:
    """Put each head's rows in the order that rotates halves."""
    return Halves(sizes.head, sizes.rotated)


@dataclass(frozen=True)
class Piece:
    """Some rows of one dense tensor, and what happens to them.

    Attributes:
        name: the dense tensor; {l} stands for the layer.
        rows: which rows; None: all.
        operation: what happens to their values.
    """

    name: str
    rows: RowsOf | None = None
    operation: OperationOf = unchanged


@dataclass(frozen=True)
class Translation:
    """A tensor of the mixture that is not the dense tensor of the same name.

    Attributes:
        name: its name in the mixture; {l} stands for the layer.
        piece: what it is made from.
    """

    name: str
    piece: Piece


@dataclass(frozen=True)
class Constant:
    """A tensor that the mixture wants and the dense model lacks.

    Attributes:
        name: its name; {l} stands for the layer.
        shape: its shape, from the model's sizes.
        value: of every element.
    """

    name: str
    shape: Callable[[Sizes], tuple[int, ...]]
    value: float = 0.0
