"""Texts below a workspace that no data version holds: what was laid out to be registered, sources.

In:  the digests of documents.
Out: the files that hold any of them, and which rows; the same files without these rows.
Registered folders, the store and DVC's cache are `erased_bytes`'s; token files are made again.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from btx_core import corpus_files
from btx_core.columns import Document, Unreadable
from btx_core.corpus_files import TODAYS, Reading
from btx_core.corpus_rest import write_rest
from btx_core.files import put_in_place, temporary_path
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace

# What versions, DVC, git and the registry keep, and the models that stages make.
KEPT = frozenset({"data", "seeds", "experts", "builds", ".btx", ".dvc", ".git", "policies"})
MODELS = frozenset({"branches", "mixed", "tuned", "previous", "tokens"})
NO_TEXT = frozenset({".safetensors", ".bin", ".pt", ".gguf", ".db", ".dvc"})
PEEK_BYTES = 1 << 16
# Rows of a file that are named as unreadable.
NAMED = 8


@dataclass(frozen=True)
class LooseText:
    """A file of documents, and which of them are looked for.

    Attributes:
        path: the file.
        reading: how its documents were found.
        numbers: of the rows that are looked for; None: the file is one of them.
        documents: how many were read, whatever they are.
        unread: what cannot be read of it, place by place.
    """

    path: Path
    reading: Reading
    numbers: frozenset[int | None]
    documents: int
    unread: tuple[str, ...]


def holding(
    workspace: Workspace, digests: Collection[str], readings: Iterable[Reading] = ()
) -> list[LooseText]:
    """Return the files that hold documents of these digests, or may hold them unread.

    Args:
        workspace: below whose root they are looked for.
        digests: of documents.
        readings: how files may be read, beside today's.
    """
    every = dict.fromkeys([TODAYS, *readings])
    found = []
    for path in _files(workspace):
        looks = [_look(path, reading, digests) for reading in every]
        # The reading that finds most, or reads most of the file.
        best = max(looks, key=lambda one: (len(one.numbers), one.documents, not one.unread))
        # Of what no document can be read, it may be another file than one of text: no corpus.
        if best.numbers or (best.documents and best.unread):
            found.append(best)
    return found


def remove(
    workspace: Workspace, digests: Collection[str], readings: Iterable[Reading] = ()
) -> None:
    """Write these files again without the documents; where nothing else stays, delete them.

    Raises:
        Unreadable: for a file of which the rest cannot be read, once all others are written.
    """
    unreadable: Unreadable | None = None
    for loose in holding(workspace, digests, readings):
        try:
            if loose.numbers:
                _write_rest_of(loose)
        except Unreadable as error:
            unreadable = error
    if unreadable is not None:
        raise Unreadable(
            unreadable.subject,
            found=f"{unreadable.found}, behind documents that are to go",
            expected=unreadable.expected,
            next=f"{unreadable.next}, or delete the file; then run the command again",
        )


def _write_rest_of(loose: LooseText) -> None:
    with temporary_path(loose.path.parent, loose.path.name) as rest:
        if write_rest(loose.path, rest, loose.reading, loose.numbers):
            put_in_place(rest, loose.path, replace=True)
        else:
            loose.path.unlink()


def _look(path: Path, reading: Reading, digests: Collection[str]) -> LooseText:
    """Look for the documents in a file, as far as it can be read."""
    numbers: set[int | None] = set()
    documents, unread, more = 0, list[str](), 0
    if corpus_files.form_of(path) != "text" or _looks_like_text(path):
        try:
            for one in corpus_files.readable(path, reading):
                if isinstance(one, Document):
                    documents += 1
                    if one.digest in digests:
                        numbers.add(one.number)
                elif len(unread) < NAMED:
                    unread.append(f"{one.subject}: cannot be read")
                else:
                    more += 1
        except Unreadable as error:
            unread.append(f"{error.subject}: cannot be read from here on")
    if more:
        unread.append(f"{path}: {more} more rows cannot be read")
    return LooseText(path, reading, frozenset(numbers), documents, tuple(unread))


def _looks_like_text(path: Path) -> bool:
    if path.suffix.lower() in corpus_files.COMPRESSED:
        return True
    with path.open("rb") as stream:
        return b"\0" not in stream.read(PEEK_BYTES)


def _files(workspace: Workspace) -> Iterator[Path]:
    for folder, names, files in os.walk(workspace.root):
        here = Path(folder)
        skipped = KEPT if here == workspace.root else frozenset()
        if here in (workspace.work, workspace.root / folders.TOKENS):
            skipped |= MODELS
        names[:] = sorted(name for name in names if name not in skipped)
        for name in sorted(files):
            path = here / name
            if path.suffix.lower() not in NO_TEXT and path.is_file() and not path.is_symlink():
                yield path
