"""Records into HTML: the environment of the templates, and the few functions that they share.

In:  a template's name and its values.  Out: HTML with every recorded text escaped.
Needs Jinja alone, so that `btx explain --html` needs no server.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from registry import units
from registry.formats import PAGES
from registry.records.answers.auditing import ExpertWeight, ExplainAnswer, ExplainedToken, Source
from registry.records.facts import Facts
from registry.records.kinds import Kind
from registry.records.pages import VersionPage, recorded
from registry.records.results import labels

STATIC = Path(__file__).parent / "static"
HUES = 8  # colours that can be told apart; members beyond them share
UNKNOWN = "–"
LONGEST_FACT = 80  # letters in a table of changes

T = TypeVar("T")


@dataclass(frozen=True)
class Download:
    """A format in which a version can be downloaded: its name, a title, and what it is for."""

    form: str
    title: str
    purpose: str
    internal: bool = True  # whether the form with all names is for anybody
    public: bool = True  # whether there is a form for everybody


DOWNLOADS = (
    Download("html", "Report", "to read and to print"),
    Download("md", "Report as text", "Markdown"),
    Download("model-card", "Model card", "in the Hugging Face form"),
    Download("in-toto", "Provenance", "in-toto statement, SLSA provenance"),
    Download(
        "vsa", "Verification summary", "the gates' answer as an in-toto statement", public=False
    ),
    Download("cyclonedx", "Bill of materials", "CycloneDX ML-BOM"),
    Download("spdx", "Bill of materials", "SPDX 3 with its AI and dataset profiles"),
    Download("openlineage", "Lineage", "OpenLineage events"),
    Download("prov", "Lineage", "W3C PROV"),
    Download("croissant", "Data description", "Croissant"),
    Download("annex-xi", "Annex XI", "EU AI Act: documentation of a general-purpose model"),
    Download("annex-xii", "Annex XII", "EU AI Act: for those who build on the model"),
    Download(
        "cop-model-documentation", "Model documentation form", "Code of Practice of the EU AI Act"
    ),
    Download(
        "training-summary",
        "Summary of training content",
        "EU AI Act: for everybody",
        internal=False,
    ),
    Download("annex-iv", "Annex IV", "EU AI Act: of a high-risk system"),
)


@dataclass(frozen=True)
class LicenceShare:
    """How much of a text was computed with experts whose data have these licences."""

    licences: str
    share: float


@dataclass(frozen=True)
class Fact:
    """A fact as a page shows it."""

    name: str
    text: str


def page(name: str, **values: object) -> str:
    """Render a template."""
    return ENVIRONMENT.get_template(name).render(**values)


def explanation(answer: ExplainAnswer) -> str:
    """Render an explanation as one page that needs nothing beside itself."""
    return page(
        "explanation.html", answer=answer, style=(STATIC / "btx.css").read_text(encoding="utf-8")
    )


def whole(number: float) -> str:
    """Write a whole number with its thousands apart."""
    return f"{number:,.0f}"


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return f"{'-' if value < 0 else '+'}{units.figure(abs(value))}"


def power(value: float) -> str:
    """Write a large number as a power of ten; zero as it is."""
    return units.power(value) if value else "0"


def moment(text: str) -> str:
    """Write 2026-03-01T12:00:00.123456Z as 2026-03-01 12:00."""
    return text[:16].replace("T", " ")


def day(text: str | None) -> str:
    """Write the day of a moment; a dash for none."""
    return text[:10] if text else UNKNOWN


def said(value: object) -> str:
    """Write a fact of evidence as a person reads it: lists with commas, records by their fields."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        told = [f"{name}: {said(one)}" for name, one in value.items() if one not in (None, [], {})]
        return "; ".join(told) or UNKNOWN
    if isinstance(value, list | tuple):
        return ", ".join(said(one) for one in value) or "none"
    return str(value)


def short(value: object) -> str:
    """Write a fact of a comparison: figures with few digits, long texts by their beginning."""
    if isinstance(value, float):
        return units.figure(value)
    text = said(value)
    return text if len(text) <= LONGEST_FACT else f"{text[:LONGEST_FACT]}…"


def address(ref: str) -> str:
    """Return the page of a reference: /expert/math/1, /build/2."""
    return "/" + ref.replace("@", "/")


def downloads(version: VersionPage) -> list[Download]:
    """Return the formats that a version can be downloaded in.

    Croissant describes data, the law's forms a build; a verification summary needs the verdict of a
    gate.
    """
    left_out = set() if version.kind == Kind.BUILD else set(PAGES)
    if version.kind != Kind.DATA:
        left_out.add("croissant")
    if not version.gates:
        left_out.add("vsa")
    return [download for download in DOWNLOADS if download.form not in left_out]


def facts_in_words(facts: Facts) -> list[Fact]:
    """Return the facts that are words, numbers or lists of them, by name."""
    shown = []
    for name, value in sorted(recorded(facts).items()):
        text = _text(value)
        if text is not None:
            shown.append(Fact(name.replace("_", " "), text))
    return shown


def _text(value: object) -> str | None:
    """Write a fact; None for what has parts of its own."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, int):
        return whole(value)
    if isinstance(value, float):
        return units.figure(value)
    if isinstance(value, list):
        return ", ".join(_item(item) for item in value) or UNKNOWN
    return None


def _item(item: object) -> str:
    """Write one of several: a member by its reference."""
    return str(item["ref"] if isinstance(item, dict) and "ref" in item else item)


def hues(refs: Sequence[str]) -> dict[str, str]:
    """Give each reference a colour class, in order."""
    return {ref: f"h{number % HUES}" for number, ref in enumerate(refs)}


def strength(weight: float) -> str:
    """Return one of four classes of strength, so that no style is written into the page."""
    return f"s{min(4, 1 + int(weight * 4))}"


def strongest(token: ExplainedToken) -> ExpertWeight:
    """Return the expert with the largest weight."""
    return max(token.experts, key=lambda expert: expert.weight)


def by_licence(sources: Sequence[Source]) -> list[LicenceShare]:
    """Add up the shares of members whose data have the same licences, the largest first."""
    sums: dict[str, float] = {}
    for source in sources:
        licences = ", ".join(source.licenses)
        sums[licences] = sums.get(licences, 0.0) + source.share
    shares = [LicenceShare(licences, share) for licences, share in sums.items()]
    return sorted(shares, key=lambda one: -one.share)


def _or_unknown(write: Callable[[T], str]) -> Callable[[T | None], str]:
    """Return the printer with a dash for what is not known."""
    return lambda value: UNKNOWN if value is None else write(value)


ENVIRONMENT = Environment(
    loader=PackageLoader("registry.web"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "address": address,
    "counted": units.counted,
    "day": day,
    "duration": _or_unknown(units.duration),
    "figure": _or_unknown(units.figure),
    "moment": moment,
    "percent": _or_unknown(units.percent),
    "power": _or_unknown(power),
    "said": said,
    "short": short,
    "signed": _or_unknown(signed),
    "size": units.size,
    "whole": _or_unknown(whole),
}
ENVIRONMENT.globals |= {
    "by_licence": by_licence,
    "downloads": downloads,
    "facts_in_words": facts_in_words,
    "hues": hues,
    "labels": labels,
    "strength": strength,
    "strongest": strongest,
}
