"""Croissant 1.0: one data version as a dataset that loaders and catalogues understand.

In: the dossier of a data version; other kinds are refused. Out: JSON-LD
(mlcommons.org/croissant/1.0).
"""

import mimetypes
from pathlib import PurePosixPath

from registry.errors import Invalid
from registry.formats.documents import Document, written
from registry.formats.dossier import Dossier, files_digest, seconds
from registry.formats.tables import NOT_STATED, unknown
from registry.records.facts import DataFacts
from registry.records.kinds import Kind
from registry.records.version import FileFact, Version

# RAI properties, and the own facts that they say.
RAI = {
    "dataCollection": "data_selection",
    "dataCollectionType": "source_class",
    "dataPreprocessingProtocol": "data_curation",
    "dataBiases": "data_bias",
    "dataLimitations": "data_suitability",
}
# Files that are described document by document.
MOST_RECORD_SETS = 50
# By the ends of names: files of a row a document, and those that no loader of Croissant opens.
ROWS = {
    ".jsonl": "application/jsonlines",
    ".ndjson": "application/jsonlines",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/x-parquet",
}
CLOSED = {
    ".arrow": "application/vnd.apache.arrow.stream",
    ".zst": "application/zstd",
}
TEXT = "text"
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
    return written(dataset(dossier))


def dataset(dossier: Dossier) -> Document:
    """Describe a data version in Croissant.

    Args:
        dossier: what is recorded of a data version.

    Returns:
        The JSON-LD document, ready to be written.

    Raises:
        Invalid: for another kind of version.
    """
    if dossier.kind != Kind.DATA:
        raise Invalid(
            dossier.ref,
            found=f"a version of kind {dossier.kind}",
            expected="a data version",
            next="btx report data/NAME --format croissant",
        )
    version = dossier.subject.of(DataFacts)
    facts = version.facts
    source = facts.source or f"source {unknown(dossier, version, 'source')}"
    purpose = facts.purpose or unknown(dossier, version, "purpose")
    document: Document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": version.ref.name,
        "description": f"{source}. Purpose: {purpose}.",
        "version": f"{version.ref.version}.0.0",
        "url": f"urn:btx:{version.ref}",
        "datePublished": seconds(version.registered_at)[:10],
        "identifier": f"sha256:{files_digest(version) or version.digest}",
        "citeAs": f"{version.ref}, sha256:{files_digest(version) or version.digest}",
        "rai:personalSensitiveInformation": f"personal data: {facts.pii or NOT_STATED}",
        "distribution": [_file(file) for file in version.files],
        "recordSet": _record_sets(version),
        **_responsible_ai(dossier, version),
    }
    if facts.license:
        document["license"] = _license(facts.license)
    if facts.holder:
        document["creator"] = {"@type": "sc:Organization", "name": facts.holder}
    return document


def _responsible_ai(dossier: Dossier, version: Version[DataFacts]) -> Document:
    """The RAI properties that the company states something of."""
    stated = {name: dossier.own_fact(key, version) for name, key in RAI.items()}
    properties = {f"rai:{name}": fact.text for name, fact in stated.items() if fact is not None}
    period = [dossier.own_fact(key, version) for key in ("collected_from", "collected_until")]
    if known := [fact.text for fact in period if fact is not None]:
        properties["rai:dataCollectionTimeframe"] = " to ".join(known)
    if version.facts.purpose:
        properties["rai:dataUseCases"] = version.facts.purpose
    return dict(properties)


def _record_sets(version: Version[DataFacts]) -> list[Document]:
    """The documents of the files that a loader can open."""
    reading = version.facts.reading
    column = (reading and reading.text_field) or TEXT
    counts = version.facts.counts
    # No column of a conversation is text.
    closed = CLOSED | (ROWS if counts and counts.conversations else {})
    opened = [file for file in version.files if _ending(file) not in closed]
    return [_documents(file, column) for file in opened[:MOST_RECORD_SETS]]


def _ending(file: FileFact) -> str:
    """The end of a file's name that says what it holds; loaders see to .gz themselves."""
    return PurePosixPath(file.path.lower().removesuffix(".gz")).suffix


def _documents(file: FileFact, column: str) -> Document:
    """A file's documents as records: each row of a file of rows, else the whole of it."""
    rows = _ending(file) in ROWS
    name = f"documents/{file.path}"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/text",
                "name": "text",
                "dataType": "sc:Text",
                "source": {
                    "fileObject": {"@id": file.path},
                    "extract": {"column": column} if rows else {"fileProperty": "content"},
                },
            }
        ],
    }


def _license(expression: str) -> str:
    """Return the page of a licence that SPDX lists, else its expression."""
    listed = " " not in expression and not expression.startswith("LicenseRef-")
    return f"https://spdx.org/licenses/{expression}.html" if listed else expression


def _file(file: FileFact) -> Document:
    known = (ROWS | CLOSED).get(_ending(file))
    form = known or mimetypes.guess_type(file.path)[0] or "text/plain"
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": form,
        "sha256": file.sha256,
    }
