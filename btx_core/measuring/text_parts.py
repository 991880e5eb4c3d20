"""Which texts hold two domains: parts that teach little of each other.

In:  passages of the data versions of a build.
Out: of each that has several groups of passages, the two parts that have the least to do with each
     other, and how much the text of one teaches of the other.
That passages fall into groups says nothing: questions after three patterns are three groups of one
domain. So a bigram model of words is fitted to half of a part, and asked how many bits a word it
saves on the other half, against a model of all other data versions. The same is asked of a model of
as much text of another part. The share that the other part's text saves is small where nobody
would learn one from the other. Groups of short passages count as one: they are often written after
patterns, and one pattern teaches little of another. Then those that teach each other most are put
together first. What is reported is the least that any two of them had to teach each other.
How little is too little is left to whoever reads the figures.
Shapes: K kinds of words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from btx_core.measuring.grouping import counted_words, grouped, telling, words_of
from btx_core.tokens import TokenisedDocuments

# Words that are equal modulo this number of hashes count as one.
KINDS = 1024
# Passages of a data version that are looked at, and the most tokens of each.
PASSAGES, TOKENS = 200, 512
# Words that a model is fitted to at most, and passages of each other data version.
WORDS, OTHERS = 8_000, 60
# Fewer passages than this are no part.
FEWEST = 8
# Random halves of which the mean is taken.
HALVES = 4
# Passages of fewer words than this on average are terse: questions, commands, entries of a list.
TERSE = 25
# What every kind of word gets of a model's probability, all together.
FLOOR = 0.1

Kinds = NDArray[np.int64]
Probabilities = NDArray[np.float64]


class Decoder(Protocol):
    """What turns tokens into text, as tokenizers of transformers do."""

    def decode(self, token_ids: list[int], /, *, skip_special_tokens: bool) -> str | list[str]:
        """Return the text of some tokens."""


@dataclass(frozen=True)
class Part:
    """Some passages of a data version.

    Attributes:
        passages: how many.
        words: those that it uses more than the other part does, the most telling first.
    """

    passages: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Parted:
    """The two parts of a data version that have the least to do with each other.

    Attributes:
        data: the data version.
        taught: the share of what a part's own text teaches of it that the other's teaches.
        parts: both, the larger first.
    """

    data: str
    taught: float
    parts: tuple[Part, Part]


def passages(documents: TokenisedDocuments, tokenizer: Decoder) -> list[str]:
    """Return passages from all over a text, none over the end of a document."""
    sizes = np.diff(documents.ends, prepend=0)
    counts = -(-sizes // TOKENS)
    # The number of the passage behind each document's last.
    behind = np.cumsum(counts)
    every = int(behind[-1]) if len(behind) else 0
    count = min(PASSAGES, every)
    texts = []
    for number in (number * every // count for number in range(count)):
        document = int(np.searchsorted(behind, number, side="right"))
        inside = number - int(behind[document] - counts[document])
        end = int(documents.ends[document])
        first = end - int(sizes[document]) + inside * TOKENS
        last = min(end, first + TOKENS)
        text = tokenizer.decode(documents.ids[first:last].tolist(), skip_special_tokens=True)
        texts.append(str(text))
    return [text for text in texts if text.strip()]


def parted(texts: Mapping[str, Sequence[str]], asked: Iterable[str]) -> list[Parted]:
    """Find the data versions that have two parts, and how much these teach each other.

    Args:
        texts: passages of each data version of a build.
        asked: the data versions that are looked at; the others are only what these differ from.

    Returns:
        Those that have parts, the ones whose parts teach each other least first.
    """
    kinds = {ref: [_kinds(text) for text in own] for ref, own in texts.items()}
    found = []
    for ref in asked:
        elsewhere = [one for other in kinds if other != ref for one in kinds[other][:OTHERS]]
        groups = grouped(texts[ref]).groups
        members = [np.flatnonzero(groups == number) for number in range(groups.max(initial=-1) + 1)]
        parts = [frozenset(part.tolist()) for part in members if len(part) >= FEWEST]
        if elsewhere and len(parts) > 1:
            teaching = Teaching(kinds[ref], WordModel(elsewhere))
            pair = _least(_with_one_terse(parts, teaching), teaching)
            if pair:
                found.append(_reported(ref, texts[ref], pair))
    return sorted(found, key=lambda one: (one.taught, one.data))


class WordModel:
    """A bigram model of words, smoothed after Witten and Bell."""

    def __init__(self, texts: Sequence[Kinds], most: int | None = None) -> None:
        """Fit the model.

        Args:
            texts: the kinds of the words of each text.
            most: how many words are read; None: all.
        """
        self.words = 0
        read: list[Kinds] = []
        for text in texts:
            taken = text if most is None else text[: most - self.words]
            self.words += len(taken)
            read.append(taken)
        self._alone = _smoothed(np.bincount(np.concatenate(read), minlength=KINDS))
        pairs = np.concatenate([one[:-1] * KINDS + one[1:] for one in read])
        self._pairs, self._counts = np.unique(pairs, return_counts=True)
        first = self._pairs // KINDS
        self._times = np.bincount(first, weights=self._counts, minlength=KINDS)
        self._followers = np.bincount(first, minlength=KINDS)

    def probabilities(self, texts: Sequence[Kinds]) -> Probabilities:
        """Return the probability of each word behind another."""
        before = np.concatenate([text[:-1] for text in texts])
        word = np.concatenate([text[1:] for text in texts])
        alone: Probabilities = self._alone[word]
        if not len(self._pairs):
            return alone
        pair = before * KINDS + word
        place = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        times = np.where(self._pairs[place] == pair, self._counts[place], 0)
        followers = self._followers[before]
        every = np.maximum(1, self._times[before] + followers)
        smoothed = np.where(followers > 0, (times + followers * alone) / every, alone)
        return np.asarray((1 - FLOOR) * smoothed + FLOOR / KINDS)


def _smoothed(counts: NDArray[np.int64]) -> Probabilities:
    seen = np.count_nonzero(counts)
    return np.asarray((counts + seen / KINDS) / max(1, counts.sum() + seen))


@dataclass(frozen=True)
class Taught:
    """What the text of two parts teaches, in bits a word of one of them.

    Attributes:
        own: by half of that part's text, on the other half.
        other: by as much text of the other part.
    """

    own: float
    other: float

    @property
    def share(self) -> float:
        """What the other teaches of what its own teaches; 1 where its own teaches nothing."""
        return self.other / self.own if self.own > 0 else 1.0


class Teaching:
    """How much parts of one text teach each other."""

    def __init__(self, texts: Sequence[Kinds], elsewhere: WordModel) -> None:
        """Remember what all parts have in common.

        Args:
            texts: the passages of the data version.
            elsewhere: a model of all other data versions.
        """
        self.texts = texts
        self.elsewhere = elsewhere
        self._known: dict[frozenset[frozenset[int]], float] = {}

    def between(self, left: frozenset[int], right: frozenset[int]) -> float:
        """Return the share that two parts teach each other, mean of both directions."""
        pair = frozenset((left, right))
        if pair not in self._known:
            shares = [
                taught.share
                for half in range(HALVES)
                for taught in (self._taught(left, right, half), self._taught(right, left, half))
            ]
            self._known[pair] = float(np.mean(shares))
        return self._known[pair]

    def is_terse(self, part: frozenset[int]) -> bool:
        """Return whether the passages of a part are short."""
        words = sum(len(self.texts[number]) for number in part)
        return words < TERSE * len(part)

    def _halves(self, part: frozenset[int], half: int) -> tuple[list[Kinds], list[Kinds]]:
        order = np.random.default_rng(half).permutation(sorted(part))
        texts = [self.texts[number] for number in order]
        return texts[: len(texts) // 2], texts[len(texts) // 2 :]

    def _taught(self, part: frozenset[int], other: frozenset[int], half: int) -> Taught:
        learnt, asked = self._halves(part, half)
        others = [text for side in self._halves(other, half) for text in side]
        words = min(sum(map(len, learnt)), sum(map(len, others)), WORDS)
        before = self.elsewhere.probabilities(asked)

        def saved(texts: Sequence[Kinds]) -> float:
            mixed = (before + WordModel(texts, words).probabilities(asked)) / 2
            return float(np.log2(mixed / before).mean()) if len(before) else 0.0

        return Taught(saved(learnt), saved(others))


@dataclass(frozen=True)
class _Pair:
    left: frozenset[int]
    right: frozenset[int]
    taught: float


def _with_one_terse(parts: list[frozenset[int]], teaching: Teaching) -> list[frozenset[int]]:
    """Put all terse parts together."""
    terse = [part for part in parts if teaching.is_terse(part)]
    others = [part for part in parts if part not in terse]
    return [*others, frozenset[int]().union(*terse)] if terse else others


def _least(parts: list[frozenset[int]], teaching: Teaching) -> _Pair | None:
    """Put parts together, those first that teach each other most; return the worst two of these.

    None of a single part.
    """
    least: _Pair | None = None
    while len(parts) > 1:
        pairs = [
            _Pair(left, right, teaching.between(left, right))
            for left, right in combinations(parts, 2)
        ]
        best = max(pairs, key=lambda pair: (pair.taught, len(pair.left), len(pair.right)))
        if least is None or best.taught < least.taught:
            least = best
        parts = [part for part in parts if part not in (best.left, best.right)]
        parts.append(best.left | best.right)
    return least


def _reported(ref: str, texts: Sequence[str], pair: _Pair) -> Parted:
    both = sorted((pair.left, pair.right), key=len, reverse=True)
    chosen = [number for part in both for number in sorted(part)]
    groups = np.repeat([0, 1], [len(part) for part in both])
    words = telling([counted_words(texts[number]) for number in chosen], groups)
    larger, smaller = (Part(len(part), own) for part, own in zip(both, words, strict=True))
    return Parted(ref, pair.taught, (larger, smaller))


def _kinds(text: str) -> Kinds:
    return np.array([crc32(word.encode()) % KINDS for word in words_of(text)], dtype=np.int64)
