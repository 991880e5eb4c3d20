"""The report for people: one page that answers an auditor, as HTML or as Markdown.

In: a dossier. Out: text. What the sections say is decided in sections.py, how a page looks in the
templates; here is what else a page carries: its chapters, where it comes from and how to check it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from registry.formats import layout
from registry.formats.audience import public
from registry.formats.dossier import Dossier, tool_version
from registry.formats.legal_texts import ANNEX_XI, TRAINING_SUMMARY, LegalText
from registry.formats.sections import Section, State, answered, attention, overview
from registry.records.kinds import Kind

KINDS = {
    Kind.BUILD: "Model build",
    Kind.EXPERT: "Expert",
    Kind.SEED: "Seed model",
    Kind.DATA: "Data version",
}
SEPARATORS = " /@.,:_-"


@dataclass(frozen=True)
class Chapter:
    """A part of the report.

    Attributes:
        anchor: the name that links to it.
        title: its heading.
        about: what a legal text is called in full; empty in the overview.
        sections: in reading order.
    """

    anchor: str
    title: str
    about: str
    sections: Sequence[Section]

    @property
    def tally(self) -> str:
        """How many of its points are recorded, in part, or missing."""
        counts = Counter(section.state for section in self.sections)
        states = ", ".join(f"{counts[state]} {state}" for state in State)
        return f"Of {len(self.sections)} points {states}."


@dataclass(frozen=True)
class Report:
    """What the templates of a report show.

    Attributes:
        ref: the version that is reported.
        kind: what sort of version it is, as a heading says it.
        digest: its SHA-256.
        origin: who wrote the report, when and from what.
        attention: what to know before signing, a sentence each.
        checks: how a reader checks the report with other tools.
        page_footer: what stands at the foot of every printed page.
        chapters: the overview and the legal texts.
    """

    ref: str
    kind: str
    digest: str
    origin: str
    attention: Sequence[str]
    checks: Sequence[str]
    page_footer: str
    chapters: Sequence[Chapter]


def html(dossier: Dossier) -> str:
    """Return the report as one HTML page without scripts, links to elsewhere or files beside it."""
    return layout.html_page("report.html.j2", report=describe(dossier))


def markdown(dossier: Dossier) -> str:
    """Return the report as Markdown."""
    return layout.markdown_page("report.md.j2", report=describe(dossier))


def describe(dossier: Dossier) -> Report:
    """Return what the templates of a report show of a dossier."""
    status = dossier.status(dossier.ref)
    return Report(
        ref=dossier.ref,
        kind=KINDS.get(dossier.kind, dossier.kind),
        digest=dossier.subject.digest,
        origin=(
            f"Written {dossier.made_at} by btx-registry {tool_version()} from the registry's own "
            f"rows. Status: {status}."
        ),
        attention=attention(dossier),
        checks=_checks(dossier),
        page_footer=_page_footer(dossier),
        chapters=_chapters(dossier),
    )


def _chapters(dossier: Dossier) -> list[Chapter]:
    chapters = [Chapter("part-1", "Overview", "", overview(dossier))]
    # Both ask about models only.
    if dossier.kind != Kind.DATA:
        chapters.append(_chapter("part-2", ANNEX_XI, dossier))
        chapters.append(_chapter("part-3", TRAINING_SUMMARY, public(dossier)))
    return chapters


def _chapter(anchor: str, law: LegalText, dossier: Dossier) -> Chapter:
    return Chapter(anchor, law.title, law.about, answered(law, dossier))


def _checks(dossier: Dossier) -> Sequence[str]:
    return (
        f"Files: SHA-256 of each file is in the in-toto statement of {dossier.ref}; compare with "
        "sha256sum.",
        "Attestation: a DSSE envelope with an Ed25519 signature; any in-toto or securesystemslib "
        "verifier reads it.",
        f"Log: the newest event when this was written is {dossier.head}; an audit with it as "
        "pinned head shows whether the past changed.",
    )


def _page_footer(dossier: Dossier) -> str:
    """Name and day, in characters that mean nothing in a style sheet."""
    text = f"{dossier.ref}, written {dossier.made_at}"
    return "".join(mark for mark in text if mark.isalnum() or mark in SEPARATORS)
