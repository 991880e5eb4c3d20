"""What the EU AI Act's Annex IV and the public summary of training content ask, beside what is recorded and what is not.

In:  a dossier.  Out: sections, each with what it needs, what we hold (tables and sentences) and what is missing.
Laying them out as a page is report.py's. A registry cannot know intent or people's duties: those parts are named as missing, never made up.
Texts: Regulation (EU) 2024/1689, Annex IV; AI Office, template for the public summary of training content (Art. 53(1)(d)), July 2025.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.export.dossier import Dossier, compute, environment, revision, training

Row = Sequence[Any]


@dataclass(frozen=True)
class Table:
    """numbers: columns to be set to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Section:
    """needs: what the law or template asks, in short. holds: what is recorded. missing: what it asks and nobody recorded."""

    title: str
    needs: str
    holds: tuple[str | Table, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        return "held" if not self.missing else "partly" if self.holds else "missing"


def overview(dossier: Dossier) -> list[Section]:
    """What a reader wants first: standing, members, quality, cost, exceptions."""
    return [
        Section("Standing", "", (_standing(dossier), *_withdrawals(dossier))),
        *([Section("Members", "", (_members(dossier),))] if dossier.subject.ref.kind == "build" else []),
        *_quality_section(dossier),
        Section("Data and licences", "", (_data(dossier),) if dossier.of("data") else ("No data version is recorded.",)),
        Section("Cost", "", (_cost(dossier),)),
        Section("Waivers", "", (_waivers(dossier),) if dossier.waivers() else ("No rule was waived.",)),
        Section("Gates", "", (_gates(dossier),) if dossier.verdicts else ("No gate was asked.",)),
    ]


def annex_iv(dossier: Dossier) -> list[Section]:
    """Annex IV, points 1 to 9. A registry of models holds what concerns the model; the system around it is the provider's to add."""
    subject = dossier.subject
    experts = dossier.of("expert")
    undated = [str(version.ref) for version in (*experts, subject) if version.ref.kind != "data" and not environment(version)]
    untold = [str(version.ref) for version in experts if not training(version)]
    return [
        Section(
            "1. General description",
            "Intended purpose, provider, version and predecessors, software and hardware, forms of supply, instructions for use.",
            (
                f"{dossier.ref}, registered {subject.registered_at[:10]} by {subject.actor}; digest {subject.digest}.",
                f"Earlier builds: {', '.join(dossier.previous) or 'none'}.",
                f"Supplied as {len(subject.files)} files in Hugging Face format, {_size(sum(file.bytes for file in subject.files))}.",
            ),
            ("the provider's name and address", "the system's intended purpose", "hardware it is meant to run on", "instructions for use"),
        ),
        Section(
            "2(a) Methods and steps of development",
            "How it was developed, with which pre-trained systems and third-party tools.",
            (_method(dossier), *([_steps(dossier)] if len(dossier.graph.nodes) > 1 else [])),
            tuple(
                [f"programs and versions that made {', '.join(undated)}"] * bool(undated)
                + [f"the code revision that made {dossier.ref}"] * (not revision(subject))
            ),
        ),
        Section(
            "2(b), 2(c) Design and architecture",
            "General logic, key design choices and their reasons, what is optimised, architecture, computing resources used.",
            (_architecture(dossier), _cost(dossier)),
            tuple([f"training cost of {', '.join(untold)}"] * bool(untold) + ["the reasons for these choices, in the provider's words"]),
        ),
        Section(
            "2(d) Data",
            "Training methodologies and data sets: provenance, scope, characteristics, how obtained and selected, labelling, cleaning.",
            (_data(dossier),) if dossier.of("data") else (),
            (*_data_gaps(dossier), "how the data was selected, labelled and cleaned", "known biases and languages of the data"),
        ),
        Section(
            "2(e) Human oversight",
            "Measures that let people oversee the system in use.",
            (),
            ("oversight measures: they belong to the system that uses the model",),
        ),
        Section(
            "2(f) Changes determined beforehand",
            "Changes to the system and its performance that were planned at the start.",
            ("Experts are added, replaced and removed as registered versions; every build is new, an earlier one never changes.",),
        ),
        Section(
            "2(g) Validation and testing",
            "Procedures, data and metrics for accuracy, robustness and discriminatory impact; test logs, dated and signed.",
            ((_quality(dossier), "Bits per byte on held-out text that no training read; lower is better.") if _domains(dossier) else ()),
            ("tests for robustness and discriminatory impact",) + (() if _domains(dossier) else ("an evaluation",)),
        ),
        Section(
            "2(h) Cybersecurity",
            "Measures against tampering and attack.",
            (
                "Weights are safetensors only, no code is loaded; every file is held by SHA-256; every change is an event in a hash chain "
                f"(head {dossier.head or 'unknown'}); approvals and waivers are signed with Ed25519.",
            ),
            ("measures of the system that serves the model",),
        ),
        Section(
            "3. Monitoring, functioning and control",
            "Capabilities and limits, accuracy for the persons it is used on, foreseeable unintended outcomes, oversight, input data.",
            (_limits(dossier),),
            ("foreseeable unintended outcomes and risks to people", "accuracy for groups of persons"),
        ),
        Section(
            "4. Appropriateness of metrics",
            "Why these metrics suit this system.",
            ("Per domain, never averaged: a mean hides a domain that fell and an expert that no token reaches.",),
            ("metrics of the task the system is put to",),
        ),
        Section(
            "5. Risk management",
            "The risk management system of Article 9.",
            (_gates(dossier),) if dossier.verdicts else (),
            ("identification and evaluation of risks to health, safety and fundamental rights",),
        ),
        Section("6. Changes through the lifecycle", "Relevant changes made by the provider.", (_changes(dossier),)),
        Section("7. Standards", "Harmonised standards applied, or the solutions used instead.", (), ("a list of standards applied",)),
        Section("8. Declaration of conformity", "A copy of the EU declaration of conformity.", (), ("the declaration",)),
        Section(
            "9. After market placement", "The system and plan that watch performance in use (Article 72).", (), ("the monitoring plan",)
        ),
    ]


def training_summary(dossier: Dossier) -> list[Section]:
    """The AI Office's template: general information, list of data sources, data processing."""
    data = dossier.of("data")
    total = sum(int(version.facts.get("bytes") or 0) for version in data)
    cost = compute(dossier)
    registered = max((version.registered_at[:10] for version in data), default=None)
    return [
        Section("1.1 Provider", "Name and contact of the provider and its representative.", (), ("the provider's name and contact",)),
        Section(
            "1.2 Model",
            "Names and versions, models it was made from, date of placing on the market.",
            (
                f"{dossier.ref}; made from {', '.join(str(v.ref) for v in dossier.of('seed')) or 'no recorded seed'}.",
                f"Released: {dossier.releases[-1].at[:10] if dossier.releases else 'not released'}.",
            ),
            ("the training content of the seed itself",) if any(not v.facts.get("data") for v in dossier.of("seed")) else (),
        ),
        Section(
            "1.3 Modality, size and other characteristics",
            "Modalities, size per modality in the template's ranges, date of the latest data, languages.",
            (
                f"Text: {_size(total)} in {len(data)} data versions; {_range(cost['tokens'])} (trained on: {_number(cost['tokens'])}).",
                f"Newest data version registered {registered or 'never'}.",
            ),
            ("languages", "when the data itself was collected"),
        ),
        Section(
            "2. List of data sources",
            "Public data sets; data licensed or obtained from others; crawled data, with domains; user data; synthetic data; other.",
            (_data(dossier),) if data else (),
            (
                *_data_gaps(dossier),
                "the class of each source (public, licensed, crawled, user, synthetic): the registry holds its description only",
            ),
        ),
        Section(
            "3.1 Reserved rights",
            "How reservations against text and data mining were respected before and during collection.",
            (f"Licences stated: {', '.join(dossier.licenses()) or 'none'}. No data comes in before its licence is checked.",),
            ("opt-outs honoured when the data was collected",),
        ),
        Section(
            "3.2 Unlawful content",
            "Measures to avoid or remove unlawful content.",
            (f"Personal data: {_pii(dossier)}.",) if data else (),
            ("filters against unlawful content",),
        ),
        Section("3.3 Other", "Anything else about processing, voluntarily.", (_withdrawn(dossier),)),
    ]


def _standing(dossier: Dossier) -> Table:
    subject = dossier.subject
    approvals = ", ".join(f"{line['actor']} ({line['at'][:10]})" for line in dossier.approvals)
    rows = [
        ("version", dossier.ref),
        ("status", dossier.statuses.get(dossier.ref, "registered")),
        ("registered", f"{subject.registered_at[:10]} by {subject.actor}"),
        ("approved", approvals or "by nobody"),
        ("released", dossier.releases[-1].at[:10] if dossier.releases else "not released"),
        ("digest", subject.digest),
        ("audit log head", dossier.head),
    ]
    return Table(("what", "recorded"), tuple(rows))


def _withdrawals(dossier: Dossier) -> tuple[str, ...]:
    return tuple(
        f"{event.subject} was withdrawn {event.at[:10]}: {event.body.get('why') or 'no reason given'}." for event in dossier.withdrawals
    )


def _withdrawn(dossier: Dossier) -> str:
    return " ".join(_withdrawals(dossier)) or "Nothing it was made from has been withdrawn."


def _members(dossier: Dossier) -> Table:
    rows = [
        (str(slot), str(version.ref), str(version.facts.get("mode") or ""), dossier.statuses.get(str(version.ref), ""),
         ", ".join(map(str, version.facts.get("data") or ())), ", ".join(map(str, version.facts.get("licenses") or ())))
        for slot, version in dossier.members()
    ]  # fmt: skip
    return Table(("slot", "expert", "mode", "status", "data", "licences"), tuple(rows))


def _domains(dossier: Dossier) -> Mapping[str, Mapping[str, Any]]:
    evaluation = dossier.subject.facts.get("evaluation") or {}
    found = evaluation if dossier.subject.ref.kind == "build" else evaluation.get("domains") or {}
    return {domain: figures for domain, figures in found.items() if isinstance(figures, Mapping)}


def _quality_section(dossier: Dossier) -> list[Section]:
    if not _domains(dossier):
        return []
    note = "Bits per byte on held-out text, lower is better. Kept: share of the specialist's gain over the seed that the build keeps."
    return [Section("Quality", "", (_quality(dossier), note))]


def _quality(dossier: Dossier) -> Table:
    build = dossier.subject.ref.kind == "build"
    own = "build" if build else "this version"
    exact = any("accuracy" in figures for figures in _domains(dossier).values())
    columns: tuple[str, ...] = ("domain", "new to the seed", "seed", "specialist", own, "kept") if build else ("domain", "seed", own)
    rows: list[tuple[str, ...]] = []
    for domain, figures in _domains(dossier).items():
        seed, specialist, bits = (figures.get(key) for key in ("seed_bits_per_byte", "specialist_bits_per_byte", "bits_per_byte"))
        if build:
            new = "yes" if figures.get("new_to_seed") else "no"
            cells = [domain, new, _figure(seed), _figure(specialist), _figure(bits), _kept(seed, specialist, bits)]
        else:
            cells = [domain, _figure(seed), _figure(bits)]
        rows.append((*cells, *([_percent(figures.get("accuracy"))] if exact else [])))
    columns += ("exact answers",) if exact else ()
    return Table(columns, tuple(rows), frozenset(range(2 if build else 1, len(columns))))


def _kept(seed: float | None, specialist: float | None, own: float | None) -> str:
    if seed is None or specialist is None or own is None or seed <= specialist:
        return ""
    return _percent((seed - own) / (seed - specialist))


def _data(dossier: Dossier) -> Table:
    rows = []
    for version in dossier.of("data"):
        facts = version.facts
        known = [facts.get(key) or "not stated" for key in ("license", "source", "holder", "purpose", "pii")]
        size = _size(int(facts["bytes"])) if facts.get("bytes") is not None else "not stated"
        rows.append(
            (
                str(version.ref),
                dossier.statuses.get(str(version.ref), ""),
                *map(str, known),
                str(facts.get("retain_until") or "no limit"),
                size,
            )
        )
    return Table(
        ("data", "status", "licence", "source", "holder", "purpose", "personal data", "keep until", "size"), tuple(rows), frozenset({8})
    )


def _data_gaps(dossier: Dossier) -> list[str]:
    """Facts that the register has a place for and that nobody filled in."""
    if not dossier.of("data"):
        return ["any data version"]
    names = {
        "holder": "the holder",
        "purpose": "the purpose",
        "source": "the source",
        "license": "the licence",
        "pii": "the class of personal data",
    }
    gaps = []
    for key, words in names.items():
        refs = [str(version.ref) for version in dossier.of("data") if not version.facts.get(key)]
        gaps += [f"{words} of {', '.join(refs)}"] if refs else []
    return gaps


def _pii(dossier: Dossier) -> str:
    return "; ".join(f"{version.ref} {version.facts.get('pii') or 'not stated'}" for version in dossier.of("data"))


def _cost(dossier: Dossier) -> Table:
    """Per version and in all: an addition to a model counts towards its compute too."""
    rows = [
        (str(version.ref), _number(train.get("tokens")), _flops(train.get("flops")), _hours(train.get("wall_s")))
        for version in (*dossier.of("seed"), *dossier.of("expert"))
        for train in [training(version)]
    ]
    for version in dossier.of("build"):
        tune = (version.facts.get("cost") or {}).get("tune") or {}
        rows.append((f"{version.ref}, tuning", _number(tune.get("tokens")), _flops(tune.get("flops")), _hours(tune.get("wall_s"))))
    total = compute(dossier)
    rows.append(("reported in all", _number(total["tokens"]), _flops(total["flops"]), _hours(total["wall_s"])))
    return Table(("version", "tokens", "floating-point operations", "time"), tuple(rows), frozenset({1, 2, 3}))


def _waivers(dossier: Dossier) -> Table:
    rows = [
        (line["rule"], line["subject"], line["gate"], str(line["until"])[:10], line["actor"], line["why"]) for line in dossier.waivers()
    ]
    return Table(("rule", "for", "gate", "until", "signed by", "why"), tuple(rows))


def _gates(dossier: Dossier) -> Table:
    rows = []
    for ref in dict.fromkeys(event.subject for event in dossier.verdicts):
        for gate, event in dossier.last_verdicts(ref).items():
            told = [reason for reason in event.body.get("reasons", ()) if event.body["rules"].get(reason["rule"]) != "allowed"]
            words = "; ".join(f"{reason['rule']}: {reason['message']}" for reason in told)
            rows.append((ref, gate, str(event.body["outcome"]), str(len(event.body["rules"])), words, event.at[:10]))
    return Table(("candidate", "gate", "verdict", "rules", "said", "day"), tuple(rows), frozenset({3}))


def _method(dossier: Dossier) -> str:
    if dossier.subject.ref.kind != "build":
        return "Branch: a copy of the seed is trained on one domain, without contact to the others (Branch-Train-MiX, arXiv:2403.07816)."
    mode = (dossier.subject.facts.get("recipe") or {}).get("mix", {}).get("mode") or "unknown"
    return (
        "Branch-Train-MiX (arXiv:2403.07816): copies of one seed are trained on one domain each, their feed-forward blocks become experts "
        f"behind a learnt router per layer, the rest is shared. Mode {mode}. The seed is a pre-trained model."
    )


def _steps(dossier: Dossier) -> Table:
    nodes = sorted(dossier.graph.nodes, key=lambda node: (node.registered_at, str(node.ref)))
    rows = [
        (
            node.registered_at[:10],
            str(node.ref),
            ", ".join(f"{relation.replace('_', ' ')} {parent.ref}" for parent, relation in dossier.parents(node)),
            node.actor,
        )
        for node in nodes
    ]
    return Table(("day", "made", "from", "by"), tuple(rows))


def _architecture(dossier: Dossier) -> str:
    subject = dossier.subject
    cost, recipe = subject.facts.get("cost") or {}, subject.facts.get("recipe") or {}
    if subject.ref.kind != "build":
        return f"Decoder-only transformer, {subject.facts.get('model_type') or 'of the family of its seed'}."
    top_k = (recipe.get("mix") or {}).get("top_k")
    words = f"Mixture of experts: {len(dossier.members())} trained here and, unless left out, the untouched seed"
    words += f"; {top_k} work on each token" if top_k else ""
    total, active = _number(cost.get("total_parameters")), _number(cost.get("active_parameters"))
    return f"{words}. Parameters: {total} in all, {active} at work on each token."


def _limits(dossier: Dossier) -> str:
    worse = [
        domain
        for domain, figures in _domains(dossier).items()
        if (figures.get("bits_per_byte") or 0) > (figures.get("seed_bits_per_byte") or float("inf"))
    ]
    known = f"Worse than the untouched seed on: {', '.join(worse)}." if worse else "On no measured domain worse than the untouched seed."
    if not _domains(dossier):
        known = "Nothing was measured."
    routing = dossier.subject.facts.get("routing") or {}
    dead = f" Experts that no domain uses: {', '.join(routing['dead'])}." if routing.get("dead") else ""
    return f"{known}{dead} Input and output are text in the seed's vocabulary."


def _changes(dossier: Dossier) -> Table:
    events = sorted((*dossier.verdicts, *dossier.releases, *dossier.withdrawals), key=lambda event: event.seq)
    rows = [
        (event.at[:10], event.kind, event.subject, str(event.body.get("gate") or event.body.get("why") or ""), event.actor)
        for event in events
    ]
    return Table(("day", "event", "of", "gate or reason", "by"), tuple(rows))


def _range(tokens: float | None) -> str:
    """The template's size classes for text."""
    if tokens is None:
        return "number of tokens not reported"
    return (
        "less than 1 billion tokens"
        if tokens < 1e9
        else "1 billion to 10 trillion tokens"
        if tokens <= 1e13
        else "more than 10 trillion tokens"
    )


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "not measured"


def _percent(value: Any) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else ""


def _number(value: Any) -> str:
    return f"{value:,.0f}".replace(",", " ") if isinstance(value, int | float) else "not reported"


def _flops(value: Any) -> str:
    return f"{value:.2e}" if isinstance(value, int | float) else "not reported"


def _hours(value: Any) -> str:
    if not isinstance(value, int | float):
        return "not reported"
    return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min" if value < 36_000 else f"{value / 3600:.0f} h"


def _size(size: int) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} TB"
