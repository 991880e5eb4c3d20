"""What is recorded of one version, point by point of a legal text.

In: a dossier. Out: an Answer for each point, by a function that the point names. The texts
themselves are in texts/*.yaml; a registry cannot know intent or people's duties, and those parts
are listed there as missing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry.formats import tables
from registry.formats.dossier import Dossier, compute, environment, revision, training
from registry.formats.tables import Part, Pointer
from registry.governance import contesting
from registry.records.events import Erased, Withdrawn
from registry.records.facts import (
    Architecture,
    BuildFacts,
    DataFacts,
    ExpertFacts,
    SeedFacts,
)
from registry.records.kinds import Kind
from registry.units import counted, size

PAPER = "arXiv:2403.07816"
# What the registry has a field for, as a sentence calls it.
STATED: Mapping[str, Callable[[DataFacts], str | None]] = {
    "the holder": lambda facts: facts.holder,
    "the purpose": lambda facts: facts.purpose,
    "the source": lambda facts: facts.source,
    "the licence": lambda facts: facts.license,
    "the class of personal data": lambda facts: facts.pii,
}


@dataclass(frozen=True)
class Answer:
    """What is recorded for one point, and what the point asks and nobody recorded."""

    recorded: tuple[Part, ...] = ()
    missing: tuple[str, ...] = ()


def general_description(dossier: Dossier) -> Answer:
    """Answer which version this is, who registered it and what came before it."""
    subject = dossier.subject
    total = size(sum(file.bytes for file in subject.files))
    day = subject.registered_at[:10]
    identity = (
        f"{dossier.ref}, registered {day} by {subject.actor}; digest {subject.digest}.",
        f"Earlier builds: {', '.join(dossier.previous) or 'none'}.",
        f"Supplied as {len(subject.files)} files in Hugging Face format, {total}.",
    )
    return Answer(identity)


def development_steps(dossier: Dossier) -> Answer:
    """Answer by which method, programs and steps the version was made."""
    recorded: list[Part] = [_method(dossier), *_programs(dossier)]
    if len(dossier.graph.nodes) > 1:
        recorded.append(tables.steps(dossier))
    models = [*dossier.of(ExpertFacts), dossier.subject]
    unknown = [
        str(version.ref)
        for version in models
        if version.ref.kind != Kind.DATA and not environment(version)
    ]
    missing = []
    if unknown:
        missing.append(f"programs and versions that made {', '.join(unknown)}")
    if not revision(dossier.subject):
        missing.append(f"the code revision that made {dossier.ref}")
    return Answer(tuple(recorded), tuple(missing))


def architecture(dossier: Dossier) -> Answer:
    """Answer how the model is built and which training cost is known."""
    trained = (*dossier.of(SeedFacts), *dossier.of(ExpertFacts))
    unreported = [str(version.ref) for version in trained if not training(version)]
    missing = (f"training cost of {', '.join(unreported)}",) if unreported else ()
    return Answer((_architecture(dossier), Pointer("Cost")), missing)


def data_sets(dossier: Dossier) -> Answer:
    """Answer which data versions the model was made from."""
    versions = dossier.of(DataFacts)
    if not versions:
        return Answer(missing=_data_gaps(dossier))
    names = ", ".join(str(version.ref) for version in versions)
    named = f"{names}: {tables.total_size(versions)} of text, each file held by SHA-256."
    return Answer((named, Pointer("Data and licences")), _data_gaps(dossier))


def validation(dossier: Dossier) -> Answer:
    """Answer how the version was tested."""
    if not dossier.results:
        return Answer(missing=("an evaluation",))
    method = (
        "Each domain's held-out text, read by no training; bits per byte, and exact answers where "
        "they can be checked."
    )
    return Answer((method, Pointer("Quality")))


def cybersecurity(dossier: Dossier) -> Answer:
    """Answer what protects the weights and the record of them."""
    measures = (
        "Weights are safetensors only, no code is loaded; every file is held by SHA-256; every "
        f"change is an event in a hash chain (head {dossier.head or 'unknown'}); approvals and "
        "waivers are signed with Ed25519."
    )
    return Answer((measures,))


def capabilities_and_limits(dossier: Dossier) -> Answer:
    """Answer where the model is weaker than its seed, and which experts do no work."""
    worse = tables.worse(dossier)
    known = "On no measured domain worse than the untouched seed."
    if worse:
        known = f"Worse than the untouched seed on: {', '.join(worse)}."
    if not dossier.results:
        known = "Nothing was measured."
    dead = ", ".join(dossier.dead_experts)
    unused = f" Experts that no domain uses: {dead}." if dead else ""
    return Answer((f"{known}{unused} Input and output are text in the seed's vocabulary.",))


def rules_at_gates(dossier: Dossier) -> Answer:
    """Answer which rules the version had to pass."""
    if not dossier.verdicts:
        return Answer()
    stated = "Rules stand at every gate; what they said, and every exception, is recorded."
    return Answer((stated, Pointer("Gates"), Pointer("Waivers")))


def lifecycle_changes(dossier: Dossier) -> Answer:
    """Answer what happened to the version and to what it was made from."""
    return Answer((tables.changes(dossier),))


def model_names(dossier: Dossier) -> Answer:
    """Answer the model's name, its seed and its day of release."""
    seeds = dossier.of(SeedFacts)
    names = ", ".join(str(version.ref) for version in seeds) or "no recorded seed"
    day = dossier.releases[-1].at[:10] if dossier.releases else "not released"
    recorded = (f"{dossier.ref}; made from {names}.", f"Released: {day}.")
    if any(not version.facts.data for version in seeds):
        return Answer(recorded, ("the training content of the seed itself",))
    return Answer(recorded)


