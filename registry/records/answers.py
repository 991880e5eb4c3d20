"""What commands answer: the JSON that scripts outside are built on, one record for each answer.

In:  typed values from the catalogue and the jobs.  Out: `to_json()`, one JSON document.
Keys may be added, never renamed. The pages' API answers with the same records, and their JSON
Schemas are published in `docs/schemas`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from btx_core.problems import BtxError
from registry.digest import canonical_json
from registry.errors import Refused
from registry.records.base import JsonObject, Record
from registry.records.events import ErasedPart, Judged
from registry.records.facts import (
    Architecture,
    BuildFacts,
    Cost,
    DataStatement,
    DvcFolder,
    Environment,
    Facts,
    Member,
    Routing,
    SourceFile,
    StoredFile,
    TrainingReport,
    Weights,
)
from registry.records.kinds import Kind
from registry.records.own_facts import OwnFact, OwnValue
from registry.records.results import Result, Specialist, labels, worst_of
from registry.records.version import Version


class Answer(Record):
    """An answer prints every key, null where there is nothing to say.

    A record inside it is printed in the way of its own class.
    """

    printed_last: ClassVar[tuple[str, ...]] = ()  # fields that a reader looks for at the end

    @classmethod
    def fields(cls) -> list[str]:
        """Return the names of the fields in the order in which they are printed."""
        first = [name for name in cls.model_fields if name not in cls.printed_last]
        return [*first, *cls.printed_last]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object with every key."""
        printed = {}
        for name in self.fields():
            key = type(self).model_fields[name].alias or name
            printed[key] = _json(getattr(self, name))
        unknown = {key: _json(value) for key, value in (self.model_extra or {}).items()}
        return {**printed, **unknown}


class AsStored(Answer):
    """An answer about what is recorded: numbers are printed as rows hold them, 1 and never 1.0."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object with every key."""
        return {key: json.loads(canonical_json(value)) for key, value in super().to_json().items()}


class WithoutNulls(Answer):
    """An answer that prints only the keys that apply."""

    def to_json(self) -> dict[str, Any]:
        """Return the keys that are not null."""
        return {key: value for key, value in super().to_json().items() if value is not None}


def _json(value: Any) -> Any:  # a field's value, of any type that a record may hold
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, str):
        # A word of a closed set is printed as plain text.
        return str(value)
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [_json(inner) for inner in value]
    return value


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


class Row(Answer):
    """One version in a list."""

    ref: str
    name: str
    version: int


class RowEnd(Row):
    """What every line of a list ends with."""

    printed_last = ("status", "digest", "registered_at", "aliases")

    status: str
    digest: str
    registered_at: str
    aliases: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the keys of every row; `aliases` only where there is one."""
        printed = super().to_json()
        return printed if self.aliases else {k: v for k, v in printed.items() if k != "aliases"}


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


class TuningAnswer(Answer):
    """What a build is tuned on from, and what that takes beside tuning from nothing.

    Attributes:
        from_: a build, or the word `nothing`.
        steps: of the optimiser.
        tokens: read in all steps.
        flops: floating point operations; None: not known yet.
        from_nothing_tokens: of a tuning from nothing by the same recipe.
        from_nothing_flops: of the same; None: not known yet.
    """

    from_: str = Field(alias="from")
    steps: int
    tokens: int
    flops: float | None = None
    from_nothing_tokens: int
    from_nothing_flops: float | None = None


class RebuildAnswer(Answer):
    """What a rebuild did."""

    build: str | None
    status: str
    ran: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    bytes_written: int = 0
    bytes_linked: int = 0
    seconds: Mapping[str, int | float] = Field(default_factory=dict)
    tuning: TuningAnswer | None = None  # None: nothing was built


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


class PlannedStage(Answer):
    """Where a stage would run.

    Attributes:
        threads: of each process; None where it computes on GPUs, or takes every core.
        needed_bytes: of memory, for each process, by the sizes of the model; None: not known.
        available_bytes: what each process has there; None: not known from here.
    """

    stage: str
    executor: str
    nodes: int
    processes: int
    gpus: int
    threads: int | None
    needed_bytes: int | None = None
    available_bytes: int | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough; None where that is not known."""
        if self.needed_bytes is None or self.available_bytes is None:
            return None
        return self.needed_bytes <= self.available_bytes


class PlannedBranch(Answer):
    """A branch, and whether it would be trained or is there already: `train` or `reuse`."""

    expert: str
    seed: str
    data: str
    action: str


