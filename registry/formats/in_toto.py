"""In-toto statements with SLSA provenance: what a version is, and from what and how it was made.

In: a dossier. Out: a Statement v1 (in-toto.io/Statement/v1) with predicate slsa.dev/provenance/v1,
on request in a signed envelope. Subjects are the version's files by SHA-256, so that any in-toto
tool can compare them with the bytes on disk.
"""

import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.errors import Invalid
from registry.formats.documents import Document, written
from registry.formats.dossier import (
    Dossier,
    environment,
    files_digest,
    revision,
    seconds,
    started,
    tool_version,
    training,
)
from registry.governance.attestations import sign
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts, SeedFacts
from registry.records.version import Version

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SUMMARY = "https://slsa.dev/verification_summary/v1"
# What makes versions: this program, wherever it runs. Who asked it to is a parameter.
PLATFORM = "urn:btx:platform:btx-registry"


def text(dossier: Dossier) -> str:
    """Return the provenance statement as JSON."""
    return written(statement(dossier))


def summary_text(dossier: Dossier) -> str:
    """Return the verification summary as JSON. Raises Invalid when no gate was asked."""
    return written(verification_summary(dossier))


def statement(dossier: Dossier) -> Document:
    """Describe what a version was made from, by whom and how.

    Args:
        dossier: what is recorded of a data version, seed, expert or build.

    Returns:
        An in-toto statement with SLSA provenance; of a released build also with its approvals.
    """
    act = "released" if dossier.releases else "registered"
    version = dossier.subject
    programs = environment(version)
    subject = [{"name": str(version.ref), "digest": _digests(version)}]
    subject += [
        {"name": f"{version.ref}/{file.path}", "digest": {"sha256": file.sha256}}
        for file in version.files
    ]
    definition = {
        "buildType": f"urn:btx:{version.ref.kind}:{act}:v1",
        "externalParameters": _parameters(version),
        "internalParameters": {
            "environment": programs.to_json() if programs else {},
            "registrar": version.actor,
        },
        "resolvedDependencies": _dependencies(dossier),
    }
    run = {
        "builder": {
            "id": PLATFORM,
            "version": {"btx-registry": tool_version()},
        },
        "metadata": _when(version),
        "byproducts": _byproducts(dossier, act),
    }
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PROVENANCE,
        "predicate": {"buildDefinition": definition, "runDetails": run},
    }


def verification_summary(dossier: Dossier) -> Document:
    """Describe the newest verdict on a version in SLSA's form.

    Args:
        dossier: what is recorded of a version.

    Returns:
        An in-toto statement with a verification summary.

    Raises:
        Invalid: when no gate was asked about the version.
    """
    verdicts = dossier.last_verdicts(dossier.ref).values()
    if not verdicts:
        raise Invalid(
            dossier.ref,
            found="no verdict",
            expected="a version that a gate was asked about",
            next=f"btx policy check {dossier.ref}",
        )
    newest = max(verdicts, key=lambda verdict: verdict.event.seq)
    body = newest.body
    predicate = {
        "verifier": {
            "id": "urn:btx:gate",
            "version": {"btx-registry": tool_version(), "cel": body.engine},
        },
        "timeVerified": seconds(body.at),
        "resourceUri": f"urn:btx:{newest.event.subject}",
        "policy": {"uri": f"urn:btx:gate:{body.gate}", "digest": {"sha256": body.policies}},
        "inputAttestations": [{"uri": "urn:btx:evidence", "digest": {"sha256": body.evidence}}],
        "verificationResult": "PASSED" if body.passed else "FAILED",
        "verifiedLevels": ["SLSA_BUILD_LEVEL_0"],
    }
    return {
        "_type": STATEMENT,
        "subject": [{"name": dossier.ref, "digest": _digests(dossier.subject)}],
        "predicateType": SUMMARY,
        "predicate": predicate,
    }


def envelope(statement_text: str, key: Ed25519PrivateKey) -> str:
    """Return a statement's text in a DSSE envelope that is signed with the key, as JSON."""
    return written(sign(json.loads(statement_text), key))


def _digests(version: Version[Facts]) -> Document:
    """The digest of the files, as sha256sum gives it, and that of the registry's own row."""
    files = files_digest(version)
    return {**({"sha256": files} if files else {}), "btxRow": version.digest}


def _when(version: Version[Facts]) -> Document:
    began = started(version)
    return {
        "invocationId": version.digest,
        **({"startedOn": began} if began else {}),
        "finishedOn": seconds(version.registered_at),
    }


def _parameters(version: Version[Facts]) -> Document:
    """What a person chose."""
    facts = version.facts
    parameters: Document = {"ref": str(version.ref)}
    report = training(version)
    if report and report.recipe:
        parameters["recipe"] = report.recipe
    if isinstance(facts, BuildFacts):
        parameters["recipe"] = _recipe(facts)
    if isinstance(facts, ExpertFacts) and facts.mode:
        parameters["mode"] = str(facts.mode)
    if isinstance(facts, SeedFacts) and facts.license:
        parameters["license"] = facts.license
    if isinstance(facts, DataFacts):
        stated = facts.stated()
        parameters |= {name: value for name, value in stated.items() if value is not None}
    return parameters


def _recipe(facts: BuildFacts) -> Document:
    """The settings of a build's steps, and how they were written where a row keeps both."""
    if facts.given_recipe is None:
        return facts.recipe.to_json()
    resolved = {"mix": facts.recipe.mix, "tune": facts.recipe.tune}
    return {**facts.given_recipe.to_json(), "resolved": resolved}


def _dependencies(dossier: Dossier) -> list[Document]:
    relations = {edge.to: edge.relation for edge in reversed(dossier.graph.edges)}
    dependencies: list[Document] = []
    for node in dossier.graph.nodes[1:]:
        relation = relations.get(node.ref, "ancestor")
        dependencies.append(
            {
                "uri": f"urn:btx:{node.ref}",
                "digest": _digests(node),
                "annotations": {"relation": relation},
            }
        )
        dependencies += [
            {"uri": f"urn:btx:{node.ref}/{file.path}", "digest": {"sha256": file.sha256}}
            for file in node.files
        ]
    if code := revision(dossier.subject):
        dependencies.append({"uri": "urn:btx:code", "digest": {"gitCommit": code}})
    return dependencies


def _byproducts(dossier: Dossier, act: str) -> list[Document]:
    byproducts: list[Document] = []
    for gate, verdict in dossier.last_verdicts(dossier.ref).items():
        byproducts.append(
            {
                "name": f"verdict of gate {gate}: {verdict.body.outcome}",
                "digest": {"sha256": verdict.body.evidence},
                "annotations": {"policies": verdict.body.policies},
            }
        )
    byproducts.append({"name": "audit log head", "digest": {"sha256": dossier.head}})
    if act == "released":
        byproducts += [
            {"name": f"approval by {line.actor}", "annotations": line.to_json()}
            for line in dossier.approvals
        ]
    return byproducts
