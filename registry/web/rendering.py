"""Plain facts into HTML: the templates' environment and the few words that they share.

In:  a template's name and facts.  Out: text, every recorded word escaped. Needs Jinja alone, so that `btx explain --html` needs no server.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from registry.units import counted, duration, size

STATIC = Path(__file__).parent / "static"
REPORTS = (  # name of the format, its title, what it is for
    ("html", "Report", "to read and to print"),
    ("md", "Report as text", "Markdown"),
    ("model-card", "Model card", "in the Hugging Face form"),
    ("in-toto", "Provenance", "in-toto statement, SLSA provenance"),
    ("vsa", "Verification summary", "the gates' answer as an in-toto statement"),
    ("cyclonedx", "Bill of materials", "CycloneDX ML-BOM"),
    ("spdx", "Bill of materials", "SPDX 3 with its AI and dataset profiles"),
    ("openlineage", "Lineage", "OpenLineage events"),
    ("prov", "Lineage", "W3C PROV"),
    ("croissant", "Data description", "Croissant"),
)
HUES = 8  # colours that can be told apart; members beyond them share


def figure(value: Any, digits: int = 3) -> str:
    """A number as people read it; a dash for what is not known."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.{digits}f}"
    return f"{int(value):,}"


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def power(value: float | None) -> str:
    """5944442880 as 5.9 × 10⁹."""
    if not value:
        return "–"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def spent(seconds: float | None) -> str:
    """A duration as people read it; a dash for what is not known."""
    return "–" if seconds is None else duration(seconds)


def moment(text: str) -> str:
    """2026-03-01T12:00:00.123456Z as 2026-03-01 12:00."""
    return text[:16].replace("T", " ")


def address(ref: str) -> str:
    """The page of a reference: /expert/math/1, /build/2."""
    return "/" + ref.replace("@", "/")


def reports(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What can be downloaded of a version: Croissant describes data, a summary needs a gate's answer."""
    without = ({"croissant"} if facts["kind"] != "data" else set()) | (
        set() if facts["gates"] else {"vsa"}
    )
    return [line for line in REPORTS if line[0] not in without]


def hues(refs: Sequence[str]) -> dict[str, str]:
    """A colour class for each, in order."""
    return {ref: f"h{place % HUES}" for place, ref in enumerate(refs)}


def strength(weight: float) -> str:
    """Four steps, so that no style needs to be written into the page."""
    return f"s{min(4, 1 + int(weight * 4))}"


def leading(token: Mapping[str, Any]) -> Mapping[str, Any]:
    """The expert with the largest weight."""
    return max(token["experts"], key=lambda item: float(item["weight"]))


def by_licence(sources: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Shares added up over the members whose data stand under the same licences, the largest first."""
    sums: dict[str, float] = {}
    for source in sources:
        licences = ", ".join(source["licenses"])
        sums[licences] = sums.get(licences, 0.0) + source["share"]
    return sorted(sums.items(), key=lambda item: -item[1])


ENVIRONMENT = Environment(
    loader=PackageLoader("registry.web"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "size": size,
    "figure": figure,
    "percent": percent,
    "moment": moment,
    "address": address,
    "power": power,
    "spent": spent,
    "counted": counted,
}
ENVIRONMENT.globals |= {
    "hues": hues,
    "strength": strength,
    "leading": leading,
    "reports": reports,
    "by_licence": by_licence,
}


def page(name: str, **facts: Any) -> str:
    return ENVIRONMENT.get_template(name).render(**facts)


def explanation(answer: Mapping[str, Any]) -> str:
    """One page that needs nothing beside itself."""
    return page("explanation.html", answer=answer, style=(STATIC / "btx.css").read_text())
