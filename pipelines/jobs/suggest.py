"""Propose domains for a mixed corpus. Nothing is registered or written.

In:  a file or folder.  Out: groups of its documents, with what tells them apart.
"""

from collections.abc import Iterator
from pathlib import Path

from btx_core import corpus_files
from btx_core.columns import Document
from btx_core.corpus_files import Reading
from btx_core.measuring.grouping import CHARACTERS, MOST, grouped
from btx_core.texts import TextFolder, every_document
from registry.errors import Invalid
from registry.records.answers.registering import GroupedDocument, SuggestAnswer, SuggestedDomain

# Documents that a group is shown by.
EXAMPLES = 3


def suggest(
    source: Path, count: int | None = None, *, text_field: str | None = None
) -> SuggestAnswer:
    """Group the documents of a file or folder.

    Args:
        source: text as `btx data add` reads it.
        count: how many domains are proposed; None: as many as two halves of the text agree upon.
        text_field: the column that holds the text of every row; one of the known forms unless it is
            given.

    Returns:
        The proposal, the largest group first.

    Raises:
        Invalid: for fewer than two documents, or a count that is out of range.
        Unreadable: for what does not hold text as promised.
    """
    places, texts, sizes = [], [], []
    for file, document in _documents(source, Reading(text_field)):
        places.append(GroupedDocument(file=file, number=document.number))
        # Of a long document only its beginning is looked at.
        texts.append(document.text[:CHARACTERS])
        sizes.append(len(document.text.encode()))
    _check(source, len(texts), count)
    grouping = grouped(texts, count)
    domains = []
    for number, words in enumerate(grouping.words):
        members = [index for index, group in enumerate(grouping.groups) if group == number]
        domains.append(
            SuggestedDomain(
                words=words,
                bytes=sum(sizes[index] for index in members),
                documents=tuple(places[index] for index in members),
            )
        )
    return SuggestAnswer(domains=tuple(domains), agreement=grouping.agreement)


def _documents(source: Path, reading: Reading) -> Iterator[tuple[str, Document]]:
    if source.is_file():
        return ((source.name, one) for one in corpus_files.documents(source, reading))
    return every_document(TextFolder(source, reading=reading))


def _check(source: Path, documents: int, count: int | None) -> None:
    if documents < 2:
        raise Invalid(
            str(source),
            found=f"{documents} document" if documents else "no document",
            expected="a corpus of several documents",
            next="divide the text: a file or a row of JSON lines for each document",
        )
    if count is not None and not 2 <= count <= min(MOST, documents):
        raise Invalid(
            "--domains",
            found=str(count),
            expected=f"2 to {min(MOST, documents)}",
            next="leave it out to have the number proposed",
        )
