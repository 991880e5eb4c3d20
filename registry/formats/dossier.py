"""Everything recorded of one version and of what it was made from: the source of every format.

In: the catalogue and a reference. Out: a Dossier. Nothing is written; the formats themselves never
see the catalogue.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import TypeVar

from registry.catalogue.catalog import Catalog
from registry.catalogue.lineage import Graph, Impact
from registry.digest import sha256_bytes
from registry.governance import approving, contesting, people
from registry.governance.build_licence import BuildLicence, of_build
from registry.governance.gate import verdicts, waivers_counted
from registry.governance.stating import Statements
from registry.records.events import Judged, WaiverUsed, Withdrawn
from registry.records.evidence import ApprovalLine
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    Environment,
    ExpertFacts,
    Facts,
    SeedFacts,
    SnapshotFacts,
    Spent,
    TrainingReport,
)
from registry.records.kinds import Kind, Status
from registry.records.own_facts import ORGANISATION, OwnFact
from registry.records.references import Reference
from registry.records.results import Result
from registry.records.version import Event, Version

TOOL = "btx-registry"
# The namespace of identifiers that are made here; any fixed one will do.
NAMESPACE = uuid.UUID("6f0a3d0e-6a53-5f0c-9d0c-3f2f6d1f7c1b")

F = TypeVar("F", bound=Facts)


# The own facts that say how much something was trained that reported nothing.
TRAINING_TOKENS = "training_tokens"
TRAINING_FLOPS = "training_flops"


@dataclass(frozen=True)
class Judgement:
    """One verdict of a gate: the event that logged it, its body, and the waivers that counted."""

    event: Event
    body: Judged
    waived_by: tuple[WaiverUsed, ...] = ()

    def rules(self, outcome: str) -> list[str]:
        """Return the rules that had this outcome."""
        return [rule for rule, given in self.body.rules.items() if given == outcome]


@dataclass(frozen=True)
class WaiverInUse:
    """An exception that a newest verdict leans on."""

    waiver: WaiverUsed
    gate: str


@dataclass(frozen=True)
class Dossier:
    """What is recorded of one version.

    Attributes:
        subject: the version.
        graph: the version, its ancestors and the edges between them.
        statuses: status by reference, of the graph and of what was made from the subject.
        verdicts: every verdict on a version of the graph, the oldest first.
        approvals: who approved the subject.
        releases: the events that released the subject.
        exports: the events that exported the subject.
        withdrawals: the events that withdrew a version of the graph.
        contests: the events that contest one of these withdrawals.
        erasures: the tombstones of versions of the graph.
        head: the digest of the log's newest event when this was collected.
        made_at: when this was collected.
        previous: earlier builds of its product line without those registered by mistake, where the
            subject is a build.
        impact: what was made from the subject; None for a build.
        open_list: whether no auditor keeps the list of actors, so that approvals prove nobody.
        licence: under which licence the subject may be passed on; of a build alone.
        own: own facts of the versions in the graph, by reference and name.
        organisation: own facts of the company itself, by name.
        public: whether it holds only what may leave the company.
        withheld: by reference, the names of facts that are stated and may not leave the company.
        own_withheld: the same of own facts, those of the company itself too.
    """

    subject: Version[Facts]
    graph: Graph
    statuses: Mapping[str, Status]
    verdicts: tuple[Judgement, ...] = ()
    approvals: tuple[ApprovalLine, ...] = ()
    releases: tuple[Event, ...] = ()
    exports: tuple[Event, ...] = ()
    withdrawals: tuple[Event, ...] = ()
    erasures: tuple[Event, ...] = ()
    contests: tuple[Event, ...] = ()
    head: str = ""
    made_at: str = ""
    previous: tuple[str, ...] = ()
    impact: Impact | None = None
    open_list: bool = False
    licence: BuildLicence | None = None
    own: Mapping[str, Mapping[str, OwnFact]] = field(default_factory=dict)
    organisation: Mapping[str, OwnFact] = field(default_factory=dict)
    public: bool = False
    withheld: Mapping[str, frozenset[str]] = field(default_factory=dict)
    own_withheld: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """The subject's reference."""
        return str(self.subject.ref)

    @property
    def kind(self) -> Kind:
        """The subject's kind."""
        return self.subject.ref.kind

    @property
    def build(self) -> BuildFacts | None:
        """The subject's facts where it is a build."""
        facts = self.subject.facts
        return facts if isinstance(facts, BuildFacts) else None

    @property
    def results(self) -> tuple[Result, ...]:
        """What the subject was measured to do, a result for each data version."""
        facts = self.subject.facts
        return facts.results if isinstance(facts, BuildFacts | ExpertFacts) else ()

    @property
    def dead_experts(self) -> tuple[str, ...]:
        """Experts of a build that no domain uses."""
        return self.build.routing.dead if self.build and self.build.routing else ()

    @property
    def snapshot(self) -> SnapshotFacts | None:
        """The facts of the snapshot that a build was composed from."""
        for version in self.of(SnapshotFacts):
            if self.build and str(version.ref) == self.build.snapshot:
                return version.facts
        return None

    def status(self, ref: Reference | str) -> Status:
        """Return what a version of the graph is good for now."""
        return self.statuses.get(str(ref), Status.REGISTERED)

    def of(self, kind: type[F]) -> list[Version[F]]:
        """Return every version of a kind in the graph, by name."""
        versions = [node.of(kind) for node in self.graph.nodes if node.ref.kind == kind.kind]
        return sorted(versions, key=lambda version: version.ref)

    def parents(self, version: Version[Facts]) -> list[tuple[Version[Facts], str]]:
        """Return what a version was made from directly, and how."""
        nodes = {node.ref: node for node in self.graph.nodes}
        return [
            (nodes[edge.to], edge.relation)
            for edge in self.graph.edges
            if edge.from_ == version.ref
        ]

    def members(self) -> list[tuple[int, Version[ExpertFacts]]]:
        """Return slot and expert of each member of a build, by slot."""
        experts = {str(version.ref): version for version in self.of(ExpertFacts)}
        members = self.build.members if self.build else ()
        pairs = [(member.slot, experts[member.ref]) for member in members if member.ref in experts]
        return sorted(pairs, key=lambda pair: pair[0])

    def licenses(self) -> list[str]:
        """Return every licence that is stated for the subject and its ancestors."""
        licences = {stated_license(node) for node in self.graph.nodes}
        return sorted(licence for licence in licences if licence)

    def is_withheld(self, version: Version[Facts], name: str) -> bool:
        """Tell whether a fact of a version is stated and may not leave the company."""
        return name in self.withheld.get(str(version.ref), ())

    def is_own_withheld(self, name: str, ref: str) -> bool:
        """Tell whether an own fact that holds of a version is stated and may not be told."""
        return any(name in self.own_withheld.get(one, ()) for one in (ref, ORGANISATION))

    def own_fact(self, name: str, version: Version[Facts] | None = None) -> OwnFact | None:
        """Return what the company states of a version (default: the subject), else of itself.

        So what holds of everything is stated once, of the organisation.
        """
        ref = str((version or self.subject).ref)
        return self.own.get(ref, {}).get(name) or self.organisation.get(name)

    def last_verdicts(self, ref: str) -> dict[str, Judgement]:
        """Return the newest verdict of each gate on a version, by the gate's name."""
        return {
            str(verdict.body.gate): verdict
            for verdict in self.verdicts
            if verdict.event.subject == ref
        }

    def all_last_verdicts(self) -> list[Judgement]:
        """Return the newest verdict of each gate on each version of the graph."""
        subjects = dict.fromkeys(verdict.event.subject for verdict in self.verdicts)
        return [verdict for ref in subjects for verdict in self.last_verdicts(ref).values()]

    def waivers(self) -> list[WaiverInUse]:
        """Return the exceptions that the newest verdicts lean on."""
        used = []
        for verdict in self.all_last_verdicts():
            gate = str(verdict.body.gate)
            used += [WaiverInUse(waiver, gate) for waiver in verdict.waived_by]
        return used


