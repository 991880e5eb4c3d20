"""Documents of a data version, and the token batches made of them.

In:  a data folder (files of text), a tokenizer.
Out: its training and held-out documents; batches that (file digests, random seed, step) fix.
A *.jsonl file holds one document a line, {"text"} or {"prompt", "answer"}; every other file is one
document of UTF-8 text. Held out is what lies under heldout/; without that folder one file in twenty
by digest, and of a single file its last twentieth. What is trained on the batches is left to
`btx_core.training`, what is measured on the held-out documents to `btx_core.measuring`.
Shapes: B sequences a batch, S tokens a sequence; one token more than S, so that every one has a
target.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btx_core.problems import BtxError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELDOUT = "heldout"
# One file, document or line in so many is held out where the folder does not say which.
ONE_IN = 20
GOLDEN_RATIO = 0.6180339887498949
Ids = NDArray[np.int64]


class Unreadable(BtxError):
    """A data folder or file that does not hold text as promised."""


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        text: what is trained on.
        prompt: its first part, where there is an answer.
        answer: its second part, where an answer can be checked.
    """

    text: str
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Split:
    """A data version, divided.

    Attributes:
        train: the documents that are trained on.
        heldout: the documents that are only measured on.
        digest: SHA-256 of every file's path and bytes: the data's part in what fixes a batch.
    """

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]
    digest: str


def split(folder: Path) -> Split:
    """Read a data folder whole and divide it.

    Args:
        folder: of a data version; what is hidden in it does not count.

    Returns:
        Its training and held-out documents.

    Raises:
        Unreadable: for what is no text, and where one of the two is empty.
    """
    files = _files(folder)
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    held_out = _held_out(folder, digests)
    train = _all_documents(file for file in files if file not in held_out)
    heldout = _all_documents(file for file in files if file in held_out)
    if not held_out:
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
    """Check that a data folder holds text as promised, one file in memory at a time.

    Args:
        folder: of a data version.

    Raises:
        Unreadable: naming the first file and line that do not.
    """
    for file in _files(folder):
        for _ in _documents(file):
            pass


