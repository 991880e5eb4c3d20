"""Documents of a data version: which are trained on, and which are only measured on.

In:  a data folder (files of text) and the rule by which it is divided.
Out: its training and held-out documents, read as streams: one document is in memory at a time.
A *.jsonl file holds one document a line, {"text"} or {"prompt", "answer"}; every other file is one
document of UTF-8 text. What lies under heldout/ is held out; without that folder the rule decides.
Tokens are left to `btx_core.tokens`, batches to `btx_core.batches`, measuring on the held-out
documents to `btx_core.measuring`.
"""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from btx_core.problems import BtxError

HELDOUT = "heldout"
# One file, document or line in so many is held out where the folder does not say which.
ONE_IN = 20
READ_BYTES = 1 << 20
# What is held out of a folder without heldout/. "files": one file in twenty by its digest, and of a
# single file its last twentieth. "documents": one document in twenty by its digest, from all files.
# "all": everything; nothing is trained on.
HeldOutRule = Literal["files", "documents", "all"]


class Unreadable(BtxError):
    """A data folder or file that does not hold text as promised."""


@dataclass(frozen=True)
class TextFolder:
    """A data folder, and how it is read.

    Attributes:
        path: the folder.
        rule: what is held out where the folder does not say.
        tokens: the folder that keeps token files of it for every later reader; None: none are kept.
    """

    path: Path
    rule: HeldOutRule = "files"
    tokens: Path | None = None


# A bare path is a folder that is divided by the rule "files".
AnyText = Path | TextFolder


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
class PartOfDocument:
    """A document, and on which side of the division it is."""

    held_out: bool
    document: Document


