"""What the pages for officers and auditors show: acts that stand, people, policies, erasures.

In:  typed values from the catalogue.  Out: one record for each page, and its JSON.
Keys may be added, never renamed.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from registry.records.answers.answer import Answer
from registry.records.answers.people_and_tokens import ActorRow
from registry.records.answers.upkeep import DueRow
from registry.records.answers.withdrawing import EraseAnswer
from registry.records.base import JsonObject


class StandingAct(Answer):
    """An approval or a waiver that counts."""

    seq: int = Field(description="the number of its event")
    kind: Literal["approved", "waived"]
    subject: str
    actor: str
    at: str
    why: str = ""
    rule: str | None = None
    until: str | None = None
    state: Literal["ends", "ended", "stands"] = Field(
        description="of a waiver: whether its date has passed"
    )
    excused: JsonObject | None = None


class Attempt(Answer):
    """A rule that refused something, at the newest look of its gate."""

    subject: str
    gate: str
    at: str
    actor: str
    rule: str
    message: str
    remedy: str


class WaiversPage(Answer):
    """What was approved and waived and counts, and what could be waived."""

    acts: tuple[StandingAct, ...] = ()
    refused: tuple[Attempt, ...] = ()


class WaiverDraft(Answer):
    """What a waiver of one rule for one candidate would be for."""

    subject: str
    rule: str
    content: str = Field(description="digest of the content that it would be for")
    excused: JsonObject = Field(description="the facts that the rule reads, as they were judged")
    gate: str
    outcome: str
    message: str = ""
    remedy: str = ""


class DuePage(Answer):
    """What has ended, and what ends soon."""

    days: int = Field(description="how far ahead was looked")
    rows: tuple[DueRow, ...] = ()


class PeoplePage(Answer):
    """Who is on the list of actors, or was."""

    closed: bool = Field(description="whether an auditor keeps the list")
    people: tuple[ActorRow, ...] = ()


class RuleLine(Answer):
    """A rule of a policy."""

    rule: str
    expression: str
    message: str
    remedy: str


class PolicyLine(Answer):
    """A policy in force."""

    name: str
    why: str
    enforcement: str
    waivable: bool
    gates: tuple[str, ...]
    kinds: tuple[str, ...]
    parameters: Mapping[str, object] = {}
    rules: tuple[RuleLine, ...]


class AdoptionLine(Answer):
    """A set of policies that became valid, and what it changed."""

    seq: int
    at: str
    actor: str
    why: str = ""
    signed: bool = Field(description="whether an auditor signed it")
    digest: str
    policies: int
    changes: tuple[str, ...] = Field(
        default=(), description="beside the set before, as a unified diff; of the first: none"
    )


class PoliciesPage(Answer):
    """The policies in force, and how they came to be."""

    policies: tuple[PolicyLine, ...] = ()
    history: tuple[AdoptionLine, ...] = Field(default=(), description="newest first")
    waiting: tuple[str, ...] = Field(
        default=(), description="what the files say differently and nobody adopted yet, as a diff"
    )


class HeldDocument(Answer):
    """A document in a data version."""

    ref: str
    status: str
    file: str
    number: int | None = Field(description="of its line or item; null: the file is the document")
    id: str | None = None
    authors: tuple[str, ...] = ()
    digest: str


class HeldDocuments(Answer):
    """Documents that were looked for."""

    documents: tuple[HeldDocument, ...] = ()
    not_here: tuple[str, ...] = Field(
        default=(), description="data versions that are not on this disk and may hold more"
    )


class ErasuresPage(Answer):
    """Erasures that wait for a second person."""

    waiting: tuple[EraseAnswer, ...] = ()


# The answers that are whole documents, by the name that their schema is published under.
OFFICER_PAGES: Mapping[str, type[Answer]] = {
    "waivers": WaiversPage,
    "waiver-draft": WaiverDraft,
    "due": DuePage,
    "people": PeoplePage,
    "policies": PoliciesPage,
    "held-documents": HeldDocuments,
    "erasures": ErasuresPage,
}
