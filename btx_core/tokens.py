"""Token files: the documents of a data version as tokens, on disk and mapped into memory.

In:  a data folder and a tokenizer.
Out: for each side of its division one array of token ids and one of the documents' ends; for
held-out text also how many bytes of text each token spells. Of conversations and instructions they
say too which tokens are learnt.
They are written in streams, once for a data version and a tokenizer, and put in place whole; every
later reader maps the same files. Which tokens make a batch is left to `btx_core.batches`, which are
measured to `btx_core.measuring`.
"""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btx_core.columns import Document, Unreadable
from btx_core.conversations import PartlyLearnt, encoded, is_in_parts, template_digest
from btx_core.files import any_json, whole_folder
from btx_core.problems import WrongUsage
from btx_core.texts import AnyText, Split, refuse_empty, split, text_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Of the files; another form is another folder.
FORM = 1
# Characters that are encoded at once: a tokenizer takes about 40 bytes of memory for each. A longer
# document is encoded in pieces, cut at the end of a line where there is one.
PIECE = 1 << 18
# Documents that are encoded at once; the tokenizer's own threads share them.
DOCUMENTS = 256
TOKEN_TYPES: Mapping[str, type[np.unsignedinteger[Any]]] = {
    "uint16": np.uint16,
    "uint32": np.uint32,
}
META = "tokens.json"
# In keys and digests: once a message in parts was written as the template writes a list.
PARTS = "parts as text"
# Likewise: once the arguments of a call were written as they came.
CALLS = "calls as the template takes them"
# Of tokenizers that the tokenizers library runs, whatever class reads them.
FAST = "TokenizersBackend"

Ids = NDArray[np.int64]
# Of any width: token ids are kept in 2 or 4 bytes.
StoredIds = NDArray[np.unsignedinteger[Any]]


def _no_spans() -> Ids:
    return np.empty((0, 2), np.int64)


