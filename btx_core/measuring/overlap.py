"""How much of the held-out text stands in the training text: what a good score on it may be worth.

In:  data folders.  Out: a share of the held-out bytes, 0 to 1. What share is too much is left to
policies.
A held-out document counts when at least 70 % of its windows stand in training (as in PaLM,
arXiv:2204.02311). A window is 64 bytes, about the 13 words of GPT-3 (arXiv:2005.14165, appendix C),
case and spacing aside. A shorter document counts when a training document equals it.
System messages and tools do not count: many documents share them. A conversation, or an instruction
with its answer, of which only a part is learnt, counts also when at least 70 % of that part's
windows stand in what is learnt in training.
Windows are counted, not estimated: MinHash compares whole documents, and a short test item inside a
long file is what it misses. They are compared by 64-bit hashes: with 10^6 held-out and 10^9
training windows, 5e-5 false hits are expected. Training text is read as a stream; of held-out text
that is too long to be held, a part of the documents is looked for.
Shapes: N bytes of a document, N - 63 windows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btx_core.columns import Document
from btx_core.texts import AnyText, Split, every, split

# Bytes of a window.
WINDOW = 64
# The share of a document's windows from which on it counts.
MOST = 0.7
# Bytes hashed at once.
PIECE = 1 << 20
# Bytes of held-out text that are looked for, more or less; of more text a part of its documents.
LOOKED_FOR = 1 << 22
Hashes = NDArray[np.uint64]

_BYTE_HASHES: Hashes = np.random.default_rng(0).integers(0, 1 << 64, 256, dtype=np.uint64)
# Odd, so that its powers never reach zero modulo 2^64.
_BASE = 0x9E3779B97F4A7C15


def contamination(folders: Sequence[AnyText]) -> float:
    """Measure how much of the held-out text stands in training text.

    Args:
        folders: data folders; a held-out document of one may stand in another's training text.

    Returns:
        The share of the folders' held-out bytes that are in such documents, 0 to 1.

    Raises:
        Unreadable: for a folder that does not hold text as promised.
    """
    splits = [split(folder) for folder in folders]
    heldout = _looked_for(splits)
    whole = _InTraining.of([one.text for one in heldout])
    learnt = _InTraining.of([one.learnt for one in heldout if one.learnt])
    for document in (document for part in splits for document in part.train):
        whole.read(document.plain_without_system)
        if learnt.windows.size:
            learnt.read(document.plain_learnt)
    trained_bytes = 0
    for one in heldout:
        trained = whole.holds(one.text) or (bool(one.learnt) and learnt.holds(one.learnt))
        trained_bytes += len(one.text) if trained else 0
    return round(trained_bytes / max(1, sum(len(one.text) for one in heldout)), 6)


@dataclass(frozen=True)
class _LookedFor:
    """A held-out document.

    Attributes:
        text: of it, without system messages.
        learnt: what is learnt of it, where that is a part of it and no shorter than a window.
    """

    text: bytes
    learnt: bytes

    @classmethod
    def of(cls, document: Document) -> "_LookedFor":
        learnt = document.plain_learnt if document.is_partly_learnt else b""
        return cls(document.plain_without_system, learnt if len(learnt) >= WINDOW else b"")


def _looked_for(splits: Sequence[Split]) -> list[_LookedFor]:
    """Return the held-out documents; of too much text those whose digests are smallest."""
    limit, kept = 1 << 64, dict[int, list[_LookedFor]]()
    size = 0
    for document in (document for part in splits for document in part.heldout):
        one = _LookedFor.of(document)
        key = int.from_bytes(hashlib.sha256(one.text).digest()[:8], "big")
        if key < limit:
            kept.setdefault(key, []).append(one)
            size += len(one.text)
        while size > LOOKED_FOR and len(kept) > 1:
            limit = sorted(kept)[len(kept) // 2]
            kept = {key: some for key, some in kept.items() if key < limit}
            size = sum(len(one.text) for some in kept.values() for one in some)
    return [one for some in kept.values() for one in some]


def sketch(folder: AnyText, most: int = 2048) -> tuple[int, list[int]]:
    """Sample the windows of a folder's text, so that others can be compared with it later.

    All of the text counts, system messages too, so that sketches of any age can be compared.
    A window counts when the first bits of its hash are zero (FracMinHash,
    doi:10.1101/2022.01.11.475838); as many bits are asked for as leave at most `most` windows.

    Args:
        folder: a data folder.
        most: windows.

    Returns:
        The number of bits, and the hashes that are left, ascending.

    Raises:
        Unreadable: for a folder that does not hold text as promised.
    """
    return sketch_of((document.plain for document in every(folder)), most)


def sketch_of(texts: Iterable[bytes], most: int = 2048) -> tuple[int, list[int]]:
    """Sample the windows of plain texts, as `sketch` does a folder's."""
    bits, kept = 0, np.empty(0, np.uint64)
    for text in texts:
        pieces = [_mixed(piece) for piece in windows(text)] or [_whole(text)]
        for piece in pieces:
            kept = np.unique(np.concatenate([kept, piece[piece <= _limit(bits)]]))
            while len(kept) > most:
                bits += 1
                kept = kept[kept <= _limit(bits)]
    return bits, [int(one) for one in kept]


