"""The outside tools that judge what we write.

Each format has a check that raises, and one damage that the check must see. None of the tools is
ours: CycloneDX's validator, SPDX's model, OpenLineage's client, W3C PROV's library, in-toto's and
the hub's own classes.
"""

import io
import json
from collections.abc import Callable
from typing import Any

import in_toto_attestation.predicates.provenance.v1.provenance_pb2 as slsa
import in_toto_attestation.v1.statement_pb2 as in_toto_pb
import mlcroissant
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from huggingface_hub import ModelCard
from in_toto_attestation.v1.statement import Statement
from openlineage.client import event_v2
from openlineage.client.facet_v2 import dataset_version_dataset, ownership_dataset
from prov.model import ProvDocument
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from spdx_python_model import v3_0_1 as spdx_model


def by_cyclonedx(text: str) -> None:
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if found is not None:
        raise ValueError(str(found))


def by_spdx(text: str) -> None:
    """Reading checks names and types, writing again what is required."""
    objects = spdx_model.SHACLObjectSet()
    spdx_model.JSONLDDeserializer().read(io.BytesIO(text.encode()), objects)
    spdx_model.JSONLDSerializer().write(objects, io.BytesIO())
    packages = [
        *objects.foreach_type(spdx_model.ai_AIPackage),
        *objects.foreach_type(spdx_model.dataset_DatasetPackage),
    ]
    if objects.missing_ids or not packages:
        raise ValueError(f"missing {objects.missing_ids}")


def by_openlineage(text: str) -> None:
    """The client's own classes, made from its schema, do the checking.

    They check ids, times, producers, schema addresses and the facets that the client knows.
    """
    lines = [json.loads(line) for line in text.splitlines()]
    if not lines:
        raise ValueError("no event")
    for line in lines:
        for item in (*line["inputs"], *line["outputs"]):
            _facets(item["facets"])
        inputs = [event_v2.InputDataset(**item) for item in line.pop("inputs")]
        outputs = [event_v2.OutputDataset(**item) for item in line.pop("outputs")]
        run, job, state = (
            event_v2.Run(**line.pop("run")),
            event_v2.Job(**line.pop("job")),
            event_v2.RunState(line.pop("eventType")),
        )
        schema = line.pop("schemaURL")
        event = event_v2.RunEvent(
            eventType=state, run=run, job=job, inputs=inputs, outputs=outputs, **line
        )
        if event.schemaURL != schema:
            raise ValueError(f"schema {schema}, the client writes {event.schemaURL}")


def _facets(facets: dict[str, Any]) -> None:
    plain = {
        name: {key: value for key, value in facet.items() if not key.startswith("_")}
        for name, facet in facets.items()
    }
    dataset_version_dataset.DatasetVersionDatasetFacet(**plain["version"])
    if "ownership" in plain:
        ownership_dataset.OwnershipDatasetFacet(
            owners=[ownership_dataset.Owner(**owner) for owner in plain["ownership"]["owners"]]
        )


def by_prov(text: str) -> None:
    document = ProvDocument.deserialize(content=text)
    if not list(document.get_records()):
        raise ValueError("no record")


def by_croissant(text: str) -> None:
    mlcroissant.Dataset(jsonld=json.loads(text))


def by_in_toto(text: str) -> None:
    whole = json.loads(text)
    Statement.copy_from_pb(json_format.ParseDict(whole, in_toto_pb.Statement())).validate()
    provenance = json_format.ParseDict(whole["predicate"], slsa.Provenance())
    if (
        not provenance.build_definition.resolved_dependencies
        or not provenance.run_details.builder.id.startswith("urn:btx:")
    ):
        raise ValueError("no materials or no builder")


def by_hub(text: str) -> None:
    card = ModelCard(text)
    if not card.data.to_dict() or not card.text.strip():
        raise ValueError("no front matter")


def by_dsse(text: str, key: Ed25519PublicKey) -> bytes:
    """securesystemslib's own check of an envelope. Returns the payload."""
    envelope = Envelope.from_dict(json.loads(text))
    envelope.verify(
        [SSlibKey.from_crypto(key, keyid=keyid) for keyid in envelope.signatures], 1
    )  # the id is a hint, the key is given
    return bytes(envelope.payload)


CHECKS: dict[str, Callable[[str], None]] = {
    "cyclonedx": by_cyclonedx,
    "spdx": by_spdx,
    "openlineage": by_openlineage,
    "prov": by_prov,
    "croissant": by_croissant,
    "in-toto": by_in_toto,
    "model-card": by_hub,
}
# One byte that the format leans on, in each: what stands around it stays sound, and the tool must
# still see it.
DAMAGE = {
    "cyclonedx": ('"alg": "SHA-256"', '"alg": "SHA-257"'),
    "spdx": ('"created": ', '"createe": '),
    "openlineage": ('"eventType": "COMPLETE"', '"eventType": "COMPLETF"'),
    "prov": ('"wasGeneratedBy"', '"wasGeneratedBx"'),
    "croissant": ('"sha256"', '"sha255"'),
    "in-toto": ('"subject"', '"subjecu"'),
    "model-card": ("license:", "license\x1a"),
}
