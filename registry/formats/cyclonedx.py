"""CycloneDX 1.6 ML-BOM: the model, its experts and seed as machine-learning models, its data as data.

In: a dossier. Out: JSON that the schema's strict form accepts. The CycloneDX library drops model cards;
that is why the JSON is written here.
"""

import json
from typing import Any

from registry.catalogue.catalog import Version
from registry.formats.dossier import Dossier, tool_version, uuid_of

SENSITIVE = {
    "none": "no personal data",
    "reviewed": "personal data, reviewed",
    "present": "personal data, not reviewed",
}


def text(dossier: Dossier) -> str:
    """Return the bill of materials as JSON."""
    return json.dumps(bom(dossier), indent=1) + "\n"


def bom(dossier: Dossier) -> dict[str, Any]:
    """Describe a version and what it was made from as a bill of materials.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The CycloneDX document, ready to be written. A snapshot is no component: its members are.
    """
    kept = [node for node in dossier.graph.nodes[1:] if node.ref.kind in ("data", "seed", "expert")]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid_of('cyclonedx', dossier.subject.digest, dossier.head)}",
        "version": 1,
        "metadata": {
            "timestamp": dossier.made_at,
            "tools": {
                "components": [
                    {"type": "application", "name": "btx-registry", "version": tool_version()}
                ]
            },
            "component": _component(dossier, dossier.subject),
            "properties": [{"name": "btx:audit-log-head", "value": dossier.head}],
        },
        "components": [_component(dossier, node) for node in kept],
        "dependencies": [_dependency(dossier, node) for node in (dossier.subject, *kept)],
    }


def _component(dossier: Dossier, version: Version) -> dict[str, Any]:
    ref = str(version.ref)
    made: dict[str, Any] = {
        "type": "data" if version.ref.kind == "data" else "machine-learning-model",
        "bom-ref": ref,
        "name": version.ref.name or "build",
        "version": str(version.ref.version),
        "hashes": [{"alg": "SHA-256", "content": version.digest}],
        "properties": [{"name": "btx:status", "value": dossier.statuses.get(ref, "registered")}],
    }
    licence = _licences(version)
    if licence:
        made["licenses"] = licence
    if version.facts.get("holder"):
        made["supplier"] = {"name": str(version.facts["holder"])}
    if version.ref.kind == "data":
        return made | {
            "description": str(version.facts.get("source") or "source not stated"),
            "data": [_data(version)],
        }
    files = [
        {
            "type": "file",
            "name": file.path,
            "bom-ref": f"{ref}/{file.path}",
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        }
        for file in version.files
    ]
    return (
        made
        | ({"components": files} if files else {})
        | {"modelCard": _model_card(dossier, version)}
    )


def _licences(version: Version) -> list[dict[str, Any]]:
    """One identifier, or one SPDX expression; what SPDX does not list goes by name."""
    stated = version.facts.get("license") or " AND ".join(
        f"({text})" if " " in text else text for text in version.facts.get("licenses") or ()
    )
    if not stated:
        return []
    return (
        [{"expression": str(stated)}]
        if " " in stated
        else [{"license": {"name": stated} if stated.startswith("LicenseRef-") else {"id": stated}}]
    )


def _data(version: Version) -> dict[str, Any]:
    facts = version.facts
    made: dict[str, Any] = {
        "type": "dataset",
        "name": str(version.ref),
        "contents": {
            "properties": [
                {"name": "bytes", "value": str(facts.get("bytes"))},
                {"name": "files", "value": str(len(version.files))},
            ]
        },
        "sensitiveData": [SENSITIVE.get(str(facts.get("pii")), "personal data: not stated")],
    }
    if facts.get("purpose"):
        made["description"] = f"purpose: {facts['purpose']}"
    if facts.get("holder"):
        made["governance"] = {"owners": [{"organization": {"name": str(facts["holder"])}}]}
    return made


def _model_card(dossier: Dossier, version: Version) -> dict[str, Any]:
    data = [node for node, _ in dossier.parents(version) if node.ref.kind == "data"]
    if version.ref.kind == "build":
        data = dossier.of("data")
    architecture = (
        "mixture of experts" if version.ref.kind == "build" else "decoder-only transformer"
    )
    parameters: dict[str, Any] = {"task": "text-generation", "architectureFamily": architecture}
    if version.facts.get("model_type"):
        parameters["modelArchitecture"] = str(version.facts["model_type"])
    if data:
        parameters["datasets"] = [{"ref": str(node.ref)} for node in data]
    parameters |= {"inputs": [{"format": "text"}], "outputs": [{"format": "text"}]}
    metrics = _metrics(version)
    return {"modelParameters": parameters} | (
        {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}
    )


def _metrics(version: Version) -> list[dict[str, str]]:
    evaluation = version.facts.get("evaluation") or {}
    domains = (
        evaluation
        if version.ref.kind == "build"
        else evaluation.get("domains") or {str(version.facts.get("domain")): evaluation}
    )
    return [
        {"type": key, "value": str(figures[key]), "slice": str(domain)}
        for domain, figures in domains.items()
        for key in ("bits_per_byte", "accuracy", "seed_bits_per_byte", "specialist_bits_per_byte")
        if isinstance(figures, dict) and figures.get(key) is not None
    ]


def _dependency(dossier: Dossier, version: Version) -> dict[str, Any]:
    """What it was made from; a snapshot stands for its members and seed."""
    direct = []
    for parent, relation in dossier.parents(version):
        if relation != "supersedes":
            direct += (
                [node for node, _ in dossier.parents(parent)]
                if parent.ref.kind == "snapshot"
                else [parent]
            )
    return {"ref": str(version.ref), "dependsOn": sorted({str(node.ref) for node in direct})}
