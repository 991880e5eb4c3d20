"""What the pages of `btx serve` and their JSON API answer, where no command answers the same.

In:  typed values from the catalogue.  Out: one record for each answer, and its JSON.
Keys may be added, never renamed. An answer that a command gives too is the command's own record,
in `answers`; what a browser or a script sends is the web's.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_serializer

from registry.records.answers.answer import Answer
from registry.records.answers.auditing import Check, Finding, LineageAnswer
from registry.records.answers.deciding import VerdictAnswer
from registry.records.answers.figures import evaluation_of, expert_evaluation_of, routing_of
from registry.records.answers.listing import RowEnd
from registry.records.answers.shown import DiffAnswer, FileLine, recipe_of
from registry.records.answers.upkeep import DueRow
from registry.records.answers.withdrawing import Reached
from registry.records.base import JsonObject
from registry.records.events import Reason
from registry.records.evidence import ApprovalLine, BuildEvidence
from registry.records.facts import BuildFacts, ExpertFacts, Facts, Member, Spent
from registry.records.kinds import Mode
from registry.records.officer_answers import StandingAct
from registry.records.own_facts import OwnFact

# Too long for a reader, or said elsewhere in the answer.
HIDDEN = ("tensors", "status", "dvc", "content", "mixed", "given_recipe")


class Me(Answer):
    """Who asks, and what that person may do."""

    name: str
    roles: tuple[str, ...]


class Listed(RowEnd):
    """One version in a list of the pages."""

    kind: str
    data: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()


class ListedBuild(Listed):
    """One build in a list of the pages."""

    line: str
    members: tuple[Member, ...] = ()
    tokens: int | None = None  # of its tuning and its members' training
    flops: float | None = None
    wall_s: float | None = None
    active_parameters: int | None = None
    total_parameters: int | None = None
    bytes_linked: int
    bytes_written: int


class BuildStep(ListedBuild):
    """A build beside the one before it of the same product line."""

    added: tuple[str, ...] = Field(description="members that the build before did not have")
    left_out: tuple[str, ...] = Field(description="members that only the build before had")
    mean_gain: float | None = Field(description="over the data versions that were measured")
    measured: int = Field(
        description="how many data versions that is: a mean over others cannot be set beside it"
    )
    new: Spent = Field(
        description="what its tuning took, and the training of experts that no build had"
    )
    spent: Spent = Field(
        default=Spent(), description="what it took with all that it was made from, as reports say"
    )
    hours: float = Field(default=0.0, description="of one device, in `new`")
    money: float | None = Field(default=None, description="what these hours cost, in `price`")


class GpuPrice(Answer):
    """What an hour of one GPU costs."""

    gpu_hour: float
    currency: str


class JoinedExpert(Answer):
    """An expert in the first build that it was part of."""

    ref: str
    build: str
    gain: float | None = Field(
        default=None, description="of that build, on the expert's own data, in bits per byte"
    )
    training: Spent | None = None
    bytes: int | None = Field(default=None, description="of its registered files")


class NextExpert(Answer):
    """What one more expert would take and bring, estimated from those that joined before."""

    trained: int = Field(description="how many experts' trainings the estimate is the median of")
    tuned_as: str = Field(description="the build by whose recipe and times this is estimated")
    takes: Spent = Field(description="the branch and the whole rebuild, one after the other")
    hours: float = Field(description="of one device, in training and tuning")
    money: float | None = Field(default=None, description="in `price`; null where none is set")
    least_gain: float | None = Field(
        default=None, description="of the experts that joined, on their own data"
    )
    median_gain: float | None = None
    most_gain: float | None = None


class WaitingBuild(ListedBuild):
    """A build newer than the last release of its product line, and who approved it."""

    approvals: tuple[str, ...] = ()


class ListedExport(Listed):
    """One export in a list of the pages."""

    build: str | None = None
    folder: str | None = None
    target: str | None = None
    draft: bool = False


class ListedLine(Answer):
    """One product line: a named selection of experts that is rebuilt by itself."""

    line: str
    builds: int
    newest: ListedBuild
    released: str | None = Field(default=None, description="its build that was released last")


class RunPoint(Answer):
    """What was measured in one step of training or tuning."""

    step: int
    loss: float | None = None
    heldout_loss: float | None = None


class TrainingRun(Answer):
    """A training or tuning as its metrics tell it, while it runs and after."""

    name: str
    running: bool
    steps: int = Field(description="how many it has done")
    total: int | None = Field(default=None, description="of how many, where that is known")
    loss: float | None = None
    heldout_loss: float | None = Field(default=None, description="the newest that was measured")
    tokens_per_s: float | None = None
    updated_at: str = Field(description="when its last step was told, in UTC")
    points: tuple[RunPoint, ...] = Field(
        default=(), description="of its steps, or so many of them that a picture can show"
    )


class RunsPage(Answer):
    """What runs in the workspace, and every training and tuning that left metrics."""

    writer: str | None = Field(default=None, description="the command that writes now")
    runs: tuple[TrainingRun, ...] = Field(default=(), description="the newest first")


class Point(Answer):
    """What one build was measured to do on one data version; null where it was not measured."""

    build: str
    bits_per_byte: float | None = None
    gain: float | None = Field(
        default=None, description="seed's bits per byte less the build's: above zero is better"
    )
    accuracy: float | None = None


class Gain(Answer):
    """One data version's figures, build over build."""

    data: str
    domain: str
    label: str = Field(description="the domain; or the data version, where a domain has several")
    builds: tuple[Point, ...] = ()


