"""What pages and API tell of versions: the overview, lists, and everything recorded of one.

In:  the catalogue.  Out: records of `records.pages`. Reads only.
What a job must compute is `site`'s to ask for.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from registry.catalogue import lineage, reading
from registry.catalogue.catalog import Catalog
from registry.catalogue.database import Rows
from registry.formats.dossier import spent_in_all
from registry.governance import contesting, due, people, worth
from registry.governance.approving import approvals
from registry.governance.stating import Statements, own_facts_of
from registry.records.answers.shown import FileLine
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Facts,
    SeedFacts,
    SnapshotFacts,
    Spent,
)
from registry.records.kinds import UNUSABLE, Kind, Mode, Status
from registry.records.pages import (
    BuildMember,
    BuildPage,
    BuildStep,
    ExpertPage,
    Gain,
    GpuPrice,
    JoinedExpert,
    Listed,
    ListedBuild,
    ListedExport,
    ListedLine,
    Listing,
    Overview,
    Point,
    VersionPage,
    WaitingBuild,
)
from registry.records.references import Reference
from registry.records.results import by_data, labels
from registry.records.version import Version
from registry.web import history, relations
from registry.web.requests import LogQuery

PAGE = 100  # versions in a list
MOST_BUILDS = 12  # on the overview
NEWS = 8  # events on the overview

P = TypeVar("P", bound=VersionPage)


def overview(catalog: Catalog, price: GpuPrice | None = None) -> Overview:
    """Return how the registry stands.

    That is the newest release, releases that hold what was withdrawn since, builds that wait for
    one, gain and cost build over build, what one more expert would take, and the newest events.

    Args:
        catalog: what is looked at.
        price: of an hour of one GPU, where the workspace says it.
    """
    builds = catalog.versions(BuildFacts)
    statuses = catalog.statuses(builds)
    listed = [_listed_build(build, statuses[build.ref]) for build in builds]
    released = [build for build in listed if build.status == Status.RELEASED]
    releases = {event.subject: event for event in catalog.events(kind="released")}
    fallen = [one for one in listed if one.ref in releases and one.status in UNUSABLE]
    experts = worth.joined(catalog, builds, max(0, len(builds) - MOST_BUILDS))
    current = max(released, key=lambda one: releases[one.ref].seq, default=None)
    release = releases[current.ref] if current else None
    return Overview(
        released=current,
        released_at=release.at if release else None,
        released_by=release.actor if release else None,
        fallen=tuple(fallen),
        waiting=_waiting(catalog, builds, listed),
        builds=_steps(catalog, builds, listed, experts, price),
        gains=_gains(builds[-MOST_BUILDS:]),
        joined=tuple(experts),
        next_expert=worth.next_expert(catalog, builds, experts, price),
        price=price,
        counts=_counts(catalog),
        events=history.events(catalog, LogQuery(limit=NEWS, stages=False)).events,
        due=tuple(due.due(catalog, datetime.now(UTC))),
        open_list=not people.is_closed(catalog),
        head=catalog.head(),
    )


def listing(catalog: Catalog, kind: Kind, start: int = 0, text: str = "") -> Listing:
    """Return a page of versions, newest first.

    Only this page's facts are read: they hold a digest for every tensor.

    Args:
        catalog: where they are registered.
        kind: what they are.
        start: how many are left out before the first.
        text: a part of the reference.
    """
    with catalog.database.read() as rows:
        named = [ref for ref in references(catalog, kind) if text in str(ref)]
        versions = [catalog.get(ref) for ref in named[start : start + PAGE]]
        statuses = catalog.statuses(versions)
        shown = [_listed_as(rows, version, statuses[version.ref]) for version in versions]
    return Listing(kind=kind, total=len(named), start=start, versions=tuple(shown))


def _listed_as(rows: Rows, version: Version[Facts], status: Status) -> Listed:
    """Return a version as the list of its kind shows it."""
    if version.ref.kind == Kind.BUILD:
        return _listed_build(version.of(BuildFacts), status)
    if isinstance(version.facts, ExportFacts):
        origins = [one.ref for one in relations.made_from(rows, version.ref)]
        return ListedExport(
            **_fields(_listed(version, status)),
            build=origins[0] if origins else None,
            folder=version.facts.folder,
            target=version.facts.target,
            draft=bool(version.facts.draft),
        )
    return _listed(version, status)


def lines(catalog: Catalog) -> tuple[ListedLine, ...]:
    """Return the product lines that have a build, by name."""
    by_line: dict[str, list[Version[BuildFacts]]] = {}
    builds = catalog.versions(BuildFacts, files=False)
    for build in builds:
        by_line.setdefault(build.facts.line, []).append(build)
    statuses = catalog.statuses(builds)
    releases = {event.subject: event.seq for event in catalog.events(kind="released")}
    listed = []
    for name, of_line in sorted(by_line.items()):
        newest = of_line[-1].ref
        released = [str(one.ref) for one in of_line if statuses[one.ref] == Status.RELEASED]
        released.sort(key=lambda ref: releases.get(ref, 0))
        line = ListedLine(
            line=name,
            builds=len(of_line),
            newest=_listed_build(catalog.get(newest, BuildFacts), statuses[newest]),
            released=released[-1] if released else None,
        )
        listed.append(line)
    return tuple(listed)


def references(catalog: Catalog, kind: Kind) -> list[Reference]:
    """Return every version of a kind: the last name and the newest version first."""
    query = "SELECT name, number FROM version WHERE kind = :kind"
    with catalog.database.read() as rows:
        found = sorted(rows(query, kind=kind), reverse=True)
    return [Reference(kind, name, number) for name, number in found]


def version_page(catalog: Catalog, ref: str) -> VersionPage:
    """Return everything recorded of a version. Raises NotFound."""
    return _page(catalog, catalog.get(ref), VersionPage)


def expert_page(catalog: Catalog, ref: str) -> ExpertPage:
    """Return everything recorded of an expert. Raises NotFound."""
    return _page(catalog, catalog.get(ref, ExpertFacts), ExpertPage)


def build_page(catalog: Catalog, ref: str) -> BuildPage:
    """Return everything recorded of a build. Raises NotFound."""
    build = catalog.get(ref, BuildFacts)
    return _page(
        catalog,
        build,
        BuildPage,
        approvals=tuple(approvals(catalog, build)),
        members=_members(catalog, build.facts),
        mode=_mode(catalog, build.facts),
        spent=_spent_in_all(catalog, [build])[build.ref],
    )


def _page(
    catalog: Catalog,
    version: Version[Facts],
    page: type[P],
    **own: Any,  # the fields that only this page has, checked by its record
) -> P:
    name = str(version.ref)
    with catalog.database.read() as rows:
        status = catalog.statuses([version])[version.ref]
        names = reading.names_of(reading.aliases(rows), name)
        return page(
            **_fields(_listed(version, status)) | {"aliases": names},
            **own,
            actor=version.actor,
            facts=version.facts,
            own=tuple(own_facts_of(catalog, version.ref).values()),
            files=tuple(FileLine(**vars(file)) for file in version.files),
            bytes_linked=version.linked_bytes,
            bytes_written=version.written_bytes,
            gates=history.gates(catalog, name),
            events=tuple(history.logged(event) for event in catalog.events(name)),
            contested=contesting.sentences(catalog, name),
            causes=relations.causes(catalog, version.ref) if status == Status.TAINTED else (),
            made_from=relations.made_from(rows, version.ref),
            used_in=relations.used_in(rows, version.ref),
            builds=relations.builds_with(rows, version.ref),
        )


def _members(catalog: Catalog, facts: BuildFacts) -> tuple[BuildMember, ...]:
    """Return a build's seed and experts by slot."""
    slots: dict[str, int | None] = {}
    if facts.seed:
        slots[facts.seed] = 0 if facts.architecture and facts.architecture.seed_expert else None
    slots |= {one.ref: one.slot for one in sorted(facts.members, key=lambda one: one.slot)}
    versions = {ref: catalog.get(ref) for ref in slots}
    statuses = catalog.statuses(versions.values())
    members = []
    for ref, slot in slots.items():
        listed = _listed(versions[ref], statuses[versions[ref].ref])
        members.append(BuildMember(**_fields(listed), slot=slot))
    return tuple(members)


