"""What was erased, as the log's tombstones say.

In:  the rows.  Out: by version, what was erased of it; the files of which no bytes may be kept.
Who may erase is left to `governance.erasure`, where the bytes lie to whoever knows the disk.
"""

from collections.abc import Mapping

from registry.catalogue.database import Rows
from registry.catalogue.rows import EVENT_COLUMNS, event
from registry.records.events import Erased

Tombstones = Mapping[str, tuple[Erased, ...]]


def read(rows: Rows) -> Tombstones:
    """Return the tombstones by the version that they are for, oldest first.

    Raises:
        Damaged: for one that cannot be read.
    """
    found: dict[str, tuple[Erased, ...]] = {}
    for row in rows(f"SELECT {EVENT_COLUMNS} FROM event WHERE kind = 'erased' ORDER BY seq"):
        one = event(row)
        found[one.subject] = (*found.get(one.subject, ()), one.read(Erased))
    return found


def files(tombstones: Tombstones) -> Mapping[str, frozenset[str]]:
    """Return the SHA-256 of the files that were erased, by version."""
    return {
        ref: frozenset(file.sha256 for one in several for file in one.part.files)
        for ref, several in tombstones.items()
    }


def every_file(tombstones: Tombstones) -> frozenset[str]:
    """Return the SHA-256 of all files that were erased of any version."""
    return frozenset().union(*files(tombstones).values())