@dataclass(frozen=True)
class Split:
    """A data folder, divided.

    Attributes:
        folder: what is divided.
        files: the SHA-256 of every file's bytes, by path and sorted.
    """

    folder: TextFolder
    files: Mapping[Path, str]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every file's path and bytes, and of the rule: the data's part in a batch."""
        path = self.folder.path
        named = [f"{sha256} {file.relative_to(path).as_posix()}" for file, sha256 in self._sorted]
        if self.folder.rule != "files":
            named.append(self.folder.rule)
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    @property
    def train(self) -> Iterator[Document]:
        """The documents that are trained on, read anew each time."""
        return (part.document for part in self.documents() if not part.held_out)

    @property
    def heldout(self) -> Iterator[Document]:
        """The documents that are only measured on, read anew each time."""
        return (part.document for part in self.documents() if part.held_out)

    def documents(self) -> Iterator[PartOfDocument]:
        """Read every document once, in the order of the files.

        Yields:
            The documents with their sides; of a folder that is one document, two parts of it.

        Raises:
            Unreadable: naming the first file and line that is no text.
        """
        if self._is_one_document:
            yield from _cut(next(_all_documents(self.files)))
            return
        is_held_out = self._division
        number = 0
        for file in self.files:
            for document in _documents(file):
                yield PartOfDocument(is_held_out(file, number, document), document)
                number += 1

    @property
    def _sorted(self) -> list[tuple[Path, str]]:
        return sorted(self.files.items())

    @cached_property
    def _below_heldout(self) -> frozenset[Path]:
        """The files that lie in a folder called heldout."""
        path = self.folder.path
        return frozenset(f for f in self.files if HELDOUT in f.relative_to(path).parts[:-1])

    @cached_property
    def _is_one_document(self) -> bool:
        """Whether the folder is a single document that nothing but a cut can divide."""
        if self.folder.rule == "all" or self._below_heldout:
            return False
        if self.folder.rule == "files" and len(self.files) != 1:
            return False
        documents = _all_documents(self.files)
        return next(documents, None) is not None and next(documents, None) is None

    @cached_property
    def _division(self) -> Callable[[Path, int, Document], bool]:
        """Tell for a file, a document's number and the document whether it is held out."""
        rule = self.folder.rule
        if rule == "all":
            return lambda file, number, document: True
        if self._below_heldout:
            return lambda file, number, document: file in self._below_heldout
        if rule == "documents":
            key = _held_out_below(_all_documents(self.files))
            return lambda file, number, document: _key(document) < key
        if len(self.files) > 1:
            by_digest = sorted(self.files, key=lambda file: self.files[file])
            held_out = set(by_digest[: -(-len(by_digest) // ONE_IN)])
            return lambda file, number, document: file in held_out
        count = sum(1 for _ in _all_documents(self.files))
        keep = _kept(count)
        return lambda file, number, document: number >= keep


def split(source: AnyText) -> Split:
    """Divide a data folder. Its files are read once, for their digests; documents only when asked.

    Args:
        source: the folder of a data version; what is hidden in it does not count.

    Returns:
        Its training and held-out documents.

    Raises:
        Unreadable: where there is no such folder.
    """
    folder = text_folder(source)
    digests = {}
    for file in _files(folder.path):
        with file.open("rb") as stream:
            digests[file] = hashlib.file_digest(stream, "sha256").hexdigest()
    return Split(folder, digests)


def text_folder(source: AnyText) -> TextFolder:
    """Return a data folder with its rule; that of a bare path is "files"."""
    return source if isinstance(source, TextFolder) else TextFolder(source)


def check(source: AnyText) -> None:
    """Check that a data folder holds text as promised, one document in memory at a time.

    Args:
        source: the folder of a data version.

    Raises:
        Unreadable: naming the first file and line that do not.
    """
    for _ in _all_documents(_files(text_folder(source).path)):
        pass


def refuse_empty(source: AnyText, train: int, heldout: int) -> None:
    """Refuse a folder that has nothing to train on or nothing to measure on.

    Args:
        source: the folder.
        train: how many training documents it has.
        heldout: how many held-out ones.

    Raises:
        Unreadable: where one is missing that the folder's rule promises.
    """
    folder = text_folder(source)
    if heldout and (train or folder.rule == "all"):
        return
    raise Unreadable(
        folder.path,
        found=f"{train} training, {heldout} held-out documents",
        expected="one of each at least",
        next="add text",
    )


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


def _all_documents(files: Iterable[Path]) -> Iterator[Document]:
    return (document for file in files for document in _documents(file))


def _documents(file: Path) -> Iterator[Document]:
    """Read the documents of one file; raises Unreadable for what is no text."""
    if file.suffix != ".jsonl":
        text = _text(file)
        if text.strip():
            yield Document(text)
        return
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            yield _json_document(line, f"{file}:{number}")


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error.start) from error


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as stream:
            yield from stream
    except UnicodeDecodeError as error:
        raise _not_utf8(file, _first_bad_byte(file)) from error


def _first_bad_byte(file: Path) -> int:
    """Return the position of the first byte that is no UTF-8."""
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(READ_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return position - pending + error.start
            position += len(chunk)


def _not_utf8(file: Path, position: int) -> Unreadable:
    return Unreadable(
        file,
        found=f"byte {position} is no UTF-8",
        expected="UTF-8 text or JSON lines",
        next="convert or remove it",
    )


def _json_document(line: str, where: str) -> Document:
    """Return the document of one JSON line, or raise Unreadable, naming where it is."""
    try:
        fields = json.loads(line)
        if "\\u" in line:
            # Half of a surrogate pair is what JSON can spell and UTF-8 cannot.
            json.dumps(fields, ensure_ascii=False).encode()
    except ValueError:
        fields = None
    match fields:
        case {"text": str(text)}:
            return Document(text)
        case {"prompt": str(prompt), "answer": str(answer)}:
            return Document(f"{prompt} {answer}", prompt, answer)
    raise Unreadable(
        where,
        found=line.rstrip("\n")[:60],
        expected='{"text": ...} or {"prompt": ..., "answer": ...}',
        next="fix the line",
    )


def _cut(document: Document) -> Iterator[PartOfDocument]:
    """Hold out the last twentieth of a document's lines."""
    lines = document.text.splitlines(keepends=True)
    keep = _kept(len(lines))
    for held_out, part in ((False, lines[:keep]), (True, lines[keep:])):
        if part:
            yield PartOfDocument(held_out, Document("".join(part)))


def _kept(count: int) -> int:
    """Return how many of so many are trained on."""
    return count - max(1, count // ONE_IN)


def _key(document: Document) -> int:
    """Return a number below 2^64 that the document's text fixes."""
    return int.from_bytes(hashlib.sha256(document.text.encode()).digest()[:8], "big")


def _held_out_below(documents: Iterable[Document]) -> int:
    """Return the key below which a document is held out: one in twenty of all keys.

    Where that leaves nothing to train on or nothing to measure on, it is the document of the
    smallest key. Of a large corpus no more than the first documents are read.
    """
    limit, smallest = (1 << 64) // ONE_IN, 1 << 64
    sides = set()
    for document in documents:
        key = _key(document)
        smallest = min(smallest, key)
        sides.add(key < limit)
        if len(sides) == 2:
            return limit
    return smallest + 1
