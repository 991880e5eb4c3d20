"""Which documents of a mixed corpus belong together: a proposal of domains.

In:  documents.
Out: groups of them, each with the words that are its own. How many there are is as many as two
halves of the corpus, grouped by themselves, agree upon.
A document is what words it uses, as shares, rare ones counting more, seen along the directions in
which the corpus differs most (latent semantic analysis); groups are by spherical k-means. This
tells apart texts of other vocabulary: a proposal for people, who know what belongs together. Of a
large corpus a sample of its documents decides, and the others go to the nearest group.
Shapes: N documents, F features, L directions, K groups.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

# Words that are equal modulo this number of hashes count as one.
FEATURES = 4096
# Documents that decide, and characters of each.
DOCUMENTS, CHARACTERS = 2000, 20_000
# Documents whose features are in memory at a time.
BLOCK = 500
# The most groups that are proposed without being asked for.
MOST = 8
# Two halves agree from this adjusted Rand index on: 1 is the same groups, 0 chance.
AGREED = 0.9
# Fewer documents than this a group are no group.
FEWEST = 8
# Words that a group is known by.
SHOWN = 6
ROUNDS, STARTS = 50, 8
# Directions in which the corpus differs most.
DIRECTIONS = 16
# Letters in a row, digits in a row, or one sign: of scripts without spaces every sign is a word.
WORD = re.compile(r"[a-z_]+|\d+|[^\x00-\x7f]|[^\w\s]")

Matrix = NDArray[np.float64]
Groups = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a corpus.

    Attributes:
        groups: of each document, the number of its group; the largest group is 0.
        words: of each group, those that it uses more than the others do, the most telling first.
        agreement: of two halves of the corpus that were grouped by themselves; None: one group.
    """

    groups: Groups
    words: tuple[tuple[str, ...], ...]
    agreement: float | None


def grouped(texts: Sequence[str], count: int | None = None) -> Grouping:
    """Group documents.

    Args:
        texts: one for each document.
        count: how many groups there are to be; None: as many as the halves agree upon, perhaps one.

    Returns:
        The groups, the largest first.
    """
    drawn = np.random.default_rng(0).permutation(len(texts))[:DOCUMENTS]
    shares_NF = _shares([texts[number] for number in drawn])
    rarity_F = _rarity(shares_NF)
    directions_FL = _directions(_unit(shares_NF * rarity_F))
    # A few hundred documents at a time: each has thousands of features.
    points_NL = np.concatenate(
        [
            _unit(_unit(_shares(texts[start : start + BLOCK]) * rarity_F) @ directions_FL)
            for start in range(0, len(texts), BLOCK)
        ]
    )
    best = 1 if count is None else count
    agreement = None
    for number in range(2, MOST + 1) if count is None else [count]:
        agreed = _agreement(points_NL[drawn], number)
        if agreed is not None and (count or agreed >= AGREED):
            best, agreement = number, agreed
    centres_KL = _centres(points_NL[drawn], best)
    groups = _by_size(_nearest(points_NL, centres_KL))
    words = (counted_words(text) for text in texts)
    return Grouping(groups, tuple(telling(words, groups)), agreement)


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text; all numbers are one word."""
    # Which numbers there are says little; that there are many does.
    return ("0" if word.isdecimal() else word for word in WORD.findall(text.lower()))


def counted_words(text: str) -> Counter[str]:
    """Return how often each word stands in a document, of a long one in its beginning."""
    return Counter(words_of(text[:CHARACTERS]))


def _shares(texts: Sequence[str]) -> Matrix:
    """Return the square root of each feature's share in each document, (N, F)."""
    shares_NF = np.zeros((len(texts), FEATURES))
    for number, text in enumerate(texts):
        for word, times in counted_words(text).items():
            shares_NF[number, crc32(word.encode()) % FEATURES] += times
    roots_NF: Matrix = np.sqrt(shares_NF / np.maximum(1, shares_NF.sum(1, keepdims=True)))
    return roots_NF


def _rarity(shares_NF: Matrix) -> Matrix:
    """Return the inverse document frequency of each feature, (F,)."""
    with_feature_F = (shares_NF > 0).sum(0)
    rarity_F: Matrix = np.log((1 + len(shares_NF)) / (1 + with_feature_F)) + 1
    return rarity_F


