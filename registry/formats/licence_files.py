"""What a build that is passed on carries of licences: LICENSE, NOTICE, texts and others' terms.

In:  a dossier; a reader of attached texts.  Out: the files by path, and what nobody has answered.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry.formats import layout, tables
from registry.formats.audience import public_text
from registry.formats.dossier import Dossier, stated_license
from registry.governance.build_licence import BuildLicence
from registry.licence_terms import CommunityLicence, community, source_of_terms, text_of
from registry.licences import each
from registry.records.facts import DataFacts, Facts, SeedFacts
from registry.records.kinds import DataUse
from registry.records.own_facts import LICENCE_TEXT, Attachment
from registry.records.version import Version

# An own fact.
MODEL_NAME = "model_name"
FOLDER = "LICENSES"

ReadText = Callable[[Attachment], str | None]


@dataclass(frozen=True)
class Attribution:
    """One thing that the build was made from, as it is credited.

    Attributes:
        ref: its reference.
        licence: the expression that applies to it.
        lines: holder, source and what was done with it, a sentence each.
    """

    ref: str
    licence: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class LicenceFiles:
    """Files that travel with a build.

    Attributes:
        texts: by path.
        open: what nobody has answered, a sentence each.
    """

    texts: Mapping[str, str]
    open: tuple[str, ...]


def licence_files(dossier: Dossier, read: ReadText, own_texts: Dossier) -> LicenceFiles:
    """Return the files of licences of a build.

    Args:
        dossier: what may be said of the build.
        read: returns the text of an attached file; None where it is not in the store.
        own_texts: the dossier that names the licences and attached texts in full.

    Returns:
        LICENSE, NOTICE, a text for each licence under LICENSES, and TERMS where a community licence
        asks for something to be passed on.
    """
    licence = dossier.licence
    full = own_texts.licence
    if licence is None or full is None:
        return LicenceFiles({}, ())
    open_questions = list(full.questions)
    texts, missing = _licence_texts(full, own_texts, read)
    open_questions += missing
    others = [one for name in full.licences if (one := community(name)) is not None]
    open_questions += _names(dossier, others)
    files = {
        "LICENSE": _license(dossier, licence),
        "NOTICE": layout.text_page(
            "notice.txt.j2",
            ref=dossier.ref,
            licence=licence,
            terms_source=source_of_terms(),
            attributions=attributions(dossier),
            notices=[one.notice for one in others],
        ),
        **texts,
    }
    if others:
        files["TERMS"] = layout.text_page("terms.txt.j2", ref=dossier.ref, licences=others)
    return LicenceFiles(files, tuple(open_questions))


def attributions(dossier: Dossier) -> list[Attribution]:
    """Return who is credited for what, the seed first."""
    return [
        *(_seed(version) for version in dossier.of(SeedFacts)),
        *(_data(version) for version in dossier.of(DataFacts)),
    ]


def _seed(version: Version[SeedFacts]) -> Attribution:
    facts = version.facts
    known = community(facts.license or "")
    lines = [f"Model by {known.holder}."] if known else []
    if facts.converted_from:
        lines.append(f"Converted from {facts.converted_from.name}.")
    lines.append("Changed: copies of it were trained further and joined into a mixture of experts.")
    return Attribution(str(version.ref), facts.license or "not stated", tuple(lines))


def _data(version: Version[DataFacts]) -> Attribution:
    facts = version.facts
    lines = []
    if facts.holder:
        lines.append(f"Rights held by {facts.holder}.")
    if facts.source:
        lines.append(f"Source: {facts.source}.")
    if facts.url:
        lines.append(f"From {facts.url}.")
    if facts.document_licenses:
        lines.append(f"Documents in it are under {', '.join(facts.document_licenses)}.")
    done = "Used to measure" if facts.use == DataUse.EVALUATION else "Used to train"
    lines.append(f"{done} the model; its text is not passed on.")
    return Attribution(str(version.ref), tables.licence_of(facts), tuple(lines))


def _license(dossier: Dossier, licence: BuildLicence) -> str:
    """Return the text itself of a single licence that SPDX lists, else what applies."""
    text = text_of(licence.expression) if licence.expression else None
    if text is not None:
        return text
    return layout.text_page("license.txt.j2", ref=dossier.ref, licence=licence, folder=FOLDER)


def _licence_texts(
    licence: BuildLicence, dossier: Dossier, read: ReadText
) -> tuple[dict[str, str], list[str]]:
    """Return the texts of all licences by path, and the texts that nobody attached."""
    texts, missing = {}, []
    named = sorted({*licence.licences, *each([licence.expression])})
    for name in named:
        text = text_of(name) or _attached(name, dossier, read)
        if text is not None:
            texts[f"{FOLDER}/{name}.txt"] = text
        else:
            missing.append(_no_text(name, dossier))
    return texts, missing


def _attached(name: str, dossier: Dossier, read: ReadText) -> str | None:
    """Return the text that is attached to anything under a licence."""
    for version in _under(name, dossier):
        kept = public_text(dossier, version)
        text = read(kept) if kept else None
        if text is not None:
            return text
    return None


def _under(name: str, dossier: Dossier) -> list[Version[Facts]]:
    return [node for node in dossier.graph.nodes if name in each([stated_license(node)])]


def _no_text(name: str, dossier: Dossier) -> str:
    under = _under(name, dossier)
    ref = str(under[0].ref) if under else dossier.ref
    return (
        f"the text of {name} is not kept: btx fact set {ref} --attach {LICENCE_TEXT}=FILE "
        "--why TEXT"
    )


def _names(dossier: Dossier, others: list[CommunityLicence]) -> list[str]:
    """Return what the model's name lacks."""
    stated = dossier.own_fact(MODEL_NAME)
    begins = {one.name_begins: one.title for one in others if one.name_begins}
    return [
        f"{title} asks that the model's name begins with {start}: btx fact set {dossier.ref} "
        f'{MODEL_NAME}="{start} ..." --why TEXT'
        for start, title in begins.items()
        if stated is None or not stated.text.startswith(start)
    ]