class TrainForecastAnswer(Answer):
    """What a training would do."""

    branches: tuple[PlannedBranch, ...]
    place: PlannedStage


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


class Price(Answer):
    """What some branches, their registered files and a rebuild take.

    Attributes:
        tokens: read in training and tuning.
        flops: floating point operations; None: not known yet.
        seconds: of training and rebuilding, one after the other; None: not known yet.
        bytes: that are written: registered files and the build's weights.
    """

    tokens: int
    flops: float | None = None
    seconds: float | None = None
    bytes: int


class PriceOfOneMore(Answer):
    """What one more expert like those of a build would cost.

    Attributes:
        experts: how many there would be with it.
        grown: whether the rebuild would go on from the build before.
        measured_on: the build whose times and cost were scaled.
        one_more: one branch and a rebuild.
        from_nothing: every branch, and a build that shares nothing with an earlier one.
    """

    experts: int
    grown: bool
    measured_on: str
    one_more: Price
    from_nothing: Price


class ForecastAnswer(RebuildAnswer):
    """What a rebuild would do."""

    stages: tuple[PlannedStage, ...] = ()
    line: str | None = None
    changes: tuple[MemberChange, ...] = ()
    weights: tuple[PlannedFile, ...] = ()
    cost: Mapping[str, int | float] = Field(default_factory=dict)
    chosen: Mapping[str, int | float] = Field(default_factory=dict)  # what tuning left open: "auto"
    measured_on: str | None = None  # the build whose times and cost were scaled
    refused_by: tuple[str, ...] = ()  # rules of gate build that would refuse it, and why
    price: PriceOfOneMore | None = None  # of another expert like the members


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


class DiffAnswer(AsStored):
    """What differs between two versions of one kind."""

    left: str
    right: str
    changes: tuple[Change, ...] = ()
    files: FileChanges
    notes: tuple[str, ...] = ()  # what cannot be compared, and why


class Reached(WithoutNulls):
    """Something that a withdrawal reaches."""

    ref: str
    removal: str | None = None
    why: str | None = None
    folder: str | None = None


class WithdrawAnswer(Answer):
    """What a withdrawal reached, and what cures it."""

    ref: str
    why: str
    reached: tuple[Reached, ...] = ()
    clean: tuple[str, ...] = ()
    next: str | None = None


class ContestedAnswer(Answer):
    """A withdrawal is contested, and stands."""

    ref: str
    withdrawn_by: str
    contested_by: str
    at: str


class ShreddedAnswer(Answer):
    """The words behind an event are gone; their digest stays."""

    number: int
    ref: str
    digest: str


class TrainAgain(WithoutNulls):
    """A seed or an expert that has to be trained again, and what it took before."""

    ref: str
    tokens: int | None = None
    flops: int | float | None = None
    wall_s: int | float | None = None


class ErasureCost(Answer):
    """What an erasure takes away, and what has to be made again for it."""

    versions: tuple[str, ...]  # that lose bytes
    files: int
    bytes: int
    documents: int
    seeds: tuple[TrainAgain, ...] = ()
    experts: tuple[TrainAgain, ...] = ()
    builds: tuple[Reached, ...] = ()
    exports: tuple[Reached, ...] = ()
    beside: tuple[str, ...] = ()  # files here that no version holds, and that lose documents
    unreached: tuple[str, ...] = ()  # where bytes may be that nobody can delete from here


class EraseAnswer(Answer):
    """An erasure that is planned, asked for or done."""

    ref: str
    status: str  # planned | asked | erased
    number: int | None = None  # of the event that asked for it
    parts: tuple[ErasedPart, ...]
    cost: ErasureCost
    why: str | None = None  # where the words are kept on this machine
    left: tuple[str, ...] = ()  # folders with what is left, to be registered as new versions
    notes: tuple[str, ...] = ()
    next: str | None = None


class RuleWaiver(Answer):
    """An exception that a rule made; `id` is the digest of the event that signed it."""

    rule: str
    subject: str
    until: str
    actor: str
    why: str
    id: str = ""
    content: str | None = None
    excused: JsonObject | None = None


class RuleAnswer(Answer):
    """What one rule said: allowed, waived or refused; warned or noted where it does not deny."""

    policy: str
    rule: str
    outcome: str
    message: str = ""
    remedy: str = ""
    waiver: RuleWaiver | None = None


class VerdictAnswer(Answer):
    """What a gate said, rule by rule."""

    gate: str
    subject: str
    outcome: str
    at: str
    rules: tuple[RuleAnswer, ...] = ()


