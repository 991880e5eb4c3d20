"""How the text is divided into domains: which two of them are one text, divided by chance.

In:  data versions as tokens.
Out: for every two how far apart their texts are, and how far apart the same documents would be had
they been divided by chance.
Two domains that no reader could tell apart teach their experts the same. Documents are what is
divided, and each weighs the same: the tokens of one are alike, whatever it belongs to. Which
distance is too small is left to whoever reads the figures.
Shapes: D documents, V kinds of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from btx_core.tokens import StoredIds, TokenisedDocuments, Tokens

# Kinds of tokens: ids that are equal modulo this number count as one.
KINDS = 1024
# Documents of a data version that are looked at, and tokens of each.
DOCUMENTS, TOKENS = 1000, 4096
# Fewer documents than this say nothing about chance.
FEWEST = 8
# Divisions by chance.
DIVISIONS = 20

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Apart:
    """How far apart the texts of two data versions are.

    Attributes:
        left: one of them.
        right: the other.
        distance: the Jensen-Shannon divergence of their documents' mean shares of tokens, 0 to 1
            bit.
        by_chance: that of the same documents, divided into two parts of these sizes at random, on
            average.
    """

    left: str
    right: str
    distance: float
    by_chance: float


def apart(texts: Mapping[str, Tokens]) -> list[Apart]:
    """Measure every two data versions against each other, by their training text.

    Args:
        texts: data versions by reference, all by one tokenizer.

    Returns:
        Every two that have enough documents, the closest first.
    """
    shares_DV = {ref: _shares(tokens.train) for ref, tokens in texts.items()}
    enough = [ref for ref, shares in shares_DV.items() if len(shares) >= FEWEST]
    pairs = []
    for left, right in combinations(sorted(enough), 2):
        both_DV = np.concatenate([shares_DV[left], shares_DV[right]])
        size = len(shares_DV[left])
        generator = np.random.default_rng(0)
        by_chance = [
            _distance(both_DV, generator.permutation(len(both_DV))[:size]) for _ in range(DIVISIONS)
        ]
        distance = _distance(both_DV, np.arange(size))
        pairs.append(Apart(left, right, distance, float(np.mean(by_chance))))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.left, pair.right))


def _shares(documents: TokenisedDocuments) -> Shares:
    """Return the share of every kind of token in documents from all over a data version, (D, V)."""
    ends = documents.ends
    starts = np.concatenate([[0], ends[:-1]])
    drawn = np.arange(len(ends))
    if len(ends) > DOCUMENTS:
        drawn = np.arange(DOCUMENTS) * len(ends) // DOCUMENTS
    shares_DV = np.zeros((len(drawn), KINDS))
    for number, document in enumerate(drawn):
        first, last = int(starts[document]), int(ends[document])
        ids: StoredIds = documents.ids[first : min(last, first + TOKENS)]
        counts_V = np.bincount(ids.astype(np.int64) % KINDS, minlength=KINDS)
        shares_DV[number] = counts_V / max(1, len(ids))
    return shares_DV


def _distance(shares_DV: Shares, left: NDArray[np.int64]) -> float:
    """Return the Jensen-Shannon divergence between some documents and all others, in bits."""
    is_left_D = np.zeros(len(shares_DV), dtype=bool)
    is_left_D[left] = True
    sides = [shares_DV[is_left_D].mean(0), shares_DV[~is_left_D].mean(0)]
    middle_V = (sides[0] + sides[1]) / 2
    return sum(_divergence(side_V, middle_V) for side_V in sides) / 2


def _divergence(share_V: Shares, middle_V: Shares) -> float:
    present = share_V > 0
    return float((share_V[present] * np.log2(share_V[present] / middle_V[present])).sum())
