"""The form of every answer of the JSON API, for OpenAPI and for who builds on it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Form(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)


class Asked(BaseModel):
    """What is sent to us: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


Ref = Annotated[str, StringConstraints(min_length=4, max_length=100)]
Words = Annotated[str, StringConstraints(max_length=2000)]


class Problem(Form):
    """What every refusal says."""

    subject: str
    found: str
    expected: str
    next: str


class Me(Form):
    name: str
    roles: list[str]


class Line(Form):
    ref: str
    kind: str
    name: str
    version: int
    status: str
    digest: str
    registered_at: str
    data: list[str]
    licenses: list[str]


class Slot(Form):
    ref: str
    slot: int


class BuildLine(Line):
    members: list[Slot]
    tokens: int | None
    flops: float | None
    wall_s: float | None
    active_parameters: int | None
    total_parameters: int | None
    bytes_linked: int
    bytes_written: int


class Spent(Form):
    tokens: float
    flops: float
    wall_s: float


class Step(BuildLine):
    added: list[str] = Field(description="members that the build before did not have")
    left_out: list[str]
    mean_gain: float | None = Field(description="over the domains that were measured")
    measured: int = Field(
        description="how many domains that is: a mean over others cannot be set beside it"
    )
    new: Spent = Field(
        description="what its tuning took, and the training of experts that no build had"
    )


class Waiting(BuildLine):
    approvals: list[str]


class Point(Form):
    build: str
    bits_per_byte: float | None
    gain: float | None = Field(description="seed's bits per byte less the build's")
    accuracy: float | None


class Gain(Form):
    domain: str
    builds: list[Point]


class LogEvent(Form):
    seq: int
    at: str
    actor: str
    kind: str
    subject: str
    words: str
    body: dict[str, Any]
    prev: str
    digest: str


class Overview(Form):
    released: BuildLine | None
    fallen: list[BuildLine]
    waiting: list[Waiting]
    builds: list[Step]
    gains: list[Gain]
    counts: dict[str, int]
    events: list[LogEvent]
    head: str


class Listing(Form):
    kind: str
    total: int
    start: int
    versions: list[BuildLine | Line]


class File(Form):
    path: str
    bytes: int
    sha256: str
    linked: bool
    md5: str | None


class Reason(Form):
    rule: str
    message: str
    remedy: str


class Verdict(Form):
    gate: str
    outcome: str
    at: str
    actor: str
    rules: dict[str, str]
    reasons: list[Reason]
    documents: list[str] = Field(description="digests of policies and evidence, see /api/documents")


class Neighbour(Form):
    ref: str
    relation: str


class Approval(Form):
    actor: str
    at: str


class Detail(Line):
    actor: str
    facts: dict[str, Any]
    files: list[File]
    bytes_linked: int
    bytes_written: int
    gates: list[Verdict]
    events: list[LogEvent]
    made_from: list[Neighbour]
    used_in: list[Neighbour]
    builds: list[str] = Field(description="every build that was made from it, at any distance")
    approvals: list[Approval] = []


class Node(Form):
    ref: str
    kind: str
    status: str
    digest: str


class Edge(Form):
    from_: str = Field(alias="from")
    to: str
    relation: str


class Lineage(Form):
    subject: str
    nodes: list[Node]
    edges: list[Edge]
    more: int


class BuildImpact(Form):
    ref: str
    removal: Literal["exact", "rebuild", "none"]
    why: str
    members: list[str]


class Cure(Form):
    build: str
    keeps: list[str]
    drops: list[str]
    commands: list[str]


class Impact(Form):
    subject: str
    status: str
    experts: list[str]
    builds: list[BuildImpact]
    untouched: list[str]
    exports: list[str]
    others: list[str]
    cure: Cure | None


class Events(Form):
    events: list[LogEvent]
    kinds: list[str]
    next: int | None


class Break(Form):
    subject: str
    found: str
    expected: str


class Chain(Form):
    head: str
    examined: int
    breaks: list[Break]


class ExplainAsked(Asked):
    build: Ref
    text: str = Field(min_length=1, max_length=20_000)


class Weight(Form):
    ref: str
    weight: float


class TokenRead(Form):
    text: str
    experts: list[Weight]
    layers: list[list[float]]


class Source(Form):
    ref: str
    share: float
    data: list[str]
    licenses: list[str]


class Explanation(Form):
    build: str
    tokens: list[TokenRead]
    sources: list[Source]
    shared: list[str]


class RuleResult(Form):
    policy: str
    rule: str
    outcome: str
    message: str
    remedy: str


class GateAnswer(Form):
    outcome: str
    rules: list[RuleResult]


class ToSign(Form):
    """What the asking person's approval would be: the act, and its bytes in base64."""

    act: dict[str, Any]
    payload: str
    payload_type: str
    message: str = Field(description="base64 of the bytes that the Ed25519 signature is over")
    keyid: str


class Review(Form):
    """Evidence and verdict of gate release, side by side."""

    ref: str
    status: str
    digest: str
    evidence: dict[str, Any]
    verdict: GateAnswer
    approvals: list[Approval]
    to_sign: ToSign | None
    why_not: str = Field(description="why the asking person cannot sign; empty when they can")


class Signature(Asked):
    keyid: str = Field(max_length=100)
    sig: str = Field(max_length=200)


class Envelope(Asked):
    """DSSE envelope over the payload that was handed out to sign."""

    payload: str = Field(max_length=20_000)
    payloadType: str = Field(max_length=100)
    signatures: list[Signature] = Field(min_length=1, max_length=1)


class Done(Form):
    ref: str
    status: str
    by: str


class WithdrawAsked(Asked):
    ref: Ref
    why: Words = Field(min_length=1)


class AuditAsked(Asked):
    ref: Ref
    head: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class Check(Form):
    name: str
    ok: bool
    examined: int


class Finding(Form):
    check: str
    subject: str
    found: str
    expected: str
    next: str


class AuditRun(Form):
    id: str
    ref: str
    by: str
    started: str
    state: Literal["running", "done", "failed"]
    checks: list[Check]
    findings: list[Finding]
    head: str | None
    error: str | None
