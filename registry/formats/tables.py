"""The tables that reports are made of: rows of text read from a dossier, numbers for people.

In: a dossier. Out: tables and fields, whose cells say so where a fact is not known. Which table
belongs to which heading is decided in sections.py and answers.py, how it looks in the templates.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from registry.formats.dossier import Dossier, compute, trained, training
from registry.records.events import Exported, Withdrawn
from registry.records.facts import BuildFacts, DataFacts, Facts, Spent
from registry.records.references import parse
from registry.records.results import Result, labels
from registry.records.version import Event, Version
from registry.units import duration, figure, percent, power, size

# A cell up to this many characters stays on one line.
SHORT = 24
# A gain of a specialist under this share of the seed's figure is too small to take shares of.
LEAST_GAIN = 0.05

NOT_MEASURED = "not measured"
NOT_REPORTED = "not reported"
NOT_STATED = "not stated"
NOT_PUBLIC = "not public"


@dataclass(frozen=True)
class Table:
    """Cells of text under column names.

    Attributes:
        columns: one name for each column.
        rows: as many cells in each row as there are columns.
        numeric: indices of the columns that are aligned to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()

    @property
    def short_columns(self) -> frozenset[int]:
        """Indices of the columns whose cells all fit on one line: up to SHORT characters."""
        return frozenset(
            column
            for column in range(len(self.columns))
            if all(len(row[column]) <= SHORT for row in self.rows)
        )


@dataclass(frozen=True)
class Fields:
    """Names and values, one line each."""

    rows: tuple[tuple[str, str], ...]

    def as_table(self) -> Table:
        """Return the fields as a table, for formats that have nothing else."""
        return Table(("what", "recorded"), self.rows)


@dataclass(frozen=True)
class Pointer:
    """A link to a section of the overview, instead of its table a second time."""

    title: str


Part = str | Table | Fields | Pointer


def status(dossier: Dossier) -> Fields:
    """Return what the subject is good for now, who registered it, and what fixes it."""
    subject = dossier.subject
    rows = [
        ("status", str(dossier.status(dossier.ref))),
        ("registered", f"{_day(subject.registered_at)} by {subject.actor}"),
    ]
    if dossier.build:
        if not dossier.public:
            approvals = [f"{line.actor} on {_day(line.at)}" for line in dossier.approvals]
            rows.append(("approved", ", ".join(approvals) or "by nobody"))
        rows.append(("released", _released(dossier)))
    for event in dossier.exports:
        target = event.read(Exported).target
        rows.append(("exported", f"{_day(event.at)} by {event.actor}, for {target}"))
    rows += [("digest", subject.digest), ("audit log head", dossier.head)]
    return Fields(tuple(rows))


def licence(dossier: Dossier) -> Fields | None:
    """Return under which licence a build may be passed on, and why; None for another kind."""
    answer = dossier.licence
    if answer is None:
        return None
    rows = [("licence", f"{answer.described} ({answer.answer})")]
    rows += [("why", reason) for reason in answer.reasons]
    rows += [("open", question) for question in answer.questions]
    return Fields(tuple(rows))


def members(dossier: Dossier) -> Table:
    """Return the experts of a build, by slot."""
    rows = []
    for slot, version in dossier.members():
        facts = version.facts
        rows.append(
            (
                str(slot),
                str(version.ref),
                str(facts.mode or ""),
                str(dossier.status(version.ref)),
                ", ".join(facts.data),
                ", ".join(licence for licence in facts.licenses if licence),
            )
        )
    return Table(("slot", "expert", "mode", "status", "data", "licences"), tuple(rows))


def worse(dossier: Dossier) -> list[str]:
    """Return the results, by their labels, on which the untouched seed does better."""
    names = labels(dossier.results)
    return [
        names[result.data]
        for result in dossier.results
        if result.change is not None and result.change > 0
    ]


