"""OpenLineage run events, one per thing that was made: inputs, output, and when.

In: a dossier. Out: one JSON event per line, oldest first, each ready to be posted to a lineage
server. Of a run that is still under way: its events one by one, as they happen.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from registry.formats.documents import Document
from registry.formats.dossier import (
    Dossier,
    files_digest,
    revision,
    seconds,
    started,
    stated_license,
    tool_version,
    training,
    uuid_of,
)
from registry.records.facts import DataFacts, Facts
from registry.records.kinds import Kind, Status
from registry.records.version import Version

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
BASE_FACET = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/BaseFacet"
FACETS = "https://openlineage.io/spec/facets"
VERSION_FACET = f"{FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
OWNERSHIP_FACET = f"{FACETS}/1-0-1/OwnershipDatasetFacet.json#/$defs/OwnershipDatasetFacet"
JOB_OWNERSHIP_FACET = f"{FACETS}/1-0-1/OwnershipJobFacet.json#/$defs/OwnershipJobFacet"
CODE_FACET = f"{FACETS}/1-0-1/SourceCodeLocationJobFacet.json#/$defs/SourceCodeLocationJobFacet"
PARENT_FACET = f"{FACETS}/1-2-0/ParentRunFacet.json#/$defs/ParentRunFacet"
ERROR_FACET = f"{FACETS}/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet"
COST = {"tokens", "flops", "wall_s"}
NAMESPACE = "btx"
JOBS = {
    Kind.DATA: "data add",
    Kind.SEED: "seed add",
    Kind.EXPERT: "train",
    Kind.SNAPSHOT: "freeze",
    Kind.BUILD: "rebuild",
}


def text(dossier: Dossier) -> str:
    """Return the events as JSON, one a line."""
    return "".join(json.dumps(event) + "\n" for event in events(dossier))


def events(dossier: Dossier) -> list[Document]:
    """Describe the making of a version and of everything that it was made from.

    Args:
        dossier: what is recorded of a version.

    Returns:
        For each version in the graph, the oldest first, the start and the end of its run. Where
        nobody reported how long it took, both have the time of the end.
    """
    nodes = sorted(dossier.graph.nodes, key=lambda node: (node.registered_at, str(node.ref)))
    runs = []
    for node in nodes:
        runs.append(_event(dossier, node, "START", started(node) or seconds(node.registered_at)))
        runs.append(_event(dossier, node, "COMPLETE", seconds(node.registered_at)))
    return runs


@dataclass(frozen=True)
class LiveRun:
    """A run that is told while it is under way.

    Attributes:
        run_id: a UUID, the same in all its events.
        job: its name, such as `rebuild main`.
        parent: the run that it is a part of.
    """

    run_id: str
    job: str
    parent: "LiveRun | None" = None


def live_event(
    run: LiveRun,
    state: str,
    *,
    inputs: Sequence[Document] = (),
    outputs: Sequence[Document] = (),
    error: str | None = None,
) -> Document:
    """Describe what happens now to a run.

    Args:
        run: whose state changes.
        state: START, RUNNING, COMPLETE, FAIL or ABORT.
        inputs: what it reads, each as `dataset` describes it.
        outputs: what it has written.
        error: why it failed.
    """
    facets: Document = {}
    if run.parent:
        job = {"namespace": NAMESPACE, "name": run.parent.job}
        facets["parent"] = _facet({"run": {"runId": run.parent.run_id}, "job": job}, PARENT_FACET)
    if error is not None:
        said = {"message": error, "programmingLanguage": "Python"}
        facets["errorMessage"] = _facet(said, ERROR_FACET)
    return {
        "eventType": state,
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "run": {"runId": run.run_id, "facets": facets},
        "job": {"namespace": NAMESPACE, "name": run.job, "facets": {}},
        "inputs": [*inputs],
        "outputs": [*outputs],
        "producer": _producer(),
        "schemaURL": SPEC,
    }


def _event(dossier: Dossier, version: Version[Facts], state: str, at: str) -> Document:
    report = training(version)
    cost = report.model_dump(mode="json", include=COST, exclude_unset=True) if report else {}
    inputs = [_dataset(dossier, parent) for parent, _ in dossier.parents(version)]
    return {
        "eventType": state,
        "eventTime": at,
        "run": {
            "runId": str(uuid_of("run", version.digest)),
            "facets": {"btx_cost": _facet(cost)} if cost else {},
        },
        "job": {
            "namespace": NAMESPACE,
            "name": job_name(version.ref.kind, version.ref.name),
            "facets": _job_facets(version),
        },
        "inputs": inputs,
        # What a run writes is there when it has ended.
        "outputs": [_dataset(dossier, version)] if state == "COMPLETE" else [],
        "producer": _producer(),
        "schemaURL": SPEC,
    }


def job_name(kind: Kind, name: str) -> str:
    """Return what the job that makes a version of this kind is called."""
    return f"{JOBS.get(kind, kind)} {name}".strip()


def _job_facets(version: Version[Facts]) -> Document:
    owners = {"owners": [{"name": version.actor, "type": "MAINTAINER"}]}
    facets: Document = {"ownership": _facet(owners, JOB_OWNERSHIP_FACET)}
    if code := revision(version):
        location = {"type": "git", "url": "urn:btx:code", "version": code}
        facets["sourceCodeLocation"] = _facet(location, CODE_FACET)
    return facets


def _dataset(dossier: Dossier, version: Version[Facts]) -> Document:
    return dataset(version, dossier.status(str(version.ref)))


def dataset(version: Version[Facts], status_now: Status) -> Document:
    """Describe a version as an input or output of a run."""
    facts, ref = version.facts, str(version.ref)
    status = {"status": str(status_now), "license": stated_license(version)}
    facets: Document = {
        "version": _facet(
            {"datasetVersion": files_digest(version) or version.digest}, VERSION_FACET
        ),
        "btx_status": _facet(status),
    }
    if isinstance(facts, DataFacts) and facts.holder:
        owners = {"owners": [{"name": facts.holder, "type": "RIGHTS_HOLDER"}]}
        facets["ownership"] = _facet(owners, OWNERSHIP_FACET)
    return {"namespace": NAMESPACE, "name": ref, "facets": facets}


def _facet(values: Document, schema: str = BASE_FACET) -> Document:
    return {"_producer": _producer(), "_schemaURL": schema, **values}


def _producer() -> str:
    return f"urn:btx:registry:{tool_version()}"
