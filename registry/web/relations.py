"""What surrounds a version: its lineage, its neighbours, and what a withdrawal reaches.

In:  the catalogue, a reference.  Out: records of `records.pages`. Reads only.
Where nodes stand in the picture is `graph`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from registry.catalogue import lineage, reading
from registry.catalogue.catalog import Catalog
from registry.catalogue.database import Rows
from registry.catalogue.lineage import BuildImpact, EdgeRow
from registry.catalogue.rows import VERSION_COLUMNS, version
from registry.governance import contesting, cures, people, seen_before
from registry.records.answers.auditing import LineageEdge, LineageNode
from registry.records.facts import Facts
from registry.records.kinds import Kind, Status
from registry.records.pages import BuildRemoval, Cause, Cure, ImpactPage, LineagePage, Neighbour
from registry.records.references import Reference
from registry.records.version import Version
from registry.web.graph import MOST, Link, nearest
from registry.web.history import words

MOST_NEIGHBOURS = 200
# What comes before a rebuild where no expert is left in use.
TRAIN = "btx train EXPERT --data data/NAME"


def around(catalog: Catalog, ref: str, most: int = MOST) -> LineagePage:
    """Return a version's lineage both ways.

    Args:
        catalog: where it is registered.
        ref: the version.
        most: how many versions at most; the nearest are kept.

    Raises:
        NotFound: where nothing of that name is registered.
    """
    with catalog.database.read() as rows:
        subject: int = reading.row_of(rows, ref)[0]
        edges = _edges_both_ways(rows, subject)
        links = [Link(str(edge.from_id), str(edge.to_id)) for edge in edges]
        chosen = [int(version_id) for version_id in nearest(str(subject), links, most)]
        versions = _versions(rows, chosen)
        statuses = catalog.statuses(versions.values())
    reached = {subject} | {edge.from_id for edge in edges} | {edge.to_id for edge in edges}
    return LineagePage(
        subject=str(versions[subject].ref),
        nodes=tuple(_node(versions[one], statuses[versions[one].ref]) for one in chosen),
        edges=tuple(
            _edge(edge, versions)
            for edge in edges
            if edge.from_id in versions and edge.to_id in versions
        ),
        more=len(reached) - len(chosen),
    )


def _edges_both_ways(rows: Rows, subject: int) -> list[EdgeRow]:
    up = lineage.closure(rows, subject, down=False)[1]
    down = lineage.closure(rows, subject, down=True)[1]
    return list(dict.fromkeys([*up, *down]))


def _versions(rows: Rows, ids: Iterable[int]) -> dict[int, Version[Facts]]:
    """Return the versions in these rows, without their files, by row id."""
    listed = ", ".join(map(str, sorted(ids)))
    found = rows(f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.id IN ({listed})")
    return {row[0]: version(row) for row in found}


def _node(one: Version[Facts], status: Status) -> LineageNode:
    return LineageNode(ref=str(one.ref), kind=one.ref.kind, digest=one.digest, status=status)


def _edge(edge: EdgeRow, versions: Mapping[int, Version[Facts]]) -> LineageEdge:
    ends = {"from": str(versions[edge.from_id].ref), "to": str(versions[edge.to_id].ref)}
    return LineageEdge(**ends, relation=edge.relation)


def made_from(rows: Rows, ref: Reference) -> tuple[Neighbour, ...]:
    """Return what a version was made from directly, newest first."""
    return _neighbours(rows, ref, near="from_id", far="to_id")


def used_in(rows: Rows, ref: Reference) -> tuple[Neighbour, ...]:
    """Return what was made from a version directly, newest first."""
    return _neighbours(rows, ref, near="to_id", far="from_id")


def _neighbours(rows: Rows, ref: Reference, *, near: str, far: str) -> tuple[Neighbour, ...]:
    found = rows(
        "SELECT v.kind, v.name, v.number, e.relation "
        f"FROM edge e JOIN version v ON v.id = e.{far} WHERE e.{near} = :id "
        f"ORDER BY v.id DESC LIMIT {MOST_NEIGHBOURS}",
        id=reading.row_of(rows, ref)[0],
    )
    return tuple(
        Neighbour(ref=str(Reference(Kind(kind), name, number)), relation=relation)
        for kind, name, number, relation in found
    )


def builds_with(rows: Rows, ref: Reference) -> tuple[str, ...]:
    """Return the builds that were made from a version, at any distance, newest first."""
    reached = lineage.walk(rows, [reading.row_of(rows, ref)[0]], down=True)
    listed = ", ".join(map(str, reached))
    found = rows(
        f"SELECT number FROM version WHERE kind = 'build' AND id IN ({listed}) "
        f"ORDER BY id DESC LIMIT {MOST_NEIGHBOURS}"
    )
    builds = [Reference(Kind.BUILD, "", row[0]) for row in found]
    return tuple(str(build) for build in builds if build != ref)


def taken_out(catalog: Catalog, ref: Reference | str) -> Cause | None:
    """Return when, by whom and why a version was withdrawn or erased itself; None where it is not.

    Where both happened it is the erasure, which is the stronger.
    """
    events = [*catalog.events(ref, "withdrawn"), *catalog.events(ref, "erased")]
    if not events:
        return None
    last = events[-1]
    return Cause(
        ref=str(ref),
        status="erased" if last.kind == "erased" else "withdrawn",
        at=last.at,
        actor=last.actor,
        why=words(last.kind, last.body),
    )


def causes(catalog: Catalog, ref: Reference) -> tuple[Cause, ...]:
    """Return what of all that a version was made from is withdrawn or erased."""
    with catalog.database.read() as rows:
        own: int = reading.row_of(rows, ref)[0]
        ancestors = lineage.walk(rows, [own], down=False)
        gone = (lineage.withdrawn(rows) & ancestors) - {own}
        refs = [version.ref for version in _versions(rows, gone).values()] if gone else []
    found = [taken_out(catalog, one) for one in sorted(refs)]
    return tuple(cause for cause in found if cause is not None)


def impact(catalog: Catalog, ref: str) -> ImpactPage:
    """Return what a withdrawal reaches, how it can be removed from each build, and the cure.

    Args:
        catalog: where it is registered.
        ref: what would be withdrawn, or was.

    Raises:
        NotFound: where nothing of that name is registered.
    """
    found = catalog.impact(ref)
    builds = [_removal(one) for one in reversed(found.builds)]
    reached = [build for build in builds if build.removal != "none"]
    status = catalog.status(found.subject)
    experts = [str(expert) for expert in found.experts]
    return ImpactPage(
        subject=str(found.subject),
        status=status,
        experts=tuple(experts),
        builds=tuple(reached),
        untouched=tuple(build.ref for build in builds if build.removal == "none"),
        exports=tuple(str(export) for export in found.exports),
        others=tuple(str(other) for other in found.others),
        twins=seen_before.twins(catalog, found),
        closed=people.is_closed(catalog),
        contested=contesting.sentences(catalog, str(found.subject)),
        withdrawn=taken_out(catalog, found.subject),
        cure=_cure(catalog, str(found.subject), status, experts, [one.ref for one in reached]),
    )


def _removal(one: BuildImpact) -> BuildRemoval:
    return BuildRemoval(
        ref=str(one.ref),
        removal=one.removal,
        why=one.why,
        members=tuple(str(member) for member in one.members),
    )


def _cure(
    catalog: Catalog,
    subject: str,
    status: Status,
    experts: Collection[str],
    reached: Sequence[str],
) -> Cure | None:
    """Return the commands that leave the newest build of every product line without the subject.

    None where none of these builds holds anything of it: an older build is past.
    """
    lines = cures.reached_lines(catalog, reached)
    if not lines:
        return None
    build = max(lines.values(), key=lambda one: one.ref)
    members = [member.ref for member in build.facts.members]
    withdrawal = f'btx withdraw {subject} --why "..."'
    return Cure(
        build=str(build.ref),
        keeps=tuple(member for member in members if member not in experts),
        drops=tuple(member for member in members if member in experts),
        commands=(
            *([] if status in (Status.WITHDRAWN, Status.ERASED) else [withdrawal]),
            *([] if cures.is_expert_left(catalog, experts) else [TRAIN]),
            *map(cures.rebuild_command, lines),
        ),
    )
