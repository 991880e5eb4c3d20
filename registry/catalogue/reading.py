"""Answer questions over the rows: find versions, read their files, decide their status.

In:  the rows of an open database, a reference or row ids.  Out: versions and statuses.
Pure over rows: reads only, keeps nothing. What was made from what is `lineage`.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from registry.catalogue import lineage
from registry.catalogue.database import Rows
from registry.catalogue.rows import FILE_COLUMNS, VERSION_COLUMNS, file_fact, version
from registry.errors import Damaged, NotFound
from registry.records.events import Acted, AliasMoved, Progress
from registry.records.facts import Facts
from registry.records.kinds import KINDS, MAKING, Kind, Status, status_of
from registry.records.own_facts import Attachment, attachment
from registry.records.references import Reference, parse
from registry.records.version import FileFact, Version

AT_ONCE = 1000  # row ids in one query
# The command that makes the first one of a kind.
FIRST: Mapping[Kind, str] = {
    Kind.DATA: "btx data add NAME PATH --license SPDX-ID",
    Kind.SEED: "btx seed add NAME PATH --license SPDX-ID",
    Kind.EXPERT: "btx train NAME, or btx register NAME PATH --data data/NAME",
    Kind.SNAPSHOT: "btx rebuild",
    Kind.BUILD: "btx rebuild",
    Kind.EVALUATION: "btx rebuild",
    Kind.EXPORT: "btx export build/N PATH",
}


def row_of(rows: Rows, ref: str | Reference) -> tuple[Any, ...]:
    """Return the version's row; without a number, the newest. Raises NotFound.

    A word without a slash is an alias.
    """
    wanted = parse(behind_alias(rows, ref))
    found = rows(
        f"SELECT {VERSION_COLUMNS} FROM version v "
        "WHERE v.kind = :kind AND v.name = :name AND v.number = COALESCE(:number, "
        "(SELECT MAX(number) FROM version WHERE kind = :kind AND name = :name))",
        kind=wanted.kind,
        name=wanted.name,
        number=wanted.version,
    )
    if not found:
        expected, next_step = _what_there_is(rows, wanted)
        raise NotFound(str(wanted), found="nothing", expected=expected, next=next_step)
    return found[0]


def aliases(rows: Rows) -> dict[str, str]:
    """Return the reference that each alias stands for now, by alias."""
    holders: dict[str, str] = {}
    query = "SELECT subject, body FROM event WHERE kind = 'alias' ORDER BY seq"
    for subject, body in rows(query):
        moved = AliasMoved.from_text(body, f"{subject}, alias")
        if moved.set:
            holders[moved.alias] = subject
        else:
            holders.pop(moved.alias, None)
    return holders


def names_of(aliases: Mapping[str, str], ref: str) -> tuple[str, ...]:
    """Return the aliases that stand for a reference."""
    return tuple(sorted(alias for alias, holder in aliases.items() if holder == ref))


def retired(rows: Rows) -> set[str]:
    """Return the references that were registered by mistake."""
    return {row[0] for row in rows("SELECT subject FROM event WHERE kind = 'retired'")}


def behind_alias(rows: Rows, ref: str | Reference) -> str | Reference:
    """Return the reference that an alias stands for; any other text as it is."""
    if isinstance(ref, Reference) or "/" in ref or ref == Kind.BUILD:
        return ref
    return aliases(rows).get(ref, ref)


def version_of(rows: Rows, ref: str | Reference) -> Version[Facts]:
    """Return the version with its files; without a number, the newest. Raises NotFound."""
    row = row_of(rows, ref)
    return version(row, files_of(rows, row[0]))


def files_of(rows: Rows, version_id: int) -> list[FileFact]:
    """Return the files of the version in this row, by path."""
    query = f"SELECT {FILE_COLUMNS} FROM file WHERE version_id = :id"
    return _by_path(file_fact(row) for row in rows(query, id=version_id))


def with_files(rows: Rows, found: Sequence[tuple[Any, ...]]) -> list[Version[Facts]]:
    """Read many versions with their files, in a few queries."""
    files: dict[int, list[FileFact]] = {}
    for ids in _groups(row[0] for row in found):
        query = (
            f"SELECT version_id, {FILE_COLUMNS} FROM file "
            f"WHERE version_id IN ({ids}) ORDER BY version_id"
        )
        for version_id, *columns in rows(query):
            files.setdefault(version_id, []).append(file_fact(columns))
    return [version(row, _by_path(files.get(row[0], ()))) for row in found]


def _by_path(files: Iterable[FileFact]) -> list[FileFact]:
    # Not by the database, which may order text by the rules of a language.
    return sorted(files, key=attrgetter("path"))


def versions_by_id(
    rows: Rows, ids: Sequence[int], *, files: bool = True
) -> dict[int, Version[Facts]]:
    """Read the versions in these rows. Raises Damaged where a row is missing."""
    versions: dict[int, Version[Facts]] = {}
    for some in _groups(ids):
        found = rows(f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.id IN ({some})")
        read = with_files(rows, found) if files else [version(row) for row in found]
        versions |= {row[0]: version for row, version in zip(found, read, strict=True)}
    for version_id in ids:
        if version_id not in versions:
            raise Damaged(
                "lineage",
                found=f"an edge to missing row {version_id}",
                expected="a registered version",
                next="btx audit",
            )
    return versions


def references_by_id(rows: Rows, ids: Iterable[int]) -> set[Reference]:
    """Return the references of the versions in these rows."""
    references: set[Reference] = set()
    for some in _groups(sorted(ids)):
        found = rows(f"SELECT kind, name, number FROM version WHERE id IN ({some})")
        references |= {_reference(*row) for row in found}
    return references


def statuses_of(rows: Rows, versions: Iterable[Version[Facts]]) -> dict[Reference, Status]:
    """Decide the status of many versions from the log, in a few queries."""
    gone = lineage.withdrawn(rows)
    tainted = references_by_id(rows, lineage.walk(rows, gone, down=True) - gone) if gone else set()
    withdrawn = references_by_id(rows, gone)
    erased = references_by_id(rows, lineage.erased(rows)) if gone else set()
    released, progress = _reported(rows)
    said = {
        Status.ERASED: {str(ref) for ref in erased},
        Status.WITHDRAWN: {str(ref) for ref in withdrawn},
        Status.RETIRED: retired(rows),
        Status.TAINTED: {str(ref) for ref in tainted},
        Status.RELEASED: released,
    }
    statuses = {}
    for one in versions:
        subject = str(one.ref)
        try:
            statuses[one.ref] = status_of(
                [status for status, subjects in said.items() if subject in subjects],
                progress=progress.get(subject),
                recorded=_recorded(one),
            )
        except ValueError as error:
            raise Damaged(
                f"{subject}, status",
                found=error,
                expected=f"one of {', '.join(sorted(MAKING))}",
                next="btx audit names every finding",
            ) from None
    return statuses


def with_own(rows: Rows) -> list[Version[Facts]]:
    """Return the versions that were registered with facts of the company's own."""
    query = f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.facts LIKE '%\"own\":%'"
    return [one for one in map(version, rows(query)) if one.facts.own]


