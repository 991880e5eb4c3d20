"""Documents of a data version, and the token batches made of them.

In:  a data folder (files of text), a tokenizer.  Out: its training and held-out documents; batches fixed by (file digests, seed, step).
A *.jsonl file holds a document a line, {"text"} or {"prompt", "answer"}; every other file is one document of UTF-8 text.
Held out: what lies under heldout/; without that folder one file in twenty by digest, of a single file its last twentieth.
Shapes: B rows a batch, S tokens a row; a row carries one token more than S, so that every token has a target.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btx_core.problems import BtxError

HELDOUT, ONE_IN = "heldout", 20
Ids = NDArray[np.int64]


class Unreadable(BtxError):
    """A data folder or file that does not hold text as promised."""


@dataclass(frozen=True)
class Document:
    """text is what is trained on; prompt and answer are its two parts where the answer can be checked."""

    text: str
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Split:
    train: tuple[Document, ...]
    heldout: tuple[Document, ...]
    digest: str  # of every file's path and bytes: the data's share in what fixes a batch


def split(folder: Path) -> Split:
    """Read a data folder whole. Raises Unreadable for what is no text, and where a half of the split is empty."""
    files = _files(folder)
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    held = {file for file in files if HELDOUT in file.relative_to(folder).parts[:-1]}
    if not held and len(files) > 1:
        by_digest = sorted(files, key=lambda file: digests[file])
        held = set(by_digest[: -(-len(files) // ONE_IN)])
    train = tuple(document for file in files if file not in held for document in _documents(file))
    heldout = tuple(document for file in files if file in held for document in _documents(file))
    if not held:
        train, heldout = _cut(train)
    if not train or not heldout:
        raise Unreadable(
            folder,
            found=f"{len(train)} training, {len(heldout)} held-out documents",
            expected="one of each at least",
            next="add text",
        )
    named = "\n".join(f"{digests[file]} {file.relative_to(folder).as_posix()}" for file in files)
    return Split(train, heldout, hashlib.sha256(named.encode()).hexdigest())


def check(folder: Path) -> None:
    """Raises Unreadable, naming the file and line, for the first that is no text as promised. Holds one file at a time."""
    for file in _files(folder):
        for _ in _documents(file):
            pass


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise Unreadable(
            folder, found="no such folder", expected="a data folder", next="check the path"
        )
    hidden = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        path
        for path in hidden
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _documents(file: Path) -> Iterator[Document]:
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise Unreadable(
            file,
            found=f"byte {error.start} is no UTF-8",
            expected="UTF-8 text or JSON lines",
            next="convert or remove it",
        ) from error
    if file.suffix != ".jsonl":
        if text.strip():
            yield Document(text)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _line(line, f"{file}:{number}")


def _line(line: str, where: str) -> Document:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    match row:
        case {"text": str(text)}:
            return Document(text)
        case {"prompt": str(prompt), "answer": str(answer)}:
            return Document(f"{prompt} {answer}", prompt, answer)
    raise Unreadable(
        where,
        found=line[:60],
        expected='{"text": ...} or {"prompt": ..., "answer": ...}',
        next="mend the line",
    )


def _cut(documents: tuple[Document, ...]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """A single file: its last twentieth, by documents, or by lines where it is one document."""
    if len(documents) == 1:
        lines = documents[0].text.splitlines(keepends=True)
        keep = len(lines) - max(1, len(lines) // ONE_IN)
        halves = "".join(lines[:keep]), "".join(lines[keep:])
        return tuple(Document(half) for half in halves[:1] if half), tuple(
            Document(half) for half in halves[1:] if half
        )
    keep = len(documents) - max(1, len(documents) // ONE_IN)
    return documents[:keep], documents[keep:]


def end_token(tokenizer: Any) -> int:
    """The id that stands before and after every document. Raises Unreadable where the tokenizer names none."""
    for candidate in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if candidate is not None:
            return int(candidate)
    raise Unreadable(
        "tokenizer",
        found="no end-of-text token",
        expected="eos_token",
        next="name one in tokenizer_config.json",
    )


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return (
        list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"])
        if texts
        else []
    )


@dataclass(frozen=True)
class Corpus:
    """The training documents of one domain as tokens. A row is a pure function of (data, seed, its number): packed, each token once an epoch."""

    documents: tuple[Ids, ...]  # each with its end token
    digest: str
    seed: int = 0
    _epochs: dict[tuple[int, int], Ids] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, folders: Sequence[Path], tokenizer: Any, seed: int = 0) -> "Corpus":
        splits = [split(folder) for folder in folders]
        end = end_token(tokenizer)
        ids = encode(tokenizer, [document.text for part in splits for document in part.train])
        return cls(
            tuple(np.array([*one, end], dtype=np.int64) for one in ids),
            "+".join(part.digest for part in splits),
            seed,
        )

    @cached_property
    def tokens(self) -> int:
        return sum(len(document) for document in self.documents)

    def row(self, number: int, sequence: int) -> Ids:
        """S + 1 tokens. Documents are shuffled anew each epoch and cut where the rows end."""
        rows = max(1, (self.tokens - 1) // sequence)
        epoch, place = divmod(number, rows)
        if (epoch, sequence) not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch, sequence] = self._packed(epoch, sequence, rows)
        start = place * sequence
        return self._epochs[epoch, sequence][start : start + sequence + 1]

    def _packed(self, epoch: int, sequence: int, rows: int) -> Ids:
        order = self._random("epoch", epoch).permutation(len(self.documents))
        stream = np.concatenate([self.documents[index] for index in order])
        starts = np.arange(0, rows * sequence, sequence)
        return np.resize(stream, len(starts) * sequence + 1)

    def _random(self, *keys: object) -> np.random.Generator:
        text = "/".join(map(str, (self.digest, self.seed, *keys)))
        return np.random.default_rng(
            int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        )


@dataclass(frozen=True)
class Mixture:
    """Rows of several corpora in fixed proportion, spread evenly over the steps."""

    corpora: Mapping[str, Corpus]
    shares: Mapping[str, float]  # of the rows, by corpus; need not sum to 1

    def batch(self, step: int, rows: int, sequence: int) -> tuple[Ids, list[str]]:
        """(B, S + 1) tokens of one step and each row's domain; the same for the same step, whatever ran before."""
        names = [name for name, share in self.shares.items() if share > 0]
        walk = self._walk((step + 1) * rows)
        drawn = np.bincount(walk[: step * rows], minlength=len(names))
        out = []
        for index in walk[step * rows :]:
            out.append(self.corpora[names[index]].row(int(drawn[index]), sequence))
            drawn[index] += 1
        return np.stack(out), [names[index] for index in walk[step * rows :]]

    def _walk(self, count: int) -> Ids:
        """The domain of rows 0..count-1: a golden-ratio walk through the shares, so that any stretch of rows holds them in proportion."""
        edges = np.cumsum([share for share in self.shares.values() if share > 0])
        places = (0.5 + np.arange(count) * 0.6180339887498949) % 1.0 * edges[-1]
        return np.asarray(np.minimum(np.searchsorted(edges, places, side="right"), len(edges) - 1))