def _mode(catalog: Catalog, facts: BuildFacts) -> Mode | None:
    return catalog.get(facts.snapshot, SnapshotFacts).facts.mode if facts.snapshot else None


def _listed(version: Version[Facts], status: Status) -> Listed:
    facts = version.facts
    return Listed(
        ref=str(version.ref),
        kind=version.ref.kind,
        name=version.ref.name,
        version=version.ref.version or 0,
        status=status,
        digest=version.digest,
        registered_at=version.registered_at,
        data=facts.data if isinstance(facts, SeedFacts | ExpertFacts) else (),
        licenses=_licenses(facts),
    )


def _fields(listed: Listed) -> dict[str, Any]:
    """Return the fields of a record, to make one of it that says more, and checks them."""
    return {name: getattr(listed, name) for name in type(listed).model_fields}


def _licenses(facts: Facts) -> tuple[str, ...]:
    if isinstance(facts, DataFacts | SeedFacts):
        return (facts.license,) if facts.license else ()
    if isinstance(facts, ExpertFacts):
        return tuple(licence for licence in facts.licenses if licence)
    return ()


def _listed_build(build: Version[BuildFacts], status: Status) -> ListedBuild:
    total = build.facts.cost.total
    architecture = build.facts.architecture
    return ListedBuild(
        **_fields(_listed(build, status)),
        line=build.facts.line,
        members=build.facts.members,
        tokens=total.tokens,
        flops=total.flops,
        wall_s=total.wall_s,
        active_parameters=architecture.active_parameters if architecture else None,
        total_parameters=architecture.total_parameters if architecture else None,
        bytes_linked=build.linked_bytes,
        bytes_written=build.written_bytes,
    )


