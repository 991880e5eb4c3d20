"""Everything recorded of one version and of what it was made from, as plain rows: what every format is written from.

In:  the catalogue and a reference.  Out: a Dossier. Reads only; the formats themselves never see the catalogue.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

from registry.catalogue.catalog import Catalog, Event, Graph, Impact, Version
from registry.governance import people
from registry.governance.gate import verdicts

TOOL = "btx-registry"
NAMESPACE = uuid.UUID(
    "6f0a3d0e-6a53-5f0c-9d0c-3f2f6d1f7c1b"
)  # of names made here; any fixed one will do


@dataclass(frozen=True)
class Dossier:
    """statuses by reference; verdicts, withdrawals: events on any node of the graph; head: the log's newest digest when collected.

    impact: what was made from the subject; None for a build.
    """

    subject: Version
    graph: Graph
    statuses: Mapping[str, str]
    verdicts: tuple[Event, ...] = ()
    approvals: tuple[Mapping[str, str], ...] = ()
    releases: tuple[Event, ...] = ()
    exports: tuple[Event, ...] = ()
    withdrawals: tuple[Event, ...] = ()
    head: str = ""
    made_at: str = ""
    previous: tuple[str, ...] = field(default=())  # earlier builds, where the subject is a build
    impact: Impact | None = None

    @property
    def ref(self) -> str:
        return str(self.subject.ref)

    def of(self, kind: str) -> list[Version]:
        """Every version of a kind in the graph, by name."""
        return sorted(
            (version for version in self.graph.nodes if version.ref.kind == kind),
            key=lambda version: version.ref,
        )

    def parents(self, version: Version) -> list[tuple[Version, str]]:
        """What it was made from directly, and how."""
        nodes = {node.ref: node for node in self.graph.nodes}
        return [
            (nodes[edge.to], edge.relation)
            for edge in self.graph.edges
            if edge.from_ == version.ref
        ]

    def members(self) -> list[tuple[int, Version]]:
        """Slot and expert of a build."""
        nodes = {str(node.ref): node for node in self.graph.nodes}
        lines = self.subject.facts.get("members") or []
        return sorted(
            ((int(line["slot"]), nodes[line["ref"]]) for line in lines if line["ref"] in nodes),
            key=lambda pair: pair[0],
        )

    def licenses(self) -> list[str]:
        """Every licence stated for the subject and its ancestors."""
        return sorted(
            {str(node.facts["license"]) for node in self.graph.nodes if node.facts.get("license")}
        )

    def last_verdicts(self, ref: str) -> dict[str, Event]:
        """Gate -> its newest verdict on the reference."""
        return {
            str(event.body.get("gate")): event for event in self.verdicts if event.subject == ref
        }

    def waivers(self) -> list[dict[str, Any]]:
        """Exceptions that newest verdicts lean on: rule, subject, until, actor, why, gate."""
        used = []
        for ref in dict.fromkeys(event.subject for event in self.verdicts):
            for gate, event in self.last_verdicts(ref).items():
                waived = {
                    rule for rule, outcome in event.body["rules"].items() if outcome == "waived"
                }
                used += [
                    waiver | {"gate": gate}
                    for waiver in event.body["waivers"]
                    if waiver["rule"] in waived
                ]
        return used


def collect(catalog: Catalog, ref: str, *, at: datetime | None = None) -> Dossier:
    """Raises NotFound."""
    graph = catalog.lineage(ref)
    subject = graph.nodes[0]
    refs = [str(node.ref) for node in graph.nodes]
    impact = catalog.impact(subject.ref) if subject.ref.kind != "build" else None
    down = (
        [catalog.get(one) for one in (*impact.experts, *(build.ref for build in impact.builds))]
        if impact
        else []
    )
    statuses = {str(key): status for key, status in catalog.statuses([*graph.nodes, *down]).items()}
    logged = [event for name in refs for event in verdicts(catalog, name)]
    gone = {event.subject: event for event in catalog.events(kind="withdrawn")}
    builds = (
        [str(version.ref) for version in catalog.list("build")]
        if subject.ref.kind == "build"
        else []
    )
    return Dossier(
        subject=subject,
        graph=graph,
        statuses=statuses,
        verdicts=tuple(sorted(logged, key=lambda event: event.seq)),
        approvals=tuple(people.approvals(catalog, subject)),
        releases=tuple(catalog.events(subject.ref, "released")),
        exports=tuple(catalog.events(subject.ref, "exported")),
        withdrawals=tuple(gone[name] for name in refs if name in gone),
        head=catalog.head(),
        made_at=(at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        previous=tuple(builds[: builds.index(str(subject.ref))])
        if str(subject.ref) in builds
        else (),
        impact=impact,
    )


def tool_version() -> str:
    try:
        return installed(TOOL)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


def uuid_of(*parts: str) -> uuid.UUID:
    """The same name for the same thing in every export."""
    return uuid.uuid5(NAMESPACE, "\n".join(parts))


def seconds(moment: str) -> str:
    """A logged moment without its fraction: the one form every schema takes."""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def training(version: Version) -> Mapping[str, Any]:
    """tokens, flops, wall_s, recipe, ... of an expert's or a seed's training; empty when nobody reported it."""
    train = version.facts.get("train") or {}
    report = train.get("report")
    return {**report, "recipe": train.get("recipe")} if isinstance(report, Mapping) else train


def compute(dossier: Dossier) -> dict[str, float | None]:
    """tokens, FLOPs and seconds of everything in the graph that reported them; None where nothing did."""
    parts = [training(version) for version in (*dossier.of("expert"), *dossier.of("seed"))]
    parts += [
        (version.facts.get("cost") or {}).get("tune") or {} for version in dossier.of("build")
    ]
    sums: dict[str, float | None] = {}
    for key in ("tokens", "flops", "wall_s"):
        found = [part[key] for part in parts if part.get(key) is not None]
        sums[key] = sum(found) if found else None
    return sums


def environment(version: Version) -> Mapping[str, Any]:
    """What the version says of the programs that made it; empty when nothing was recorded."""
    return version.facts.get("environment") or training(version).get("environment") or {}


def revision(version: Version) -> str | None:
    """The git commit of the code that made it; None where nobody knows, or where the code differed from every commit."""
    known = environment(version)
    return str(known["revision"]) if known.get("revision") and not known.get("changed") else None