class ReleaseAnswer(Answer):
    """A build was released."""

    ref: str
    status: str
    verdict: VerdictAnswer


class PolicyCheckAnswer(Answer):
    """What each gate would say of a version now."""

    ref: str
    verdicts: Mapping[str, VerdictAnswer]


class PolicyAdoptAnswer(Answer):
    """A set of policies was adopted, or would be."""

    status: str  # adopted | unchanged | planned
    digest: str
    before: str | None = None  # digest of the set that was valid until then
    policies: int
    changes: tuple[str, ...] = ()  # a unified diff
    facts: str = "unchanged"  # the schema of own facts: adopted | unchanged | planned


class SearchRow(Answer):
    """A version that was found, with the values of the fields that were asked about."""

    ref: str
    kind: str
    status: str
    registered_at: str
    values: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)


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


class PolicyTryRow(Answer):
    """What a set of policies would say of one version at one gate, beside what was logged last."""

    ref: str
    gate: str
    logged: str | None = None
    now: str
    rules: tuple[str, ...] = ()  # those that refuse


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
    transformers: str | None = None  # the least release that loads it
    verify: str | None = None  # the command that checks the signature
    public_key: str | None = None
    license: str | None = None  # under which it goes out; None where counsel has to be asked
    open: tuple[str, ...] = ()  # what of licences nobody has answered
    next: str | None = None  # how the program that it was exported for takes it


class CollectAnswer(Answer):
    """What a garbage collection deleted, or would delete."""

    deleted: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # what was left as it is, and why


class LoadAnswer(Answer):
    """What a load read: the rows of each table, and the stored files."""

    format: int
    head: str
    rows: Mapping[str, int] = {}
    objects: int = 0
    missing: tuple[str, ...] = ()  # digests of files that neither the store nor a folder held


class DumpAnswer(LoadAnswer):
    """What a dump wrote, and where."""

    folder: str
    erased: int = 0  # files whose bytes were erased: no dump has them


class RestoreAnswer(LoadAnswer):
    """What a restore read, and the version folders here that are newer."""

    newer: tuple[str, ...] = ()
    again: tuple[str, ...] = ()  # what the other side of a fork had registered


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


class ActorAnswer(Answer):
    """A person was put on the list of people."""

    actor: str
    roles: tuple[str, ...]
    key: str | None = None  # the file of a key that was made


class RepairedFile(Answer):
    """A file that was damaged or missing, and is whole again."""

    ref: str
    path: str
    source: str  # the whole copy
    sha256: str


class LostFile(Answer):
    """A file of which there is no whole copy."""

    ref: str
    path: str
    next: str


class RepairAnswer(Answer):
    """What a repair looked at, restored and could not restore."""

    subject: str
    examined: int
    repaired: tuple[RepairedFile, ...] = ()
    lost: tuple[LostFile, ...] = ()


class UpgradeRow(Answer):
    """One thing that leads an older workspace to what a new one has."""

    what: str
    why: str
    command: str
    done: bool = False


class DueRow(Answer):
    """Something that has ended, or ends soon."""

    what: str  # waiver of POLICY/RULE | retention | token
    ref: str
    until: str
    state: str  # ended | ends
    days: int | None = None  # until then; negative where it is past
    next: str


class Waiting(Answer):
    """What waits for a person, and the command that they would give."""

    what: str
    who: str
    next: str


class DiskUse(Answer):
    """How much a part of a workspace takes; what another part links is not counted again."""

    part: str
    bytes: int


class StatusAnswer(Answer):
    """How a workspace is now."""

    workspace: str
    head: str
    counts: Mapping[str, int]  # of what is in use, by kind
    newest_build: str | None
    aliases: Mapping[str, str] = {}
    running: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    due: tuple[DueRow, ...] = ()
    disk: tuple[DiskUse, ...] = ()


class ActorRow(Answer):
    """A person who is on the list of actors, or was; without a role, taken off it."""

    actor: str
    roles: tuple[str, ...] = ()
    key_id: str
    since: str
    changed: str
    list: str  # open | closed
    public_key: str


class KeyAnswer(Answer):
    """A key pair was made on this machine."""

    actor: str
    key: str
    public_key: str
    key_id: str


class RetractedAnswer(Answer):
    """An approval or a waiver was taken back."""

    ref: str
    what: str
    of: str
    retracted_by: str


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
    content: str | None = None
    excused: JsonObject | None = None


