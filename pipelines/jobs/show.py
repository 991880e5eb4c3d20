"""List what is registered, and show one version."""

from collections.abc import Mapping
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid
from registry.records.answers import (
    BuildRow,
    DataRow,
    ExpertRow,
    ExportRow,
    FileLine,
    RowEnd,
    SeedRow,
    evaluation_of,
)
from registry.records.events import Judged
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Facts,
    Routing,
    SeedFacts,
)
from registry.records.kinds import Kind, Status
from registry.records.results import Result, labels
from registry.records.version import Version

LISTED: Mapping[str, type[Facts]] = {
    facts.kind.plural: facts
    for facts in (SeedFacts, DataFacts, ExpertFacts, BuildFacts, ExportFacts)
}
# Too long for a reader, or said elsewhere in the answer.
HIDDEN = ("status", "tensors", "results", "architecture", "given_recipe", "routing")


def listed(workspace: Workspace, kind: str, filters: Mapping[str, str]) -> list[RowEnd]:
    """Return a row for each version of a kind, oldest first.

    Args:
        workspace: whose catalogue is read.
        kind: seeds, data, experts, builds or exports.
        filters: as the catalogue takes them.

    Raises:
        Invalid: for a word that is no kind.
    """
    if kind not in LISTED:
        raise Invalid(
            kind,
            found="no kind of thing",
            expected=" | ".join(LISTED),
            next=f"btx list {next(iter(LISTED))}",
        )
    versions = workspace.catalog.versions(LISTED[kind], files=False, **filters)
    statuses = workspace.catalog.statuses(versions)
    return [_row(version, statuses[version.ref]) for version in versions]


def _row(version: Version[Facts], status: Status) -> RowEnd:
    common: dict[str, Any] = {
        "ref": str(version.ref),
        "name": version.ref.name,
        "version": version.ref.version,
        "status": str(status),
        "digest": version.digest,
        "registered_at": version.registered_at,
    }
    facts = version.facts
    rows: Mapping[Kind, type[RowEnd]] = {
        Kind.SEED: SeedRow,
        Kind.DATA: DataRow,
        Kind.EXPERT: ExpertRow,
        Kind.BUILD: BuildRow,
        Kind.EXPORT: ExportRow,
    }
    row = rows[facts.kind]
    own = {name: getattr(facts, name) for name in row.model_fields if name not in common}
    if isinstance(facts, BuildFacts):
        own["members"] = tuple(member.ref for member in facts.members)
    return row(**common, **own)


def shown(workspace: Workspace, reference: str) -> dict[str, Any]:
    """Return everything recorded of one version, as JSON, with its status, files and gates.

    The facts themselves are the records of their kind; `evaluation` of a build or an expert is
    its results by domain, and `results` the same as a list.
    """
    catalog = workspace.catalog
    version = catalog.get(reference)
    verdicts = [event.read(Judged) for event in catalog.events(version.ref, kind="verdict")]
    recorded = version.facts.to_json()
    answer = {
        "ref": str(version.ref),
        "status": str(catalog.status(version.ref)),
        "digest": version.digest,
        "registered_at": version.registered_at,
        "actor": version.actor,
        **{name: value for name, value in recorded.items() if name not in HIDDEN},
        **_measured(version.facts),
    }
    answer["files"] = [FileLine(**vars(file)).to_json() for file in version.files]
    answer["gates"] = [verdict.to_json() for verdict in verdicts]
    return answer


def _measured(facts: Facts) -> dict[str, Any]:
    """Return figures and routing by domain, and the results as a list."""
    if isinstance(facts, ExpertFacts):
        return _by_domain(facts.results)
    if isinstance(facts, BuildFacts):
        routing = _routing(facts.routing, facts.results) if facts.routing else None
        architecture = facts.architecture.to_json() if facts.architecture else {}
        return {**architecture, **_by_domain(facts.results), "routing": routing}
    return {}


def _by_domain(results: tuple[Result, ...]) -> dict[str, Any]:
    return {
        "evaluation": evaluation_of(results),
        "results": [result.to_json() for result in results],
    }


def _routing(routing: Routing, results: tuple[Result, ...]) -> dict[str, Any]:
    named = labels(results)
    shares = {named.get(share.data, share.domain): share.layers for share in routing.shares}
    return {
        "shares": {name: [list(layer) for layer in layers] for name, layers in shares.items()},
        "dead": list(routing.dead),
        "dominant": list(routing.dominant),
    }
