"""In-toto statements with SLSA provenance: what a version is, from what, how and with which code it was made.

In: a dossier. Out: a Statement v1 (in-toto.io/Statement/v1) with predicate slsa.dev/provenance/v1, on
request in a signed envelope. Subjects are the version's files by SHA-256, so that any in-toto tool can
compare them with the bytes on disk.
"""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.catalogue.catalog import Version
from registry.errors import Invalid
from registry.formats.dossier import Dossier, environment, revision, seconds, tool_version, training
from registry.governance.attestations import sign
from registry.governance.gate import kept

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SUMMARY = "https://slsa.dev/verification_summary/v1"


def text(dossier: Dossier) -> str:
    """Return the provenance statement as JSON."""
    return json.dumps(statement(dossier), indent=1) + "\n"


def summary_text(dossier: Dossier) -> str:
    """Return the verification summary as JSON. Raises Invalid when no gate was asked."""
    return json.dumps(verification_summary(dossier), indent=1) + "\n"


def statement(dossier: Dossier) -> dict[str, Any]:
    """Describe what a version was made from, by whom and how.

    Args:
        dossier: what is recorded of a data version, seed, expert or build.

    Returns:
        An in-toto statement with SLSA provenance; of a released build also with its approvals.
    """
    act = "released" if dossier.releases else "registered"
    version = dossier.subject
    subject = [{"name": str(version.ref), "digest": {"sha256": version.digest}}]
    subject += [
        {"name": f"{version.ref}/{file.path}", "digest": {"sha256": file.sha256}}
        for file in version.files
    ]
    definition = {
        "buildType": f"urn:btx:{version.ref.kind}:{act}:v1",
        "externalParameters": _parameters(version),
        "internalParameters": {"environment": dict(environment(version))},
        "resolvedDependencies": _dependencies(dossier),
    }
    run = {
        "builder": {
            "id": f"urn:btx:actor:{version.actor}",
            "version": {"btx-registry": tool_version()},
        },
        "metadata": {"invocationId": version.digest, "finishedOn": seconds(version.registered_at)},
        "byproducts": _byproducts(dossier, act),
    }
    predicate = {"buildDefinition": definition, "runDetails": run}
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PROVENANCE,
        "predicate": predicate,
    }


def verification_summary(dossier: Dossier) -> dict[str, Any]:
    """Describe the newest verdict on a version in SLSA's form.

    Args:
        dossier: what is recorded of a version.

    Returns:
        An in-toto statement with a verification summary.

    Raises:
        Invalid: when no gate was asked about the version.
    """
    asked = sorted(dossier.last_verdicts(dossier.ref).values(), key=lambda event: event.seq)
    if not asked:
        raise Invalid(
            dossier.ref,
            found="no verdict",
            expected="a version that a gate was asked about",
            next=f"btx policy check {dossier.ref}",
        )
    event = asked[-1]
    gate = event.body["gate"]
    policies, evidence = kept(event)
    passed = event.body["outcome"] in ("allowed", "waived")
    predicate = {
        "verifier": {
            "id": "urn:btx:gate",
            "version": {"btx-registry": tool_version(), "cel": str(event.body.get("engine"))},
        },
        "timeVerified": seconds(event.body["at"]),
        "resourceUri": f"urn:btx:{event.subject}",
        "policy": {"uri": f"urn:btx:gate:{gate}", "digest": {"sha256": policies}},
        "inputAttestations": [{"uri": "urn:btx:evidence", "digest": {"sha256": evidence}}],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": ["SLSA_BUILD_LEVEL_0"],
    }
    subject = [{"name": dossier.ref, "digest": {"sha256": dossier.subject.digest}}]
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": SUMMARY,
        "predicate": predicate,
    }


def _parameters(version: Version) -> dict[str, Any]:
    """What a person chose."""
    facts = version.facts
    chosen = {
        key: facts[key]
        for key in (
            "recipe",
            "mode",
            "license",
            "source",
            "holder",
            "purpose",
            "pii",
            "retain_until",
        )
        if facts.get(key) is not None
    }
    recipe = training(version).get("recipe")
    return {"ref": str(version.ref), **({"recipe": recipe} if recipe else {}), **chosen}


def _dependencies(dossier: Dossier) -> list[dict[str, Any]]:
    relation = {edge.to: edge.relation for edge in reversed(dossier.graph.edges)}
    found: list[dict[str, Any]] = [
        {
            "uri": f"urn:btx:{node.ref}",
            "digest": {"sha256": node.digest},
            "annotations": {"relation": relation.get(node.ref, "ancestor")},
        }
        for node in dossier.graph.nodes[1:]
    ]
    code = revision(dossier.subject)
    return found + ([{"uri": "urn:btx:code", "digest": {"gitCommit": code}}] if code else [])


def _byproducts(dossier: Dossier, act: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for gate, event in dossier.last_verdicts(dossier.ref).items():
        policies, evidence = kept(event)
        name = f"verdict of gate {gate}: {event.body['outcome']}"
        made.append(
            {"name": name, "digest": {"sha256": evidence}, "annotations": {"policies": policies}}
        )
    made.append({"name": "audit log head", "digest": {"sha256": dossier.head}})
    approvals = [
        {"name": f"approval by {line['actor']}", "annotations": dict(line)}
        for line in dossier.approvals
    ]
    return made + (approvals if act == "released" else [])


def envelope(text: str, key: Ed25519PrivateKey) -> str:
    """Return a statement's text in a DSSE envelope that is signed with the key, as JSON."""
    return json.dumps(sign(json.loads(text), key), indent=1) + "\n"
