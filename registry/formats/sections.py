"""The sections of a report: an overview, what to know before signing, and what two legal texts ask.

In: a dossier. Out: sections, each with what it needs, what is recorded and what is missing. Laying
them out as a page is the templates' work; the legal texts are in texts/*.yaml.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from registry.formats import tables
from registry.formats.answers_on_data import withdrawals
from registry.formats.audience import public
from registry.formats.dossier import Dossier
from registry.formats.legal_answers import ANSWERS
from registry.formats.legal_points import Answer
from registry.formats.legal_texts import ANNEX_XI, TRAINING_SUMMARY, LegalText, Point
from registry.formats.stated_answers import applies, stated
from registry.formats.tables import Part
from registry.records import division
from registry.records.facts import DataFacts
from registry.records.kinds import UNUSABLE, Kind

MOST_NAMES = 6


class State(StrEnum):
    """How much of what a section needs is recorded."""

    RECORDED = "recorded"
    PARTLY = "recorded in part"
    MISSING = "missing"


@dataclass(frozen=True)
class Section:
    """One heading of a report.

    Attributes:
        title: the heading.
        needs: what a legal text asks, in short; empty in the overview.
        recorded: sentences, tables and fields, in reading order.
        missing: what is asked and nobody recorded.
    """

    title: str
    needs: str = ""
    recorded: tuple[Part, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """How much of what the section needs is recorded."""
        if not self.missing:
            return State.RECORDED
        return State.PARTLY if self.recorded else State.MISSING


def overview(dossier: Dossier) -> list[Section]:
    """Return what a reader wants first: status, members, quality, data, cost, exceptions."""
    sections = [Section("Status", recorded=(tables.status(dossier), *withdrawals(dossier)))]
    if dossier.build:
        sections.append(Section("Members", recorded=(tables.members(dossier),)))
    if dossier.results:
        sections.append(Section("Quality", recorded=(tables.quality(dossier), _measure(dossier))))
    if licence := tables.licence(dossier):
        sections.append(Section("Licence", recorded=(licence,)))
    data = tables.data(dossier) if dossier.of(DataFacts) else "No data version is recorded."
    sections.append(Section("Data and licences", recorded=(data,)))
    if reached := tables.reached(dossier):
        sections.append(Section("What was made from it", recorded=(reached,)))
    if dossier.kind != Kind.DATA:
        sections.append(Section("Cost", recorded=(tables.cost(dossier),)))
    if dossier.public:
        return sections
    waivers = tables.waivers(dossier) if dossier.waivers() else "No rule was waived."
    sections.append(Section("Waivers", recorded=(waivers,)))
    gates = tables.gates(dossier) if dossier.verdicts else "No gate was asked."
    sections.append(Section("Gates", recorded=(gates,)))
    return sections


def attention(dossier: Dossier) -> list[str]:
    """Return what somebody has to know before signing, a sentence each, the worst first."""
    status = dossier.status(dossier.ref)
    lines = [f"Not to be used: it is {status}."] if status in UNUSABLE else []
    lines += withdrawals(dossier)
    lines += _refusals(dossier)
    if dossier.licence and not dossier.licence.expression:
        lines.append(
            "Nobody has said under which licence it may be passed on: "
            f"{'; '.join(dossier.licence.questions)}."
        )
    if dossier.public:
        return [*lines, *_shortcomings(dossier)]
    if dossier.build and not dossier.releases:
        approvers = ", ".join(line.actor for line in dossier.approvals) or "nobody"
        lines.append(f"Not released; approved by {approvers}.")
    if dossier.build and dossier.open_list:
        lines.append("The list of actors is open: names and approvals prove nobody.")
    for used in dossier.waivers():
        waiver = used.waiver
        lines.append(
            f"Waived: {waiver.rule} for {waiver.subject} until {waiver.until[:10]}, "
            f"signed by {waiver.actor}."
        )
    lines += _shortcomings(dossier)
    for rule, refs in _warnings(dossier).items():
        lines.append(f"Warned by {rule}: {_some(refs)}.")
    if dossier.kind != Kind.DATA:
        lines.append(_unanswered(ANNEX_XI, answered(ANNEX_XI, dossier)))
        lines.append(_unanswered(TRAINING_SUMMARY, answered(TRAINING_SUMMARY, public(dossier))))
    return lines


def _shortcomings(dossier: Dossier) -> list[str]:
    """Return what the model does badly, a sentence each."""
    lines = []
    if worse := tables.worse(dossier):
        lines.append(f"Worse than the untouched seed on: {_some(worse)}.")
    if dossier.dead_experts:
        lines.append(f"Experts that no domain uses: {_some(dossier.dead_experts)}.")
    if dossier.build:
        lines += division.sentences(dossier.build)
    return lines


def answered(law: LegalText, dossier: Dossier) -> list[Section]:
    """Return a section for each point of a legal text, in its order."""
    return [_answered(point, dossier) for point in law.points]


def _answered(point: Point, dossier: Dossier) -> Section:
    said = stated(point, dossier)
    # What does not apply needs no answer of the registry's either.
    answer = (
        ANSWERS[point.answer](dossier) if point.answer and applies(point, dossier) else Answer()
    )
    return Section(
        point.heading,
        point.asks,
        recorded=(*answer.recorded, *point.recorded, *said.recorded),
        missing=(*answer.missing, *point.missing, *said.missing),
    )


def _measure(dossier: Dossier) -> str:
    note = "Bits per byte on held-out text that no training read; lower is better."
    if not dossier.build:
        return note
    return (
        f"{note} Gain kept: share of the best specialist's gain over the seed that the build keeps."
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _unanswered(law: LegalText, sections: Sequence[Section]) -> str:
    missing = sum(section.state == State.MISSING for section in sections)
    partly = sum(section.state == State.PARTLY for section in sections)
    have = "has" if missing == 1 else "have"
    return (
        f"Of {len(sections)} points of {law.short_name}, {missing} {have} no answer here and "
        f"{partly} only a part of one."
    )


def _refusals(dossier: Dossier) -> list[str]:
    lines = []
    for gate, verdict in dossier.last_verdicts(dossier.ref).items():
        broken = verdict.rules("refused")
        if broken:
            day = verdict.event.at[:10]
            lines.append(f"Refused at gate {gate} on {day}: {', '.join(broken)}.")
    return lines


def _warnings(dossier: Dossier) -> dict[str, list[str]]:
    """Rule -> the candidates that it warned of in its newest verdict."""
    candidates: dict[str, list[str]] = {}
    for verdict in dossier.all_last_verdicts():
        for rule in verdict.rules("warned"):
            candidates.setdefault(rule, []).append(verdict.event.subject)
    return candidates
