"""Hugging Face model card: the README.md of an exported folder.

In: a dossier. Out: Markdown with YAML front matter, whose keys the hub reads: license, base_model,
datasets, model-index.
"""

import yaml
from markupsafe import Markup

from registry.formats import layout, report
from registry.formats.documents import Document
from registry.formats.dossier import Dossier
from registry.formats.tables import NOT_STATED
from registry.records.facts import DataFacts, SeedFacts
from registry.records.kinds import Kind
from registry.records.results import Result, labels


def text(dossier: Dossier) -> str:
    """Return the README.md of a model folder: YAML front matter, then what the overview says."""
    front = yaml.safe_dump(front_matter(dossier), sort_keys=False, allow_unicode=True)
    return layout.markdown_page(
        "model-card.md.j2",
        # YAML has its own quoting.
        front_matter=Markup(front),
        report=report.describe(dossier),
        loadable=dossier.build is not None,
    )


def front_matter(dossier: Dossier) -> Document:
    """Return the keys of a model card that the hub reads.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The front matter, ready to be written as YAML.
    """
    licences = dossier.licenses()
    front: Document = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    # The hub knows one identifier; several licences, or an expression, are "other" with names.
    if len(licences) == 1 and " " not in licences[0]:
        front["license"] = licences[0].lower()
    else:
        front["license"] = "other"
        front["license_name"] = " AND ".join(licences) or NOT_STATED
    front["tags"] = ["btx", "mixture-of-experts"] if dossier.build else ["btx"]
    seeds, data = dossier.of(SeedFacts), dossier.of(DataFacts)
    if seeds and dossier.kind != Kind.SEED:
        front["base_model"] = [str(version.ref) for version in seeds]
    if data:
        front["datasets"] = [str(version.ref) for version in data]
    results = _results(dossier)
    if results:
        front["model-index"] = [{"name": dossier.ref, "results": results}]
    return front


def _results(dossier: Dossier) -> list[Document]:
    """One entry for each data version: the hub joins entries of one type and name."""
    names = labels(dossier.results)
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": names[result.data], "type": result.data},
            "metrics": _metrics(result),
        }
        for result in dossier.results
    ]


def _metrics(result: Result) -> list[Document]:
    figures = {"bits_per_byte": result.bits_per_byte, "accuracy": result.accuracy}
    return [{"type": name, "value": value} for name, value in figures.items() if value is not None]
