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
from btx_core.columns import Unreadable
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


@dataclass(frozen=True)
class LooseText:
    """A file that holds documents which are looked for.

    Attributes:
        path: the file.
        reading: how its documents were found.
        numbers: of their rows; None: the file is one of them.
    """

    path: Path
    reading: Reading
    numbers: frozenset[int | None]


def holding(
    workspace: Workspace, digests: Collection[str], readings: Iterable[Reading] = ()
) -> list[LooseText]:
    """Return the files that hold documents of these digests.

    Args:
        workspace: below whose root they are looked for.
        digests: of documents.
        readings: how files may be read, beside today's.
    """
    every = dict.fromkeys([TODAYS, *readings])
    found = []
    for path in _files(workspace):
        for reading in every:
            numbers = _numbers(path, reading, digests)
            if numbers:
                found.append(LooseText(path, reading, numbers))
                break
    return found


def remove(
    workspace: Workspace, digests: Collection[str], readings: Iterable[Reading] = ()
) -> None:
    """Write these files again without the documents; where nothing else stays, delete them."""
    for loose in holding(workspace, digests, readings):
        with temporary_path(loose.path.parent, loose.path.name) as rest:
            if write_rest(loose.path, rest, loose.reading, loose.numbers):
                put_in_place(rest, loose.path, replace=True)
            else:
                loose.path.unlink()


def _numbers(path: Path, reading: Reading, digests: Collection[str]) -> frozenset[int | None]:
    if corpus_files.form_of(path) == "text" and not _looks_like_text(path):
        return frozenset()
    try:
        documents = corpus_files.documents(path, reading)
        return frozenset(one.number for one in documents if one.digest in digests)
    except Unreadable:
        # Another file than one of text, or of another form: it is no corpus.
        return frozenset()


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