def every(folder: Path) -> Iterator[Document]:
    """Yield the documents of a data folder, those that are held out among them.

    Raises:
        Unreadable: for what is no text.
    """
    for file in _files(folder):
        yield from _documents(file)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder that are not hidden, sorted."""
    if not folder.is_dir():
        raise Unreadable(
            folder, found="no such folder", expected="a data folder", next="check the path"
        )
    files = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            files.append(path)
    return sorted(files)


def _held_out(folder: Path, digests: Mapping[Path, str]) -> set[Path]:
    """Return the files that are held out whole; none where the folder's only file is to be cut."""
    held_out = {file for file in digests if HELDOUT in file.relative_to(folder).parts[:-1]}
    if held_out or len(digests) <= 1:
        return held_out
    by_digest = sorted(digests, key=lambda file: digests[file])
    return set(by_digest[: -(-len(digests) // ONE_IN)])


def _all_documents(files: Iterable[Path]) -> tuple[Document, ...]:
    return tuple(document for file in files for document in _documents(file))


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
            yield _json_document(line, f"{file}:{number}")


def _json_document(line: str, where: str) -> Document:
    """Return the document of one JSON line, or raise Unreadable, naming where it is."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError:
        fields = None
    match fields:
        case {"text": str(text)}:
            return Document(text)
        case {"prompt": str(prompt), "answer": str(answer)}:
            return Document(f"{prompt} {answer}", prompt, answer)
    raise Unreadable(
        where,
        found=line[:60],
        expected='{"text": ...} or {"prompt": ..., "answer": ...}',
        next="fix the line",
    )


def _cut(documents: tuple[Document, ...]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Hold out the last twentieth of a file: of its documents, or of its one document's lines."""
    if len(documents) != 1:
        keep = _kept(len(documents))
        return documents[:keep], documents[keep:]
    lines = documents[0].text.splitlines(keepends=True)
    keep = _kept(len(lines))
    train, heldout = "".join(lines[:keep]), "".join(lines[keep:])
    return (
        (Document(train),) if train else (),
        (Document(heldout),) if heldout else (),
    )


def _kept(count: int) -> int:
    """Return how many of so many are trained on."""
    return count - max(1, count // ONE_IN)


def end_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the token that stands before and after every document.

    Args:
        tokenizer: of the model that is trained or measured.

    Returns:
        Its end-of-text token, else its begin-of-text token.

    Raises:
        Unreadable: where the tokenizer names neither.
    """
    for candidate in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if isinstance(candidate, int):
            return candidate
    raise Unreadable(
        "tokenizer",
        found="no end-of-text token",
        expected="eos_token",
        next="name one in tokenizer_config.json",
    )


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts, without any special token.

    Args:
        tokenizer: called once for all texts.
        texts: any number of them.

    Returns:
        One list of ids per text.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return list(encoded["input_ids"])


@dataclass(frozen=True)
class Corpus:
    """The training documents of one domain as tokens.

    A sequence is a pure function of data, random seed and its number. Documents are packed, so that
    an epoch holds each token once.

    Attributes:
        documents: the ids of each, its end token included.
        digest: of the data.
        random_seed: of the order of documents.
    """

    documents: tuple[Ids, ...]
    digest: str
    random_seed: int = 0
    # The stream of the epoch that was read last, by epoch and length of a sequence.
    _epochs: dict[tuple[int, int], Ids] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls, folders: Sequence[Path], tokenizer: "PreTrainedTokenizerBase", random_seed: int = 0
    ) -> "Corpus":
        """Read the training documents of data folders.

        Args:
            folders: of one or more data versions.
            tokenizer: of the model that is trained.
            random_seed: of the order of documents.

        Returns:
            The documents as tokens.

        Raises:
            Unreadable: as `split` and `end_token`.
        """
        splits = [split(folder) for folder in folders]
        end = end_token(tokenizer)
        texts = [document.text for part in splits for document in part.train]
        documents = [np.array([*ids, end], dtype=np.int64) for ids in encode(tokenizer, texts)]
        digest = "+".join(part.digest for part in splits)
        return cls(tuple(documents), digest, random_seed)

    @cached_property
    def tokens(self) -> int:
        """How many tokens an epoch has."""
        return sum(len(document) for document in self.documents)

    @property
    def end(self) -> int:
        """The id of the end token."""
        return int(self.documents[0][-1])

    def sequence(self, number: int, length: int) -> Ids:
        """Return one sequence of the corpus.

        Documents are shuffled anew in each epoch and cut where a sequence ends.

        Args:
            number: of the sequence, from 0 and without end.
            length: S.

        Returns:
            S + 1 token ids.
        """
        count = max(1, (self.tokens - 1) // length)
        epoch, position = divmod(number, count)
        if (epoch, length) not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch, length] = self._packed(epoch, length, count)
        start = position * length
        return self._epochs[epoch, length][start : start + length + 1]

    def _packed(self, epoch: int, length: int, count: int) -> Ids:
        """Return the tokens of one epoch in its order, as many as its sequences take."""
        order = self._random("epoch", epoch).permutation(len(self.documents))
        stream = np.concatenate([self.documents[index] for index in order])
        return np.resize(stream, count * length + 1)

    def _random(self, *keys: object) -> np.random.Generator:
        text = "/".join(map(str, (self.digest, self.random_seed, *keys)))
        first_bytes = hashlib.sha256(text.encode()).digest()[:8]
        return np.random.default_rng(int.from_bytes(first_bytes, "big"))


@dataclass(frozen=True)
class Mixture:
    """Sequences of several corpora in fixed proportion, spread evenly over the steps.

    Attributes:
        corpora: by domain.
        shares: of the sequences, by domain; they need not sum to 1.
    """

    corpora: Mapping[str, Corpus]
    shares: Mapping[str, float]

    def batch(self, step: int, count: int, length: int) -> tuple[Ids, list[str]]:
        """Return the sequences of one step, the same for the same step whatever ran before.

        Args:
            step: from 0.
            count: B.
            length: S.

        Returns:
            Token ids (B, S + 1), and the domain of each of the B sequences.
        """
        names = [name for name, share in self.shares.items() if share > 0]
        walk = self._walk((step + 1) * count)
        before, now = walk[: step * count], walk[step * count :]
        drawn = np.bincount(before, minlength=len(names))
        sequences = []
        for index in now:
            corpus = self.corpora[names[index]]
            sequences.append(corpus.sequence(int(drawn[index]), length))
            drawn[index] += 1
        return np.stack(sequences), [names[index] for index in now]

    def _walk(self, count: int) -> Ids:
        """Return the domains of the first `count` sequences, by their indices.

        A golden-ratio walk through the shares: any stretch of sequences holds them in proportion.
        """
        edges = np.cumsum([share for share in self.shares.values() if share > 0])
        positions = (0.5 + np.arange(count) * GOLDEN_RATIO) % 1.0 * edges[-1]
        indices = np.searchsorted(edges, positions, side="right")
        return np.asarray(np.minimum(indices, len(edges) - 1))
