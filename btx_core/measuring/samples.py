"""Which held-out tokens of a data version are measured.

In:  held-out documents as tokens, how many tokens are to be read.
Out: windows. Each predicts a stretch of one document; the tokens before the stretch are read with
it, so that every token but a document's first has something to go by.
All held-out text is measured where it is short. Of longer text one stretch is drawn from each of
many equal parts of it, so that every document has its chance and no long one speaks for all. The
windows are put into blocks, parts of the text of about equal size: how much the blocks differ tells
how far a figure can be trusted. Where there are fewer windows than a sample should have blocks,
each is cut into several: the same tokens are predicted, with the same ones before them. What a
model makes of the windows is left to `btx_core.measuring.evaluation`.
Shapes: D documents, P stretches, S tokens a window.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from btx_core.tokens import HeldOutDocuments, Ids, Tokens

# Of the rule by which stretches are drawn; another one measures other text.
FORM = 1
# How many blocks a sample has at most, and at least where its text allows: of one or two nothing
# can be told of how much they differ.
BLOCKS, LEAST_BLOCKS = 32, 4
# The target at a position that is only padding.
IGNORED = -100


@dataclass(frozen=True)
class Limits:
    """How much is read of each domain, and in what portions.

    Attributes:
        max_tokens: of held-out text, per domain; about so many where there are more.
        sequence: tokens of one window.
        batch_tokens: tokens in one forward pass.
        number: of the sample. Another number draws other stretches of the same text.
    """

    max_tokens: int
    sequence: int = 256
    batch_tokens: int = 4096
    number: int = 0


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of one document, with the tokens before it.

    Attributes:
        ids: up to S + 1 token ids, the first of them only read.
        predicted: how many of the last ones are predicted.
        answer_tokens: how many of the last ones are an answer that can be checked; 0: none.
        text_bytes: the bytes of text that the predicted ones spell.
        block: of the sample.
        counts: of the predicted ones, which are measured, such as what an assistant says; None: all
            of them.
    """

    ids: Ids
    predicted: int
    answer_tokens: int
    text_bytes: int
    block: int
    counts: NDArray[np.bool_] | None = None

    @property
    def measured(self) -> int:
        """How many tokens are measured."""
        return self.predicted if self.counts is None else int(self.counts.sum())

    @property
    def length(self) -> int:
        """How many tokens the model reads."""
        return len(self.ids) - 1


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out text as windows.

    Attributes:
        windows: in the order of the text.
        digest: of all that fixes which text they are: data, tokenizer and rule. Figures of one
            digest are figures of the same text.
        documents: how many documents they are from.
        tokens_in_all: of the held-out text that they were drawn from.
    """

    windows: tuple[Window, ...]
    digest: str
    documents: int
    tokens_in_all: int

    @cached_property
    def block_bytes(self) -> tuple[int, ...]:
        """The bytes of text in each block."""
        sizes = np.zeros(1 + max(window.block for window in self.windows), dtype=np.int64)
        for window in self.windows:
            sizes[window.block] += window.text_bytes
        return tuple(sizes.tolist())

    @property
    def text_bytes(self) -> int:
        """The bytes of text that the predicted tokens spell."""
        return sum(self.block_bytes)


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Windows of like length in one tensor.

    Attributes:
        inputs: token ids (B, S).
        targets: token ids (B, S), IGNORED where a window is padded.
        predicted: (B, S), true where a target is measured: it is neither padding nor only read.
        windows: the B windows.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    predicted: torch.Tensor
    windows: tuple[Window, ...]


def sample(tokens: Tokens, limits: Limits) -> HeldOut:
    """Draw the held-out text that is measured.

    Args:
        tokens: a data version.
        limits: how much is read.

    Returns:
        The windows, the same for the same data version, tokenizer and limits.
    """
    heldout, length = tokens.heldout, limits.sequence
    stretches = _Stretches.of(heldout, length)
    total = len(heldout.ids)
    measured = stretches.measured()
    count = len(measured)
    drawn = measured
    named = f"{FORM} {tokens.digest} {tokens.tokenizer} {length}"
    if total > limits.max_tokens:
        named += f" {limits.max_tokens} {limits.number}"
        drawn = measured[_drawn(count, max(1, count * limits.max_tokens // total), named)]
    digest = hashlib.sha256(named.encode()).hexdigest()
    parts = -(-LEAST_BLOCKS // max(1, len(drawn)))
    windows = [part for one in drawn for part in stretches.windows(int(one), tokens.end, parts)]
    documents = len(set(stretches.document[drawn].tolist()))
    return HeldOut(_in_blocks(windows), digest, documents, total)


def batches(heldout: HeldOut, batch_tokens: int) -> Iterator[PaddedBatch]:
    """Put windows of like length together, the longest first.

    Args:
        heldout: the windows.
        batch_tokens: tokens of a batch, padding included; one window at least.

    Yields:
        Every window once.
    """
    # Of two of one length the earlier comes first: the order fixes the last bits of the sums.
    windows = sorted(heldout.windows, key=lambda window: window.length, reverse=True)
    while windows:
        longest = windows[0].length
        count = max(1, batch_tokens // longest)
        now, windows = windows[:count], windows[count:]
        inputs = torch.zeros(len(now), longest, dtype=torch.long)
        targets = torch.full((len(now), longest), IGNORED)
        predicted = torch.zeros(len(now), longest, dtype=torch.bool)
        for number, window in enumerate(now):
            ids = torch.from_numpy(window.ids)
            inputs[number, : window.length] = ids[:-1]
            targets[number, : window.length] = ids[1:]
            counts = True if window.counts is None else torch.from_numpy(window.counts)
            predicted[number, window.length - window.predicted : window.length] = counts
        yield PaddedBatch(inputs, targets, predicted, tuple(now))


class _Extent(NamedTuple):
    """Where a stretch lies: its document, that one's first token, the stretch's own extent."""

    document: int
    begin: int
    start: int
    last: int
    whole: bool


@dataclass(frozen=True, eq=False)
class _Stretches:
    """All held-out text, cut into stretches.

    A document's first stretch fills a window; those after it fill half a window each, the other
    half is read with them.

    Attributes:
        heldout: the text.
        length: S.
        document: (P,) the number of the document of each stretch.
        first: (D,) the number of each document's first stretch.
    """

    heldout: HeldOutDocuments
    length: int
    document: Ids
    first: Ids

    @classmethod
    def of(cls, heldout: HeldOutDocuments, length: int) -> "_Stretches":
        sizes = np.diff(heldout.ends, prepend=0)
        later = np.maximum(0, sizes - length)
        counts = 1 + -(-later // cls._step(length))
        first = np.cumsum(counts) - counts
        return cls(heldout, length, np.repeat(np.arange(len(sizes)), counts), first)

    def __len__(self) -> int:
        return len(self.document)

    @staticmethod
    def _step(length: int) -> int:
        return max(1, length // 2)

    def measured(self) -> Ids:
        """Return the numbers of the stretches that hold anything to measure."""
        numbers = np.arange(len(self))
        if not self.heldout.is_partly_learnt:
            return numbers
        extents = (self._extent(int(number)) for number in numbers)
        holds = [self.heldout.learnt(one.start, one.last).any() for one in extents]
        return np.flatnonzero(holds)

    def _extent(self, number: int) -> "_Extent":
        document = int(self.document[number])
        ends = self.heldout.ends
        begin, stop = int(ends[document - 1]) if document else 0, int(ends[document])
        inside, step = number - int(self.first[document]), self._step(self.length)
        start = begin + (self.length + (inside - 1) * step if inside else 0)
        last = min(stop, start + (step if inside else self.length))
        return _Extent(document, begin, start, last, whole=not inside and last == stop)

    def windows(self, number: int, end: int, parts: int) -> Iterator[Window]:
        """Yield the windows of one stretch, cut into so many; the end token leads each document."""
        document, begin, start, last, whole = self._extent(number)
        heldout, partly = self.heldout, self.heldout.is_partly_learnt
        read = max(begin, last - self.length)
        before = end if read == begin else int(heldout.ids[read - 1])
        for first, stop in pairwise(self._edges(start, last, parts)):
            # An answer is checked where its whole document is in one window.
            answered = whole and stop == last
            yield Window(
                ids=np.concatenate([[before], heldout.ids[read:stop]]).astype(np.int64),
                predicted=stop - first,
                answer_tokens=int(heldout.answer_tokens[document]) if answered else 0,
                text_bytes=int(heldout.text_bytes[first:stop].sum()),
                block=0,
                counts=heldout.learnt(first, stop) if partly else None,
            )

    def _edges(self, start: int, last: int, parts: int) -> list[int]:
        """Return where a stretch is cut into parts of about equal size, each with some text."""
        spelt = np.cumsum(self.heldout.text_bytes[start:last], dtype=np.int64)
        wanted = spelt[-1] * np.arange(1, parts) / parts
        cuts = np.unique(np.searchsorted(spelt, wanted) + 1)
        return [start, *(start + cuts[spelt[cuts - 1] < spelt[-1]]).tolist(), last]


def _drawn(count: int, drawn: int, named: str) -> Ids:
    """Draw one number from each of so many equal parts of 0 ... count - 1."""
    seed = int.from_bytes(hashlib.sha256(named.encode()).digest()[:8], "big")
    edges = np.arange(drawn + 1) * count // drawn
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def _in_blocks(windows: list[Window]) -> tuple[Window, ...]:
    """Put windows into blocks of about equal size, each a part of the text without a gap."""
    sizes = np.array([window.text_bytes for window in windows])
    middles = np.cumsum(sizes) - sizes / 2
    blocks = (middles * min(BLOCKS, len(windows)) / max(1, sizes.sum())).astype(np.int64)
    numbers = np.unique(blocks, return_inverse=True)[1]
    return tuple(
        replace(window, block=int(number)) for window, number in zip(windows, numbers, strict=True)
    )
