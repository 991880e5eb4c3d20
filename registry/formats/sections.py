"""What the EU AI Act's Annex IV and the public summary of training content ask, beside what is recorded and what is not.

In:  a dossier.  Out: sections, each with what it needs, what we hold (tables and sentences) and what is missing.
Laying them out as a page is report.py's. A registry cannot know intent or people's duties: those parts are named as missing, never made up.
Texts: Regulation (EU) 2024/1689, Annex IV; AI Office, template for the public summary of training content (Art. 53(1)(d)), July 2025.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.formats import tables
from registry.formats.dossier import Dossier, compute, environment, revision, training
from registry.formats.tables import Facts, Table
from registry.units import size


@dataclass(frozen=True)
class See:
    """A pointer to a section of the overview, instead of its table a second time."""

    title: str


Part = Table | Facts | See


@dataclass(frozen=True)
class Section:
    """needs: what the law or template asks, in short. holds: what is recorded. missing: what it asks and nobody recorded."""

    title: str
    needs: str
    holds: tuple[str | Part, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        return "held" if not self.missing else "partly" if self.holds else "missing"


def overview(dossier: Dossier) -> list[Section]:
    """What a reader wants first: standing, members, quality, data, cost, exceptions."""
    reached = tables.reached(dossier)
    note = "Bits per byte on held-out text that no training read; lower is better."
    note += " Gain kept: share of the specialist's gain over the seed that the build keeps." * (
        dossier.subject.ref.kind == "build"
    )
    return [
        Section("Standing", "", (tables.standing(dossier), *_withdrawals(dossier))),
        *(
            [Section("Members", "", (tables.members(dossier),))]
            if dossier.subject.ref.kind == "build"
            else []
        ),
        *(
            [Section("Quality", "", (tables.quality(dossier), note))]
            if tables.domains(dossier)
            else []
        ),
        Section(
            "Data and licences",
            "",
            (tables.data(dossier),) if dossier.of("data") else ("No data version is recorded.",),
        ),
        *([Section("What was made from it", "", (reached,))] if reached else []),
        *(
            [Section("Cost", "", (tables.cost(dossier),))]
            if dossier.subject.ref.kind != "data"
            else []
        ),
        Section(
            "Waivers",
            "",
            (tables.waivers(dossier),) if dossier.waivers() else ("No rule was waived.",),
        ),
        Section(
            "Gates", "", (tables.gates(dossier),) if dossier.verdicts else ("No gate was asked.",)
        ),
    ]


def attention(dossier: Dossier) -> list[str]:
    """What somebody has to know before signing, worst first; empty when there is nothing."""
    status = dossier.statuses.get(dossier.ref, "registered")
    made = [f"Not to be used: it is {status}."] if status in ("withdrawn", "tainted") else []
    made += _withdrawals(dossier)
    for gate, event in dossier.last_verdicts(dossier.ref).items():
        broken = [rule for rule, outcome in event.body["rules"].items() if outcome == "refused"]
        made += (
            [f"Refused at gate {gate} on {event.at[:10]}: {', '.join(broken)}."] if broken else []
        )
    if dossier.subject.ref.kind == "build" and not dossier.releases:
        approved = ", ".join(line["actor"] for line in dossier.approvals)
        made.append(
            f"Not released; {f'approved by {approved}' if approved else 'approved by nobody'}."
        )
    made += [
        f"Waived: {w['rule']} for {w['subject']} until {str(w['until'])[:10]}, signed by {w['actor']}."
        for w in dossier.waivers()
    ]
    made += (
        [f"Worse than the untouched seed on: {_some(tables.worse(dossier))}."]
        if tables.worse(dossier)
        else []
    )
    dead = (dossier.subject.facts.get("routing") or {}).get("dead")
    made += [f"Experts that no domain uses: {_some(dead)}."] if dead else []
    made += [f"Warned by {rule}: {_some(refs)}." for rule, refs in _warnings(dossier).items()]
    made += (
        [_unanswered("Annex IV", annex_iv(dossier))] if dossier.subject.ref.kind != "data" else []
    )
    return [*made, _unanswered("the training summary", training_summary(dossier))]


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _unanswered(law: str, sections: Sequence[Section]) -> str:
    missing, partly = (
        sum(section.state == state for section in sections) for state in ("missing", "partly")
    )
    return f"Of {len(sections)} points of {law}, {missing} {'has' if missing == 1 else 'have'} no answer here and {partly} only a part of one."


def _warnings(dossier: Dossier) -> dict[str, list[str]]:
    """Rule -> the candidates that it warned of in its newest verdict."""
    made: dict[str, list[str]] = {}
    for ref in dict.fromkeys(event.subject for event in dossier.verdicts):
        for event in dossier.last_verdicts(ref).values():
            for rule in [
                rule for rule, outcome in event.body["rules"].items() if outcome == "warned"
            ]:
                made.setdefault(rule, []).append(ref)
    return made


def annex_iv(dossier: Dossier) -> list[Section]:
    """Annex IV, points 1 to 9. A registry of models holds what concerns the model; the system around it is the provider's to add."""
    subject = dossier.subject
    experts = dossier.of("expert")
    undated = [
        str(version.ref)
        for version in (*experts, subject)
        if version.ref.kind != "data" and not environment(version)
    ]
    untold = [
        str(version.ref) for version in (*dossier.of("seed"), *experts) if not training(version)
    ]
    return [
        Section(
            "1. General description",
            "Intended purpose, provider, version and predecessors, software and hardware, forms of supply, instructions for use.",
            (
                f"{dossier.ref}, registered {subject.registered_at[:10]} by {subject.actor}; digest {subject.digest}.",
                f"Earlier builds: {', '.join(dossier.previous) or 'none'}.",
                f"Supplied as {len(subject.files)} files in Hugging Face format, {size(sum(file.bytes for file in subject.files))}.",
            ),
            (
                "the provider's name and address",
                "the system's intended purpose",
                "hardware it is meant to run on",
                "instructions for use",
            ),
        ),
        Section(
            "2(a) Methods and steps of development",
            "How it was developed, with which pre-trained systems and third-party tools.",
            (
                _method(dossier),
                *_programs(dossier),
                *([tables.steps(dossier)] if len(dossier.graph.nodes) > 1 else []),
            ),
            tuple(
                [f"programs and versions that made {', '.join(undated)}"] * bool(undated)
                + [f"the code revision that made {dossier.ref}"] * (not revision(subject))
            ),
        ),
        Section(
            "2(b), 2(c) Design and architecture",
            "General logic, key design choices and their reasons, what is optimised, architecture, computing resources used.",
            (_architecture(dossier), See("Cost")),
            tuple(
                [f"training cost of {', '.join(untold)}"] * bool(untold)
                + ["the reasons for these choices, in the provider's words"]
            ),
        ),
        Section(
            "2(d) Data",
            "Training methodologies and data sets: provenance, scope, characteristics, how obtained and selected, labelling, cleaning.",
            (_named_data(dossier), See("Data and licences")) if dossier.of("data") else (),
            (
                *_data_gaps(dossier),
                "how the data was selected, labelled and cleaned",
                "known biases and languages of the data",
            ),
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
            (
                "Experts are added, replaced and removed as registered versions; every build is new, an earlier one never changes.",
            ),
        ),
        Section(
            "2(g) Validation and testing",
            "Procedures, data and metrics for accuracy, robustness and discriminatory impact; test logs, dated and signed.",
            (
                "Each domain's held-out text, read by no training; bits per byte, and exact answers where they can be checked.",
                See("Quality"),
            )
            if tables.domains(dossier)
            else (),
            ("tests for robustness and discriminatory impact",)
            + (() if tables.domains(dossier) else ("an evaluation",)),
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
            (
                "foreseeable unintended outcomes and risks to people",
                "accuracy for groups of persons",
            ),
        ),
        Section(
            "4. Appropriateness of metrics",
            "Why these metrics suit this system.",
            (
                "Per domain, never averaged: a mean hides a domain that fell and an expert that no token reaches.",
            ),
            ("metrics of the task the system is put to",),
        ),
        Section(
            "5. Risk management",
            "The risk management system of Article 9.",
            (
                "Rules stand at every gate; what they said, and every exception, is recorded.",
                See("Gates"),
                See("Waivers"),
            )
            if dossier.verdicts
            else (),
            ("identification and evaluation of risks to health, safety and fundamental rights",),
        ),
        Section(
            "6. Changes through the lifecycle",
            "Relevant changes made by the provider.",
            (tables.changes(dossier),),
        ),
        Section(
            "7. Standards",
            "Harmonised standards applied, or the solutions used instead.",
            (),
            ("a list of standards applied",),
        ),
        Section(
            "8. Declaration of conformity",
            "A copy of the EU declaration of conformity.",
            (),
            ("the declaration",),
        ),
        Section(
            "9. After market placement",
            "The system and plan that watch performance in use (Article 72).",
            (),
            ("the monitoring plan",),
        ),
    ]