def collect(catalog: Catalog, ref: str, *, at: datetime | None = None) -> Dossier:
    """Read everything that is recorded of a version.

    Args:
        catalog: where it is recorded.
        ref: the version's reference.
        at: the moment that the dossier bears; now by default.

    Returns:
        The dossier.

    Raises:
        NotFound: for a reference that is not registered.
    """
    graph = catalog.lineage(ref)
    subject = graph.nodes[0]
    impact = None if subject.ref.kind == Kind.BUILD else catalog.impact(subject.ref)
    versions = [*graph.nodes, *_reached(catalog, impact)]
    statuses = {str(key): status for key, status in catalog.statuses(versions).items()}
    refs = [str(node.ref) for node in graph.nodes]
    withdrawn = {event.subject: event for event in catalog.events(kind=Withdrawn.logged_as)}
    moment = at or datetime.now(UTC)
    statements = Statements.read(catalog)
    return Dossier(
        subject=subject,
        graph=graph,
        statuses=statuses,
        verdicts=_judgements(catalog, refs),
        approvals=tuple(approving.approvals(catalog, subject)),
        open_list=not people.is_closed(catalog),
        releases=tuple(catalog.events(subject.ref, "released")),
        exports=tuple(catalog.events(subject.ref, "exported")),
        withdrawals=tuple(withdrawn[name] for name in refs if name in withdrawn),
        contests=tuple(
            one for name in refs if name in withdrawn for one in contesting.contests(catalog, name)
        ),
        erasures=tuple(one for one in catalog.events(kind="erased") if one.subject in refs),
        head=catalog.head(),
        made_at=moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        previous=_earlier_builds(catalog, subject),
        impact=impact,
        licence=of_build(catalog, subject.of(BuildFacts))
        if subject.ref.kind == Kind.BUILD
        else None,
        own={str(node.ref): statements.of(node) for node in graph.nodes},
        organisation=statements.of_organisation(),
    )


