"""What commands answer: the JSON that scripts outside are built on, one record for each answer.

In:  typed values from the catalogue and the jobs.  Out: `to_json()`, one JSON document.
Keys may be added, never renamed. The pages' API answers with the same records, and their JSON
Schemas are published in `docs/schemas`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from registry.records.base import JsonObject, Record
from registry.records.results import Result, labels


class Answer(Record):
    """An answer prints every key, null where there is nothing to say."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object with every key."""
        return self.model_dump(mode="json", by_alias=True)


class RegisteredAnswer(Answer):
    """One version was registered, or was there already."""

    ref: str
    status: Literal["registered", "unchanged"]
    digest: str


class WorkspaceAnswer(Answer):
    """A workspace was made."""

    workspace: str
    head: str


class Row(Answer):
    """One version in a list."""

    ref: str
    name: str
    version: int


class RowEnd(Row):
    """What every line of a list ends with."""

    status: str
    digest: str
    registered_at: str


class SeedRow(RowEnd):
    """A seed in a list."""

    model_type: str | None = None
    parameters: int | None = None
    license: str | None = None


class DataRow(RowEnd):
    """A data version in a list."""

    license: str | None = None
    source: str | None = None
    holder: str | None = None
    pii: str | None = None
    bytes: int | None = None


class ExpertRow(RowEnd):
    """An expert in a list."""

    seed: str | None = None
    mode: str | None = None
    data: tuple[str, ...] = ()
    licenses: tuple[str | None, ...] = ()


class BuildRow(RowEnd):
    """A build in a list."""

    snapshot: str | None = None
    seed: str | None = None
    members: tuple[str, ...] = ()


class ExportRow(RowEnd):
    """An export in a list."""

    folder: str | None = None
    target: str | None = None


class FileLine(Answer):
    """One file of a version."""

    path: str
    bytes: int
    sha256: str
    linked: bool = False
    md5: str | None = None


class RebuildAnswer(Answer):
    """What a rebuild did."""

    build: str | None
    status: str
    ran: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    bytes_written: int = 0
    bytes_linked: int = 0
    seconds: Mapping[str, float] = Field(default_factory=dict)


class MemberChange(Answer):
    """What becomes of one expert against the line's newest build."""

    ref: str
    slot: int | None
    change: Literal["added", "kept", "replaced", "removed"]
    before: str | None


class PlannedFile(Answer):
    """One weight file that a rebuild would write or link."""

    file: str
    bytes: int
    action: Literal["write", "link"]


class ForecastAnswer(RebuildAnswer):
    """What a rebuild would do."""

    line: str | None = None
    changes: tuple[MemberChange, ...] = ()
    weights: tuple[PlannedFile, ...] = ()
    cost: Mapping[str, float] = Field(default_factory=dict)
    measured_on: str | None = None  # the build whose times and cost were scaled


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


class LineageFile(Answer):
    """A file of a data version in a lineage."""

    path: str
    bytes: int
    sha256: str


class LineageNode(Answer):
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

    def to_json(self) -> dict[str, Any]:
        """Return nodes and edges; only data versions have files."""
        return self.model_dump(
            mode="json",
            by_alias=True,
            exclude={
                "nodes": {n: {"files"} for n, node in enumerate(self.nodes) if not node.files}
            },
        )


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
    tokens: tuple[ExplainedToken, ...]
    sources: tuple[Source, ...]
    shared: tuple[str, ...]  # data that attention, embeddings and head were tuned on


class Change(Answer):
    """One fact that differs between two versions."""

    what: str
    left: Any = None  # a fact of any type
    right: Any = None


class FileChanges(Answer):
    """Paths of files, by what became of them."""

    same: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    only_left: tuple[str, ...] = ()
    only_right: tuple[str, ...] = ()


class DiffAnswer(Answer):
    """What differs between two versions of one kind."""

    left: str
    right: str
    changes: tuple[Change, ...] = ()
    files: FileChanges
    notes: tuple[str, ...] = ()  # what cannot be compared, and why


class Reached(Answer):
    """Something that a withdrawal reaches."""

    ref: str
    removal: str | None = None
    why: str | None = None
    folder: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the keys that apply."""
        return self.model_dump(mode="json", exclude_none=True)


class WithdrawAnswer(Answer):
    """What a withdrawal reached, and what cures it."""

    ref: str
    why: str
    reached: tuple[Reached, ...] = ()
    clean: tuple[str, ...] = ()
    next: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return every key; of what is reached, the keys that apply."""
        return {**super().to_json(), "reached": [one.to_json() for one in self.reached]}


class RuleAnswer(Answer):
    """What one rule said."""

    policy: str
    rule: str
    outcome: str
    message: str = ""
    remedy: str = ""


class VerdictAnswer(Answer):
    """What a gate said, rule by rule."""

    outcome: str
    rules: tuple[RuleAnswer, ...] = ()


class ReleaseAnswer(Answer):
    """A build was released."""

    ref: str
    status: str
    verdict: JsonObject


class PolicyCheckAnswer(Answer):
    """What each gate would say of a version now."""

    ref: str
    verdicts: Mapping[str, JsonObject]


class FailedCase(Answer):
    """A policy's test case that came out otherwise than expected."""

    suite: str
    case: str
    expected: str
    found: str


class PolicyTestAnswer(Answer):
    """How the policies did in their own tests."""

    policies: int
    rules: int
    cases: int
    failed: tuple[FailedCase, ...] = ()


class MixAnswer(Answer):
    """A mixture was written."""

    folder: str
    members: tuple[str, ...]
    bytes_written: int
    bytes_linked: int


class ExportAnswer(Answer):
    """A build was written out."""

    ref: str
    folder: str
    target: str
    fused: bool
    verdict: str
    bytes_written: int
    verify: str | None = None  # the command that checks the signature
    public_key: str | None = None


class CollectAnswer(Answer):
    """What a garbage collection deleted, or would delete."""

    deleted: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()


class HeadAnswer(Answer):
    """The log's head, signed where that was asked for."""

    actor: str
    seq: int
    head: str
    at: str
    algorithm: str | None = None
    key: str | None = None
    signature: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the keys that are known: what is unsigned has no signature."""
        return self.model_dump(mode="json", exclude_none=True)


class ActorAnswer(Answer):
    """A person was put on the list of people."""

    actor: str
    roles: tuple[str, ...]
    key: str | None = None  # the file of a key that was made


class ApprovedAnswer(Answer):
    """A build was approved."""

    ref: str
    approved_by: str
    at: str


class WaivedAnswer(Answer):
    """An exception was signed."""

    rule: str
    ref: str
    until: str
    waived_by: str


class ErrorAnswer(Answer):
    """A failure."""

    kind: str
    subject: str
    found: str
    expected: str
    next: str


def evaluation_of(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return figures by domain: the `evaluation` of `btx show build/N --json`.

    A domain that stands for two versions of one data name has an entry for each, named like
    `legal@2`. The specialist's figures are those of the best member; `specialists` names all.
    """
    named = labels(results)
    return {named[result.data]: _figures(result) for result in results}


def _figures(result: Result) -> dict[str, Any]:
    figures = result.model_dump(mode="json", exclude_none=True, exclude={"domain", "specialists"})
    best = result.specialist
    if best is None:
        return figures
    figures["specialist_bits_per_byte"] = best.bits_per_byte
    if best.accuracy is not None:
        figures["specialist_accuracy"] = best.accuracy
    if best.ref is not None:
        figures["specialist"] = best.ref
        figures["specialists"] = [one.to_json() for one in result.specialists]
    return figures