@dataclass(frozen=True, eq=False)
class TokenisedDocuments:
    """Documents one after the other as tokens, each with an end token behind it.

    Attributes:
        ids: of all tokens.
        ends: (D,) where each document ends in `ids`, its end token included.
        unlearnt: (K, 2) stretches of `ids` that are neither trained on nor measured, such as what a
            user says.
    """

    ids: StoredIds
    ends: Ids
    unlearnt: Ids = field(default_factory=_no_spans, kw_only=True)

    @property
    def is_partly_learnt(self) -> bool:
        """Whether some tokens are neither trained on nor measured."""
        return len(self.unlearnt) > 0

    def learnt(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Tell of a stretch of the tokens which are trained on and measured."""
        learnt = np.ones(stop - start, dtype=bool)
        first = int(np.searchsorted(self.unlearnt[:, 1], start, side="right"))
        last = int(np.searchsorted(self.unlearnt[:, 0], stop))
        for begin, end in self.unlearnt[first:last]:
            learnt[max(0, begin - start) : max(0, end - start)] = False
        return learnt

    def ends_document(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Tell of a stretch of the tokens which are the last of their document."""
        ends = np.zeros(stop - start, dtype=bool)
        first, last = np.searchsorted(self.ends, [start + 1, stop + 1])
        ends[self.ends[first:last] - 1 - start] = True
        return ends

    def __len__(self) -> int:
        """Return how many documents there are."""
        return len(self.ends)


@dataclass(frozen=True, eq=False)
class HeldOutDocuments(TokenisedDocuments):
    """Held-out documents as tokens.

    Attributes:
        text_bytes: (T,) bytes of text that each token spells; 0 for an end token.
        answer_tokens: (D,) how many of a document's last tokens are an answer that can be checked,
            its end token included; 0: none.
    """

    text_bytes: NDArray[np.uint32]
    answer_tokens: NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Tokens:
    """A data version as tokens.

    Attributes:
        digest: of the data.
        tokenizer: digest of the tokenizer, and of its chat template where that was used.
        end: the id of the end token.
        train: what is trained on.
        heldout: what is only measured on.
    """

    digest: str
    tokenizer: str
    end: int
    train: TokenisedDocuments
    heldout: HeldOutDocuments

    @classmethod
    def of(cls, source: AnyText, tokenizer: "PreTrainedTokenizerBase") -> "Tokens":
        """Map a data folder's token files, and write them first where they are not there.

        Any number of processes may ask at once: one writes, the others wait for it.

        Args:
            source: the folder of a data version. One that keeps no token files gets temporary ones,
                which last as long as they are mapped.
            tokenizer: of the model that is trained or measured.

        Returns:
            The tokens.

        Raises:
            Unreadable: for what is no text, and where nothing is held out or trained on.
        """
        folder, divided = text_folder(source), split(source)
        writer = _Writer(divided, tokenizer)
        if folder.tokens is None:
            with tempfile.TemporaryDirectory(prefix="btx-tokens-") as temporary:
                writer.write(Path(temporary))
                return writer.mapped(Path(temporary))
        path = folder.tokens / writer.key
        if not writer.is_whole(path):
            _write_once(writer, path)
        return writer.mapped(path)


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


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a digest of all that fixes which tokens a text becomes, and of the end token."""
    # A build names another class for its seed's very tokenizer: one name stands for all of them.
    kind = FAST if tokenizer.is_fast else type(tokenizer).__name__
    sha256 = hashlib.sha256(f"{kind} {end_token(tokenizer)}\n".encode())
    if tokenizer.is_fast:
        # Any: the tokenizers library's own JSON.
        backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        # Set by whoever called it last; not used here.
        backend |= {"truncation": None, "padding": None}
        sha256.update(json.dumps(backend, sort_keys=True).encode())
        return sha256.hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(tokenizer.save_vocabulary(folder)):
            sha256.update(Path(name).read_bytes())
    sha256.update(json.dumps(tokenizer.get_added_vocab(), sort_keys=True).encode())
    return sha256.hexdigest()


def _write_once(writer: "_Writer", path: Path) -> None:
    """Write the files under a lock, unless another process has written them meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.lock")):
        if writer.is_whole(path):
            return
        # Damaged, or left by a writer that was killed.
        for left in (path, *path.parent.glob(f".{path.name}.partial-*")):
            shutil.rmtree(left, ignore_errors=True)
        # Where the file system knows no locks another may have been faster.
        with suppress(WrongUsage, FileExistsError), whole_folder(path) as folder:
            writer.write(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class _Piece:
    """Text that is encoded at once.

    Attributes:
        text: a document or a piece of it.
        ends_document: whether the document ends here.
        is_answer: whether it is the answer of its document.
    """

    text: str
    ends_document: bool
    is_answer: bool = False


class _Writer:
    """Writes the token files of one data version for one tokenizer, and maps them."""

    def __init__(self, divided: Split, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.divided = divided
        self.tokenizer = tokenizer
        self.end = end_token(tokenizer)
        self.type = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
        self.tokenizer_digest = tokenizer_digest(tokenizer)
        # What was read before there were conversations has none.
        self.template = None if divided.folder.reading.older else template_digest(tokenizer)
        named = f"{FORM} {divided.digest} {self.tokenizer_digest}"
        if self.template:
            named += f" {self.template} {PARTS} {CALLS}"
        self.key = hashlib.sha256(named.encode()).hexdigest()[:32]

    def write(self, folder: Path) -> None:
        with ExitStack() as stack:
            train = _Side(folder / "train", self, stack)
            heldout = _HeldOutSide(folder / "heldout", self, stack)
            for part in self.divided.documents():
                (heldout if part.held_out else train).add(part.document)
            train.flush()
            heldout.flush()
        refuse_empty(self.divided.folder, train.documents, heldout.documents)
        for side in (train, heldout):
            side.refuse_silent(self.divided.folder.path)
        digests = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
        meta = {"form": FORM, "type": self.type, "files": digests}
        if train.conversations + heldout.conversations:
            marks = [PARTS] * (train.in_parts or heldout.in_parts)
            marks += [CALLS] * (train.changes_calls or heldout.changes_calls)
            meta["template"] = " ".join([str(self.template), *marks])
        (folder / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")

    def is_whole(self, path: Path) -> bool:
        """Tell whether every file is there with the bytes that were written."""
        try:
            meta = any_json((path / META).read_text(encoding="utf-8"))
            return all(_sha256(path / name) == sha for name, sha in meta["files"].items())
        except (OSError, ValueError, KeyError, AttributeError):
            return False

    def mapped(self, path: Path) -> Tokens:
        train = TokenisedDocuments(
            _map(path / "train.ids", TOKEN_TYPES[self.type]),
            _map(path / "train.ends", np.int64),
            unlearnt=_map_spans(path / "train.unlearnt"),
        )
        heldout = HeldOutDocuments(
            _map(path / "heldout.ids", TOKEN_TYPES[self.type]),
            _map(path / "heldout.ends", np.int64),
            _map(path / "heldout.bytes", np.uint32),
            _map(path / "heldout.answers", np.uint32),
            unlearnt=_map_spans(path / "heldout.unlearnt"),
        )
        template = json.loads((path / META).read_text(encoding="utf-8")).get("template")
        tokenizer = f"{self.tokenizer_digest} {template}" if template else self.tokenizer_digest
        return Tokens(self.divided.digest, tokenizer, self.end, train, heldout)


@dataclass
class _Side:
    """One side of the division, as it is written: documents are encoded many at a time."""

    path: Path
    writer: _Writer
    stack: ExitStack
    documents: int = 0
    conversations: int = 0
    in_parts: bool = False
    changes_calls: bool = False
    spells: bool = False
    written: int = 0
    _waiting: list[_Piece] = field(default_factory=list)
    _characters: int = 0

    def __post_init__(self) -> None:
        # Opened where it is needed: most text is learnt whole.
        self._unlearnt: IO[bytes] | None = None
        self._ids = self._open("ids")
        self._ends = self._open("ends")

    def add(self, document: Document) -> None:
        """Take a document in."""
        if document.is_partly_learnt:
            self.flush()
            self._put_partly_learnt(document)
            return
        for piece in self._pieces(document):
            if self._characters + len(piece.text) > PIECE or len(self._waiting) >= DOCUMENTS:
                self.flush()
            self._waiting.append(piece)
            self._characters += len(piece.text)
        self.documents += 1

    def flush(self) -> None:
        """Encode and write what was taken in."""
        if self._waiting:
            self._write(self._waiting)
        self._waiting, self._characters = [], 0

    def _says_anything(self, tokens: PartlyLearnt) -> bool:
        ids = np.array(tokens.ids, dtype=np.int64)[tokens.learnt].tolist()
        text = self.writer.tokenizer.decode(ids, skip_special_tokens=True)
        return bool(str(text).strip())

    def refuse_silent(self, folder: Path) -> None:
        """Refuse conversations of which nothing would be learnt or measured."""
        if self.conversations and self.conversations == self.documents and not self.spells:
            raise Unreadable(
                folder,
                found=f"{self.conversations} conversations for {self.path.name}, of whose answers "
                "the chat template writes nothing",
                expected="a template that writes what the assistant says and calls",
                next="take a seed whose template writes tool_calls, or add conversations with text",
            )

    def _pieces(self, document: Document) -> Iterator[_Piece]:
        return _pieces(document.text)

    def _write(self, pieces: Sequence[_Piece]) -> None:
        ends = []
        for piece, ids in zip(pieces, self._encoded(pieces)["input_ids"], strict=True):
            ends += self._put(piece, ids)
        self._ends.write(np.array(ends, dtype=np.int64).tobytes())

    def _put_partly_learnt(self, document: Document) -> None:
        tokens = encoded(document, self.writer.tokenizer)
        # An answer is learnt with its end; where a conversation's turn ends, its template says.
        ends = not document.messages
        begun, learnt = self.written, np.append(tokens.learnt, ends)
        changes = np.flatnonzero(np.diff(learnt, prepend=True, append=True))
        if len(changes):
            if self._unlearnt is None:
                self._unlearnt = self._open("unlearnt")
            self._unlearnt.write((changes.astype(np.int64) + begun).tobytes())
        self.spells = self.spells or self._says_anything(tokens)
        self._put_bytes(tokens)
        last = _Piece("", ends_document=True)
        self._ends.write(np.array(self._put(last, list(tokens.ids)), dtype=np.int64).tobytes())
        self.documents += 1
        self.conversations += bool(document.messages)
        self.in_parts = self.in_parts or any(map(is_in_parts, document.messages))
        self.changes_calls = self.changes_calls or tokens.changes_calls

    def _put_bytes(self, tokens: PartlyLearnt) -> None:
        """Write what only held-out text needs."""

    def _put(self, piece: _Piece, ids: list[int]) -> list[int]:
        """Write the ids of a piece; return where its document ends, if it does."""
        if piece.ends_document:
            ids.append(self.writer.end)
        self._ids.write(np.array(ids, dtype=TOKEN_TYPES[self.writer.type]).tobytes())
        self.written += len(ids)
        return [self.written] if piece.ends_document else []

    # Any: transformers' mapping of results.
    def _encoded(self, pieces: Sequence[_Piece], *, offsets: bool = False) -> Any:
        return self.writer.tokenizer(
            [piece.text for piece in pieces],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
            verbose=False,
        )

    def _open(self, ending: str) -> IO[bytes]:
        return self.stack.enter_context(self.path.with_suffix(f".{ending}").open("wb"))


@dataclass
class _HeldOutSide(_Side):
    """The held-out side: also the bytes that each token spells, and the answers."""

    # Bytes of text that no token has spelt as yet, and tokens of the answer so far.
    _unspelt: int = 0
    _answer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._bytes = self._open("bytes")
        self._answers = self._open("answers")

    def _put_bytes(self, tokens: PartlyLearnt) -> None:
        self._bytes.write(np.append(tokens.text_bytes, np.uint32(0)).astype(np.uint32).tobytes())
        self._answers.write(np.array([0], dtype=np.uint32).tobytes())

    def _pieces(self, document: Document) -> Iterator[_Piece]:
        if document.prompt is None or document.answer is None:
            yield from _pieces(document.text)
            return
        for piece in _pieces(document.prompt):
            yield _Piece(piece.text, ends_document=False)
        for piece in _pieces(f" {document.answer}"):
            yield _Piece(piece.text, piece.ends_document, is_answer=True)

    def _write(self, pieces: Sequence[_Piece]) -> None:
        has_offsets = self.writer.tokenizer.is_fast
        encoded = self._encoded(pieces, offsets=has_offsets)
        ends, answers = [], []
        for number, piece in enumerate(pieces):
            ids = encoded["input_ids"][number]
            offsets = encoded["offset_mapping"][number] if has_offsets else None
            spelt = _spelt(piece.text, len(ids), offsets)
            if len(spelt):
                spelt[0] += self._unspelt
                self._unspelt = 0
            else:
                self._unspelt += len(piece.text.encode())
            self._answer += len(ids) if piece.is_answer else 0
            if piece.ends_document:
                spelt = np.append(spelt, np.uint32(self._unspelt))
                answers.append(self._answer + 1 if piece.is_answer else 0)
                self._unspelt = self._answer = 0
            self._bytes.write(spelt.astype(np.uint32).tobytes())
            ends += self._put(piece, ids)
        self._ends.write(np.array(ends, dtype=np.int64).tobytes())
        self._answers.write(np.array(answers, dtype=np.uint32).tobytes())


def _pieces(text: str) -> Iterator[_Piece]:
    """Cut a text where it is longer than a tokenizer should take at once."""
    start = 0
    while len(text) - start > PIECE:
        stop = text.rfind("\n", start, start + PIECE) + 1 or start + PIECE
        yield _Piece(text[start:stop], ends_document=False)
        start = stop
    yield _Piece(text[start:], ends_document=True)


def _spelt(text: str, tokens: int, offsets: Sequence[tuple[int, int]] | None) -> NDArray[np.uint32]:
    """Return how many bytes of a text each of its tokens spells; together they are all of them.

    Args:
        text: what was encoded.
        tokens: how many tokens it became.
        offsets: the characters of each token; None: the bytes are shared out evenly.
    """
    if not tokens:
        return np.empty(0, np.uint32)
    total = len(text.encode())
    if offsets is None:
        ends = np.arange(1, tokens + 1) * total // tokens
    else:
        characters = np.array(offsets, dtype=np.int64)[:, 1]
        ends = np.maximum.accumulate(_byte_positions(text)[characters])
        ends[-1] = total
    return np.diff(ends, prepend=0).astype(np.uint32)


def _byte_positions(text: str) -> Ids:
    """Return for every position in a text, its end included, the bytes of UTF-8 before it."""
    if text.isascii():
        return np.arange(len(text) + 1)
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)])


# Any: arrays of whatever type the file holds.
def _map(path: Path, kind: type[np.generic]) -> NDArray[Any]:
    if not path.stat().st_size:
        return np.empty(0, kind)
    return np.memmap(path, dtype=kind, mode="r")


def _map_spans(path: Path) -> Ids:
    if not path.exists():
        return _no_spans()
    spans: Ids = _map(path, np.int64).reshape(-1, 2)
    return spans


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