class TokenAnswer(Answer):
    """A token was made. The secret is shown this once."""

    id: str
    name: str
    roles: tuple[str, ...]
    expires: str
    token: str


class TokenRow(Answer):
    """A token in a list, without its secret."""

    id: str
    name: str
    roles: tuple[str, ...]
    issued: str
    expires: str
    revoked: str | None = None


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


class RetireAnswer(Answer):
    """A version that was registered by mistake was retired."""

    ref: str
    status: str
    why: str


class RevokedAnswer(Answer):
    """A token was ended."""

    id: str
    revoked: str | None


class BenchRow(Answer):
    """One line of the comparison for one random seed."""

    name: str
    random_seed: int
    bits_per_byte: Mapping[str, float]  # by domain
    tokens: int  # of all training after the seed's
    flops: float
    routing: Mapping[str, tuple[tuple[float, ...], ...]] | None = None


class DemoDomain(Answer):
    """The figures of one domain in the demonstration, in bits per byte."""

    new_to_seed: bool | None
    seed: float | None
    specialist: float | None
    builds: Mapping[str, float | None]
    kept: Mapping[str, float | None]  # share of the specialist's gain, by build


class DemoAnswer(Answer):
    """What the demonstration made."""

    workspace: str
    builds: tuple[str, ...]
    table: Mapping[str, DemoDomain]
    minutes: float


class ErrorAnswer(Answer):
    """A failure: what was looked at, what was there, what should have been, what to do now."""

    kind: str  # Refused, NotFound, Invalid, ...: what a caller does differently
    subject: str
    found: str
    expected: str
    next: str


class RefusingRule(Answer):
    """A rule that refuses, by its name POLICY/RULE, and what a person can do."""

    rule: str
    message: str
    remedy: str


class FailureAnswer(Answer):
    """What a command prints with `--json` where it fails or is refused."""

    error: ErrorAnswer
    rules: tuple[RefusingRule, ...] = ()  # where a gate refused


def failure_of(problem: BtxError) -> FailureAnswer:
    """Return the answer that a failure is, with its rules where a gate refused."""
    error = ErrorAnswer(
        kind=type(problem).__name__,
        subject=problem.subject,
        found=problem.found,
        expected=problem.expected,
        next=problem.next,
    )
    broken = problem.rules if isinstance(problem, Refused) else ()
    return FailureAnswer(error=error, rules=tuple(RefusingRule(**vars(rule)) for rule in broken))


class DomainFigures(WithoutNulls):
    """The figures of one domain; `accuracy` only where answers can be checked.

    The specialist's are those of the best member; `specialists` names all.
    """

    data: str | None = None
    bits_per_byte: float | None = None
    tokens: int | None = None
    accuracy: float | None = None
    answers: int | None = None
    seed_bits_per_byte: float | None = None
    seed_accuracy: float | None = None
    new_to_seed: bool | None = None
    specialist: str | None = None
    specialist_bits_per_byte: float | None = None
    specialist_accuracy: float | None = None
    specialists: tuple[Specialist, ...] | None = None


class ExpertEvaluation(DomainFigures):
    """The figures of an expert's worst data version, and under `domains` those of each."""

    domains: Mapping[str, DomainFigures] = {}


class RoutingShares(Answer):
    """Which experts are used: for each domain and layer the share of every expert."""

    shares: Mapping[str, tuple[tuple[float, ...], ...]] = {}
    dead: tuple[str, ...] = ()
    dominant: tuple[str, ...] = ()


class ContestLine(WithoutNulls):
    """Who contests a withdrawal, and when; why, where the words are kept on this machine."""

    by: str
    at: str
    why: str | None = None


class Shown(AsStored):
    """Everything that is recorded of one version."""

    printed_last = ("own", "files", "gates")

    ref: str
    status: str
    digest: str
    registered_at: str
    actor: str
    contested: tuple[ContestLine, ...] = ()  # of a withdrawn version
    own: Mapping[str, OwnFact] = Field(default_factory=dict)  # as they are stated now
    files: tuple[FileLine, ...] = ()
    gates: tuple[Judged, ...] = ()
    aliases: tuple[str, ...] = ()
    notes: tuple[NoteAnswer, ...] = ()


class ShownDataAnswer(DataStatement, Shown):
    """A data version."""

    domain: str | None = None
    bytes: int | None = None
    url: str | None = None
    dvc: DvcFolder | None = None