def training_summary(dossier: Dossier) -> list[Section]:
    """The AI Office's template: general information, list of data sources, data processing."""
    data = dossier.of("data")
    total = sum(int(version.facts.get("bytes") or 0) for version in data)
    cost = compute(dossier)
    registered = max((version.registered_at[:10] for version in data), default=None)
    return [
        Section(
            "1.1 Provider",
            "Name and contact of the provider and its representative.",
            (),
            ("the provider's name and contact",),
        ),
        Section(
            "1.2 Model",
            "Names and versions, models it was made from, date of placing on the market.",
            (
                f"{dossier.ref}; made from {', '.join(str(v.ref) for v in dossier.of('seed')) or 'no recorded seed'}.",
                f"Released: {dossier.releases[-1].at[:10] if dossier.releases else 'not released'}.",
            ),
            ("the training content of the seed itself",)
            if any(not v.facts.get("data") for v in dossier.of("seed"))
            else (),
        ),
        Section(
            "1.3 Modality, size and other characteristics",
            "Modalities, size per modality in the template's ranges, date of the latest data, languages.",
            (
                f"Text: {size(total)} in {len(data)} data versions; {_range(cost['tokens'])} (trained on: {tables.number(cost['tokens'])}).",
                f"Newest data version registered {registered or 'never'}.",
            ),
            ("languages", "when the data itself was collected"),
        ),
        Section(
            "2. List of data sources",
            "Public data sets; data licensed or obtained from others; crawled data, with domains; user data; synthetic data; other.",
            (tables.data(dossier),) if data else (),
            (
                *_data_gaps(dossier),
                "the class of each source (public, licensed, crawled, user, synthetic): the registry holds its description only",
            ),
        ),
        Section(
            "3.1 Reserved rights",
            "How reservations against text and data mining were respected before and during collection.",
            (
                f"Licences stated: {', '.join(dossier.licenses()) or 'none'}. No data comes in before its licence is checked.",
            ),
            ("opt-outs honoured when the data was collected",),
        ),
        Section(
            "3.2 Unlawful content",
            "Measures to avoid or remove unlawful content.",
            (f"Personal data: {_pii(dossier)}.",) if data else (),
            ("filters against unlawful content",),
        ),
        Section(
            "3.3 Other", "Anything else about processing, voluntarily.", (_withdrawn(dossier),)
        ),
    ]


