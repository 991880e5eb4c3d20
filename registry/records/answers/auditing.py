"""What proves where a version comes from: audits, signed heads, reports, lineage, explanations."""

from pydantic import Field

from registry.records.answers.answer import Answer, WithoutNulls


class Check(Answer):
    """One kind of question that an audit asked, and of how many things."""

    name: str
    ok: bool
    examined: int


class Finding(Answer):
    """One place where an audit disagrees."""

    check: str
    subject: str
    found: str
    expected: str
    next: str


class AuditAnswer(Answer):
    """What an audit found."""

    subject: str
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    head: str
    notes: tuple[str, ...] = ()  # what the audit could not see, and what proves less than it seems


class LineageFile(Answer):
    """A file of a data version in a lineage."""

    path: str
    bytes: int
    sha256: str


class LineageNode(WithoutNulls):
    """One version in a lineage; a data version comes with its files."""

    ref: str
    kind: str
    digest: str
    status: str
    files: tuple[LineageFile, ...] | None = None


class LineageEdge(Answer):
    """`from` was made from `to`."""

    from_: str = Field(alias="from")
    to: str
    relation: str


class LineageAnswer(Answer):
    """What a version was made from, or what was made from it."""

    nodes: tuple[LineageNode, ...] = ()
    edges: tuple[LineageEdge, ...] = ()


class ExpertWeight(Answer):
    """How much one expert took part in a token."""

    ref: str
    weight: float


class ExplainedToken(Answer):
    """One token: its experts' mean weights, and their weights layer by layer."""

    text: str
    experts: tuple[ExpertWeight, ...]
    layers: tuple[tuple[float, ...], ...]


class Source(Answer):
    """A member's share of the text, what it was trained on, and under which licences."""

    ref: str
    share: float
    data: tuple[str, ...]
    licenses: tuple[str, ...]


class ExplainAnswer(Answer):
    """Which experts, and so whose data, each token of a text was computed with."""

    build: str
    status: str
    tokens: tuple[ExplainedToken, ...]
    sources: tuple[Source, ...]
    shared: tuple[str, ...]  # data that attention, embeddings and head were tuned on


class ReportAnswer(Answer):
    """A report; of one that was written to a file, the file."""

    ref: str
    format: str
    text: str | None = None  # where no file was asked for
    file: str | None = None
    sha256: str | None = None  # of the file
    signature: str | None = None  # the file beside it that holds the signature


class HeadAnswer(WithoutNulls):
    """The log's head, signed where that was asked for."""

    actor: str
    seq: int
    head: str
    at: str
    algorithm: str | None = None
    key: str | None = None
    signature: str | None = None
