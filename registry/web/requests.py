"""What is sent to the JSON API: one model for each request. An unknown key is an error.

Answers are records, in `registry.records.answers` and `registry.records.pages`.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from registry.governance.people import Sent
from registry.records.events import Envelope

Ref = Annotated[str, StringConstraints(min_length=4, max_length=100)]
_DAY = r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$"
Text = Annotated[str, StringConstraints(max_length=2000)]


class Request(BaseModel):
    """A body that is sent to the API."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ExplainRequest(Request):
    """Explain a text by a build."""

    build: Ref
    text: str = Field(min_length=1, max_length=20_000)


class StartAudit(Request):
    """Audit a version; `head` is a digest that was noted earlier outside the registry."""

    ref: Ref
    head: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class SentSignature(Request):
    """A signature in a sent envelope."""

    keyid: str = Field(max_length=100)
    sig: str = Field(max_length=200)


class SentEnvelope(Request):
    """A DSSE envelope over the payload that was handed out to sign."""

    payload: str = Field(max_length=20_000)
    payloadType: str = Field(max_length=100)
    signatures: list[SentSignature] = Field(min_length=1, max_length=1)

    def record(self) -> Envelope:
        """Return the envelope as the log keeps it."""
        return Envelope.from_json(self.model_dump(), "envelope")


class SignedRequest(Request):
    """What is signed in the browser where the list of actors is closed."""

    envelopes: list[SentEnvelope] = Field(default=[], max_length=2)

    def sent(self) -> Sent:
        """Return the envelopes as they are checked."""
        return Sent(tuple(envelope.record() for envelope in self.envelopes))


class WithdrawRequest(SignedRequest):
    """Withdraw a version, for good."""

    ref: Ref
    why: Text = Field(min_length=1)


class WaiverRequest(SignedRequest):
    """Make an exception to one rule until a day, for the content that the rule judged."""

    ref: Ref
    rule: str = Field(max_length=130)
    until: str = Field(max_length=40)
    why: Text = Field(min_length=1)


class RetractionRequest(SignedRequest):
    """Take an approval or a waiver back."""

    event: int = Field(ge=1, le=2**53, description="the number of its event")
    why: Text = Field(min_length=1)


class ActorRequest(SignedRequest):
    """Put a person on the list of actors, change them, or take them off it: without a role."""

    name: str = Field(max_length=64)
    registrar: bool = False
    approver: bool = False
    auditor: bool = False
    public_key: str = Field(
        default="", max_length=2000, description="PEM; empty: as the list has it"
    )
    since: str = Field(
        default="", max_length=40, description="what the person signed from then on is void"
    )
    why: Text = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are given."""
        named = {"registrar": self.registrar, "approver": self.approver, "auditor": self.auditor}
        return tuple(role for role, given in named.items() if given)


class ErasureRequest(SignedRequest):
    """Ask that a data version, or documents of it, be erased; at most one of the parts is named."""

    ref: Ref
    document: str = Field(default="", max_length=500, description="its id, or its digest's start")
    author: str = Field(default="", max_length=500)
    file: str = Field(default="", max_length=1000)
    why: Text = ""


class DocumentsRequest(Request):
    """Look for documents in every data version; what is empty counts for nothing."""

    author: str = Field(default="", max_length=500)
    id: str = Field(default="", max_length=500)
    digest: str = Field(default="", pattern="^([0-9a-f]{64})?$")


class ConfirmationRequest(Request):
    """Confirm an erasure that somebody else asked for; a signature for each version."""

    number: int = Field(ge=1, le=2**53)
    envelopes: list[SentEnvelope] = Field(default=[], max_length=1000)

    def sent(self) -> Sent:
        """Return the envelopes as they are checked."""
        return Sent(tuple(envelope.record() for envelope in self.envelopes))


class LogQuery(BaseModel):
    """Which events of the log are asked for: the newest of those that match."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(default="", max_length=40)
    subject: str = Field(default="", max_length=100, description="without @version: all of them")
    actor: str = Field(default="", max_length=64)
    since: str = Field(default="", pattern=_DAY, description="the first day, such as 2026-03-01")
    until: str = Field(default="", pattern=_DAY, description="the last day")
    stages: bool = Field(
        default=True, description="whether the steps of trainings and rebuilds are among them"
    )
    before: int | None = Field(
        default=None, ge=1, le=2**53, description="only events with a smaller number"
    )
    limit: int = Field(default=100, ge=1, le=500)


class LogForm(LogQuery):
    """What the page of the log asks for: steps of trainings only where a person wants them."""

    stages: bool = False