def modality_and_size(dossier: Dossier) -> Answer:
    """Answer how much text of which age the model was trained on."""
    versions = dossier.of(DataFacts)
    tokens = compute(dossier).tokens
    newest = max((version.registered_at[:10] for version in versions), default="never")
    text = (
        f"Text: {tables.total_size(versions)} in {counted(len(versions), 'data version')}; "
        f"{_size_class(tokens)} "
        f"(trained on: {tables.number(tokens)})."
    )
    return Answer((text, f"Newest data version registered {newest}."))


def data_sources(dossier: Dossier) -> Answer:
    """Answer the list of data versions with licence, source and holder."""
    if not dossier.of(DataFacts):
        return Answer(missing=_data_gaps(dossier))
    return Answer((tables.data(dossier),), _data_gaps(dossier))


def stated_licences(dossier: Dossier) -> Answer:
    """Answer which licences the data came in under."""
    licences = ", ".join(dossier.licenses()) or "none"
    checked = "No data comes in before its licence is checked."
    return Answer((f"Licences stated: {licences}. {checked}",))


def personal_data(dossier: Dossier) -> Answer:
    """Answer the class of personal data of each data version."""
    classes = [
        f"{version.ref} {version.facts.pii or tables.NOT_STATED}"
        for version in dossier.of(DataFacts)
    ]
    return Answer((f"Personal data: {'; '.join(classes)}.",)) if classes else Answer()


def withdrawn_sources(dossier: Dossier) -> Answer:
    """Answer what was withdrawn of what the version was made from."""
    withdrawn = " ".join(withdrawals(dossier))
    return Answer((withdrawn or "Nothing it was made from has been withdrawn.",))


def withdrawals(dossier: Dossier) -> tuple[str, ...]:
    """Return a sentence for each withdrawal and erasure of the subject or what it was made from."""
    sentences = []
    for event in dossier.withdrawals:
        why = event.read(Withdrawn).why or "no reason given"
        sentences.append(f"{event.subject} was withdrawn {event.at[:10]}: {why}.")
        contests = [one for one in dossier.contests if one.subject == event.subject]
        sentences += map(contesting.sentence, contests)
    for event in dossier.erasures:
        documents = counted(len(event.read(Erased).part.documents), "document")
        sentences.append(f"{documents} of {event.subject} were erased {event.at[:10]}.")
    return tuple(sentences)


ANSWERS: Mapping[str, Callable[[Dossier], Answer]] = {
    answer.__name__: answer
    for answer in (
        general_description,
        development_steps,
        architecture,
        data_sets,
        validation,
        cybersecurity,
        capabilities_and_limits,
        rules_at_gates,
        lifecycle_changes,
        model_names,
        modality_and_size,
        data_sources,
        stated_licences,
        personal_data,
        withdrawn_sources,
    )
}


def _data_gaps(dossier: Dossier) -> tuple[str, ...]:
    """Facts that the registry has a place for and that nobody filled in."""
    versions = dossier.of(DataFacts)
    if not versions:
        return ("any data version",)
    gaps = []
    for words, read in STATED.items():
        refs = [str(version.ref) for version in versions if not read(version.facts)]
        if refs:
            gaps.append(f"{words} of {', '.join(refs)}")
    return tuple(gaps)


def _method(dossier: Dossier) -> str:
    if dossier.kind != Kind.BUILD:
        return (
            "Branch: a copy of the seed is trained on one domain, without contact to the others "
            f"(Branch-Train-MiX, {PAPER})."
        )
    mode = dossier.snapshot.mode if dossier.snapshot else None
    return (
        f"Branch-Train-MiX ({PAPER}): copies of one seed are trained on one domain each, their "
        "feed-forward blocks become experts behind a learnt router per layer, the rest is shared. "
        f"Mode {mode or 'unknown'}. The seed is a pre-trained model."
    )


def _programs(dossier: Dossier) -> list[str]:
    """What made the subject, as far as it was recorded."""
    programs = environment(dossier.subject)
    if not programs:
        return []
    packages = ", ".join(f"{name} {number}" for name, number in programs.packages.items())
    code = revision(dossier.subject)
    sentence = f"Made with Python {programs.python} on {programs.platform}: {packages}."
    return [sentence + (f" Code revision {code}." if code else "")]


def _architecture(dossier: Dossier) -> str:
    facts = dossier.subject.facts
    if isinstance(facts, BuildFacts):
        return _mixture(len(facts.members), facts.architecture)
    family = facts.model_type if isinstance(facts, SeedFacts) else None
    return f"Decoder-only transformer, {family or 'of the family of its seed'}."


def _mixture(trained: int, mixture: Architecture | None) -> str:
    """Say how a build works on a token, as it is recorded."""
    if mixture is None:
        return f"Mixture of experts: {trained} trained here; nothing else is recorded."
    seed = " and the untouched seed" if mixture.seed_expert else ", without the untouched seed"
    at_work = f"{mixture.top_k} {'works' if mixture.top_k == 1 else 'work'} on each token"
    total = tables.number(mixture.total_parameters)
    active = tables.number(mixture.active_parameters)
    return (
        f"Mixture of experts: {trained} trained here{seed}; {at_work} ({mixture.routing} routing). "
        f"Parameters: {total} in all, {active} at work on each token."
    )


def _size_class(tokens: float | None) -> str:
    """The training summary's size classes for text."""
    if tokens is None:
        return "number of tokens not reported"
    if tokens < 1e9:
        return "less than 1 billion tokens"
    if tokens <= 1e13:
        return "1 billion to 10 trillion tokens"
    return "more than 10 trillion tokens"
