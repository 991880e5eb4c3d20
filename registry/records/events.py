"""What the audit log says happened: one record for each kind of event.

In:  the JSON body of an event, of any age.  Out: a typed body; and its JSON, as it is stored.
The log itself, its chain and its signatures are the catalogue's and governance's.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from registry.records.base import JsonObject, Record
from registry.records.kinds import Gate, Outcome


class Act(Record):
    """What a person signed. Which keys it has depends on the act."""

    act: str
    subject: str
    at: str
    digest: str | None = None
    actor: str | None = None
    why: str | None = None
    rule: str | None = None
    until: str | None = None
    content: str | None = None  # of a waiver: digest of the content that it is for
    excused: JsonObject | None = None  # of a waiver: the facts that the rule reads, as excused
    roles: tuple[str, ...] | None = None
    public_key: str | None = None
    facts: JsonObject | None = None  # own facts that are stated from then on; null takes one back
    since: str | None = None  # of a change of the list: what the person signed since then is void


class Signature(Record):
    """One signature of an envelope."""

    keyid: str
    sig: str


class Envelope(Record):
    """A DSSE envelope: a payload in base64, its type, and who signed it."""

    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: tuple[Signature, ...]


class EventBody(Record):
    """The body of one event."""

    logged_as: ClassVar[str]  # the kind that the event has in the log

    documents: tuple[str, ...] = ()  # digests of documents kept in the same transaction


class Registered(EventBody):
    """A version was registered: its digest, and a digest over the rows of each table."""

    logged_as = "registered"

    digest: str
    rows: Mapping[str, str]


class Kept(EventBody):
    """A document was kept by itself."""

    logged_as = "kept"


class WaiverUsed(Record):
    """A waiver that could count when a verdict was given."""

    rule: str
    subject: str
    until: str
    actor: str
    why: str
    id: str  # digest of the event that signed it
    content: str | None = None  # digest of the content that it is for; None in older ones
    excused: JsonObject | None = None  # the facts that the rule reads, as they were excused


class Reason(Record):
    """What one rule said, and how to fix it."""

    rule: str
    message: str
    remedy: str = ""


class Judged(EventBody):
    """A gate gave its verdict; `documents` are the digests of policies and evidence, in order."""

    logged_as = "verdict"

    gate: Gate | str
    outcome: Outcome | str
    kind: str = ""  # empty in the oldest rows, as is `at`; no such verdict can be given again
    at: str = ""
    waivers: tuple[WaiverUsed, ...] = ()
    engine: str = ""
    rules: Mapping[str, str] = {}
    reasons: tuple[Reason, ...] = ()
    envelope: Envelope | None = None  # signed where the list of actors is closed

    @property
    def passed(self) -> bool:
        """Whether the gate let the subject pass."""
        return self.outcome in (Outcome.ALLOWED, Outcome.WAIVED)

    @property
    def policies(self) -> str:
        """Digest of the policies that were asked."""
        return self.documents[0]

    @property
    def evidence(self) -> str:
        """Digest of the evidence that was judged."""
        return self.documents[1]


class Withdrawn(EventBody):
    """A version was taken out of use, for good."""

    logged_as = "withdrawn"

    why: str = ""
    digest: str | None = None  # of the version; None in older ones
    envelope: Envelope | None = None  # signed where the list of actors is closed


class Progress(EventBody):
    """How far the making of a version has come."""

    logged_as = "progress"

    status: str = "registered"


class Released(EventBody):
    """A build was released."""

    logged_as = "released"

    verdict: str = ""
    envelope: Envelope | None = None  # signed where the list of actors is closed


class Exported(EventBody):
    """A build was written out as a folder."""

    logged_as = "exported"

    folder: str
    target: str | None = None
    fused: bool | None = None
    verdict: str | None = None
    public_key: str | None = None
    draft: bool | None = None
    license: str | None = None  # under which it went out
    envelope: Envelope | None = None  # signed where the list of actors is closed


class TokenIssued(EventBody):
    """A token for the pages was made."""

    logged_as = "token"

    name: str
    roles: tuple[str, ...] = ()
    expires: str
    envelope: Envelope | None = None


class StageRan(EventBody):
    """A stage of a training or a rebuild began, ended, failed or was interrupted."""

    logged_as = "stage"

    stage: str | None = None
    state: str
    seconds: float | None = None
    done: int | None = None
    total: int | None = None


class Acted(EventBody):
    """A person approved, waived, or changed the list of people; signed where `envelope` is."""

    logged_as = "approved"

    act: Act
    envelope: Envelope | None = None


class AnyBody(EventBody):
    """The body of an event of a kind that this version of the program does not know."""

    logged_as = "unknown"


BODIES: Mapping[str, type[EventBody]] = {
    **{
        body.logged_as: body
        for body in (
            Registered,
            Kept,
            Judged,
            Withdrawn,
            Progress,
            Released,
            Exported,
            TokenIssued,
            StageRan,
        )
    },
    "refused": Judged,
    "approved": Acted,
    "waived": Acted,
    "actor": Acted,
    "adopted": Acted,
    "retracted": Acted,
    "declared": Acted,
    "fact": Acted,
}


def read_body(kind: str, value: JsonObject | str, subject: str) -> EventBody:
    """Read the body of an event.

    Args:
        kind: the event's kind, as it is logged.
        value: the body, parsed or as JSON text.
        subject: which event it is, for the error message.

    Raises:
        Damaged: for a body that is not what an event of this kind holds.
    """
    body = BODIES.get(kind, AnyBody)
    if isinstance(value, str):
        return body.from_text(value, subject)
    return body.from_json(value, subject)
