"""What the audit log says happened: one record for each kind of event.

In:  the JSON body of an event, of any age.  Out: a typed body; and its JSON, as it is stored.
The log itself, its chain and its signatures are the catalogue's and governance's.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field

from registry.digest import digest
from registry.records.addresses import Address
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

    def with_envelope(self, envelope: Envelope | None) -> Self:
        """Return the body with the signature of whoever acts, where one was asked for."""
        return self if envelope is None else self.model_copy(update={"envelope": envelope})


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


class ErasedFile(Record):
    """A file whose bytes are erased, by its digests."""

    path: str
    bytes: int
    sha256: str
    md5: Address | None = None  # what DVC addresses it by, where it was known


class ErasedPart(Record):
    """What of one version is erased: its files, and the documents for whose sake they go."""

    ref: str
    digest: str  # of the version
    files: tuple[ErasedFile, ...]
    documents: tuple[str, ...] = ()  # digests of their text
    whole: bool = False  # whether nothing of the version is left


class ErasureAsked(EventBody):
    """A person asked that bytes be erased; nothing is until another one confirms it."""

    logged_as = "erasure"

    parts: tuple[ErasedPart, ...]
    sketch: str | None = None  # digest of the document with a sample of the text that goes
    private: str  # salted digest of the reason and of whose documents they are
    envelope: Envelope | None = None  # signed where the list of actors is closed


class Erased(EventBody):
    """The tombstone of one version: what was erased of it, confirmed by a second person."""

    logged_as = "erased"

    asked: str  # digest of the event that asked
    part: ErasedPart
    sketch: str | None = None
    private: str
    envelope: Envelope | None = None  # signed where the list of actors is closed


class Contested(EventBody):
    """A person contests a withdrawal, which stands all the same."""

    logged_as = "contested"

    withdrawal: str  # digest of the event that withdrew
    private: str  # salted digest of the reason
    envelope: Envelope | None = None  # signed where the list of actors is closed


class Progress(EventBody):
    """How far the making of a version has come."""

    logged_as = "progress"

    status: str = "registered"


class Retired(EventBody):
    """A version was registered by mistake, and nothing was made from it."""

    logged_as = "retired"

    why: str
    digest: str  # of the version
    envelope: Envelope | None = None  # signed where the list of actors is closed

    @property
    def signed(self) -> str:
        """The digest that the envelope signs."""
        return self.digest


class AliasMoved(EventBody):
    """An alias was moved to this version, or taken off it."""

    logged_as = "alias"

    alias: str
    set: bool = True
    before: str | None = None  # the version that had it until then
    why: str = ""
    envelope: Envelope | None = None  # signed where the list of actors is closed

    @property
    def signed(self) -> str:
        """The digest that the envelope signs."""
        return digest({"alias": self.alias, "set": self.set})


class Noted(EventBody):
    """Somebody wrote a note on a version."""

    logged_as = "noted"

    text: str
    envelope: Envelope | None = None  # signed where the list of actors is closed

    @property
    def signed(self) -> str:
        """The digest that the envelope signs."""
        return digest({"text": self.text})


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
            Retired,
            AliasMoved,
            Noted,
            ErasureAsked,
            Erased,
            Contested,
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
