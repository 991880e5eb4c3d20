"""The tables that reports are made of: rows of text read from a dossier, numbers rounded for people.

In: a dossier. Out: tables and fields, whose cells say so where a fact is not known. Which table
belongs to which heading is decided in sections.py and answers.py, how it looks in the templates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.catalogue.catalog import Version
from registry.formats.dossier import Dossier, compute, training
from registry.units import duration, size

Figures = Mapping[str, Any]


SHORT = 24


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
    subject = dossier.subject
    approvals = ", ".join(f"{line['actor']} on {line['at'][:10]}" for line in dossier.approvals)
    rows = [
        ("status", dossier.statuses.get(dossier.ref, "registered")),
        ("registered", f"{subject.registered_at[:10]} by {subject.actor}"),
        *(
            (("approved", approvals or "by nobody"), ("released", released(dossier)))
            if subject.ref.kind == "build"
            else ()
        ),
        *(
            ("exported", f"{event.at[:10]} by {event.actor}, for {event.body.get('target')}")
            for event in dossier.exports
        ),
        ("digest", subject.digest),
        ("audit log head", dossier.head),
    ]
    return Fields(tuple(rows))


def released(dossier: Dossier) -> str:
    return (
        f"{dossier.releases[-1].at[:10]} by {dossier.releases[-1].actor}"
        if dossier.releases
        else "not released"
    )


def members(dossier: Dossier) -> Table:
    rows = [
        (
            str(slot),
            str(version.ref),
            str(version.facts.get("mode") or ""),
            dossier.statuses.get(str(version.ref), ""),
            ", ".join(map(str, version.facts.get("data") or ())),
            ", ".join(map(str, version.facts.get("licenses") or ())),
        )
        for slot, version in dossier.members()
    ]
    return Table(("slot", "expert", "mode", "status", "data", "licences"), tuple(rows))


def domains(dossier: Dossier) -> Mapping[str, Figures]:
    """What was measured, by domain; empty where nothing was."""
    evaluation = dossier.subject.facts.get("evaluation") or {}
    found = evaluation if dossier.subject.ref.kind == "build" else evaluation.get("domains") or {}
    return {domain: figures for domain, figures in found.items() if isinstance(figures, Mapping)}


def worse(dossier: Dossier) -> list[str]:
    """Domains on which the untouched seed does better."""
    pairs = {
        domain: (figures.get("bits_per_byte"), figures.get("seed_bits_per_byte"))
        for domain, figures in domains(dossier).items()
    }
    return [
        domain
        for domain, (own, seed) in pairs.items()
        if own is not None and seed is not None and own > seed
    ]


def quality(dossier: Dossier) -> Table:
    build = dossier.subject.ref.kind == "build"
    measured = domains(dossier)
    exact = any("accuracy" in figures for figures in measured.values())
    columns: tuple[str, ...] = (
        ("domain", "seed", "specialist", "build", "against the seed", "gain kept") if build else ()
    )
    columns = columns or ("domain", "seed", "this version", "against the seed")
    rows: list[tuple[str, ...]] = []
    for domain, figures in measured.items():
        seed, specialist, own = (
            figures.get(key)
            for key in ("seed_bits_per_byte", "specialist_bits_per_byte", "bits_per_byte")
        )
        name = f"{domain} (new to the seed)" if build and figures.get("new_to_seed") else domain
        between = (figure(specialist),) if build else ()
        kept = (_kept(seed, specialist, own),) if build else ()
        rows.append(
            (
                name,
                figure(seed),
                *between,
                figure(own),
                _change(seed, own),
                *kept,
                *((_exact(figures),) if exact else ()),
            )
        )
    columns += ("exact answers",) if exact else ()
    return Table(columns, tuple(rows), frozenset(range(1, len(columns))))


def _change(seed: float | None, own: float | None) -> str:
    if seed is None or own is None or not seed:
        return "not measured"
    return f"{'−' if own <= seed else '+'}{100 * abs(own / seed - 1):.0f} %" + (
        " worse" if own > seed else ""
    )


def _kept(seed: float | None, specialist: float | None, own: float | None) -> str:
    """Share of the specialist's gain; a gain under a twentieth of the seed's figure has no share worth a number."""
    if seed is None or specialist is None or own is None:
        return "not measured"
    if own >= seed:
        return "none"
    return (
        percent((seed - own) / (seed - specialist))
        if seed - specialist >= 0.05 * seed
        else "little to keep"
    )


def _exact(figures: Figures) -> str:
    return percent(figures["accuracy"]) if "accuracy" in figures else "none to check"


def data(dossier: Dossier) -> Table:
    columns = (
        "data",
        "status",
        "licence",
        "source",
        "rights holder",
        "purpose",
        "personal data",
        "size",
    )
    return Table(
        columns,
        tuple(_data_row(dossier, version) for version in dossier.of("data")),
        frozenset({7}),
    )


def _data_row(dossier: Dossier, version: Version) -> tuple[str, ...]:
    facts = version.facts
    licence, source, holder, purpose, pii = (
        str(facts.get(key) or "not stated")
        for key in ("license", "source", "holder", "purpose", "pii")
    )
    until = f", kept until {facts['retain_until']}" if facts.get("retain_until") else ""
    held = size(int(facts["bytes"])) if facts.get("bytes") is not None else "not stated"
    return (
        str(version.ref),
        dossier.statuses.get(str(version.ref), ""),
        licence,
        source,
        holder,
        purpose,
        pii + until,
        held,
    )


def cost(dossier: Dossier) -> Table:
    """Per version and in all: an addition to a model counts towards its compute too."""
    rows = [
        (
            str(version.ref),
            number(train.get("tokens")),
            flops(train.get("flops")),
            hours(train.get("wall_s")),
        )
        for version in (*dossier.of("seed"), *dossier.of("expert"))
        for train in [training(version)]
    ]
    for version in dossier.of("build"):
        tune = (version.facts.get("cost") or {}).get("tune") or {}
        rows.append(
            (
                f"{version.ref}, tuning",
                number(tune.get("tokens")),
                flops(tune.get("flops")),
                hours(tune.get("wall_s")),
            )
        )
    total = compute(dossier)
    rows.append(
        ("reported in all", number(total["tokens"]), flops(total["flops"]), hours(total["wall_s"]))
    )
    return Table(
        ("version", "tokens", "floating-point operations", "time"),
        tuple(rows),
        frozenset({1, 2, 3}),
    )


def waivers(dossier: Dossier) -> Table:
    rows = [
        (
            line["rule"],
            line["subject"],
            line["gate"],
            str(line["until"])[:10],
            line["actor"],
            line["why"],
        )
        for line in dossier.waivers()
    ]
    return Table(("rule", "for", "gate", "until", "signed by", "why"), tuple(rows))


def gates(dossier: Dossier) -> Table:
    """The newest verdict of each gate on each version, with what its rules had to say."""
    rows = []
    for ref in dict.fromkeys(event.subject for event in dossier.verdicts):
        for gate, event in dossier.last_verdicts(ref).items():
            told = [
                reason
                for reason in event.body.get("reasons", ())
                if event.body["rules"].get(reason["rule"]) != "allowed"
            ]
            words = "; ".join(f"{reason['rule']}: {reason['message']}" for reason in told)
            rows.append(
                (
                    ref,
                    gate,
                    str(event.body["outcome"]),
                    str(len(event.body["rules"])),
                    event.at[:10],
                    words or "nothing",
                )
            )
    return Table(
        ("candidate", "gate", "verdict", "rules", "day", "said"), tuple(rows), frozenset({3})
    )


def reached(dossier: Dossier) -> Table | None:
    """What was made from the subject, and what taking it out of each build means; None where nothing was."""
    if dossier.impact is None:
        return None
    rows = [
        (str(ref), dossier.statuses.get(str(ref), ""), "", "") for ref in dossier.impact.experts
    ]
    builds = [build for build in dossier.impact.builds if build.removal != "none"]
    rows += [
        (str(build.ref), dossier.statuses.get(str(build.ref), ""), build.removal, build.why)
        for build in builds
    ]
    return Table(("made from it", "status", "removal", "why"), tuple(rows)) if rows else None


def steps(dossier: Dossier) -> Table:
    nodes = sorted(dossier.graph.nodes, key=lambda node: (node.registered_at, str(node.ref)))
    rows = [
        (node.registered_at[:10], str(node.ref), _from(dossier, node), node.actor) for node in nodes
    ]
    return Table(("day", "made", "from", "by"), tuple(rows))


def _from(dossier: Dossier, version: Version) -> str:
    by_relation: dict[str, list[str]] = {}
    for parent, relation in dossier.parents(version):
        words = {"seed": "started from", "member": "members"}.get(
            relation, relation.replace("_", " ")
        )
        by_relation.setdefault(words, []).append(str(parent.ref))
    return (
        "; ".join(f"{relation} {', '.join(refs)}" for relation, refs in sorted(by_relation.items()))
        or "from outside"
    )


def changes(dossier: Dossier) -> Table:
    events = sorted(
        (*dossier.verdicts, *dossier.releases, *dossier.exports, *dossier.withdrawals),
        key=lambda event: event.seq,
    )
    rows = [
        (
            event.at[:10],
            event.kind,
            event.subject,
            str(event.body.get("gate") or event.body.get("why") or ""),
            event.actor,
        )
        for event in events
    ]
    return Table(("day", "event", "of", "gate or reason", "by"), tuple(rows))


def figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "not measured"


def percent(value: float) -> str:
    return f"{100 * value:.{0 if abs(value) >= 0.1 else 1}f} %"


def number(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "not reported"


def flops(value: Any) -> str:
    return f"{value:.2e}" if isinstance(value, int | float) else "not reported"


def hours(value: Any) -> str:
    if not isinstance(value, int | float):
        return "not reported"
    return duration(value)
