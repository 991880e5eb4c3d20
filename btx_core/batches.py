"""Batches of training text: which sequences a step reads, and of which domain.

In:  token files by domain, shares, a random seed.
Out: a batch for every step, a pure function of data, random seed and step: it costs the same at any
step and is the same in every process. What is trained on it is left to `btx_core.training`.
Where only a part of the text is learnt, it says which tokens are, and where documents begin: in a
conversation the end token may also end a turn.
Shapes: B sequences a batch, S tokens a sequence; one token more than S, so that every one has a
target.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from btx_core.texts import AnyText
from btx_core.tokens import Ids, StoredIds, TokenisedDocuments, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD = 1 << 64
# The golden ratio's fractional part, and a half, as fractions of a word.
GOLDEN_RATIO = 0x9E3779B97F4A7C15
HALF = WORD >> 1
ROUNDS = 4


class Marks(NamedTuple):
    """What a sequence's tokens are, where not all of them are learnt.

    Attributes:
        begins: (S + 1,) whether a document begins with a token: it is the end of the one before.
        learnt: (S + 1,) whether a token is trained on.
    """

    begins: NDArray[np.bool_]
    learnt: NDArray[np.bool_]


class Sequences(NamedTuple):
    """The sequences of one step.

    Attributes:
        ids: token ids (B, S + 1).
        domains: of each of the B sequences.
        begins: (B, S + 1) whether a document begins with a token; None: with each end token.
        weights: (B, S) how much the target at each position counts: 0 where it is not learnt, and 1
            on the average of a domain, so that every domain keeps its share; None: 1 everywhere.
    """

    ids: Ids
    domains: list[str]
    begins: NDArray[np.bool_] | None = None
    weights: NDArray[np.float32] | None = None

    def of(self, numbers: Ids) -> "Sequences":
        """Return the sequences of these numbers."""
        return Sequences(
            self.ids[numbers],
            [self.domains[number] for number in numbers],
            None if self.begins is None else self.begins[numbers],
            None if self.weights is None else self.weights[numbers],
        )


@dataclass(frozen=True, eq=False)
class Corpus:
    """The training documents of one domain as tokens.

    A sequence is a pure function of data, random seed and its number. Documents follow one another
    in a ring that is cut into sequences; in every epoch it is cut elsewhere, and its sequences are
    read in another order, so that any stretch of them comes from all over the corpus. An epoch
    holds each token once at most, and all but those that fill no sequence.

    Attributes:
        parts: token ids of one or more data versions.
        end: the id of the end token, which ends every document.
        digest: of the data.
        random_seed: of the order of sequences.
        heldout: the documents that are only measured on, of each data version.
        documents: the parts with their documents; empty: every token is learnt.
    """

    parts: tuple[StoredIds, ...]
    end: int
    digest: str
    random_seed: int = 0
    heldout: tuple[TokenisedDocuments, ...] = ()
    documents: tuple[TokenisedDocuments, ...] = ()

    @classmethod
    def of(
        cls, folders: Sequence[AnyText], tokenizer: "PreTrainedTokenizerBase", random_seed: int = 0
    ) -> "Corpus":
        """Map the training documents of data folders.

        Args:
            folders: of one or more data versions.
            tokenizer: of the model that is trained.
            random_seed: of the order of sequences.

        Returns:
            The documents as tokens.

        Raises:
            Unreadable: as `Tokens.of`.
        """
        versions = [Tokens.of(folder, tokenizer) for folder in folders]
        return cls(
            tuple(version.train.ids for version in versions),
            versions[0].end,
            "+".join(version.digest for version in versions),
            random_seed,
            tuple(version.heldout for version in versions),
            tuple(version.train for version in versions),
        )

    @cached_property
    def tokens(self) -> int:
        """How many tokens the corpus has."""
        return sum(len(part) for part in self.parts)

    def sequence(self, number: int, length: int) -> Ids:
        """Return one sequence of the corpus.

        Args:
            number: of the sequence, from 0 and without end.
            length: S.

        Returns:
            S + 1 token ids.
        """
        start = self._start(number, length)
        ids: Ids = self._ring(start, length + 1, self._ids)
        return ids

    def _ids(self, part: int, start: int, stop: int) -> Ids:
        return self.parts[part][start:stop].astype(np.int64)

    @cached_property
    def is_partly_learnt(self) -> bool:
        """Whether some tokens are not trained on."""
        return any(documents.is_partly_learnt for documents in self.documents)

    def marks(self, number: int, length: int) -> Marks:
        """Return what the tokens of a sequence are.

        Args:
            number: of the sequence.
            length: S.
        """
        start = self._start(number, length)
        begins = self._ring(start, length + 1, self._begins)
        return Marks(begins, self._ring(start, length + 1, self._learnt))

    def _begins(self, part: int, start: int, stop: int) -> NDArray[np.bool_]:
        if self.documents and self.documents[part].is_partly_learnt:
            return self.documents[part].ends_document(start, stop)
        return np.asarray(self.parts[part][start:stop] == self.end)

    def _learnt(self, part: int, start: int, stop: int) -> NDArray[np.bool_]:
        if self.documents and self.documents[part].is_partly_learnt:
            return self.documents[part].learnt(start, stop)
        return np.ones(stop - start, dtype=bool)

    def _start(self, number: int, length: int) -> int:
        """Return where in the ring a sequence starts."""
        count = max(1, self.tokens // length)
        epoch, position = divmod(number, count)
        first, key = _epoch_keys(f"{self.digest}/{self.random_seed}/epoch/{epoch}")
        return first + permuted(position, count, key) * length

    # Any: token ids or marks.
    def _ring(self, start: int, length: int, read: Callable[[int, int, int], Any]) -> Any:
        """Return a stretch of the ring, over the ends of its parts.

        Args:
            start: of the stretch.
            length: of it.
            read: returns a stretch of a part, given its number, start and stop.
        """
        starts = [0, *accumulate(len(part) for part in self.parts)]
        pieces, position = [], start % self.tokens
        while length:
            index = bisect_right(starts, position) - 1
            inside = position - starts[index]
            piece = read(index, inside, min(inside + length, len(self.parts[index])))
            pieces.append(piece)
            length -= len(piece)
            position = (position + len(piece)) % self.tokens
        return np.concatenate(pieces)


@dataclass(frozen=True)
class Mixture:
    """Sequences of several corpora in fixed proportion, spread evenly over the steps.

    Attributes:
        corpora: by domain.
        shares: of the sequences, by domain; they need not sum to 1.
    """

    corpora: Mapping[str, Corpus]
    shares: Mapping[str, float]

    def batch(self, step: int, count: int, length: int) -> Sequences:
        """Return the sequences of one step, the same for the same step whatever ran before.

        Args:
            step: from 0.
            count: B.
            length: S.

        Returns:
            The sequences.
        """
        names = [name for name, share in self.shares.items() if share > 0]
        drawn = self.drawn(step * count)
        sequences, domains, marks = [], [], []
        for number in range(step * count, (step + 1) * count):
            index = bisect_right(self._edges, _position(number))
            corpus = self.corpora[names[index]]
            sequences.append(corpus.sequence(drawn[index], length))
            if self.is_partly_learnt:
                marks.append(corpus.marks(drawn[index], length))
            domains.append(names[index])
            drawn[index] += 1
        ids = np.stack(sequences)
        if not marks:
            return Sequences(ids, domains)
        learnt = np.stack([mark.learnt for mark in marks])
        begins = np.stack([mark.begins for mark in marks])
        return Sequences(ids, domains, begins, target_weights(learnt[:, 1:], domains))

    @cached_property
    def is_partly_learnt(self) -> bool:
        """Whether some tokens of any corpus are not trained on."""
        return any(corpus.is_partly_learnt for corpus in self.corpora.values())

    @cached_property
    def _edges(self) -> list[int]:
        """Where each domain's part of a word ends, all but the last."""
        ends = list(accumulate(share for share in self.shares.values() if share > 0))
        return [int(WORD * (end / ends[-1])) for end in ends[:-1]]

    def drawn(self, count: int) -> list[int]:
        """Return how many of the first sequences are each domain's, in closed form.

        A position x is below an edge e where floor(x / W) - floor((x - e) / W) is 1; the sums of
        both over all positions have a closed form.

        Args:
            count: of the first sequences.

        Returns:
            One number for each domain that has a share.
        """
        whole = floor_sum(count, WORD, GOLDEN_RATIO, HALF)
        below = [
            whole - floor_sum(count, WORD, GOLDEN_RATIO, HALF - edge + WORD) + count
            for edge in self._edges
        ]
        return [high - low for low, high in zip([0, *below], [*below, count], strict=True)]


