"""SPDX 3.0.1 with its AI and dataset profiles: models, data, licences, and what was trained on what.

In: a dossier. Out: JSON-LD, one graph of packages, files, licence expressions and relationships.
"""

import json
from collections.abc import Iterator
from typing import Any

from registry.catalogue.catalog import Version
from registry.formats.dossier import Dossier, tool_version, training, uuid_of

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
CREATION = "_:creation"
RELATIONS = {
    "branched_from": "descendantOf",
    "trained_on": "trainedOn",
    "member": "contains",
    "seed": "descendantOf",
    "tuned_on": "trainedOn",
}
SENSITIVE = {"none": "no", "reviewed": "yes", "present": "yes"}


def text(dossier: Dossier) -> str:
    """Return the SPDX document as JSON."""
    return json.dumps(document(dossier), indent=1) + "\n"


def document(dossier: Dossier) -> dict[str, Any]:
    """Describe a version and what it was made from in SPDX 3.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The JSON-LD document, ready to be written.
    """
    nodes = [
        node for node in dossier.graph.nodes if node.ref.kind in ("data", "seed", "expert", "build")
    ]
    elements = [element for node in nodes for element in _package(dossier, node)]
    elements += [element for node in nodes for element in _relationships(dossier, node)]
    agents = {
        node.actor: {
            "type": "Person",
            "spdxId": _id("actor", node.actor),
            "creationInfo": CREATION,
            "name": node.actor,
        }
        for node in nodes
    }
    tool = {
        "type": "Tool",
        "spdxId": _id("tool"),
        "creationInfo": CREATION,
        "name": f"btx-registry {tool_version()}",
    }
    creation = {
        "type": "CreationInfo",
        "@id": CREATION,
        "specVersion": "3.0.1",
        "created": dossier.made_at,
        "createdBy": [_id("actor", dossier.subject.actor)],
        "createdUsing": [_id("tool")],
    }
    everything = [*agents.values(), tool, *elements]
    root = {
        "type": "SpdxDocument",
        "spdxId": _id("document", dossier.subject.digest, dossier.head),
        "creationInfo": CREATION,
        "profileConformance": ["core", "software", "ai", "dataset", "simpleLicensing"],
        "rootElement": [_id(dossier.ref)],
        "element": sorted(element["spdxId"] for element in everything),
    }
    return {"@context": CONTEXT, "@graph": [creation, root, *everything]}


def _id(*parts: str) -> str:
    return f"urn:uuid:{uuid_of('spdx', *parts)}"


def _package(dossier: Dossier, version: Version) -> Iterator[dict[str, Any]]:
    ref, facts = str(version.ref), version.facts
    made: dict[str, Any] = {
        "type": "dataset_DatasetPackage" if version.ref.kind == "data" else "ai_AIPackage",
        "spdxId": _id(ref),
        "creationInfo": CREATION,
        "name": ref,
        "software_packageVersion": str(version.ref.version),
        "software_primaryPurpose": "data" if version.ref.kind == "data" else "model",
        "software_downloadLocation": f"urn:btx:{ref}",
        "comment": f"status: {dossier.statuses.get(ref, 'registered')}",
        "verifiedUsing": [{"type": "Hash", "algorithm": "sha256", "hashValue": version.digest}],
        "originatedBy": [_id("actor", version.actor)],
        "releaseTime": _time(version.registered_at),
        "builtTime": _time(version.registered_at),
    }
    yield made | (_dataset(version) if version.ref.kind == "data" else _model(version))
    for file in version.files:
        yield {
            "type": "software_File",
            "spdxId": _id(ref, file.path),
            "creationInfo": CREATION,
            "name": file.path,
            "verifiedUsing": [{"type": "Hash", "algorithm": "sha256", "hashValue": file.sha256}],
        }
    if facts.get("license"):
        yield {
            "type": "simplelicensing_LicenseExpression",
            "spdxId": _id(ref, "license"),
            "creationInfo": CREATION,
            "simplelicensing_licenseExpression": str(facts["license"]),
        }


def _dataset(version: Version) -> dict[str, Any]:
    facts = version.facts
    made: dict[str, Any] = {
        "dataset_datasetType": ["text"],
        "dataset_hasSensitivePersonalInformation": SENSITIVE.get(
            str(facts.get("pii")), "noAssertion"
        ),
        "dataset_dataCollectionProcess": str(facts.get("source") or "not stated"),
    }
    if facts.get("bytes") is not None:
        made["dataset_datasetSize"] = int(facts["bytes"])
    if facts.get("purpose"):
        made["dataset_intendedUse"] = str(facts["purpose"])
    return made


def _model(version: Version) -> dict[str, Any]:
    facts = version.facts
    made: dict[str, Any] = {
        "ai_typeOfModel": [
            "mixture of experts" if version.ref.kind == "build" else "decoder-only transformer"
        ]
    }
    train = training(version)
    if train:
        told = ", ".join(
            f"{key} {train[key]}"
            for key in ("tokens", "flops", "wall_s")
            if train.get(key) is not None
        )
        made["ai_informationAboutTraining"] = told or "reported without figures"
    evaluation = facts.get("evaluation") or {}
    domains = evaluation if version.ref.kind == "build" else evaluation.get("domains") or {}
    metrics = [
        {
            "type": "DictionaryEntry",
            "key": f"{domain}: bits per byte",
            "value": str(figures["bits_per_byte"]),
        }
        for domain, figures in domains.items()
        if isinstance(figures, dict) and figures.get("bits_per_byte") is not None
    ]
    return made | ({"ai_metric": metrics} if metrics else {})


def _relationships(dossier: Dossier, version: Version) -> Iterator[dict[str, Any]]:
    ref = str(version.ref)
    if version.files:
        yield _relationship(
            ref,
            "contains" if version.ref.kind == "data" else "hasDistributionArtifact",
            [_id(ref, file.path) for file in version.files],
        )
    if version.facts.get("license"):
        yield _relationship(ref, "hasDeclaredLicense", [_id(ref, "license")])
    for kind, targets in _grouped(dossier, version).items():
        yield _relationship(ref, kind, sorted(targets))


def _grouped(dossier: Dossier, version: Version) -> dict[str, set[str]]:
    """Relationship -> targets; a snapshot's seed and members are its build's."""
    made: dict[str, set[str]] = {}
    for parent, relation in dossier.parents(version):
        pairs = dossier.parents(parent) if parent.ref.kind == "snapshot" else [(parent, relation)]
        for node, how in pairs:
            if how in RELATIONS and node.ref.kind in ("data", "seed", "expert"):
                made.setdefault(RELATIONS[how], set()).add(_id(str(node.ref)))
    return made


def _relationship(ref: str, kind: str, targets: list[str]) -> dict[str, Any]:
    return {
        "type": "Relationship",
        "spdxId": _id(ref, "relationship", kind, *targets),
        "creationInfo": CREATION,
        "from": _id(ref),
        "relationshipType": kind,
        "to": targets,
    }


def _time(moment: str) -> str:
    return moment[:19] + "Z"
