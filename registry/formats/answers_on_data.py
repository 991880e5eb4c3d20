"""What is recorded of the data that a version was made from, point by point of a legal text.

In: a dossier. Out: an Answer for each point: sizes, languages, sources, withdrawals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.formats import tables
from registry.formats.dossier import TRAINING_TOKENS, Dossier, compute, tokens_read, trained
from registry.formats.legal_points import Answer, missing_fact
from registry.formats.tables import Pointer, Table
from registry.governance import contesting
from registry.records.events import Erased, Withdrawn
from registry.records.facts import DataFacts, Facts
from registry.records.version import Version
from registry.units import counted, size

# A public data set above this share of all public data is named.
LARGE = 0.03
LANGUAGES = "languages"
PREVIOUS_SUMMARY = "previous_summary"
SOURCE_CLASS = "source_class"


@dataclass(frozen=True)
class _Stated:
    """What is stated with a registration.

    Attributes:
        name: of the fact.
        words: what a sentence calls it.
        option: which states it.
        read: from the facts.
    """

    name: str
    words: str
    option: str
    read: Callable[[DataFacts], str | None]


STATED = (
    _Stated("holder", "the holder", "--holder TEXT", lambda facts: facts.holder),
    _Stated("purpose", "the purpose", "--purpose TEXT", lambda facts: facts.purpose),
    _Stated("source", "the source", "--source TEXT", lambda facts: facts.source),
    _Stated("license", "the licence", "--license SPDX-ID", lambda facts: facts.license),
    _Stated("pii", "the class of personal data", "--pii CLASS", lambda facts: facts.pii),
)


def data_sets(dossier: Dossier) -> Answer:
    """Answer which data versions the model was made from."""
    versions = dossier.of(DataFacts)
    if not versions:
        return Answer(missing=_data_gaps(dossier))
    named = f"{_refs(versions)}: {tables.total_size(versions)} of text, each file held by SHA-256."
    return Answer((named, Pointer("Data and licences")), _data_gaps(dossier))


def data_in_full(dossier: Dossier) -> Answer:
    """Answer which data trained and measured the model, with all that is stated of it."""
    if not dossier.of(DataFacts):
        return Answer(missing=_data_gaps(dossier))
    points = data_points(dossier)
    missing = (*_data_gaps(dossier), *points.missing)
    return Answer((tables.data(dossier), *points.recorded), missing)


def data_in_short(dossier: Dossier) -> Answer:
    """Answer of which type and size the data is."""
    versions = dossier.of(DataFacts)
    if not versions:
        return Answer(missing=_data_gaps(dossier))
    return Answer((f"Text: {_refs(versions)}, {tables.total_size(versions)}.",))


def data_points(dossier: Dossier) -> Answer:
    """Answer how much data there is, in bytes, files and tokens."""
    versions = dossier.of(DataFacts)
    rows = tuple(
        (str(one.ref), size(one.facts.bytes or 0), str(len(one.files))) for one in versions
    )
    table = Table(("data", "text", "files"), rows, frozenset({1, 2}))
    tokens = tables.number(compute(dossier).tokens)
    untold = _untold(dossier)
    which = f" but {_refs(untold)}" if untold else ""
    sentence = f"Tokens trained on, all trainings together{which}: {tokens}."
    return Answer((table, sentence), _tokens_missing(dossier))


def data_scope(dossier: Dossier) -> Answer:
    """Answer the domains and languages of the data."""
    versions = dossier.of(DataFacts)
    rows = []
    missing = []
    for version in versions:
        language = _language(dossier, version)
        if language is None:
            missing.append(missing_fact(dossier, LANGUAGES, "languages", version))
        rows.append((str(version.ref), version.facts.domain or "", language or tables.NOT_STATED))
    return Answer((Table(("data", "domain", "languages"), tuple(rows)),), tuple(missing))


def modality_and_size(dossier: Dossier) -> Answer:
    """Answer how much text of which languages it was trained on, in the template's ranges."""
    versions = dossier.of(DataFacts)
    tokens = compute(dossier).tokens
    text = _size_class(tokens)
    untold = _untold(dossier)
    if untold:
        text = f"{_refs(untold)}: number of tokens not reported; the rest: {text}"
    rows = (
        ("Text", text, tables.total_size(versions)),
        *((kind, "none", "none") for kind in ("Image", "Audio", "Video")),
    )
    languages = data_scope(dossier)
    table = Table(("modality", "size", "stored"), rows)
    fixed = "Not trained on continuously: each build is fixed, new data makes a new build."
    missing = (*_tokens_missing(dossier), *languages.missing)
    return Answer((table, *languages.recorded, fixed), missing)


