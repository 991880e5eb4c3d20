"""Reports for people and for other tools: what is recorded of one version, in outside formats.

In: a Dossier, which dossier.collect reads from the catalogue. Out: text. Each format has a file of
its own and reads nothing but the dossier. What is not recorded is left out, or said to be missing;
nothing is guessed. Signing is left to registry.governance.attestations.
"""

from collections.abc import Callable, Mapping
from functools import partial

from registry.errors import Invalid
from registry.formats import (
    croissant,
    cyclonedx,
    forms,
    in_toto,
    model_card,
    openlineage,
    prov,
    report,
    spdx,
)
from registry.formats.audience import public
from registry.formats.dossier import Dossier, collect

__all__ = ["FORMATS", "PAGES", "STATEMENTS", "Dossier", "collect", "public", "render"]

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
    **{name: partial(forms.markdown, name) for name in forms.FORMS},
}
# Formats that are a page where a page is asked for.
PAGES: Mapping[str, Callable[[Dossier], str]] = {
    name: partial(forms.html, name) for name in forms.FORMS
}
# Formats that are signed as they are: the envelope holds the statement itself.
STATEMENTS = ("in-toto", "vsa")


def render(dossier: Dossier, form: str, *, as_page: bool = False) -> str:
    """Write a dossier in one of the FORMATS.

    Args:
        dossier: what is recorded of a version.
        form: the format's name, a key of FORMATS.
        as_page: as one HTML page, where the format has one.

    Returns:
        The text of the whole file.

    Raises:
        Invalid: for another name, and for a kind of version that the format does not describe.
    """
    if form not in FORMATS:
        raise Invalid(
            f"format {form!r}",
            found=form,
            expected=f"one of {', '.join(FORMATS)}",
            next="btx report --help",
        )
    writers = {**FORMATS, **PAGES} if as_page else FORMATS
    return writers[form](dossier)