class ShownSeedAnswer(Shown):
    """A seed."""

    model_type: str | None = None
    family: str | None = None
    parameters: int | None = None
    license: str | None = None
    data: tuple[str, ...] = ()
    converted_from: SourceFile | None = None
    finite: bool | None = None
    train: TrainingReport | None = None
    environment: Environment | None = None
    left_out: tuple[str, ...] = ()
    dvc: DvcFolder | None = None


class ShownExpertAnswer(Shown):
    """An expert."""

    domain: str | None = None
    seed: str | None = None
    data: tuple[str, ...] = ()
    licenses: tuple[str | None, ...] = ()
    mode: str | None = None
    preflight: Weights | None = None
    evaluation: ExpertEvaluation | None = None
    results: tuple[Result, ...] = ()
    contamination: float | None = None
    train: TrainingReport | None = None
    environment: Environment | None = None
    adapter: str | None = None
    merged_by: str | None = None
    left_out: tuple[str, ...] = ()
    dvc: DvcFolder | None = None


class ShownSnapshotAnswer(Shown):
    """A snapshot."""

    seed: str | None = None
    mode: str | None = None
    members: tuple[Member, ...] = ()


class ShownBuildAnswer(Shown):
    """A build. `recipe` holds the settings as given, and under `resolved` every key of them."""

    line: str = "main"
    snapshot: str | None = None
    seed: str | None = None
    members: tuple[Member, ...] = ()
    content: str | None = None
    recipe: JsonObject = Field(default_factory=dict)
    architecture: Architecture | None = None
    folder: str | None = None
    evaluation: Mapping[str, DomainFigures] = {}
    results: tuple[Result, ...] = ()
    previous: Mapping[str, DomainFigures] | None = None  # `evaluation` of the line's build before
    tasks: JsonObject | None = None
    routing: RoutingShares | None = None
    cost: Cost = Cost()
    mixed: tuple[StoredFile, ...] = ()
    tuned_on: tuple[str, ...] = ()
    registrar: str | None = None
    environment: Environment | None = None
    dvc: DvcFolder | None = None


class ShownExportAnswer(Shown):
    """An export."""

    folder: str | None = None
    target: str | None = None
    fused: bool | None = None
    verdict: str | None = None
    transformers: str | None = None
    public_key: str | None = None


SHOWN: Mapping[Kind, type[Shown]] = {
    Kind.DATA: ShownDataAnswer,
    Kind.SEED: ShownSeedAnswer,
    Kind.EXPERT: ShownExpertAnswer,
    Kind.SNAPSHOT: ShownSnapshotAnswer,
    Kind.BUILD: ShownBuildAnswer,
    Kind.EXPORT: ShownExportAnswer,
}


def evaluation_of(results: Sequence[Result]) -> dict[str, DomainFigures]:
    """Return figures by domain: the `evaluation` of `btx show build/N --json`.

    A domain that stands for two versions of one data name has an entry for each, named like
    `legal@2`. The specialist's figures are those of the best member; `specialists` names all.
    """
    named = labels(results)
    return {named[result.data]: figures_of(result) for result in results}


def figures_of(result: Result) -> DomainFigures:
    """Return the figures of one result, with those of its best specialist beside them."""
    figures = result.model_dump(exclude={"domain", "specialists"})
    best = result.specialist
    if best is None:
        return DomainFigures(**figures)
    figures["specialist_bits_per_byte"] = best.bits_per_byte
    figures["specialist_accuracy"] = best.accuracy
    if best.ref is not None:
        figures["specialist"] = best.ref
        figures["specialists"] = result.specialists
    return DomainFigures(**figures)


def expert_evaluation_of(results: Sequence[Result]) -> ExpertEvaluation | None:
    """Return the figures of the worst data version, and those of each by its label."""
    worst = worst_of(results)
    if worst is None:
        return None
    return ExpertEvaluation(**{**figures_of(worst).to_json(), "domains": evaluation_of(results)})


def recipe_of(facts: BuildFacts) -> JsonObject:
    """Return a build's settings as they were given, and under `resolved` with every key."""
    if facts.given_recipe is None:
        return facts.recipe.to_json()
    return {**facts.given_recipe.to_json(), "resolved": facts.recipe.to_json()}


def routing_of(routing: Routing, results: Sequence[Result]) -> RoutingShares:
    """Return where tokens went, by the names that `evaluation_of` gives the results."""
    named = labels(results)
    shares = {named.get(share.data, share.domain): share.layers for share in routing.shares}
    return RoutingShares(shares=shares, dead=routing.dead, dominant=routing.dominant)