def _waiting(
    catalog: Catalog, builds: Sequence[Version[BuildFacts]], listed: Sequence[ListedBuild]
) -> tuple[WaitingBuild, ...]:
    """Return the usable builds that are newer than every release of their product line."""
    # In the order of their numbers, so the newest of each product line stays.
    released = {one.line: one.version for one in listed if one.status == Status.RELEASED}
    newer = [
        (build, one)
        for build, one in zip(builds, listed, strict=True)
        if one.version > released.get(one.line, 0) and one.status not in UNUSABLE
    ]
    waiting = []
    for build, one in newer[-MOST_BUILDS:]:
        approved = tuple(line.actor for line in approvals(catalog, build))
        waiting.append(WaitingBuild(**_fields(one), approvals=approved))
    return tuple(waiting)


def _spent_in_all(
    catalog: Catalog, builds: Sequence[Version[BuildFacts]]
) -> dict[Reference, Spent]:
    """Return what each build took with all that it was made from, as its report says it."""
    statements = Statements.read(catalog)
    reached: dict[Reference, set[int]] = {}
    with catalog.database.read() as rows:
        for build in builds:
            start = reading.row_of(rows, build.ref)[0]
            reached[build.ref] = lineage.walk(rows, [start], down=False)
        ids = sorted(set().union(*reached.values()))
        versions = reading.versions_by_id(rows, ids, files=False)
    models = [one for one in versions.values() if one.ref.kind in (Kind.SEED, Kind.EXPERT)]
    own = {str(one.ref): statements.of(one) for one in models}
    return {
        ref: spent_in_all([versions[one] for one in ancestors], own)
        for ref, ancestors in reached.items()
    }


def _steps(
    catalog: Catalog,
    builds: Sequence[Version[BuildFacts]],
    listed: Sequence[ListedBuild],
    experts: Sequence[JoinedExpert],
    price: GpuPrice | None,
) -> tuple[BuildStep, ...]:
    """Return the last builds, each with what changed, what it gained, and what was spent on it."""
    steps = []
    in_all = _spent_in_all(catalog, builds[-MOST_BUILDS:])
    by_line: dict[str, set[str]] = {}
    first_shown = len(builds) - MOST_BUILDS
    for number, (build, one) in enumerate(zip(builds, listed, strict=True)):
        members = {member.ref for member in build.facts.members}
        before = by_line.get(one.line, set())
        if number >= first_shown:
            gains = [result.gain for result in build.facts.results if result.gain is not None]
            new = [expert for expert in experts if expert.build == one.ref]
            spent = worth.spent_on(build.facts, new)
            step = BuildStep(
                **_fields(one),
                added=tuple(sorted(members - before)),
                left_out=tuple(sorted(before - members)),
                mean_gain=sum(gains) / len(gains) if gains else None,
                measured=len(gains),
                new=worth.total(spent),
                spent=in_all[build.ref],
                hours=worth.hours(spent),
                money=worth.money(spent, price),
            )
            steps.append(step)
        by_line[one.line] = members
    return tuple(steps)


def _gains(builds: Sequence[Version[BuildFacts]]) -> tuple[Gain, ...]:
    """Return the figures of each data version that any of the builds was measured on.

    Two versions of one data name are two texts, so each has its own row.
    """
    measured = [result for build in builds for result in build.facts.results]
    domains = {result.data: result.domain for result in measured}
    named = labels(measured)
    gains = []
    for data in sorted(domains, key=lambda data: named[data]):
        points = tuple(_point(build, data) for build in builds)
        gains.append(Gain(data=data, domain=domains[data], label=named[data], builds=points))
    return tuple(gains)


def _point(build: Version[BuildFacts], data: str) -> Point:
    result = by_data(build.facts.results).get(data)
    if result is None:
        return Point(build=str(build.ref))
    return Point(
        build=str(build.ref),
        bits_per_byte=result.bits_per_byte,
        gain=result.gain,
        accuracy=result.accuracy,
    )


def _counts(catalog: Catalog) -> dict[str, int]:
    with catalog.database.read() as rows:
        found = rows("SELECT kind, COUNT(*) FROM version GROUP BY kind")
    counts = {str(kind): 0 for kind in Kind}
    return counts | {str(kind): count for kind, count in found}
