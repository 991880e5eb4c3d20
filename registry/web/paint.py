"""Plain facts into HTML: the templates' environment and the few words that they share.

In:  a template's name and facts.  Out: text, every recorded word escaped. Needs Jinja alone, so that `btx explain --html` needs no server.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

STATIC = Path(__file__).parent / "static"
HUES = 8  # colours that can be told apart; members beyond them share


def size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def figure(value: Any, digits: int = 3) -> str:
    """A number as people read it; a dash for what is not known."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.{digits}f}"
    return f"{int(value):,}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def moment(text: str) -> str:
    """2026-03-01T12:00:00.123456Z as 2026-03-01 12:00."""
    return text[:16].replace("T", " ")


def address(ref: str) -> str:
    """The page of a reference: /expert/math/1, /build/2."""
    return "/" + ref.replace("@", "/")


def hues(refs: Sequence[str]) -> dict[str, str]:
    """A colour class for each, in order."""
    return {ref: f"h{place % HUES}" for place, ref in enumerate(refs)}


def strength(weight: float) -> str:
    """Four steps, so that no style needs to be written into the page."""
    return f"s{min(4, 1 + int(weight * 4))}"


def leading(token: Mapping[str, Any]) -> Mapping[str, Any]:
    """The expert with the largest weight."""
    return max(token["experts"], key=lambda item: float(item["weight"]))


ENVIRONMENT = Environment(
    loader=PackageLoader("registry.web"), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters |= {"size": size, "figure": figure, "percent": percent, "moment": moment, "address": address}
ENVIRONMENT.globals |= {"hues": hues, "strength": strength, "leading": leading}


def page(name: str, **facts: Any) -> str:
    return ENVIRONMENT.get_template(name).render(**facts)


def explanation(answer: Mapping[str, Any]) -> str:
    """One page that needs nothing beside itself."""
    return page("explanation.html", answer=answer, style=(STATIC / "btx.css").read_text())
