"""Forms that laws and codes of practice ask of a model's provider, each a document of its own.

In: a dossier. Out: text, as Markdown or as one HTML page. What a form asks is in texts/*.yaml, what
answers it in sections.py; here is what stands around the answers.
"""

from dataclasses import dataclass

from registry.errors import Invalid
from registry.formats import layout
from registry.formats.audience import PROVIDER, public
from registry.formats.dossier import Dossier, tool_version
from registry.formats.legal_texts import (
    ANNEX_IV,
    ANNEX_XI,
    ANNEX_XII,
    MODEL_DOCUMENTATION,
    TRAINING_SUMMARY,
    LegalText,
)
from registry.formats.licence_files import MODEL_NAME
from registry.formats.report import Chapter
from registry.formats.sections import answered
from registry.formats.tables import NOT_PUBLIC, NOT_STATED
from registry.records.kinds import Kind
from registry.records.own_facts import ORGANISATION

FORMS = {
    "annex-iv": ANNEX_IV,
    "annex-xi": ANNEX_XI,
    "annex-xii": ANNEX_XII,
    "cop-model-documentation": MODEL_DOCUMENTATION,
    "training-summary": TRAINING_SUMMARY,
}
# Forms that are for everybody, whoever asks for them.
ALWAYS_PUBLIC = ("training-summary",)


@dataclass(frozen=True)
class Form:
    """What the templates of a form show.

    Attributes:
        model: the model's name.
        provider: who provides it.
        date: when the form was written.
        origin: from what, and by which program.
        source: the document that asks for it.
        chapter: the answers, under the form's title.
        for_everybody: whether it holds only what may leave the company.
    """

    model: str
    provider: str
    date: str
    origin: str
    source: str
    chapter: Chapter
    for_everybody: bool


def html(name: str, dossier: Dossier) -> str:
    """Return a form as one HTML page. Raises Invalid for what is no build."""
    return layout.html_page("form.html.j2", form=describe(name, dossier))


def markdown(name: str, dossier: Dossier) -> str:
    """Return a form as Markdown. Raises Invalid for what is no build."""
    return layout.markdown_page("form.md.j2", form=describe(name, dossier))


def describe(name: str, dossier: Dossier) -> Form:
    """Return what the templates of a form show of a build.

    Raises:
        Invalid: for another kind of version.
    """
    if dossier.kind != Kind.BUILD:
        raise Invalid(
            dossier.ref,
            found=f"a version of kind {dossier.kind}",
            expected="a build",
            next=f"btx report build/N --format {name}",
        )
    law = FORMS[name]
    shown = public(dossier) if name in ALWAYS_PUBLIC and not dossier.public else dossier
    model, provider = shown.own_fact(MODEL_NAME), shown.organisation.get(PROVIDER)
    unnamed = NOT_PUBLIC if shown.is_own_withheld(PROVIDER, ORGANISATION) else NOT_STATED
    return Form(
        model=f"{model.text} ({shown.ref})" if model else shown.ref,
        provider=provider.text if provider else f"provider {unnamed}",
        date=shown.made_at[:10],
        origin=(
            f"Written {shown.made_at} by btx-registry {tool_version()} from the registry's own "
            f"rows; digest of the build {shown.subject.digest}, head of the log {shown.head}."
        ),
        source=_source(law),
        chapter=Chapter("form", law.title, law.about, answered(law, shown)),
        for_everybody=shown.public,
    )


def _source(law: LegalText) -> str:
    return f"{law.source.document}, {law.source.date.isoformat()}, {law.source.url}"
