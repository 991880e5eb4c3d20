"""SPDX 3.0.1 with its AI and dataset profiles: models, data, licences, what was trained on what.

In: a dossier. Out: JSON-LD, one graph of packages, files, licence expressions and relationships.
"""

from collections.abc import Iterator

from registry.formats.documents import Document, number_text, written
from registry.formats.dossier import (
    Dossier,
    files_digest,
    stated_license,
    tool_version,
    training,
    uuid_of,
)
from registry.formats.tables import unknown
from registry.licence_terms import PREFIX, community
from registry.licences import each, joined
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts
from registry.records.kinds import Kind, Relation
from registry.records.results import labels
from registry.records.version import Version

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
CREATION = "_:creation"
PACKAGES = (Kind.DATA, Kind.SEED, Kind.EXPERT, Kind.BUILD)
RELATIONS = {
    Relation.BRANCHED_FROM: "descendantOf",
    Relation.TRAINED_ON: "trainedOn",
    Relation.MEMBER: "contains",
    Relation.SEED: "descendantOf",
    Relation.TUNED_ON: "trainedOn",
}
SENSITIVE = {"none": "no", "reviewed": "yes", "present": "yes"}


def text(dossier: Dossier) -> str:
    """Return the SPDX document as JSON."""
    return written(document(dossier))