def quality(dossier: Dossier) -> Table:
    """Return what was measured, a row for each data version.

    Args:
        dossier: what is recorded of an expert or a build.

    Returns:
        Bits per byte beside the seed's; of a build also beside those of its best specialist, which
        is named. Exact answers have a column where any could be checked.
    """
    results = dossier.results
    names = labels(results)
    columns: dict[str, list[str]] = {}
    if dossier.build:
        columns["domain"] = [_with_novelty(names[result.data], result) for result in results]
        columns["seed"] = [_measured(result.seed_bits_per_byte) for result in results]
        columns["specialist"] = [_measured(_specialist_figure(result)) for result in results]
        columns["build"] = [_measured(result.bits_per_byte) for result in results]
    else:
        columns["domain"] = [names[result.data] for result in results]
        columns["seed"] = [_measured(result.seed_bits_per_byte) for result in results]
        columns["this version"] = [_measured(result.bits_per_byte) for result in results]
    columns["against the seed"] = [_change(result) for result in results]
    if dossier.build:
        columns["gain kept"] = [_gain_kept(result) for result in results]
    if any(result.accuracy is not None for result in results):
        columns["exact answers"] = [_exact(result) for result in results]
    numeric = frozenset(range(1, len(columns)))
    if dossier.build:
        columns["best specialist"] = [_specialist_name(dossier, result) for result in results]
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), numeric)


def data(dossier: Dossier) -> Table:
    """Return what is stated of each data version."""
    columns = (
        "data",
        "status",
        "licence",
        "source",
        "rights holder",
        "purpose",
        "language",
        "personal data",
        "size",
    )
    rows = tuple(_data_row(dossier, version) for version in dossier.of(DataFacts))
    return Table(columns, rows, frozenset({columns.index("size")}))


def cost(dossier: Dossier) -> Table:
    """Return what each training and tuning took, and all of them: additions count too."""
    rows = [
        (str(version.ref), *_spent(training(version) or Spent())) for version in trained(dossier)
    ]
    rows += [
        (f"{build.ref}, tuning", *_spent(build.facts.cost.tune)) for build in dossier.of(BuildFacts)
    ]
    rows.append(("reported in all", *_spent(compute(dossier))))
    columns = ("version", "tokens", "floating-point operations", "time")
    return Table(columns, tuple(rows), frozenset({1, 2, 3}))


def waivers(dossier: Dossier) -> Table:
    """Return the exceptions that the newest verdicts lean on."""
    rows = []
    for used in dossier.waivers():
        waiver = used.waiver
        until = _day(waiver.until)
        rows.append((waiver.rule, waiver.subject, used.gate, until, waiver.actor, waiver.why))
    return Table(("rule", "for", "gate", "until", "signed by", "why"), tuple(rows))


def gates(dossier: Dossier) -> Table:
    """Return the newest verdict of each gate on each version, with what its rules had to say."""
    rows = []
    for verdict in dossier.all_last_verdicts():
        event, body = verdict.event, verdict.body
        allowed = verdict.rules("allowed")
        messages = [
            f"{reason.rule}: {reason.message}"
            for reason in body.reasons
            if reason.rule not in allowed
        ]
        rows.append(
            (
                event.subject,
                str(body.gate),
                str(body.outcome),
                str(len(body.rules)),
                _day(event.at),
                "; ".join(messages) or "nothing",
            )
        )
    columns = ("candidate", "gate", "verdict", "rules", "day", "said")
    return Table(columns, tuple(rows), frozenset({3}))


def reached(dossier: Dossier) -> Table | None:
    """Return what was made from the subject, and what taking it out of each build means.

    None where nothing was made from it.
    """
    if dossier.impact is None:
        return None
    rows = [(str(ref), str(dossier.status(ref)), "", "") for ref in dossier.impact.experts]
    rows += [
        (str(build.ref), str(dossier.status(build.ref)), build.removal, build.why)
        for build in dossier.impact.builds
        if build.removal != "none"
    ]
    return Table(("made from it", "status", "removal", "why"), tuple(rows)) if rows else None


def steps(dossier: Dossier) -> Table:
    """Return what was made when, by whom and from what, the oldest first."""
    nodes = sorted(dossier.graph.nodes, key=lambda node: (node.registered_at, str(node.ref)))
    rows = [
        (_day(node.registered_at), str(node.ref), _parents(dossier, node), node.actor)
        for node in nodes
    ]
    return Table(("day", "made", "from", "by"), tuple(rows))


def changes(dossier: Dossier) -> Table:
    """Return the events on the subject and on what it was made from, the oldest first."""
    reasons = {verdict.event.seq: str(verdict.body.gate) for verdict in dossier.verdicts}
    for event in dossier.withdrawals:
        reasons[event.seq] = event.read(Withdrawn).why
    logged = [verdict.event for verdict in dossier.verdicts]
    events: list[Event] = [*logged, *dossier.releases, *dossier.exports, *dossier.withdrawals]
    events += [*dossier.contests, *dossier.erasures]
    rows = []
    for event in sorted(events, key=lambda event: event.seq):
        reason = reasons.get(event.seq, "")
        rows.append((_day(event.at), event.kind, event.subject, reason, event.actor))
    return Table(("day", "event", "of", "gate or reason", "by"), tuple(rows))


