"""Lineage: what a version was made from, what was made from it, and what a withdrawal reaches.

In:  rows, and a version's row id.
Out: ids and edges, closed over ancestors or descendants in one query; the impact of a withdrawal.
Pure over rows: reads only, keeps nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, NamedTuple

from registry.catalogue.database import Rows
from registry.errors import Damaged
from registry.records.facts import (
    Architecture,
    BuildFacts,
    ExpertFacts,
    Facts,
    SnapshotFacts,
)
from registry.records.kinds import Kind, Mode, Relation
from registry.records.references import Reference
from registry.records.version import Version

Removal = Literal["exact", "rebuild", "none"]

# A build that supersedes another one holds nothing of it by that.
NOT_MADE_FROM = f"('{Relation.SUPERSEDES}')"

# A condition: event w is about version v. Events name their subject as a person would.
_NUMBER = "CAST(v.number AS TEXT)"
IS_SUBJECT = (
    f"w.subject = CASE v.kind WHEN 'build' THEN 'build/' || {_NUMBER} "
    f"ELSE v.kind || '/' || v.name || '@' || {_NUMBER} END"
)


class Edge(NamedTuple):
    """One version was made from another: `from_` from `to`."""

    from_: Reference
    to: Reference
    relation: str


class EdgeRow(NamedTuple):
    """An edge between two rows."""

    from_id: int
    to_id: int
    relation: str


@dataclass(frozen=True)
class Graph:
    """A part of the lineage.

    Attributes:
        nodes: the subject first, the others in the order of their registration.
        edges: every edge that the walk went along.
    """

    nodes: list[Version[Facts]]
    edges: list[Edge]


@dataclass(frozen=True)
class BuildImpact:
    """What a withdrawal means for one build.

    Attributes:
        ref: the build.
        removal: `exact`: drop the shards and router rows of `members`; `rebuild`: compose it
            again; `none`: nothing of what is withdrawn is in it.
        why: the reason, for a person.
        members: the members that were made from what is withdrawn.
    """

    ref: Reference
    removal: Removal
    why: str
    members: list[Reference] = field(default_factory=list)


@dataclass(frozen=True)
class Impact:
    """What was made from one version, and what its withdrawal means for every build.

    Attributes:
        subject: what would be withdrawn.
        experts: made from it.
        builds: every build in the registry.
        exports: made from it.
        others: snapshots and the like.
    """

    subject: Reference
    experts: list[Reference]
    builds: list[BuildImpact]
    exports: list[Reference]
    others: list[Reference]


def walk(rows: Rows, start: Iterable[int], *, down: bool) -> set[int]:
    """Return the ids of the start and of all its ancestors, or with `down` all its descendants."""
    roots = ", ".join(str(int(version_id)) for version_id in start) or "NULL"
    found = rows(
        "WITH RECURSIVE reached(id) AS "
        f"(SELECT v.id FROM version v WHERE v.id IN ({roots}) UNION {_step(down)}) "
        "SELECT id FROM reached"
    )
    ids = {row[0] for row in found}
    if not all(isinstance(one, int) for one in ids):
        raise Damaged(
            "lineage",
            found="an edge to what is no row",
            expected="two rows and a relation",
            next="btx audit names it",
        )
    return ids


def closure(rows: Rows, start: int, *, down: bool) -> tuple[list[int], list[EdgeRow]]:
    """Return the ids that a walk reaches, the start first, and the edges among them.

    Raises:
        Damaged: for an edge that nobody wrote so.
    """
    near = "to_id" if down else "from_id"
    found = rows(
        f"WITH RECURSIVE reached(id) AS (SELECT CAST(:start AS BIGINT) UNION {_step(down)}) "
        "SELECT e.from_id, e.to_id, e.relation "
        f"FROM reached JOIN edge e ON e.{near} = reached.id "
        f"WHERE e.relation NOT IN {NOT_MADE_FROM}",
        start=start,
    )
    edges = sorted(map(edge_row, found))
    others = {edge.from_id for edge in edges} | {edge.to_id for edge in edges}
    return [start, *sorted(others - {start})], edges


def withdrawn(rows: Rows) -> set[int]:
    """Return the ids of the versions that were withdrawn or erased themselves."""
    return _subjects(rows, "'withdrawn', 'erased'")


def erased(rows: Rows) -> set[int]:
    """Return the ids of the versions of which bytes were erased."""
    return _subjects(rows, "'erased'")


def _subjects(rows: Rows, kinds: str) -> set[int]:
    query = f"SELECT v.id FROM event w JOIN version v ON {IS_SUBJECT} WHERE w.kind IN ({kinds})"
    return {row[0] for row in rows(query)}


def impact(
    subject: int,
    reached: set[int],
    versions: Mapping[int, Version[Facts]],
    edges: Iterable[EdgeRow],
) -> Impact:
    """Say what a withdrawal of the subject means.

    Args:
        subject: its row id.
        reached: the ids of the subject and of all its descendants.
        versions: those versions, and all builds and snapshots, by id.
        edges: the edges from builds and snapshots.
    """
    from_: dict[int, list[EdgeRow]] = {}
    for edge in edges:
        from_.setdefault(edge.from_id, []).append(edge)
    builds = []
    inside = set(reached)
    # In the order of their registration: what a build grew from comes before it.
    for build in sorted(versions):
        if versions[build].ref.kind != Kind.BUILD:
            continue
        found = _build_impact(build, subject, inside, versions, from_)
        builds.append(found)
        if found.removal == "none":
            inside.discard(build)
    made = [versions[version_id].ref for version_id in sorted(reached - {subject})]
    named = (Kind.EXPERT, Kind.BUILD, Kind.EXPORT)
    return Impact(
        subject=versions[subject].ref,
        experts=[ref for ref in made if ref.kind == Kind.EXPERT],
        builds=builds,
        exports=[ref for ref in made if ref.kind == Kind.EXPORT],
        others=[ref for ref in made if ref.kind not in named],
    )


def _step(down: bool) -> str:
    """One step of a walk, as the recursive part of a query."""
    near, far = ("to_id", "from_id") if down else ("from_id", "to_id")
    return (
        f"SELECT e.{far} FROM reached JOIN edge e ON e.{near} = reached.id "
        f"WHERE e.relation NOT IN {NOT_MADE_FROM}"
    )


def edge_row(row: Sequence[object]) -> EdgeRow:
    """Read an edge. Raises Damaged for a row of other types than it was written with."""
    from_id, to_id, relation = row
    if isinstance(from_id, int) and isinstance(to_id, int) and isinstance(relation, str):
        return EdgeRow(from_id, to_id, relation)
    raise Damaged(
        "lineage",
        found=f"an edge {tuple(row)!r:.120}",
        expected="two rows and a relation",
        next="btx audit names it",
    )


def _build_impact(
    build: int,
    subject: int,
    reached: set[int],
    versions: Mapping[int, Version[Facts]],
    from_: Mapping[int, Sequence[EdgeRow]],
) -> BuildImpact:
    ref = versions[build].ref
    if build not in reached:
        return BuildImpact(ref, "none", "nothing in it comes from there")
    own = from_.get(build, ())
    snapshots = [edge.to_id for edge in own if edge.relation == Relation.COMPOSED_FROM]
    inner: list[EdgeRow] = []
    for snapshot in snapshots:
        inner += [edge for edge in from_.get(snapshot, ()) if edge.to_id in reached]
    found = {versions[e.to_id].ref for e in inner if e.relation == Relation.MEMBER}
    # In the order of references, but several times as fast: a build may have hundreds.
    members = sorted(found, key=attrgetter("kind", "name", "version"))
    via = {e.relation for e in own if e.to_id in reached and e.to_id not in snapshots}
    via |= {edge.relation for edge in inner if edge.relation != Relation.MEMBER}
    if subject == build or subject in snapshots:
        return BuildImpact(ref, "rebuild", "it is withdrawn as a whole", members)
    removal, why = _removal(
        versions[build],
        [versions[version_id] for version_id in snapshots],
        [versions[edge.to_id] for edge in inner],
        members,
        via,
    )
    return BuildImpact(ref, removal, why, members)


def _removal(
    build: Version[Facts],
    snapshots: Sequence[Version[Facts]],
    inner: Iterable[Version[Facts]],
    members: Sequence[Reference],
    via: set[str],
) -> tuple[Removal, str]:
    """Exact only where no byte that stays was trained or averaged on what is withdrawn.

    Where that is not known, the answer is rebuild.
    """
    facts = build.of(BuildFacts).facts
    tuned = facts.tuned or "unknown"
    if tuned == "none":
        via = via - {Relation.TUNED_ON}
    if not via and not members:
        return "none", "its recipe trained nothing on it"
    if via:
        through = ", ".join(sorted(via))
        return (
            "rebuild",
            f"not through members alone ({through}): bytes that would stay come from it",
        )
    if len(snapshots) != 1:
        return "rebuild", "its snapshot is not recorded"
    if facts.recipe.mix.get("blend"):
        return "rebuild", "blended: each of its experts holds a part of every member"
    snapshot = snapshots[0].of(SnapshotFacts).facts
    if {snapshot.mode, *map(_mode, inner)} != {Mode.ANCHORED}:
        return "rebuild", "shared parameters are averaged over its members"
    if tuned not in ("none", "router"):
        return "rebuild", f"tuned with {tuned}: shared parameters were trained with these members"
    return _enough_left(snapshot, facts.architecture, members)


def _mode(version: Version[Facts]) -> Mode | None:
    facts = version.facts
    return facts.mode if isinstance(facts, ExpertFacts | SnapshotFacts) else None


def _enough_left(
    snapshot: SnapshotFacts, architecture: Architecture | None, members: Sequence[Reference]
) -> tuple[Removal, str]:
    """Exact only where the experts that are left are as many as work on each token."""
    if architecture is None:
        return "rebuild", "how it routes is not recorded"
    left = len(snapshot.members) - len(members) + int(architecture.seed_expert)
    wanted = architecture.top_k if architecture.routing == "top-k" else 1
    if left < wanted:
        return "rebuild", f"{left} experts would be left, and each token takes {wanted}"
    return "exact", "anchored: drop their shards and router rows, no other byte moves"