def attached(rows: Rows) -> dict[str, set[str]]:
    """Return the digest of every file that was ever attached, with what it was attached to."""
    found: dict[str, set[str]] = {}
    for one in with_own(rows):
        for value in one.facts.own.values():
            _note(found, str(one.ref), value)
    for subject, body in rows("SELECT subject, body FROM event WHERE kind = 'fact'"):
        act = Acted.from_text(body, f"facts of {subject}").act
        for stated in (act.facts or {}).values():
            _note(found, subject, attachment(stated))
    return found


def _note(found: dict[str, set[str]], subject: str, value: object) -> None:
    if isinstance(value, Attachment):
        found.setdefault(value.sha256, set()).add(subject)


def next_number(rows: Rows, kind: Kind, name: str) -> int:
    """Return the number that the next version of this name gets."""
    query = "SELECT MAX(number) FROM version WHERE kind = :kind AND name = :name"
    return int(rows(query, kind=kind, name=name)[0][0] or 0) + 1


def _reference(kind: str, name: str, number: int) -> Reference:
    if kind not in KINDS:
        raise Damaged(
            "version row",
            found=f"kind {kind!r}",
            expected=f"one of {', '.join(Kind)}",
            next="btx audit names it",
        )
    return Reference(Kind(kind), name, number)


def _recorded(version: Version[Facts]) -> str | None:
    # Only builds are written with a status of their own: no other row is read for it.
    return version.facts.status if version.ref.kind == Kind.BUILD else None


def _reported(rows: Rows) -> tuple[set[str], dict[str, str]]:
    """Return the subjects that were released, and the newest reported progress of others."""
    released: set[str] = set()
    progress: dict[str, str] = {}
    query = (
        "SELECT subject, kind, body FROM event WHERE kind IN ('progress', 'released') ORDER BY seq"
    )
    for subject, kind, body in rows(query):
        if kind == "released":
            released.add(subject)
        else:
            progress[subject] = Progress.from_text(body, f"{subject}, progress").status
    return released, progress


def _what_there_is(rows: Rows, wanted: Reference) -> tuple[str, str]:
    """Return what would have been found, and the command that shows or makes it."""
    newest = (
        "SELECT number FROM version WHERE kind = :kind AND name = :name "
        "ORDER BY number DESC LIMIT 5"
    )
    numbers = rows(newest, kind=wanted.kind, name=wanted.name)
    if numbers:
        known = [Reference(wanted.kind, wanted.name, row[0]) for row in reversed(numbers)]
    else:
        query = "SELECT DISTINCT name FROM version WHERE kind = :kind ORDER BY name LIMIT 20"
        names = sorted(row[0] for row in rows(query, kind=wanted.kind))
        known = [Reference(wanted.kind, name) for name in names]
    if not known:
        return f"a registered {wanted.kind}; there is none yet", FIRST[wanted.kind]
    return "one of " + ", ".join(map(str, known)), wanted.kind.look_up


def _groups(ids: Iterable[int]) -> Iterable[str]:
    """Yield the ids as text for SQL, as many at once as one query takes."""
    known = list(ids)
    for start in range(0, len(known), AT_ONCE):
        yield ", ".join(str(int(one)) for one in known[start : start + AT_ONCE])
