"""Reports for people and for other tools: what is recorded of one version, in formats that exist outside.

In:  a Dossier (dossier.collect reads it from the catalogue).  Out: text. Each format has a file of its own, pure over the dossier.
What is not recorded is left out, or said to be missing; nothing is guessed. Signing is attest.py's.
"""

from collections.abc import Callable, Mapping

from registry.errors import Invalid
from registry.formats import (
    croissant,
    cyclonedx,
    in_toto,
    model_card,
    openlineage,
    prov,
    report,
    spdx,
)
from registry.formats.dossier import Dossier, collect

__all__ = ["FORMATS", "STATEMENTS", "Dossier", "collect", "render"]

FORMATS: Mapping[str, Callable[[Dossier], str]] = {
    "html": report.html,
    "md": report.markdown,
    "model-card": model_card.text,
    "cyclonedx": cyclonedx.text,
    "spdx": spdx.text,
    "openlineage": openlineage.text,
    "prov": prov.text,
    "croissant": croissant.text,
    "in-toto": in_toto.text,
    "vsa": in_toto.summary_text,
}
STATEMENTS = ("in-toto", "vsa")  # signed as they are: the envelope holds them


def render(dossier: Dossier, form: str) -> str:
    """The dossier in one of FORMATS. Raises Invalid for another, or for a kind of version that the format has no words for."""
    if form not in FORMATS:
        raise Invalid(
            f"format {form!r}",
            found=form,
            expected=f"one of {', '.join(FORMATS)}",
            next="btx report --help",
        )
    return FORMATS[form](dossier)
