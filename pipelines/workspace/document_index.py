"""Find documents by what their rows say of them: which versions hold one by this author or id.

In:  a workspace; an author, an id, or the digest of a text.
Out: the data versions that hold such documents, and where in them.
Authors are personal data. So nothing is kept beside the data folders: their rows are read again,
of versions whose counts say that any row has such a column.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from btx_core.texts import IndexedDocument, TextFolder, documents_of
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.records.facts import DataFacts
from registry.records.version import Version


@dataclass(frozen=True)
class Sought:
    """What a document is looked for by; what is None does not count.

    Attributes:
        author: one of its authors.
        id: its owner's name for it.
        digest: of its text, case and spacing aside.
    """

    author: str | None = None
    id: str | None = None
    digest: str | None = None

    def may_be_in(self, facts: DataFacts) -> bool:
        """Whether a data version can hold such a document, by its counts."""
        counts = facts.counts
        if counts is None:
            return True
        known = (self.author is None or counts.with_author, self.id is None or counts.with_id)
        return all(known)

    def is_met(self, document: IndexedDocument) -> bool:
        """Whether it is this document."""
        about = document.about
        return (
            (self.author is None or self.author in about.authors)
            and (self.id is None or self.id == about.id)
            and (self.digest is None or self.digest == document.digest)
        )


@dataclass(frozen=True)
class Holding:
    """A document in a data version."""

    ref: str
    document: IndexedDocument


@dataclass(frozen=True)
class Holdings:
    """What was found.

    Attributes:
        documents: each by the version that holds it, oldest first.
        not_here: data versions that may hold more and are not on this disk.
    """

    documents: tuple[Holding, ...]
    not_here: tuple[str, ...]

    @property
    def versions(self) -> tuple[str, ...]:
        """The data versions that hold any of the documents."""
        return tuple(dict.fromkeys(holding.ref for holding in self.documents))


def find_documents(workspace: Workspace, sought: Sought) -> Holdings:
    """Find documents in every data version of a workspace, withdrawn ones too.

    Args:
        workspace: where they are registered.
        sought: what the documents are looked for by.

    Returns:
        The documents, and which versions could not be read.

    Raises:
        Damaged: for a data version that is not what was registered.
    """
    found: list[Holding] = []
    not_here = []
    # Of what was erased in part the rest is no longer what was registered.
    erased = workspace.catalog.tombstones()
    for version in workspace.catalog.versions(DataFacts):
        if not sought.may_be_in(version.facts):
            continue
        folder = folders.folder_of(workspace.root, version)
        if folder.is_dir() and str(version.ref) in erased:
            found += _in_text(version, folders.text_as_stated(folder, version.facts), sought)
        elif folder.is_dir():
            found += _in_text(version, folders.opened_text(workspace.root, version), sought)
        else:
            not_here.append(str(version.ref))
    return Holdings(tuple(found), tuple(not_here))


def _in_text(version: Version[DataFacts], text: TextFolder, sought: Sought) -> Iterator[Holding]:
    for document in documents_of(text):
        if sought.is_met(document):
            yield Holding(str(version.ref), document)
