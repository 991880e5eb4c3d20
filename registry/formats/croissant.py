"""Croissant 1.0: one data version as a dataset that loaders and catalogues understand.

In: the dossier of a data version. Out: JSON-LD (mlcommons.org/croissant/1.0). Other kinds are refused.
"""

import json
import mimetypes
from typing import Any

from registry.catalogue.rows import FileFact
from registry.errors import Invalid
from registry.formats.dossier import Dossier, seconds

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def text(dossier: Dossier) -> str:
    """Return the data version's Croissant description as JSON. Raises Invalid for another kind."""
    return json.dumps(dataset(dossier), indent=1) + "\n"


def dataset(dossier: Dossier) -> dict[str, Any]:
    """Describe a data version in Croissant.

    Args:
        dossier: what is recorded of a data version.

    Returns:
        The JSON-LD document, ready to be written.

    Raises:
        Invalid: for another kind of version.
    """
    version, facts = dossier.subject, dossier.subject.facts
    if version.ref.kind != "data":
        raise Invalid(
            dossier.ref,
            found=version.ref.kind,
            expected="a data version",
            next="btx report data/NAME --format croissant",
        )
    made: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": version.ref.name,
        "description": f"{facts.get('source') or 'source not stated'}. Purpose: {facts.get('purpose') or 'not stated'}.",
        "version": f"{version.ref.version}.0.0",
        "url": f"urn:btx:{version.ref}",
        "datePublished": seconds(version.registered_at)[:10],
        "identifier": f"sha256:{version.digest}",
        "citeAs": f"{version.ref}, sha256:{version.digest}",
        "rai:personalSensitiveInformation": f"personal data: {facts.get('pii') or 'not stated'}",
        "distribution": [_file(file) for file in version.files],
    }
    if facts.get("license"):
        listed = " " not in facts["license"] and not facts["license"].startswith("LicenseRef-")
        made["license"] = (
            f"https://spdx.org/licenses/{facts['license']}.html" if listed else facts["license"]
        )
    if facts.get("holder"):
        made["creator"] = {"@type": "sc:Organization", "name": str(facts["holder"])}
    return made


def _file(file: FileFact) -> dict[str, Any]:
    form = mimetypes.guess_type(file.path)[0] or (
        "application/jsonlines" if file.path.endswith(".jsonl") else "text/plain"
    )
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": form,
        "sha256": file.sha256,
    }