def _limit(bits: int) -> np.uint64:
    return np.uint64((1 << (64 - bits)) - 1)


def _whole(text: bytes) -> Hashes:
    """Hash a text that is shorter than a window; nothing for an empty one."""
    if not text:
        return np.empty(0, np.uint64)
    first = hashlib.sha256(text).digest()[:8]
    return np.array([int.from_bytes(first)], dtype=np.uint64)


def _mixed(hashes: Hashes) -> Hashes:
    """Spread the bits of each hash, so that its first ones are a fair sample (SplitMix64)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def windows(text: bytes) -> Iterator[Hashes]:
    """Hash each window of a text.

    Args:
        text: N bytes.

    Yields:
        The hashes of a piece of the text at a time; nothing for a text shorter than a window.
    """
    for start in range(0, len(text) - WINDOW + 1, PIECE):
        piece = np.frombuffer(text[start : start + PIECE + WINDOW - 1], dtype=np.uint8)
        hashes = _BYTE_HASHES[piece]
        size = 1
        # The hash of 2n bytes is that of the first n plus that of the last n times base^n.
        while size < WINDOW:
            hashes = hashes[:-size] + hashes[size:] * np.uint64(pow(_BASE, size, 1 << 64))
            size *= 2
        yield hashes


@dataclass(eq=False)
class _InTraining:
    """Which of some held-out texts stand in training text.

    Attributes:
        windows: the hashes of their windows, sorted.
        seen: of each window, whether training text has it.
        short: the texts that are shorter than a window.
        equal: those of them that training text equals.
    """

    windows: Hashes
    seen: NDArray[np.bool_]
    short: frozenset[bytes]
    equal: set[bytes]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> "_InTraining":
        pieces = [piece for text in texts for piece in windows(text)]
        hashes = np.unique(np.concatenate([np.empty(0, np.uint64), *pieces]))
        short = frozenset(text for text in texts if len(text) < WINDOW)
        return cls(hashes, np.zeros(len(hashes), dtype=bool), short, set())

    def read(self, text: bytes) -> None:
        """Take a training text in."""
        if text in self.short:
            self.equal.add(text)
        for piece in windows(text) if len(self.windows) else ():
            positions = np.searchsorted(self.windows, piece).clip(max=len(self.windows) - 1)
            self.seen[positions[self.windows[positions] == piece]] = True

    def holds(self, text: bytes) -> bool:
        """Tell of one of the held-out texts whether what was taken in holds it."""
        if len(text) < WINDOW:
            return text in self.equal
        pieces = list(windows(text))
        trained = 0
        for piece in pieces:
            trained += int(self.seen[np.searchsorted(self.windows, piece)].sum())
        return trained / sum(map(len, pieces)) >= MOST