class LoggedEvent(Answer):
    """One entry of the audit log."""

    seq: int
    at: str
    actor: str
    kind: str
    subject: str
    words: str = Field(description="what it says, in a line")
    reasons: tuple[Reason, ...] = Field(default=(), description="of a verdict: what rules said")
    body: JsonObject = Field(description="as it is stored: the schema `events` of its kind")
    prev: str
    digest: str


class Overview(Answer):
    """How the registry stands."""

    released: ListedBuild | None = None
    released_at: str | None = Field(default=None, description="when that release was logged")
    released_by: str | None = None
    fallen: tuple[ListedBuild, ...] = Field(
        default=(), description="builds that were released and hold what was withdrawn since"
    )
    waiting: tuple[WaitingBuild, ...] = ()
    builds: tuple[BuildStep, ...] = ()
    gains: tuple[Gain, ...] = ()
    joined: tuple[JoinedExpert, ...] = Field(
        default=(), description="experts that the last builds were the first to have"
    )
    next_expert: NextExpert | None = None
    price: GpuPrice | None = None
    counts: Mapping[str, int] = Field(description="how many versions there are of each kind")
    events: tuple[LoggedEvent, ...] = ()
    due: tuple[DueRow, ...] = Field(
        default=(), description="what has ended, or ends within 30 days"
    )
    open_list: bool = Field(
        default=False, description="whether the list of actors is open: approvals prove nobody"
    )
    head: str


class Listing(Answer):
    """A page of versions, newest first."""

    kind: str
    total: int
    start: int
    versions: tuple[ListedBuild | ListedExport | Listed, ...] = ()


class LoggedVerdict(Answer):
    """A gate's verdict as it was logged."""

    gate: str
    outcome: str
    at: str
    actor: str
    rules: Mapping[str, str] = Field(description="outcome by POLICY/RULE")
    reasons: tuple[Reason, ...] = ()
    documents: tuple[str, ...] = Field(
        default=(), description="digests of policies and evidence, see /api/documents"
    )


class Neighbour(Answer):
    """A version that is one edge away."""

    ref: str
    relation: str


class Cause(Answer):
    """A version that was taken out of use, and so what was made from it: when, by whom, why."""

    ref: str
    status: str
    at: str
    actor: str
    why: str


class VersionPage(Listed):
    """Everything recorded of one version."""

    actor: str
    facts: Facts
    own: tuple[OwnFact, ...] = Field(default=(), description="own facts, as they are stated now")
    files: tuple[FileLine, ...] = ()
    bytes_linked: int
    bytes_written: int
    gates: tuple[LoggedVerdict, ...] = ()
    events: tuple[LoggedEvent, ...] = ()
    contested: tuple[str, ...] = Field(default=(), description="who contests its withdrawal, when")
    causes: tuple[Cause, ...] = Field(
        default=(), description="what it was made from that was withdrawn or erased"
    )
    made_from: tuple[Neighbour, ...] = ()
    used_in: tuple[Neighbour, ...] = ()
    builds: tuple[str, ...] = Field(
        default=(), description="every build that was made from it, at any distance"
    )
    approvals: tuple[ApprovalLine, ...] = ()
    aliases: tuple[str, ...] = ()

    @field_serializer("facts")
    def _recorded(self, facts: Facts) -> dict[str, Any]:
        return recorded(facts)


class ExpertPage(VersionPage):
    """Everything recorded of one expert."""

    facts: ExpertFacts


class BuildMember(Listed):
    """The seed or an expert of a build; a seed whose blocks are no expert has no slot."""

    slot: int | None = None


class BuildPage(VersionPage):
    """Everything recorded of one build."""

    facts: BuildFacts
    members: tuple[BuildMember, ...] = ()
    mode: Mode | None = Field(
        default=None, description="its members' shared parameters: the seed's, or averaged"
    )
    spent: Spent = Field(
        default=Spent(), description="what it took with all that it was made from, as reports say"
    )


class LineagePage(LineageAnswer):
    """The nearest ancestors and descendants of one version."""

    subject: str
    more: int = Field(description="how many versions are further away, and left out")


class BuildRemoval(Answer):
    """What a withdrawal means for one build."""

    ref: str
    removal: Literal["exact", "rebuild", "none"]
    why: str
    members: tuple[str, ...] = ()