def _withdrawals(dossier: Dossier) -> tuple[str, ...]:
    return tuple(
        f"{event.subject} was withdrawn {event.at[:10]}: {event.body.get('why') or 'no reason given'}."
        for event in dossier.withdrawals
    )


def _withdrawn(dossier: Dossier) -> str:
    return " ".join(_withdrawals(dossier)) or "Nothing it was made from has been withdrawn."


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
    return "; ".join(
        f"{version.ref} {version.facts.get('pii') or 'not stated'}"
        for version in dossier.of("data")
    )


def _method(dossier: Dossier) -> str:
    if dossier.subject.ref.kind != "build":
        return "Branch: a copy of the seed is trained on one domain, without contact to the others (Branch-Train-MiX, arXiv:2403.07816)."
    mode = (dossier.subject.facts.get("recipe") or {}).get("mix", {}).get("mode") or "unknown"
    return (
        "Branch-Train-MiX (arXiv:2403.07816): copies of one seed are trained on one domain each, their feed-forward blocks become experts "
        f"behind a learnt router per layer, the rest is shared. Mode {mode}. The seed is a pre-trained model."
    )


def _programs(dossier: Dossier) -> list[str]:
    """What made the subject, as far as it was recorded."""
    known = environment(dossier.subject)
    if not known:
        return []
    packages = ", ".join(
        f"{name} {number}" for name, number in (known.get("packages") or {}).items()
    )
    code = revision(dossier.subject)
    return [
        f"Made with Python {known.get('python')} on {known.get('platform')}: {packages}."
        + (f" Code revision {code}." if code else "")
    ]


def _architecture(dossier: Dossier) -> str:
    subject = dossier.subject
    cost, recipe = subject.facts.get("cost") or {}, subject.facts.get("recipe") or {}
    if subject.ref.kind != "build":
        return f"Decoder-only transformer, {subject.facts.get('model_type') or 'of the family of its seed'}."
    mix = recipe.get("mix") or {}
    top_k = {"top-k": mix.get("top_k"), "soft": "all"}.get(mix.get("routing", "top-k"), 1)
    words = f"Mixture of experts: {len(dossier.members())} trained here and, unless left out, the untouched seed"
    words += f"; {top_k} work on each token" if top_k else ""
    total, active = (
        tables.number(cost.get("total_parameters")),
        tables.number(cost.get("active_parameters")),
    )
    return f"{words}. Parameters: {total} in all, {active} at work on each token."


def _limits(dossier: Dossier) -> str:
    fallen = tables.worse(dossier)
    known = (
        f"Worse than the untouched seed on: {', '.join(fallen)}."
        if fallen
        else "On no measured domain worse than the untouched seed."
    )
    if not tables.domains(dossier):
        known = "Nothing was measured."
    routing = dossier.subject.facts.get("routing") or {}
    dead = (
        f" Experts that no domain uses: {', '.join(routing['dead'])}."
        if routing.get("dead")
        else ""
    )
    return f"{known}{dead} Input and output are text in the seed's vocabulary."


def _named_data(dossier: Dossier) -> str:
    held = dossier.of("data")
    total = sum(int(version.facts.get("bytes") or 0) for version in held)
    return f"{', '.join(str(version.ref) for version in held)}: {size(total)} of text, each file held by SHA-256."


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
