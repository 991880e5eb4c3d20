"""Lineage: what a thing was made from, what was made from it, and what a withdrawal reaches.

In:  rows and a version's id.  Out: ids and edges, closed over ancestors or descendants in one query; the impact of a withdrawal.
Pure over rows: reads only, keeps nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from registry.records.kinds import Mode, Relation
from registry.records.references import Reference
from registry.records.version import Version

Removal = Literal["exact", "rebuild", "none"]
NOT_MADE_FROM = "('supersedes')"  # a build names its forerunner; it holds nothing of it by that


class Edge(NamedTuple):
    """from_ was made from to."""

    from_: Reference
    to: Reference
    relation: str


@dataclass(frozen=True)
class Graph:
    """The subject first, then by registration; every edge between two of the nodes that the walk went along."""

    nodes: list[Version[Facts]]
    edges: list[Edge]


@dataclass(frozen=True)
class BuildImpact:
    """What a withdrawal means for one build: exact (drop these members' shards and rows), rebuild, or none left in it."""

    ref: Reference
    removal: Removal
    why: str
    members: list[Reference] = field(
        default_factory=list
    )  # members that were made from what is withdrawn


@dataclass(frozen=True)
class Impact:
    """Everything made from one thing, and the class of removal of every build in the registry."""

    subject: Reference
    experts: list[Reference]
    builds: list[BuildImpact]
    exports: list[Reference]
    others: list[Reference]  # snapshots, evaluations


def walk(rows: Rows, start: Iterable[int], *, down: bool) -> set[int]:
    """Ids of the start and of all its ancestors, or with `down` all its descendants."""
    near, far = ("to_id", "from_id") if down else ("from_id", "to_id")
    ids = ", ".join(str(int(id_)) for id_ in start) or "NULL"
    step = f"SELECT e.{far} FROM reached JOIN edge e ON e.{near} = reached.id WHERE e.relation NOT IN {NOT_MADE_FROM}"
    found = rows(
        f"WITH RECURSIVE reached(id) AS (SELECT v.id FROM version v WHERE v.id IN ({ids}) UNION {step}) SELECT id FROM reached"
    )
    return {row[0] for row in found}


def closure(rows: Rows, start: int, *, down: bool) -> tuple[list[int], list[tuple[int, int, str]]]:
    """Ids, the start first, and the edges among them. Raises Damaged for an edge that nobody wrote so."""
    near, far = ("to_id", "from_id") if down else ("from_id", "to_id")
    step = f"SELECT e.{far} FROM reached JOIN edge e ON e.{near} = reached.id WHERE e.relation NOT IN {NOT_MADE_FROM}"
    edges = rows(
        f"WITH RECURSIVE reached(id) AS (SELECT CAST(:start AS BIGINT) UNION {step}) "
        f"SELECT e.from_id, e.to_id, e.relation FROM reached JOIN edge e ON e.{near} = reached.id WHERE e.relation NOT IN {NOT_MADE_FROM}",
        start=start,
    )
    if odd := [
        edge
        for edge in edges
        if not (isinstance(edge[0], int) and isinstance(edge[1], int) and isinstance(edge[2], str))
    ]:
        raise Damaged(
            "lineage",
            found=f"an edge {odd[0]!r:.120}",
            expected="two rows and a relation",
            next="btx audit names it",
        )
    ids = {start}.union(*((edge[0], edge[1]) for edge in edges))
    return sorted(ids, key=lambda id_: (id_ != start, id_)), sorted(
        (a, b, relation) for a, b, relation in edges
    )


def withdrawn(rows: Rows) -> set[int]:
    """Ids of what was withdrawn itself."""
    return {
        row[0]
        for row in rows(
            f"SELECT v.id FROM event w JOIN version v ON {IS_SUBJECT} WHERE w.kind = 'withdrawn'"
        )
    }


# An event w speaks of version v: events name their subject as a person would.
_NUMBER = "CAST(v.number AS TEXT)"
IS_SUBJECT = f"w.subject = CASE v.kind WHEN 'build' THEN 'build/' || {_NUMBER} ELSE v.kind || '/' || v.name || '@' || {_NUMBER} END"


def impact(
    subject: int,
    reached: set[int],
    versions: Mapping[int, Version[Facts]],
    edges: Iterable[tuple[int, int, str]],
) -> Impact:
    """What a withdrawal of `subject` means.

    reached: ids of the subject and all its descendants; versions: those, and all builds and snapshots; edges: of builds and snapshots.
    """
    from_: dict[int, list[tuple[int, str]]] = {}
    for a, b, relation in edges:
        from_.setdefault(a, []).append((b, relation))
    of_kind: dict[str, list[int]] = {}
    for id_ in sorted(reached - {subject}):
        of_kind.setdefault(versions[id_].ref.kind, []).append(id_)
    builds, inside = [], set(reached)
    for id_ in sorted(
        id_ for id_, found in versions.items() if found.ref.kind == "build"
    ):  # what it grew from comes before it
        builds.append(_build_impact(id_, subject, inside, versions, from_))
        if builds[-1].removal == "none":
            inside.discard(id_)
    named = {kind: [versions[id_].ref for id_ in ids] for kind, ids in of_kind.items()}
    others = [
        ref
        for kind, refs in named.items()
        if kind not in ("expert", "build", "export")
        for ref in refs
    ]
    return Impact(
        versions[subject].ref, named.get("expert", []), builds, named.get("export", []), others
    )


def _build_impact(
    build: int,
    subject: int,
    reached: set[int],
    versions: Mapping[int, Version[Facts]],
    from_: Mapping[int, list[tuple[int, str]]],
) -> BuildImpact:
    ref = versions[build].ref
    if build not in reached:
        return BuildImpact(ref, "none", "nothing in it comes from there")
    snapshots = [to for to, relation in from_.get(build, []) if relation == "composed_from"]
    inner = [
        (to, relation)
        for snapshot in snapshots
        for to, relation in from_.get(snapshot, [])
        if to in reached
    ]
    members = sorted({versions[to].ref for to, relation in inner if relation == "member"})
    via = {
        relation for to, relation in from_.get(build, []) if to in reached and to not in snapshots
    }
    via |= {relation for _, relation in inner if relation != "member"}
    if subject == build or subject in snapshots:
        return BuildImpact(ref, "rebuild", "it is withdrawn as a whole", members)
    removal, why = _removal(
        versions[build],
        [versions[id_] for id_ in snapshots],
        [versions[to] for to, _ in inner],
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
    tuned = facts.recipe.tuned or "unknown"
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