def summary_version(dossier: Dossier) -> Answer:
    """Answer which version of the summary this is, and which came before it."""
    before = dossier.own_fact(PREVIOUS_SUMMARY)
    link = before.text if before else "none"
    text = f"Summary of {dossier.ref}, last updated {dossier.made_at[:10]}. Version before: {link}."
    return Answer((text,))


def source_classes(dossier: Dossier) -> Answer:
    """Answer which data versions there are."""
    if not dossier.of(DataFacts):
        return Answer(missing=("any data version: btx data add",))
    return Answer()


def large_public_sets(dossier: Dossier) -> Answer:
    """Answer the public data sets that are more than 3 % of all public data, with their links."""
    versions = [one for one in dossier.of(DataFacts) if source_class(dossier, one) == "public"]
    total = sum(one.facts.bytes or 0 for one in versions)
    rows = tuple(
        (str(one.ref), one.facts.url or one.facts.source or tables.NOT_STATED)
        for one in versions
        if (one.facts.bytes or 0) > LARGE * total
    )
    return Answer((Table(("large public data set", "link"), rows),)) if rows else Answer()


def withdrawn_sources(dossier: Dossier) -> Answer:
    """Answer what was withdrawn of what the version was made from."""
    withdrawn = " ".join(withdrawals(dossier))
    return Answer((withdrawn or "Nothing it was made from has been withdrawn.",))


def withdrawals(dossier: Dossier) -> tuple[str, ...]:
    """Return a sentence for each withdrawal and erasure of the subject or what it was made from."""
    sentences = []
    for event in dossier.withdrawals:
        # What was said stays in the company.
        why = "" if dossier.public else f": {event.read(Withdrawn).why or 'no reason given'}"
        sentences.append(f"{event.subject} was withdrawn {event.at[:10]}{why}.")
        contests = [one for one in dossier.contests if one.subject == event.subject]
        sentences += map(contesting.sentence, contests)
    for event in dossier.erasures:
        count = len(event.read(Erased).part.documents)
        documents, were = counted(count, "document"), "was" if count == 1 else "were"
        sentences.append(f"{documents} of {event.subject} {were} erased {event.at[:10]}.")
    return tuple(sentences)


def source_class(dossier: Dossier, version: Version[DataFacts]) -> str | None:
    """Return of which kind a data version's source is, as the company states it."""
    stated = dossier.own.get(str(version.ref), {}).get(SOURCE_CLASS)
    return stated.text if stated else None


def _language(dossier: Dossier, version: Version[DataFacts]) -> str | None:
    stated = dossier.own_fact(LANGUAGES, version)
    return stated.text if stated else version.facts.language


def _data_gaps(dossier: Dossier) -> tuple[str, ...]:
    """Facts that the registry has a place for and that nobody filled in."""
    versions = dossier.of(DataFacts)
    if not versions:
        return ("any data version: btx data add NAME PATH",)
    gaps = []
    for fact in STATED:
        refs = [
            str(version.ref)
            for version in versions
            if not fact.read(version.facts) and not dossier.is_withheld(version, fact.name)
        ]
        if refs:
            named = f"{fact.words} of {', '.join(refs)}"
            gaps.append(f"{named}: btx data add NAME PATH {fact.option}, anew")
    return tuple(gaps)


def _untold(dossier: Dossier) -> list[Version[Facts]]:
    """Return of which trainings nobody told how many tokens they read."""
    return [version for version in trained(dossier) if tokens_read(dossier, version) is None]


def _refs(versions: Sequence[Version[Facts]]) -> str:
    return ", ".join(str(version.ref) for version in versions)


def _tokens_missing(dossier: Dossier) -> tuple[str, ...]:
    return tuple(
        missing_fact(dossier, TRAINING_TOKENS, "tokens of the training", version)
        for version in _untold(dossier)
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
