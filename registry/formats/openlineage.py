"""OpenLineage run events, one per thing that was made: inputs, output, and when.

In: a dossier. Out: one JSON event per line, oldest first, each ready to be posted to a lineage server.
"""

import json
from typing import Any

from registry.catalogue.catalog import Version
from registry.formats.dossier import Dossier, seconds, tool_version, training, uuid_of

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
NAMESPACE = "btx"
JOBS = {
    "data": "data add",
    "seed": "seed add",
    "expert": "train",
    "snapshot": "freeze",
    "build": "rebuild",
}


def text(dossier: Dossier) -> str:
    """Return the events as JSON, one a line."""
    return "".join(json.dumps(event) + "\n" for event in events(dossier))


def events(dossier: Dossier) -> list[dict[str, Any]]:
    """Describe the making of a version and of everything that it was made from.

    Args:
        dossier: what is recorded of a version.

    Returns:
        A run event for each version in the graph, the oldest first.
    """
    nodes = sorted(dossier.graph.nodes, key=lambda node: (node.registered_at, str(node.ref)))
    return [_event(dossier, node) for node in nodes]


def _event(dossier: Dossier, version: Version) -> dict[str, Any]:
    facts = {
        key: value
        for key, value in training(version).items()
        if key in ("tokens", "flops", "wall_s")
    }
    return {
        "eventType": "COMPLETE",
        "eventTime": seconds(version.registered_at),
        "run": {
            "runId": str(uuid_of("run", version.digest)),
            "facets": {"btx_cost": _facet(facts)} if facts else {},
        },
        "job": {
            "namespace": NAMESPACE,
            "name": f"{JOBS.get(version.ref.kind, version.ref.kind)} {version.ref.name}".strip(),
        },
        "inputs": [_dataset(dossier, parent) for parent, _ in dossier.parents(version)],
        "outputs": [_dataset(dossier, version)],
        "producer": _producer(),
        "schemaURL": SPEC,
    }


def _dataset(dossier: Dossier, version: Version) -> dict[str, Any]:
    ref = str(version.ref)
    facets: dict[str, Any] = {
        "version": _facet(
            {"datasetVersion": version.digest},
            f"{FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
        ),
        "btx_status": _facet(
            {
                "status": dossier.statuses.get(ref, "registered"),
                "license": version.facts.get("license"),
            }
        ),
    }
    if version.facts.get("holder"):
        owners = {"owners": [{"name": str(version.facts["holder"]), "type": "RIGHTS_HOLDER"}]}
        facets["ownership"] = _facet(
            owners, f"{FACETS}/1-0-1/OwnershipDatasetFacet.json#/$defs/OwnershipDatasetFacet"
        )
    return {"namespace": NAMESPACE, "name": ref, "facets": facets}


def _facet(
    values: dict[str, Any],
    schema: str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/BaseFacet",
) -> dict[str, Any]:
    return {"_producer": _producer(), "_schemaURL": schema, **values}


def _producer() -> str:
    return f"urn:btx:registry:{tool_version()}"