def _unit(points_NF: Matrix) -> Matrix:
    lengths_N1: Matrix = np.linalg.norm(points_NF, axis=1, keepdims=True)
    return points_NF / np.maximum(1e-12, lengths_N1)


def _directions(points_NF: Matrix) -> Matrix:
    """Return the first right singular vectors, (F, L), by subspace iteration."""
    count = min(DIRECTIONS, *points_NF.shape)
    vectors_FL: Matrix = np.random.default_rng(0).normal(size=(points_NF.shape[1], count))
    for _ in range(8):
        vectors_FL = np.linalg.qr(points_NF.T @ (points_NF @ vectors_FL))[0]
    return vectors_FL


def _centres(points_NL: Matrix, count: int) -> Matrix:
    """Return the centres of the best of some groupings, (K, L)."""
    starts = (_settled(points_NL, count, start) for start in range(STARTS))
    return max(starts, key=lambda centres_KL: float((points_NL @ centres_KL.T).max(1).sum()))


def _settled(points_NL: Matrix, count: int, start: int) -> Matrix:
    """Run k-means from one start, in which each centre is drawn far from those before it."""
    generator = np.random.default_rng(start)
    chosen = [int(generator.integers(len(points_NL)))]
    for _ in range(count - 1):
        apart_N = 1 - (points_NL @ points_NL[chosen].T).max(1)
        apart_N = np.maximum(apart_N, 1e-9)
        chosen.append(int(generator.choice(len(points_NL), p=apart_N / apart_N.sum())))
    centres_KL = points_NL[chosen]
    groups = np.full(len(points_NL), -1)
    for _ in range(ROUNDS):
        before, groups = groups, _nearest(points_NL, centres_KL)
        if np.array_equal(before, groups):
            break
        for number in range(count):
            if (groups == number).any():
                centres_KL[number] = points_NL[groups == number].sum(0)
        centres_KL = _unit(centres_KL)
    return centres_KL


def _nearest(points_NL: Matrix, centres_KL: Matrix) -> Groups:
    return np.asarray((points_NL @ centres_KL.T).argmax(1), dtype=np.int64)


def _agreement(points_NL: Matrix, count: int) -> float | None:
    """Return how far two halves agree on all documents; None where a group is too small."""
    if len(points_NL) < 2 * count * FEWEST:
        return None
    halves = [
        _nearest(points_NL, _centres(half, count)) for half in (points_NL[::2], points_NL[1::2])
    ]
    if min(np.bincount(half, minlength=count).min() for half in halves) < FEWEST:
        return None
    return _rand_index(*halves)


def _rand_index(left: Groups, right: Groups) -> float:
    """Return the adjusted Rand index of two groupings of the same documents."""
    together = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(together, (left, right), 1)
    both, rows, columns, every = (
        float((counts * (counts - 1) / 2).sum())
        for counts in (together, together.sum(1), together.sum(0), together.sum())
    )
    by_chance, most = rows * columns / every, (rows + columns) / 2
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def _by_size(groups: Groups) -> Groups:
    """Number the groups anew, the largest first; empty ones get no number."""
    sizes = np.bincount(groups)
    ranks = np.empty(len(sizes), dtype=np.int64)
    ranks[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return ranks[groups]


def telling(words: Iterable[Counter[str]], groups: Groups) -> Iterator[tuple[str, ...]]:
    """Yield the words of each group that stand in more of its documents than of the others'.

    Args:
        words: of each document.
        groups: of each document, the number of its group.
    """
    sizes = np.bincount(groups)
    present = [Counter[str]() for _ in sizes]
    for group, counter in zip(groups, words, strict=True):
        present[group].update(word for word in counter if len(word) > 1 or not word.isascii())
    everywhere = sum(present, Counter[str]())
    for size, here in zip(sizes.tolist(), present, strict=True):
        others = max(1, len(groups) - size)
        surplus = {
            word: _surplus(times / size, (everywhere[word] - times) / others)
            for word, times in here.items()
        }
        yield tuple(sorted(surplus, key=lambda word: (-surplus[word], word))[:SHOWN])


def _surplus(here: float, elsewhere: float) -> float:
    """Return how much a word tells of a group, by the shares of documents that it stands in."""
    return here * log((here + 0.01) / (elsewhere + 0.01))
