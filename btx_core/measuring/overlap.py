"""How much of the held-out text stands in the training text: what a good score on it may be worth.

In:  data folders.  Out: a share of the held-out bytes, 0 to 1. What share is too much is a policy's matter.
A held-out document counts when at least 70 % of its windows stand in training (PaLM, arXiv:2204.02311, counts so); a window is 64 bytes, about
the 13 words of GPT-3 (arXiv:2005.14165, appendix C), case and spacing aside. A shorter document counts when a training document equals it.
Counted, not estimated: MinHash compares whole documents, and a short test item inside a long file is what it misses.
Windows are compared by 64-bit hashes: with 10^6 held-out and 10^9 training windows, 5e-5 false hits are expected.
Shapes: N bytes of a document, N - 63 windows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from btx_core.texts import Document, split

WINDOW, MOST = 64, 0.7  # bytes; share of a document's windows
PIECE = 1 << 20  # bytes hashed at once
Hashes = NDArray[np.uint64]

_MARKS: Hashes = np.random.default_rng(0).integers(0, 1 << 64, 256, dtype=np.uint64)
_BASE = 0x9E3779B97F4A7C15  # odd: its powers never reach zero modulo 2^64


def contamination(folders: Sequence[Path]) -> float:
    """The share of the folders' held-out bytes in documents that stand in any of their training halves."""
    parts = [split(folder) for folder in folders]
    held = [plain(document) for part in parts for document in part.heldout]
    known, short = _known(held, (plain(document) for part in parts for document in part.train))
    found = sum(
        len(text)
        for text in held
        if (text in short if len(text) < WINDOW else _share(text, known) >= MOST)
    )
    return round(found / max(1, sum(map(len, held))), 6)


def plain(document: Document) -> bytes:
    return " ".join(document.text.lower().split()).encode()


def windows(text: bytes) -> Iterator[Hashes]:
    """A hash of each 64 bytes, a piece of the text at a time; nothing for a shorter text."""
    for start in range(0, len(text) - WINDOW + 1, PIECE):
        hashes = _MARKS[np.frombuffer(text[start : start + PIECE + WINDOW - 1], dtype=np.uint8)]
        size = 1
        while (
            size < WINDOW
        ):  # the hash of 2n bytes is that of the first n, and that of the last n times base^n
            hashes = hashes[:-size] + hashes[size:] * np.uint64(pow(_BASE, size, 1 << 64))
            size *= 2
        yield hashes


def _known(held: Sequence[bytes], train: Iterator[bytes]) -> tuple[Hashes, set[bytes]]:
    """The held-out windows that stand in training, sorted; the short held-out documents that do."""
    wanted = np.unique(
        np.concatenate(
            [np.empty(0, np.uint64), *(piece for text in held for piece in windows(text))]
        )
    )
    seen, short = np.zeros(len(wanted), dtype=bool), {text for text in held if len(text) < WINDOW}
    equal: set[bytes] = set()
    for text in train:
        if text in short:
            equal.add(text)
        for piece in windows(text) if len(wanted) else ():
            places = np.searchsorted(wanted, piece).clip(max=len(wanted) - 1)
            seen[places[wanted[places] == piece]] = True
    return wanted[seen], equal


def _share(text: bytes, known: Hashes) -> float:
    pieces = list(windows(text))
    return sum(int(np.isin(piece, known).sum()) for piece in pieces) / sum(map(len, pieces))
