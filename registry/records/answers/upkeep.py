"""How a workspace is, and what keeps it whole: dumps, repairs, upgrades, dates that end."""

from collections.abc import Mapping

from registry.records.answers.answer import Answer


class CollectAnswer(Answer):
    """What a garbage collection deleted, or would delete."""

    deleted: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # what was left as it is, and why


class LoadAnswer(Answer):
    """What a load read: the rows of each table, and the stored files."""

    format: int
    head: str
    rows: Mapping[str, int] = {}
    objects: int = 0
    missing: tuple[str, ...] = ()  # digests of files that neither the store nor a folder held


class DumpAnswer(LoadAnswer):
    """What a dump wrote, and where."""

    folder: str
    erased: int = 0  # files whose bytes were erased: no dump has them


class RestoreAnswer(LoadAnswer):
    """What a restore read, and the version folders here that are newer."""

    newer: tuple[str, ...] = ()
    again: tuple[str, ...] = ()  # what the other side of a fork had registered
    acts: tuple[str, ...] = ()  # what else people had done there, such as a withdrawal


class RepairedFile(Answer):
    """A file that was damaged or missing, and is whole again."""

    ref: str
    path: str
    source: str  # the whole copy
    sha256: str


class LostFile(Answer):
    """A file of which there is no whole copy."""

    ref: str
    path: str
    next: str


class RepairAnswer(Answer):
    """What a repair looked at, restored and could not restore."""

    subject: str
    examined: int
    repaired: tuple[RepairedFile, ...] = ()
    lost: tuple[LostFile, ...] = ()


class UpgradeRow(Answer):
    """One thing that leads an older workspace to what a new one has."""

    what: str
    why: str
    command: str
    done: bool = False


class DueRow(Answer):
    """Something that has ended, or ends soon."""

    what: str  # waiver of POLICY/RULE | retention | token
    ref: str
    until: str
    state: str  # ended | ends
    days: int | None = None  # until then; negative where it is past
    next: str


class Waiting(Answer):
    """What waits for a person, and the command that they would give."""

    what: str
    who: str
    next: str


class DiskUse(Answer):
    """How much a part of a workspace takes; what another part links is not counted again."""

    part: str
    bytes: int


class StatusAnswer(Answer):
    """How a workspace is now."""

    workspace: str
    head: str
    counts: Mapping[str, int]  # of what is in use, by kind
    newest_build: str | None
    aliases: Mapping[str, str] = {}
    running: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    due: tuple[DueRow, ...] = ()
    disk: tuple[DiskUse, ...] = ()
