"""What the company itself states on a point of a legal text: its own facts, or how to state them.

In: a point, a dossier. Out: an Answer. What the registry recorded is legal_answers' to read.
"""

from collections.abc import Sequence

from registry.formats.answers_on_data import SOURCE_CLASS, source_class
from registry.formats.dossier import Dossier
from registry.formats.legal_points import Answer, command, missing_fact
from registry.formats.legal_texts import Point
from registry.formats.tables import NOT_PUBLIC, NOT_STATED, Fields, Part, Table
from registry.records.facts import DataFacts
from registry.records.kinds import Kind
from registry.records.own_facts import ORGANISATION
from registry.records.version import Version

CLASSES = {
    "public": "publicly available data sets",
    "licensed": "data licensed by rightsholders",
    "private": "private data sets of other third parties",
    "crawled": "data crawled and scraped",
    "user": "user data",
    "synthetic": "synthetic data",
    "other": "other sources",
}


def stated(point: Point, dossier: Dossier) -> Answer:
    """Return what the company states on a point, and which facts it has yet to state.

    Args:
        point: names the facts, and of what they are stated.
        dossier: holds what was stated.

    Returns:
        Fields of the organisation and the build, a table for data versions; of each fact that is
        not stated, the command that states it.
    """
    if point.only_if and not applies(point, dossier):
        return _excused(point.only_if, dossier)
    of_one = _of_one(point, dossier)
    of_data = _of_data(point, dossier)
    return Answer((*of_one.recorded, *of_data.recorded), (*of_one.missing, *of_data.missing))


def applies(point: Point, dossier: Dossier) -> bool:
    """Tell whether a point is known to apply."""
    if point.only_if is None:
        return True
    fact = dossier.own_fact(point.only_if)
    return fact is not None and fact.value is not False


def _excused(name: str, dossier: Dossier) -> Answer:
    """Return why a point does not apply, or who has yet to say so."""
    fact = dossier.own_fact(name)
    if fact is None:
        where = command(ORGANISATION, name)
        return Answer(missing=(f"whether this applies ({_title(name)}): {where}",))
    return Answer((f"Does not apply: {fact.label}, {fact.text}.",))


def _of_one(point: Point, dossier: Dossier) -> Answer:
    """Return the facts of the organisation and of the build."""
    rows = []
    missing = []
    # Facts of builds are stated of no other kind; the organisation's hold for all.
    about = dossier.ref if dossier.kind == Kind.BUILD else ORGANISATION
    named = [(key, ORGANISATION) for key in point.facts.organisation]
    named += [(key, about) for key in point.facts.build]
    for key, ref in named:
        fact = dossier.organisation.get(key) if ref == ORGANISATION else dossier.own_fact(key)
        if fact is not None:
            rows.append((fact.label, fact.text))
        elif dossier.is_own_withheld(key, ref):
            rows.append((_title(key), NOT_PUBLIC))
        else:
            missing.append(f"{_title(key)}: {command(ref, key)}")
    return Answer((Fields(tuple(rows)),) if rows else (), tuple(missing))


def _of_data(point: Point, dossier: Dossier) -> Answer:
    """Return the facts of data versions; with classes, of those of these classes alone."""
    versions = dossier.of(DataFacts)
    recorded: list[Part] = []
    missing: list[str] = []
    if point.of_class:
        unclassed = [one for one in versions if source_class(dossier, one) is None]
        missing += [missing_fact(dossier, SOURCE_CLASS, "source class", one) for one in unclassed]
        versions = [one for one in versions if source_class(dossier, one) in point.of_class]
        # No is not said while a version may still turn out to be of that class.
        if versions or not unclassed:
            recorded.append(_used(versions))
    keys = point.facts.data
    if not keys or not versions:
        return Answer(tuple(recorded), tuple(missing))
    rows = []
    labels = {key: _title(key) for key in keys}
    for version in versions:
        cells = [str(version.ref)]
        for key in keys:
            fact = dossier.own_fact(key, version)
            if fact is not None:
                labels[key] = fact.label
                cells.append(CLASSES.get(fact.text, fact.text))
            elif dossier.is_own_withheld(key, str(version.ref)):
                cells.append(NOT_PUBLIC)
            else:
                missing.append(f"{_title(key)} of {version.ref}: {command(str(version.ref), key)}")
                cells.append(NOT_STATED)
        rows.append(tuple(cells))
    recorded.append(Table(("data", *labels.values()), tuple(rows)))
    return Answer(tuple(recorded), tuple(missing))


def _used(versions: Sequence[Version[DataFacts]]) -> str:
    if not versions:
        return "No."
    return f"Yes. Text: {', '.join(str(version.ref) for version in versions)}."


def _title(key: str) -> str:
    return key.replace("_", " ")
