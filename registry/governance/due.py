"""What ends, and when: waivers that something in use relies on, and dates of retention.

In:  the catalogue, a time.  Out: what has ended, and what ends soon.
Whether what has ended may still be used is left to the policies; tokens are the pages'.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from registry.catalogue.catalog import Catalog
from registry.errors import Invalid, NotFound
from registry.governance import gate
from registry.governance.policies import moment
from registry.records.answers.upkeep import DueRow
from registry.records.facts import DataFacts, Facts
from registry.records.kinds import UNUSABLE, Kind, Outcome
from registry.records.references import Reference
from registry.records.version import Version

SOON_DAYS = 30
JUDGED = (Kind.DATA, Kind.SEED, Kind.EXPERT, Kind.BUILD)


def due(catalog: Catalog, at: datetime, days: float = SOON_DAYS) -> list[DueRow]:
    """Return what has ended of all that is in use, or ends within some days; soonest first."""
    versions: dict[Reference, Version[Facts]] = {}
    for data in catalog.versions(DataFacts, files=False):
        if data.facts.retain_until:
            versions[data.ref] = data
    for subject in _waived(catalog):
        version = _registered(catalog, subject)
        if version is not None and version.ref.kind in JUDGED:
            versions[version.ref] = version
    statuses = catalog.statuses(versions.values())
    used = [version for ref, version in versions.items() if statuses[ref] not in UNUSABLE]
    return of_versions(catalog, used, at, days)


def of_versions(
    catalog: Catalog, versions: Iterable[Version[Facts]], at: datetime, days: float = SOON_DAYS
) -> list[DueRow]:
    """Return what has ended, or ends within some days, of these versions alone."""
    rows = []
    waived = _waived(catalog)
    for version in versions:
        ref, facts = str(version.ref), version.facts
        if isinstance(facts, DataFacts) and facts.retain_until:
            rows.append(row("retention", ref, facts.retain_until, at, f"btx withdraw {ref}"))
        if ref not in waived:
            continue
        # One rule may have been waived at both gates.
        lines = [*gate.relied_on(catalog, [ref]), *gate.released_by(catalog, ref)]
        for line in dict.fromkeys(lines):
            renewal = f"btx waive {line.rule} {ref} --until DATE --why TEXT"
            rows.append(row(f"waiver of {line.rule}", ref, line.until or "", at, renewal))
    last = at + timedelta(days=days)
    ends = [one for one in rows if one.state == "ended" or _moment(one.until) <= last]
    return sorted(ends, key=lambda one: (one.until, one.what, one.ref))


def _waived(catalog: Catalog) -> set[str]:
    """Return the subjects of which some verdict says that a rule was waived."""
    query = (
        "SELECT DISTINCT subject FROM event "
        "WHERE kind IN ('verdict', 'refused') AND body LIKE :said"
    )
    with catalog.database.read() as rows:
        return {found[0] for found in rows(query, said=f'%"{Outcome.WAIVED}"%')}


def _registered(catalog: Catalog, subject: str) -> Version[Facts] | None:
    try:
        return catalog.get(subject)
    except (NotFound, Invalid):
        return None


def row(what: str, ref: str, until: str, at: datetime, advice: str) -> DueRow:
    """Return one thing that ends. What has no date that can be read has ended."""
    end = _moment(until)
    state = "ended" if end < at else "ends"
    days = round((end - at).total_seconds() / 86_400) if until else None
    return DueRow(what=what, ref=ref, until=until, state=state, days=days, next=advice)


def _moment(text: str) -> datetime:
    try:
        return moment(text)
    except Invalid:
        return moment("0001-01-01")
