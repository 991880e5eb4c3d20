"""Since when each version is out of use: withdrawn, erased, registered by mistake, or tainted.

In:  the catalogue's log and lineage.  Out: numbers of events, by reference.
"""

from contextlib import suppress

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog
from registry.records.events import Erased, Retired, Withdrawn


def out_of_use(catalog: Catalog) -> dict[str, int]:
    """Return the number of the event since which each version is out of use."""
    since: dict[str, int] = {}
    for kind in (Retired.logged_as, Withdrawn.logged_as, Erased.logged_as):
        for event in catalog.events(kind=kind):
            for ref in _reached(catalog, event.subject):
                since[ref] = min(event.seq, since.get(ref, event.seq))
    return since


def _reached(catalog: Catalog, subject: str) -> list[str]:
    """Return a version and all that was made from it; nothing for what is not registered."""
    with suppress(BtxError):
        return [str(node.ref) for node in catalog.lineage(subject, down=True).nodes]
    return []