def document(dossier: Dossier) -> Document:
    """Describe a version and what it was made from in SPDX 3.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The JSON-LD document, ready to be written.
    """
    nodes = [node for node in dossier.graph.nodes if node.ref.kind in PACKAGES]
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
    holders = {
        node.facts.holder: {
            "type": "Organization",
            "spdxId": _id("holder", node.facts.holder),
            "creationInfo": CREATION,
            "name": node.facts.holder,
        }
        for node in dossier.of(DataFacts)
        if node.facts.holder
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
    everything = [*agents.values(), *holders.values(), tool, *elements]
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


def _package(dossier: Dossier, version: Version[Facts]) -> Iterator[Document]:
    facts, ref = version.facts, str(version.ref)
    is_data = isinstance(facts, DataFacts)
    registered = _time(version.registered_at)
    package: Document = {
        "type": "dataset_DatasetPackage" if is_data else "ai_AIPackage",
        "spdxId": _id(ref),
        "creationInfo": CREATION,
        "name": ref,
        "software_packageVersion": str(version.ref.version),
        "software_primaryPurpose": "data" if is_data else "model",
        "software_downloadLocation": f"urn:btx:{ref}",
        "comment": f"status: {dossier.status(ref)}",
        "originatedBy": [_origin(version)],
        "suppliedBy": _origin(version),
        "releaseTime": registered,
        "builtTime": registered,
        "summary": f"registry row {version.digest}",
    }
    if digest := files_digest(version):
        package["verifiedUsing"] = [{"type": "Hash", "algorithm": "sha256", "hashValue": digest}]
    more = _dataset(dossier, version.of(DataFacts)) if is_data else _model(version)
    yield package | more
    for file in version.files:
        yield {
            "type": "software_File",
            "spdxId": _id(ref, file.path),
            "creationInfo": CREATION,
            "name": file.path,
            "verifiedUsing": [{"type": "Hash", "algorithm": "sha256", "hashValue": file.sha256}],
        }
    for name, licence in _licences(dossier, version).items():
        yield _expression(ref, name, licence)


def _licence(dossier: Dossier, version: Version[Facts]) -> str | None:
    """Return what applies to a version: what is stated of it, or what follows for it."""
    facts = version.facts
    if isinstance(facts, DataFacts):
        return facts.applying_license
    if isinstance(facts, ExpertFacts):
        return joined(facts.licenses) or None
    if version.ref == dossier.subject.ref and dossier.licence:
        return dossier.licence.expression
    return stated_license(version)


def _licences(dossier: Dossier, version: Version[Facts]) -> dict[str, str]:
    """Return the expressions of a version by what the document calls them: one, or two of a choice.

    What is stated differs from what applies where one of several licences was chosen.
    """
    stated, applies = stated_license(version), _licence(dossier, version)
    told = {"license": applies, "declared-license": stated if stated != applies else None}
    return {name: licence for name, licence in told.items() if licence}


def _expression(ref: str, name: str, licence: str) -> Document:
    """An expression, with an address for each licence that SPDX does not list."""
    expression: Document = {
        "type": "simplelicensing_LicenseExpression",
        "spdxId": _id(ref, name),
        "creationInfo": CREATION,
        "simplelicensing_licenseExpression": licence,
    }
    own = [name for name in each([licence]) if name.startswith(PREFIX)]
    if own:
        expression["simplelicensing_customIdToUri"] = [
            {"type": "DictionaryEntry", "key": name, "value": _page(name)} for name in own
        ]
    return expression


def _page(name: str) -> str:
    known = community(name)
    return known.source if known else f"urn:btx:licence:{name}"


def _origin(version: Version[Facts]) -> str:
    """Return who a version is from: of data the holder of its rights, else who registered it."""
    facts = version.facts
    if isinstance(facts, DataFacts) and facts.holder:
        return _id("holder", facts.holder)
    return _id("actor", version.actor)


def _dataset(dossier: Dossier, version: Version[DataFacts]) -> Document:
    facts = version.facts
    sensitive = SENSITIVE.get(facts.pii or "", "noAssertion")
    dataset: Document = {
        "dataset_datasetType": ["text"],
        "dataset_hasSensitivePersonalInformation": sensitive,
        "dataset_dataCollectionProcess": facts.source or unknown(dossier, version, "source"),
    }
    if facts.bytes is not None:
        dataset["dataset_datasetSize"] = facts.bytes
    if facts.purpose:
        dataset["dataset_intendedUse"] = facts.purpose
    return dataset


def _model(version: Version[Facts]) -> Document:
    facts = version.facts
    is_build = isinstance(facts, BuildFacts)
    model: Document = {
        "ai_typeOfModel": ["mixture of experts" if is_build else "decoder-only transformer"]
    }
    report = training(version)
    if report:
        spent = {"tokens": report.tokens, "flops": report.flops, "wall_s": report.wall_s}
        figures = [f"{name} {value}" for name, value in spent.items() if value is not None]
        model["ai_informationAboutTraining"] = ", ".join(figures) or "reported without figures"
    results = facts.results if isinstance(facts, BuildFacts | ExpertFacts) else ()
    names = labels(results)
    metrics = [
        {
            "type": "DictionaryEntry",
            "key": f"{names[result.data]}: bits per byte",
            "value": number_text(result.bits_per_byte),
        }
        for result in results
        if result.bits_per_byte is not None
    ]
    if metrics:
        model["ai_metric"] = metrics
    return model


def _relationships(dossier: Dossier, version: Version[Facts]) -> Iterator[Document]:
    ref = str(version.ref)
    if version.files:
        kind = "contains" if version.ref.kind == Kind.DATA else "hasDistributionArtifact"
        yield _relationship(ref, kind, [_id(ref, file.path) for file in version.files])
    licences = _licences(dossier, version)
    if stated_license(version):
        declared = "declared-license" if "declared-license" in licences else "license"
        yield _relationship(ref, "hasDeclaredLicense", [_id(ref, declared)])
    if "license" in licences:
        yield _relationship(ref, "hasConcludedLicense", [_id(ref, "license")])
    for kind, targets in _targets(dossier, version).items():
        yield _relationship(ref, kind, sorted(targets))


def _targets(dossier: Dossier, version: Version[Facts]) -> dict[str, set[str]]:
    """Relationship -> targets; the seed and members of a snapshot are its build's."""
    targets: dict[str, set[str]] = {}
    for parent, relation in dossier.parents(version):
        is_snapshot = parent.ref.kind == Kind.SNAPSHOT
        pairs = dossier.parents(parent) if is_snapshot else [(parent, relation)]
        for node, how in pairs:
            if how in set(RELATIONS) and node.ref.kind in (Kind.DATA, Kind.SEED, Kind.EXPERT):
                name = RELATIONS[Relation(how)]
                targets.setdefault(name, set()).add(_id(str(node.ref)))
    return targets


def _relationship(ref: str, kind: str, targets: list[str]) -> Document:
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