def target_weights(learnt: NDArray[np.bool_], domains: Sequence[str]) -> NDArray[np.float32]:
    """Return how much each target counts in the loss of a batch.

    Args:
        learnt: (B, S) whether a target is learnt.
        domains: of each of the B sequences.

    Returns:
        (B, S): the same for all that is learnt of a domain, 1 on the average of a domain; 0
        elsewhere, and everywhere in a domain of which nothing is learnt.
    """
    weights = learnt.astype(np.float32)
    for domain in set(domains):
        own = np.array([name == domain for name in domains])
        weights[own] /= max(float(learnt[own].mean()), 1 / learnt.size)
    return weights


def _position(number: int) -> int:
    """Return where a golden-ratio walk stands: any stretch of it covers a word evenly."""
    return (HALF + number * GOLDEN_RATIO) % WORD


def floor_sum(count: int, divisor: int, factor: int, offset: int) -> int:
    """Return the sum of floor((factor · k + offset) / divisor) over k = 0 ... count - 1.

    Args:
        count: how many terms.
        divisor: above 0.
        factor: 0 or more.
        offset: 0 or more.

    Returns:
        The sum, in as many steps as Euclid's algorithm takes (floor_sum of the AtCoder Library).
    """
    total = 0
    while True:
        total += count * (count - 1) // 2 * (factor // divisor) + count * (offset // divisor)
        factor, offset = factor % divisor, offset % divisor
        most = factor * count + offset
        if most < divisor:
            return total
        # The lattice points under a line, counted along the other axis.
        count, offset, divisor, factor = most // divisor, most % divisor, factor, divisor


def permuted(position: int, count: int, key: int) -> int:
    """Return the place of a position in an order of 0 ... count - 1 that the key fixes.

    A Feistel network over the next power of four, walked until the place is one of them: it needs
    no array.

    Args:
        position: from 0, below `count`.
        count: how many there are.
        key: 64 bits.

    Returns:
        A number below `count`; no two positions have the same.
    """
    bits = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << bits) - 1
    place = position
    while True:
        left, right = place >> bits, place & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (_mixed(key + number * GOLDEN_RATIO + right) & mask)
        place = left << bits | right
        if place < count:
            return place


def _mixed(value: int) -> int:
    """Return 64 well mixed bits (the finaliser of SplitMix64)."""
    value %= WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB % WORD
    return value ^ value >> 31


@lru_cache(maxsize=256)
def _epoch_keys(name: str) -> tuple[int, int]:
    """Return where an epoch's ring is cut first, and the key of its order."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