class Cure(Answer):
    """The commands that leave the newest build of every line without what is withdrawn."""

    build: str = Field(description="the newest build that holds something of it")
    keeps: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


class ImpactPage(Answer):
    """What withdrawing one version reaches."""

    subject: str
    status: str
    experts: tuple[str, ...] = ()
    builds: tuple[BuildRemoval, ...] = ()
    untouched: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    twins: tuple[Reached, ...] = Field(
        default=(), description="versions in use that hold the same and that no lineage names"
    )
    cure: Cure | None = None
    closed: bool = Field(description="whether a withdrawal has to be signed")
    contested: tuple[str, ...] = Field(default=(), description="who contests the withdrawal, when")
    withdrawn: Cause | None = Field(
        default=None, description="when, by whom and why it was withdrawn or erased"
    )


class LogPage(Answer):
    """Events, newest first."""

    events: tuple[LoggedEvent, ...] = ()
    kinds: tuple[str, ...] = Field(default=(), description="every kind of event in the log")
    next: int | None = Field(default=None, description="`before` of the next page; null: the last")


class ChainBreak(Answer):
    """One place where the log's chain is not what it should be."""

    subject: str
    found: str
    expected: str


class Chain(Answer):
    """Every link of the log's chain, checked."""

    head: str
    examined: int
    breaks: tuple[ChainBreak, ...] = ()


class AuditRun(Answer):
    """An audit, or another long action, as far as it has come."""

    id: str
    ref: str
    by: str
    started: str
    state: Literal["running", "done", "failed"]
    checks: tuple[Check, ...] = ()
    findings: tuple[Finding, ...] = ()
    head: str | None = None
    error: str | None = None


class ToSign(Answer):
    """What the asking person's approval would be: the act, and its bytes in base64."""

    act: JsonObject = Field(description="exactly what the payload says")
    payload: str
    payload_type: str
    message: str = Field(description="base64 of the bytes that the Ed25519 signature is over")
    keyid: str


class Statements(Answer):
    """The acts that one deed takes, each to be signed."""

    acts: tuple[ToSign, ...]


class LicenceLine(Answer):
    """Under which licence a build may be passed on, and why."""

    answer: str = Field(description="computed | stated | ask counsel")
    expression: str | None = None
    reasons: tuple[str, ...] = ()
    questions: tuple[str, ...] = Field(default=(), description="for counsel")


class Review(Answer):
    """Evidence and verdict of gate release, side by side."""

    ref: str
    status: str
    digest: str
    evidence: BuildEvidence
    verdict: VerdictAnswer
    approvals: tuple[ApprovalLine, ...] = ()
    waivers: tuple[StandingAct, ...] = Field(
        default=(), description="that it, or anything that it was made from, stands on"
    )
    due: tuple[DueRow, ...] = Field(
        default=(), description="what of it and its parts has ended, or ends within 90 days"
    )
    licence: LicenceLine | None = Field(
        default=None, description="under which it may be passed on; null where nothing is known"
    )
    since: DiffAnswer | None = Field(
        default=None, description="what differs from the last release; null where there is none"
    )
    signed: bool = Field(default=False, description="whether the asking person has signed it")
    to_sign: ToSign | None = None
    why_not: str = Field(description="why the asking person cannot sign; empty when they can")
    closed: bool = Field(description="whether a release has to be signed")


class Done(Answer):
    """What was asked for was done."""

    ref: str
    status: str
    by: str


# The answers that are whole documents, by the name that their schema is published under.
PAGES: Mapping[str, type[Answer]] = {
    "me": Me,
    "overview": Overview,
    "listing": Listing,
    "listed-line": ListedLine,
    "training-run": TrainingRun,
    "runs": RunsPage,
    "version": VersionPage,
    "expert": ExpertPage,
    "build": BuildPage,
    "lineage": LineagePage,
    "impact": ImpactPage,
    "log": LogPage,
    "chain": Chain,
    "audit-run": AuditRun,
    "to-sign": ToSign,
    "statements": Statements,
    "review": Review,
    "done": Done,
}


def recorded(facts: Facts) -> dict[str, Any]:
    """Return what the pages show of a version's facts, as JSON.

    Results and routing are there twice: as lists, and by domain as `btx show` prints them.
    """
    shown = {name: value for name, value in facts.to_json().items() if name not in HIDDEN}
    if isinstance(facts, ExpertFacts):
        evaluation = expert_evaluation_of(facts.results)
        shown["evaluation"] = evaluation.to_json() if evaluation else None
    if isinstance(facts, BuildFacts):
        by_domain = evaluation_of(facts.results)
        shown["evaluation"] = {name: one.to_json() for name, one in by_domain.items()}
        shown["recipe"] = recipe_of(facts)
        if facts.routing:
            shown["routing"] = routing_of(facts.routing, facts.results).to_json()
    return shown
