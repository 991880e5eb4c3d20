"""What is sent to the JSON API: one model for each request. An unknown key is an error.

Answers are records, in `registry.records.answers` and `registry.records.pages`.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from registry.governance.people import Sent
from registry.records.events import Envelope

Ref = Annotated[str, StringConstraints(min_length=4, max_length=100)]
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


class LogQuery(BaseModel):
    """Which events of the log are asked for: the newest of those that match."""

    model_config = ConfigDict(frozen=True)

    kind: str = Field(default="", max_length=40)
    subject: str = Field(default="", max_length=100, description="without @version: all of them")
    actor: str = Field(default="", max_length=64)
    before: int | None = Field(
        default=None, ge=1, le=2**53, description="only events with a smaller number"
    )
    limit: int = Field(default=100, ge=1, le=500)
