"""Hugging Face model card: the README.md of an exported folder.

In: a dossier. Out: Markdown with YAML front matter, whose keys the hub reads: license, language,
base_model, datasets, model-index. The hub takes its own identifiers only: a seed or data version is
named where the company states its identifier there, as the own fact `hub_id`.
"""

import re
from collections.abc import Sequence

import yaml
from markupsafe import Markup

from registry.formats import layout, report
from registry.formats.documents import Document
from registry.formats.dossier import Dossier
from registry.formats.tables import NOT_STATED
from registry.licence_terms import hub_licence
from registry.records.facts import DataFacts, Facts, SeedFacts
from registry.records.kinds import Kind
from registry.records.results import Result, labels
from registry.records.version import Version

HUB_ID = "hub_id"
# How the hub writes the name of a repository.
# As the hub checks them: two names, none too long, none that ends like an address of git.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_]|[.-](?![.-])){0,94}"
_REPOSITORY = re.compile(rf"{_NAME}(?<![.-])/{_NAME}(?<![.-])(?<!\.git)")


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
    front: Document = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    front |= _licence(dossier)
    if languages := _languages(dossier):
        front["language"] = languages
    front["tags"] = ["btx", "mixture-of-experts"] if dossier.build else ["btx"]
    seeds = _hub_ids(dossier, dossier.of(SeedFacts)) if dossier.kind != Kind.SEED else []
    if seeds:
        front["base_model"] = seeds
        front["base_model_relation"] = "merge" if dossier.build else "finetune"
    if data := _hub_ids(dossier, dossier.of(DataFacts)):
        front["datasets"] = data
    results = _results(dossier)
    if results:
        front["model-index"] = [{"name": dossier.ref, "results": results}]
    return front


def _licence(dossier: Dossier) -> Document:
    """The hub's identifier of a licence, else `other` with a name and the file that says more."""
    stated = dossier.licenses()
    text = dossier.licence.expression if dossier.licence else " AND ".join(stated)
    if text and (identifier := hub_licence(text)):
        return {"license": identifier}
    name = text or NOT_STATED
    # The hub's identifiers are of these characters alone.
    identifier = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    front: Document = {"license": "other", "license_name": identifier}
    if dossier.licence:
        front["license_link"] = "LICENSE"
    return front


def _languages(dossier: Dossier) -> list[str]:
    """The languages of the data, without their regions, which the hub does not know."""
    tags = {version.facts.language for version in dossier.of(DataFacts)}
    return sorted({tag.split("-")[0].lower() for tag in tags if tag})


def _hub_ids(dossier: Dossier, versions: Sequence[Version[Facts]]) -> list[str]:
    stated = [dossier.own.get(str(version.ref), {}).get(HUB_ID) for version in versions]
    return [fact.text for fact in stated if fact is not None and _REPOSITORY.fullmatch(fact.text)]


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
