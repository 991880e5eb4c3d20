"""The documents of a data version, each with the file and line that holds it, its id and author.

In:  the folder of a data version.
Out: its documents, read as a stream, each known by a digest of its text. Case and spacing do not
count, so that the digest finds a document that was only laid out anew.
In a *.jsonl file a line may state "id" and "author"; every other file is one document.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from btx_core.measuring import overlap
from btx_core.texts import Document


@dataclass(frozen=True)
class HeldDocument:
    """One document of a data version.

    Attributes:
        path: of its file, from the version's folder.
        line: its number in a *.jsonl file, from 1; None where the file is the document.
        digest: SHA-256 of its text, case and spacing aside.
        id: as its line states it.
        author: as its line states it.
        plain: its text in that form.
    """

    path: str
    line: int | None
    digest: str
    id: str | None
    author: str | None
    plain: bytes


def documents(folder: Path) -> Iterator[HeldDocument]:
    """Yield every document of a data version that holds any text, in the order of its files."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts):
            yield from of_file(path, relative.as_posix())


def of_file(path: Path, relative: str) -> Iterator[HeldDocument]:
    """Yield the documents of one file.

    Args:
        path: the file.
        relative: its path from the version's folder.
    """
    if path.suffix != ".jsonl":
        yield from _held(relative, None, path.read_text(encoding="utf-8"), {})
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                stated = json.loads(line)
                yield from _held(relative, number, _text(stated), stated)


def _text(stated: dict[str, object]) -> str:
    if "text" in stated:
        return str(stated["text"])
    return f"{stated.get('prompt')} {stated.get('answer')}"


def _held(
    path: str, line: int | None, text: str, stated: dict[str, object]
) -> Iterator[HeldDocument]:
    plain = overlap.plain(Document(text))
    if not plain:
        return
    named = {key: str(stated[key]) for key in ("id", "author") if stated.get(key) is not None}
    yield HeldDocument(
        path=path,
        line=line,
        digest=hashlib.sha256(plain).hexdigest(),
        id=named.get("id"),
        author=named.get("author"),
        plain=plain,
    )