def total_size(versions: Iterable[Version[DataFacts]]) -> str:
    """Return how much text some data versions hold, as far as it is recorded."""
    return size(sum(version.facts.bytes or 0 for version in versions))


def number(value: float | None) -> str:
    """Return a count with all its digits, or that nobody reported it."""
    return NOT_REPORTED if value is None else f"{value:,.0f}"


def unknown(dossier: Dossier, version: Version[Facts], name: str) -> str:
    """Return what is written in place of a fact: it stays in the company, or nobody stated it."""
    return NOT_PUBLIC if dossier.is_withheld(version, name) else NOT_STATED


def _day(moment: str) -> str:
    return moment[:10]


def _released(dossier: Dossier) -> str:
    if not dossier.releases:
        return "not released"
    newest = dossier.releases[-1]
    return f"{_day(newest.at)} by {newest.actor}"


def _written(value: float | None, write: Callable[[float], str], unknown: str) -> str:
    return unknown if value is None else write(value)


def _measured(value: float | None) -> str:
    return _written(value, figure, NOT_MEASURED)


def _spent(spent: Spent) -> tuple[str, str, str]:
    return (
        number(spent.tokens),
        _written(spent.flops, power, NOT_REPORTED),
        _written(spent.wall_s, duration, NOT_REPORTED),
    )


def _with_novelty(label: str, result: Result) -> str:
    return f"{label} (new to the seed)" if result.new_to_seed else label


def _specialist_figure(result: Result) -> float | None:
    return result.specialist.bits_per_byte if result.specialist else None


def _specialist_name(dossier: Dossier, result: Result) -> str:
    """Name the best specialist.

    A row that does not name it was written with one member for each data version.
    """
    if result.specialist and result.specialist.ref:
        return result.specialist.ref
    trained = [
        str(version.ref)
        for _, version in dossier.members()
        if any(_same_data(result.data, ref) for ref in version.facts.data)
    ]
    return trained[0] if len(trained) == 1 else "not recorded"


def _same_data(measured: str, trained_on: str) -> bool:
    """Compare two data versions; an older row may say what was measured without its number."""
    left, right = parse(measured), parse(trained_on)
    return left.name == right.name and left.version in (None, right.version)


def _change(result: Result) -> str:
    if result.change is None:
        return NOT_MEASURED
    if result.change > 0:
        return f"+{percent(result.change)} worse"
    return f"−{percent(-result.change)}"


def _gain_kept(result: Result) -> str:
    seed, specialist = result.seed_bits_per_byte, _specialist_figure(result)
    if seed is None or specialist is None or result.change is None:
        return NOT_MEASURED
    if result.change >= 0:
        return "none"
    if result.gain_kept is None or seed - specialist < LEAST_GAIN * seed:
        return "little to keep"
    return percent(result.gain_kept)


def _exact(result: Result) -> str:
    return _written(result.accuracy, percent, "none to check")


def _data_row(dossier: Dossier, version: Version[DataFacts]) -> tuple[str, ...]:
    facts = version.facts
    until = f", kept until {facts.retain_until}" if facts.retain_until else ""
    return (
        str(version.ref),
        str(dossier.status(version.ref)),
        facts.license or NOT_STATED,
        facts.source or unknown(dossier, version, "source"),
        facts.holder or unknown(dossier, version, "holder"),
        facts.purpose or unknown(dossier, version, "purpose"),
        facts.language or NOT_STATED,
        (facts.pii or NOT_STATED) + until,
        _written(facts.bytes, size, NOT_STATED),
    )


def _parents(dossier: Dossier, version: Version[Facts]) -> str:
    names = {"seed": "started from", "member": "members"}
    by_relation: dict[str, list[str]] = {}
    for parent, relation in dossier.parents(version):
        words = names[relation] if relation in names else relation.replace("_", " ")
        by_relation.setdefault(words, []).append(str(parent.ref))
    parts = [f"{words} {', '.join(refs)}" for words, refs in sorted(by_relation.items())]
    return "; ".join(parts) or "from outside"
