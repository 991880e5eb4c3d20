"""What ends, and when: waivers that something in use relies on, and dates of retention.

In:  the catalogue, a time.  Out: what has ended, and what ends soon.
Whether what has ended may still be used is left to the policies; tokens are the pages'.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.governance import gate
from registry.governance.policies import moment
from registry.records.answers import DueRow
from registry.records.facts import FACTS, DataFacts, Facts
from registry.records.kinds import UNUSABLE, Kind
from registry.records.version import Version

SOON_DAYS = 30
JUDGED = (Kind.DATA, Kind.SEED, Kind.EXPERT, Kind.BUILD)


def due(catalog: Catalog, at: datetime, days: float = SOON_DAYS) -> list[DueRow]:
    """Return what has ended of all that is in use, or ends within some days; soonest first."""
    versions: list[Version[Facts]] = []
    for kind in JUDGED:
        versions += catalog.versions(FACTS[kind], files=False)
    statuses = catalog.statuses(versions)
    used = [version for version in versions if statuses[version.ref] not in UNUSABLE]
    return of_versions(catalog, used, at, days)


def of_versions(
    catalog: Catalog, versions: Iterable[Version[Facts]], at: datetime, days: float = SOON_DAYS
) -> list[DueRow]:
    """Return what has ended, or ends within some days, of these versions alone."""
    rows = []
    for version in versions:
        ref, facts = str(version.ref), version.facts
        if isinstance(facts, DataFacts) and facts.retain_until:
            rows.append(row("retention", ref, facts.retain_until, at, f"btx withdraw {ref}"))
        for line in gate.relied_on(catalog, [ref]):
            renewal = f"btx waive {line.rule} {ref} --until DATE --why TEXT"
            rows.append(row(f"waiver of {line.rule}", ref, line.until or "", at, renewal))
    last = at + timedelta(days=days)
    ends = [one for one in rows if one.state == "ended" or _moment(one.until) <= last]
    return sorted(ends, key=lambda one: (one.until, one.what, one.ref))


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
