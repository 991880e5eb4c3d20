"""Propose domains for a mixed corpus. Nothing is registered or written.

In:  a data folder.  Out: groups of its documents, with what tells them apart.
"""

from pathlib import Path

from btx_core.measuring.grouping import CHARACTERS, MOST, grouped
from btx_core.texts import every_document
from registry.errors import Invalid
from registry.records.answers.registering import GroupedDocument, SuggestAnswer, SuggestedDomain

# Documents that a group is shown by.
EXAMPLES = 3


def suggest(folder: Path, count: int | None = None) -> SuggestAnswer:
    """Group the documents of a folder.

    Args:
        folder: text as `btx data add` reads it.
        count: how many domains are proposed; None: as many as two halves of the text agree upon.

    Returns:
        The proposal, the largest group first.

    Raises:
        Invalid: for fewer than two documents, or a count that is out of range.
        Unreadable: for a folder that does not hold text as promised.
    """
    places, texts, sizes = [], [], []
    for file, document in every_document(folder):
        places.append(GroupedDocument(file=file, number=document.number))
        # Of a long document only its beginning is looked at.
        texts.append(document.text[:CHARACTERS])
        sizes.append(len(document.text.encode()))
    _check(folder, len(texts), count)
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


def _check(folder: Path, documents: int, count: int | None) -> None:
    if documents < 2:
        raise Invalid(
            str(folder),
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
