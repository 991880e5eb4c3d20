"""Documents of a data version: which are trained on, and which are only measured on.

In:  a data folder and the rule by which it is divided.
Out: its training and held-out documents, read as streams: one document is in memory at a time.
What lies under heldout/ is held out, and of a folder that the `datasets` library saved every split
but train; without such folders the rule decides. How a file is read is left to
`btx_core.corpus_files`, tokens to `btx_core.tokens`, batches to `btx_core.batches`, measuring on
the held-out documents to `btx_core.measuring`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from btx_core import corpus_files
from btx_core.columns import AboutDocument, Document, Unreadable, are_rows
from btx_core.corpus_files import TODAYS, Reading

HELDOUT = "heldout"
# One file, document or line in so many is held out where the folder does not say which.
ONE_IN = 20
# What the `datasets` library calls a folder of splits by, and the split that is trained on.
SPLITS, TRAIN = "dataset_dict.json", "train"
# Of a file: enough to know a byte order mark.
FIRST_BYTES = 4
# What is held out of a folder without heldout/. "files": one file in twenty by its digest, and of a
# single file its last twentieth. "documents": one document in twenty by its digest, from all files.
# "all": everything; nothing is trained on.
HeldOutRule = Literal["files", "documents", "all"]


@dataclass(frozen=True)
class TextFolder:
    """A data folder, and how it is read.

    Attributes:
        path: the folder.
        rule: what is held out where the folder does not say.
        tokens: the folder that keeps token files of it for every later reader; None: none are kept.
        reading: how its files are read.
    """

    path: Path
    rule: HeldOutRule = "files"
    tokens: Path | None = None
    reading: Reading = TODAYS


# A bare path is a folder that is divided by the rule "files".
AnyText = Path | TextFolder


@dataclass(frozen=True)
class IndexedDocument:
    """A document by where it stands, with what is known of it and not its text.

    Attributes:
        file: relative to the folder.
        number: of its line, row or item in the file, from 1; None: the file is one document.
        about: its id, author and licence, as far as its row says.
        digest: SHA-256 of its text, case and spacing aside.
        text_bytes: of its text in UTF-8.
        is_conversation: whether it has messages.
        takes_in: whether it holds what stood in columns beside its text.
        marked: what its row says is not to be learnt; empty: nothing.
        holds_rows: whether it is a file of text and its text is rows of JSON.
    """

    file: str
    number: int | None
    about: AboutDocument
    digest: str
    text_bytes: int
    is_conversation: bool
    takes_in: bool = False
    marked: str = ""
    holds_rows: bool = False


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
        read_anew: whether its documents may be others than those of the older reading.
        keys_left_out: whether keys that only other rows have are left out of calls and tools, which
            once were read as null.
    """

    folder: TextFolder
    files: Mapping[Path, str]
    read_anew: bool = False
    keys_left_out: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every file's path and bytes, and of the rule: the data's part in a batch."""
        path = self.folder.path
        named = [f"{sha256} {file.relative_to(path).as_posix()}" for file, sha256 in self._sorted]
        if self.folder.rule != "files":
            named.append(self.folder.rule)
        if self.read_anew:
            named.append(f"reading 2 {json.dumps(self.folder.reading.text_field)}")
        if self.folder.reading.whole:
            named.append("rows with all their columns")
        if self.keys_left_out:
            named.append("objects without the keys of other rows")
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
            yield from _cut(next(self._every()))
            return
        is_held_out = self._division
        number = 0
        for file in self.files:
            for document in corpus_files.documents(file, self.folder.reading):
                yield PartOfDocument(is_held_out(file, number, document), document)
                number += 1

    @property
    def _sorted(self) -> list[tuple[Path, str]]:
        return sorted(self.files.items())

    @cached_property
    def _below_heldout(self) -> frozenset[Path]:
        """The files that lie in a folder called heldout."""
        path, held_out = self.folder.path, set[Path]()
        has_splits = not self.folder.reading.older and any(f.name == SPLITS for f in self.files)
        splits = {f.parent for f in self.files if f.name == SPLITS} if has_splits else set()
        for file in self.files:
            relative = file.relative_to(path)
            of_split = {one for one in splits if one in file.parents and file.parent != one}
            tested = any(file.relative_to(one).parts[0] != TRAIN for one in of_split)
            if HELDOUT in relative.parts[:-1] or tested:
                held_out.add(file)
        return frozenset(held_out)

    def _every(self) -> Iterator[Document]:
        return _all_documents(self.files, self.folder.reading)

    @cached_property
    def _is_one_document(self) -> bool:
        """Whether the folder is a single document that nothing but a cut can divide."""
        if self.folder.rule == "all" or self._below_heldout:
            return False
        if self.folder.rule == "files" and len(self.files) != 1:
            return False
        documents = self._every()
        first = next(documents, None)
        # Neither a conversation nor an answer to learn can be cut.
        is_text = first is not None and not first.is_partly_learnt
        return is_text and next(documents, None) is None

    @cached_property
    def _division(self) -> Callable[[Path, int, Document], bool]:
        """Tell for a file, a document's number and the document whether it is held out."""
        rule = self.folder.rule
        if rule == "all":
            return lambda file, number, document: True
        if self._below_heldout:
            return lambda file, number, document: file in self._below_heldout
        if rule == "documents":
            key = _held_out_below(self._every())
            return lambda file, number, document: _key(document) < key
        if len(self.files) > 1:
            by_digest = sorted(self.files, key=lambda file: self.files[file])
            held_out = set(by_digest[: -(-len(by_digest) // ONE_IN)])
            return lambda file, number, document: file in held_out
        count = sum(1 for _ in self._every())
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
    digests, read_anew, keys_left_out = {}, False, False
    for file in _files(folder.path):
        with file.open("rb") as stream:
            first = stream.read(FIRST_BYTES)
            stream.seek(0)
            digests[file] = hashlib.file_digest(stream, "sha256").hexdigest()
        read_anew = read_anew or corpus_files.is_read_anew(file, first, folder.reading)
        if not keys_left_out:
            keys_left_out = corpus_files.holds_keys_of_other_rows(file, folder.reading)
    return Split(folder, digests, read_anew, keys_left_out)


def text_folder(source: AnyText) -> TextFolder:
    """Return a data folder with its rule; that of a bare path is "files"."""
    return source if isinstance(source, TextFolder) else TextFolder(source)


def every_document(source: AnyText) -> Iterator[tuple[str, Document]]:
    """Read every document of a data folder with the path of its file, in the order of the files.

    Args:
        source: the folder of a data version.

    Yields:
        The documents, those that are held out among them.

    Raises:
        Unreadable: naming the first file and line that is no text.
    """
    folder = text_folder(source)
    for file in _files(folder.path):
        relative = file.relative_to(folder.path).as_posix()
        for document in corpus_files.documents(file, folder.reading):
            yield relative, document


def documents_of(source: AnyText) -> Iterator[IndexedDocument]:
    """Read a data folder, and say of every document where it stands and what is known of it.

    Nothing is kept but what the data folder holds itself: who asks again reads again.

    Args:
        source: the folder of a data version.

    Yields:
        The documents, those that are held out among them, in the order of the files.

    Raises:
        Unreadable: naming the first file and line that is no text.
    """
    text_field = text_folder(source).reading.text_field
    for file, document in every_document(source):
        yield IndexedDocument(
            file=file,
            number=document.number,
            about=document.about,
            digest=document.digest,
            text_bytes=len(document.text.encode()),
            is_conversation=bool(document.messages),
            takes_in=document.takes_in,
            marked=document.marked,
            holds_rows=document.number is None and are_rows(document.text, text_field),
        )


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
    if not train + heldout:
        raise Unreadable(
            folder.path,
            found="0 training, 0 held-out documents: every file is empty, hidden or blank",
            expected="text",
            next="add text",
        )
    raise Unreadable(
        folder.path,
        found=f"{train} training, {heldout} held-out documents",
        expected="one of each at least",
        next="add text",
    )


def refuse_unusable(source: AnyText) -> None:
    """Refuse a folder that has nothing to train on or nothing to measure on.

    Args:
        source: the folder of a data version.

    Raises:
        Unreadable: as `refuse_empty`, and where there is no text at all.
    """
    folder = text_folder(source)
    train = heldout = 0
    for part in split(folder).documents():
        if part.document.learnt_text.strip():
            heldout += part.held_out
            train += not part.held_out
        if heldout and (train or folder.rule == "all"):
            return
    refuse_empty(folder, train, heldout)


def every(source: AnyText) -> Iterator[Document]:
    """Yield the documents of a data folder, those that are held out among them.

    Raises:
        Unreadable: for what is no text.
    """
    folder = text_folder(source)
    return _all_documents(_files(folder.path), folder.reading)


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


def _all_documents(files: Iterable[Path], reading: Reading) -> Iterator[Document]:
    return (one for file in files for one in corpus_files.documents(file, reading))


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