def tool_version() -> str:
    """Return the version of this program, "0" where it was never installed."""
    try:
        return installed(TOOL)
    except PackageNotFoundError:
        return "0"


def uuid_of(*parts: str) -> uuid.UUID:
    """Return an identifier that is the same for the same parts in every export."""
    return uuid.uuid5(NAMESPACE, "\n".join(parts))


def seconds(moment: str) -> str:
    """Return a logged moment without its fraction: the one form that every schema takes."""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def files_digest(version: Version[Facts]) -> str | None:
    r"""Return one digest of a version's files that anybody can compute; None without files.

    It is the SHA-256 of what `sha256sum` prints for them in the order of their paths' bytes:
    `find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`.
    """
    files = sorted(version.files, key=lambda file: file.path.encode())
    listing = "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return sha256_bytes(listing.encode()) if files else None


def started(version: Version[Facts]) -> str | None:
    """Return when the making of a version began, where its length was reported."""
    facts = version.facts
    report = training(version)
    length = report.wall_s if report else None
    if isinstance(facts, BuildFacts):
        length = facts.cost.seconds.total
    if length is None:
        return None
    end = datetime.fromisoformat(version.registered_at)
    return seconds((end - timedelta(seconds=length)).isoformat())


def stated_license(version: Version[Facts]) -> str | None:
    """Return the licence that is stated for a data version or seed; nothing else has its own."""
    facts = version.facts
    return facts.license if isinstance(facts, DataFacts | SeedFacts) else None


def training(version: Version[Facts]) -> TrainingReport | None:
    """Return what an expert's or a seed's training reported; None where nobody reported it."""
    facts = version.facts
    report = facts.train if isinstance(facts, ExpertFacts | SeedFacts) else None
    return report if report and report.to_json() else None


def tokens_read(dossier: Dossier, version: Version[Facts]) -> int | None:
    """Return how many tokens a seed or expert was trained on: as reported, else as stated."""
    return _tokens(version, dossier.own)


