"""Hugging Face model card: the README.md of an exported folder.

In: a dossier. Out: Markdown with YAML front matter, whose keys the hub reads: license, base_model,
datasets, model-index.
"""

from typing import Any

import yaml
from markupsafe import Markup

from registry.formats import layout, report
from registry.formats.dossier import Dossier


def text(dossier: Dossier) -> str:
    """Return the README.md of a model folder: YAML front matter, then what the overview says."""
    front = yaml.safe_dump(front_matter(dossier), sort_keys=False, allow_unicode=True)
    return layout.markdown_page(
        "model-card.md.j2",
        # YAML has its own quoting.
        front_matter=Markup(front),
        report=report.describe(dossier),
        loadable=dossier.subject.ref.kind == "build",
    )


def front_matter(dossier: Dossier) -> dict[str, Any]:
    """Return the keys of a model card that the hub reads.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The front matter, ready to be written as YAML.
    """
    licenses = dossier.licenses()
    made: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    # The hub knows one identifier; several licences, or one of its own, are "other" with the names beside.
    made["license"] = (
        licenses[0].lower() if len(licenses) == 1 and " " not in licenses[0] else "other"
    )
    if made["license"] == "other":
        made["license_name"] = " AND ".join(licenses) or "not stated"
    made["tags"] = ["btx", "mixture-of-experts"] if dossier.subject.ref.kind == "build" else ["btx"]
    seeds, data = dossier.of("seed"), dossier.of("data")
    if seeds and dossier.subject.ref.kind != "seed":
        made["base_model"] = [str(version.ref) for version in seeds]
    if data:
        made["datasets"] = [str(version.ref) for version in data]
    results = _results(dossier)
    return made | ({"model-index": [{"name": dossier.ref, "results": results}]} if results else {})


def _results(dossier: Dossier) -> list[dict[str, Any]]:
    evaluation = dossier.subject.facts.get("evaluation") or {}
    if dossier.subject.ref.kind != "build":
        evaluation = evaluation.get("domains") or {}
    return [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": domain, "type": f"data/{domain}"},
            "metrics": [
                {"type": key, "value": figures[key]}
                for key in ("bits_per_byte", "accuracy")
                if figures.get(key) is not None
            ],
        }
        for domain, figures in evaluation.items()
        if isinstance(figures, dict)
    ]
