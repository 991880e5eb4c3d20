"""CycloneDX 1.6 ML-BOM: model, experts and seed as machine-learning models, the data as data.

In: a dossier. Out: JSON that the schema's strict form accepts. The CycloneDX library drops model
cards; that is why the JSON is written here.
"""

from registry.formats.documents import Document, number_text, written
from registry.formats.dossier import (
    Dossier,
    files_digest,
    stated_license,
    tool_version,
    uuid_of,
)
from registry.formats.tables import NOT_PUBLIC, NOT_STATED, unknown, worse
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts, SeedFacts
from registry.records.kinds import Kind, Relation
from registry.records.results import Result, labels
from registry.records.version import Version

COMPONENTS = (Kind.DATA, Kind.SEED, Kind.EXPERT, Kind.BUILD)

SENSITIVE = {
    "none": "no personal data",
    "reviewed": "personal data, reviewed",
    "present": "personal data, not reviewed",
}


def text(dossier: Dossier) -> str:
    """Return the bill of materials as JSON."""
    return written(bom(dossier))


def bom(dossier: Dossier) -> Document:
    """Describe a version and what it was made from as a bill of materials.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The CycloneDX document, ready to be written. A snapshot is no component: its members are.
    """
    components = [node for node in dossier.graph.nodes[1:] if node.ref.kind in COMPONENTS]
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
        "components": [_component(dossier, node) for node in components],
        "dependencies": [_dependency(dossier, node) for node in (dossier.subject, *components)],
    }


def _component(dossier: Dossier, version: Version[Facts]) -> Document:
    facts, ref = version.facts, str(version.ref)
    component: Document = {
        "type": "data" if isinstance(facts, DataFacts) else "machine-learning-model",
        "bom-ref": ref,
        "name": version.ref.name or "build",
        "version": str(version.ref.version),
        "purl": f"pkg:generic/btx/{version.ref.kind}-{version.ref.name or 'build'}"
        f"@{version.ref.version}",
        "properties": [
            {"name": "btx:status", "value": str(dossier.status(ref))},
            {"name": "btx:row-digest", "value": version.digest},
        ],
    }
    if files := files_digest(version):
        component["hashes"] = [{"alg": "SHA-256", "content": files}]
    if isinstance(facts, BuildFacts | ExpertFacts):
        provider = dossier.own_fact("provider")
        unnamed = NOT_PUBLIC if dossier.is_own_withheld("provider", ref) else NOT_STATED
        component["supplier"] = {"name": provider.text if provider else unnamed}
    if licences := _licences(dossier, version):
        component["licenses"] = licences
    if isinstance(facts, DataFacts):
        if facts.holder:
            component["supplier"] = {"name": facts.holder}
        component["description"] = facts.source or f"source {unknown(dossier, version, 'source')}"
        component["data"] = [_data(version.of(DataFacts))]
        return component
    if version.files:
        component["components"] = [
            {
                "type": "file",
                "name": file.path,
                "bom-ref": f"{ref}/{file.path}",
                "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            }
            for file in version.files
        ]
    parents = [node for node, _ in dossier.parents(version) if node.ref.kind == Kind.SEED]
    if parents:
        component["pedigree"] = {"ancestors": [_ancestor(node) for node in parents]}
    component["modelCard"] = _model_card(dossier, version)
    return component


def _licences(dossier: Dossier, version: Version[Facts]) -> list[Document]:
    """One identifier, or one SPDX expression; what SPDX does not list goes by name."""
    stated = stated_license(version)
    if isinstance(version.facts, ExpertFacts):
        each = [licence for licence in version.facts.licenses if licence]
        stated = " AND ".join(f"({text})" if " " in text else text for text in each)
    if isinstance(version.facts, BuildFacts) and version.ref == dossier.subject.ref:
        stated = dossier.licence.expression if dossier.licence else None
    if not stated:
        return []
    if " " in stated:
        return [{"expression": stated}]
    return [{"license": {"name" if stated.startswith("LicenseRef-") else "id": stated}}]


def _ancestor(version: Version[Facts]) -> Document:
    return {
        "type": "machine-learning-model",
        "name": version.ref.name,
        "version": str(version.ref.version),
    }


def _data(version: Version[DataFacts]) -> Document:
    facts = version.facts
    dataset: Document = {
        "type": "dataset",
        "name": str(version.ref),
        "contents": {
            "properties": [
                {"name": "bytes", "value": str(facts.bytes)},
                {"name": "files", "value": str(len(version.files))},
            ]
        },
        "sensitiveData": [SENSITIVE.get(facts.pii or "", "personal data: not stated")],
    }
    if facts.purpose:
        dataset["description"] = f"purpose: {facts.purpose}"
    if facts.holder:
        dataset["governance"] = {"owners": [{"organization": {"name": facts.holder}}]}
    return dataset


def _model_card(dossier: Dossier, version: Version[Facts]) -> Document:
    facts = version.facts
    data = [str(node.ref) for node, _ in dossier.parents(version) if node.ref.kind == Kind.DATA]
    architecture = "decoder-only transformer"
    if isinstance(facts, BuildFacts):
        if version.ref == dossier.subject.ref:
            data = [str(node.ref) for node in dossier.of(DataFacts)]
        architecture = "mixture of experts"
    parameters: Document = {"task": "text-generation", "architectureFamily": architecture}
    if isinstance(facts, BuildFacts | ExpertFacts):
        parameters["approach"] = {"type": "self-supervised"}
    if isinstance(facts, SeedFacts) and facts.model_type:
        parameters["modelArchitecture"] = facts.model_type
    if data:
        parameters["datasets"] = [{"ref": ref} for ref in data]
    parameters["inputs"] = [{"format": "text"}]
    parameters["outputs"] = [{"format": "text"}]
    card: Document = {"modelParameters": parameters}
    if considered := _considerations(dossier, version):
        card["considerations"] = considered
    results = facts.results if isinstance(facts, BuildFacts | ExpertFacts) else ()
    names = labels(results)
    metrics = [metric for result in results for metric in _metrics(names[result.data], result)]
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


def _considerations(dossier: Dossier, version: Version[Facts]) -> Document:
    """What the company states on the use of the subject and on its energy."""
    if version.ref != dossier.subject.ref or not isinstance(version.facts, BuildFacts):
        return {}
    considered: Document = {}
    for key, name in (("tasks", "useCases"), ("intended_systems", "users")):
        if fact := dossier.own_fact(key):
            considered[name] = [fact.text]
    if limits := worse(dossier):
        considered["technicalLimitations"] = [f"worse than its seed on {one}" for one in limits]
    return considered


def _metrics(label: str, result: Result) -> list[Document]:
    specialist = result.specialist.bits_per_byte if result.specialist else None
    figures = {
        "bits_per_byte": result.bits_per_byte,
        "accuracy": result.accuracy,
        "seed_bits_per_byte": result.seed_bits_per_byte,
        "specialist_bits_per_byte": specialist,
    }
    return [
        {"type": name, "value": number_text(value), "slice": label}
        for name, value in figures.items()
        if value is not None
    ]


def _dependency(dossier: Dossier, version: Version[Facts]) -> Document:
    """What a version was made from; a snapshot is replaced by its members and seed."""
    refs: set[str] = set()
    for parent, relation in dossier.parents(version):
        if relation == Relation.SUPERSEDES:
            continue
        if parent.ref.kind == Kind.SNAPSHOT:
            refs.update(str(node.ref) for node, _ in dossier.parents(parent))
        else:
            refs.add(str(parent.ref))
    return {"ref": str(version.ref), "dependsOn": sorted(refs)}