def _tokens(version: Version[Facts], own: Mapping[str, Mapping[str, OwnFact]]) -> int | None:
    report = training(version)
    if report is not None and report.tokens is not None:
        return report.tokens
    stated = own.get(str(version.ref), {}).get(TRAINING_TOKENS)
    return int(stated.value) if stated and isinstance(stated.value, int | float) else None


def operations(version: Version[Facts], own: Mapping[str, Mapping[str, OwnFact]]) -> float | None:
    """Return how many operations trained a seed or expert: as reported, else as stated.

    Args:
        version: the seed or expert.
        own: own facts by reference and name.
    """
    report = training(version)
    if report is not None and report.flops is not None:
        return report.flops
    stated = own.get(str(version.ref), {}).get(TRAINING_FLOPS)
    return float(stated.value) if stated and isinstance(stated.value, int | float) else None


def trained(dossier: Dossier) -> list[Version[Facts]]:
    """Return everything that was trained: seeds and experts."""
    return [*dossier.of(SeedFacts), *dossier.of(ExpertFacts)]


def compute(dossier: Dossier) -> Spent:
    """Add up what everything in the graph reported to have taken; None where nothing did."""
    return spent_in_all(dossier.graph.nodes, dossier.own)


def spent_in_all(
    versions: Iterable[Version[Facts]], own: Mapping[str, Mapping[str, OwnFact]]
) -> Spent:
    """Add up what a version took and all that it was made from, tunings of earlier builds too.

    Args:
        versions: the version and its ancestors.
        own: their own facts, by reference and name.

    Returns:
        What was reported, and of tokens and operations what was stated; None where nothing was.
    """
    every = sorted(versions, key=lambda version: version.ref)
    models = [one for one in every if one.ref.kind in (Kind.SEED, Kind.EXPERT)]
    trainings = [training(version) for version in models]
    tuned = [one.of(BuildFacts).facts.cost.tune for one in every if one.ref.kind == Kind.BUILD]
    parts = [part for part in (*trainings, *tuned) if part]
    read = [_tokens(version, own) for version in models]
    return Spent(
        tokens=_sum([*read, *(part.tokens for part in tuned)]),
        flops=_sum([*(operations(one, own) for one in models), *(part.flops for part in tuned)]),
        wall_s=_sum(part.wall_s for part in parts),
    )


def environment(version: Version[Facts]) -> Environment | None:
    """Return the programs that made a version; None where nothing was recorded."""
    facts = version.facts
    if not isinstance(facts, ExpertFacts | SeedFacts | BuildFacts):
        return None
    report = training(version)
    recorded = facts.environment or (report.environment if report else None)
    return recorded if recorded and recorded.to_json() else None


def revision(version: Version[Facts]) -> str | None:
    """Return the git commit of the code that made a version.

    None where nobody knows it, and where the code differed from every commit.
    """
    programs = environment(version)
    return programs.revision if programs and not programs.changed else None


def _reached(catalog: Catalog, impact: Impact | None) -> list[Version[Facts]]:
    if impact is None:
        return []
    refs = [*impact.experts, *(build.ref for build in impact.builds)]
    return [catalog.get(ref) for ref in refs]


def _judgements(catalog: Catalog, refs: Iterable[str]) -> tuple[Judgement, ...]:
    events = [event for ref in refs for event in verdicts(catalog, ref)]
    events.sort(key=lambda event: event.seq)
    return tuple(
        Judgement(event, event.read(Judged), waivers_counted(catalog, event)) for event in events
    )


def _earlier_builds(catalog: Catalog, subject: Version[Facts]) -> tuple[str, ...]:
    if subject.ref.kind != Kind.BUILD:
        return ()
    line = subject.of(BuildFacts).facts.line
    builds = [one for one in catalog.versions(BuildFacts, files=False) if one.facts.line == line]
    statuses = catalog.statuses(builds)
    earlier = [one.ref for one in builds if one.ref < subject.ref]
    return tuple(str(ref) for ref in earlier if statuses[ref] != Status.RETIRED)


N = TypeVar("N", int, float)


def _sum(values: Iterable[N | None]) -> N | None:
    reported = [value for value in values if value is not None]
    return sum(reported) if reported else None
