"""The documents of a data version, each with the file and row that holds it, its id and author.

In:  the text of a data version.
Out: its documents, read as a stream, each known by a digest of its text. Case and spacing do not
count, so that the digest finds a document that was only laid out anew.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from btx_core.measuring import overlap
from btx_core.texts import TextFolder, every_document


@dataclass(frozen=True)
class HeldDocument:
    """One document of a data version.

    Attributes:
        path: of its file, from the version's folder.
        number: of its line or row, from 1; None where the file is the document.
        digest: SHA-256 of its text, case and spacing aside.
        id: as its row states it.
        authors: as its row states them.
        plain: its text in that form.
    """

    path: str
    number: int | None
    digest: str
    id: str | None
    authors: tuple[str, ...]
    plain: bytes


def documents(text: TextFolder) -> Iterator[HeldDocument]:
    """Yield every document of a data version that holds any text, in the order of its files."""
    for path, document in every_document(text):
        plain = overlap.plain(document)
        if plain:
            yield HeldDocument(
                path=path,
                number=document.number,
                digest=hashlib.sha256(plain).hexdigest(),
                id=document.about.id,
                authors=document.about.authors,
                plain=plain,
            )
