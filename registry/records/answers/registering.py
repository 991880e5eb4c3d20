"""What makes a workspace and registers versions, and what is said of versions afterwards."""

from typing import Literal

from registry.records.answers.answer import Answer
from registry.records.facts import Facts
from registry.records.own_facts import OwnValue
from registry.records.version import Version


class RegisteredAnswer(Answer):
    """One version was registered, or was there already."""

    ref: str
    status: Literal["registered", "unchanged"]
    digest: str
    left_out: tuple[str, ...] = ()  # of a checkpoint folder: what was not taken


def registered(version: Version[Facts]) -> RegisteredAnswer:
    """Return the answer of everything that registers a version."""
    return RegisteredAnswer(
        ref=str(version.ref),
        status="registered" if version.created else "unchanged",
        digest=version.digest,
        left_out=getattr(version.facts, "left_out", ()) if version.created else (),
    )


class WorkspaceAnswer(Answer):
    """A workspace was made."""

    workspace: str
    head: str


class TrustAnswer(Answer):
    """What a workspace names of servers, files outside it and commands is confirmed."""

    workspace: str
    statements: tuple[str, ...]


class GroupedDocument(Answer):
    """A document of a proposal: its file, and its row or item in it, from 1."""

    file: str
    number: int | None = None


class SuggestedDomain(Answer):
    """A group of documents that could be a domain.

    Attributes:
        words: that its documents use more than the others do, the most telling first.
        bytes: of its text.
        documents: all of them.
    """

    words: tuple[str, ...]
    bytes: int
    documents: tuple[GroupedDocument, ...]


class SuggestAnswer(Answer):
    """A proposal of domains for a mixed corpus.

    Attributes:
        domains: the largest group first; one where nothing divides the corpus clearly.
        agreement: of two halves of the corpus that were grouped by themselves, 1 for the same
            groups, 0 for chance; None: not known.
    """

    domains: tuple[SuggestedDomain, ...]
    agreement: float | None = None


class FactRow(Answer):
    """A fact of the company's own: what is stated, or that nothing is."""

    key: str
    value: OwnValue | None = None
    type: str
    title: str = ""
    public: bool = False
    required: bool = False
    at: str | None = None
    by: str | None = None
    why: str = ""


class FactsAnswer(Answer):
    """Own facts were amended."""

    ref: str
    stated: tuple[str, ...]  # their names
    at: str
    by: str
    why: str


class AliasAnswer(Answer):
    """An alias was moved; without a reference it stands for nothing any more."""

    alias: str
    ref: str | None
    before: str | None


class AliasRow(Answer):
    """What an alias stands for now."""

    alias: str
    ref: str
    status: str
    set_by: str
    since: str


class NoteAnswer(Answer):
    """A note was written."""

    ref: str
    text: str
    actor: str
    at: str
