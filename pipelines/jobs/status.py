"""Say how a workspace is: its content, what runs and waits, what ends soon, its disk use."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.jobs.due_dates import due_dates
from pipelines.workspace.bars import Note, notes
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.governance import approving, erasure, people
from registry.records.answers.upkeep import DiskUse, StatusAnswer, Waiting
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Facts,
    SeedFacts,
)
from registry.records.kinds import UNUSABLE, Kind, Status
from registry.records.references import Reference
from registry.records.version import Version

KINDS: tuple[type[Facts], ...] = (SeedFacts, DataFacts, ExpertFacts, BuildFacts, ExportFacts)
# In the order in which a file that several of them link is counted.
PARTS = (
    "data",
    "seeds",
    "experts",
    "builds",
    "exports",
    ".btx/store",
    ".dvc/cache",
    "work",
)


def status(workspace: Workspace) -> StatusAnswer:
    """Return how a workspace is now; nothing is logged."""
    catalog = workspace.catalog
    counts, waiting = {}, list[Waiting]()
    newest_build = None
    for kind in KINDS:
        versions = catalog.versions(kind, files=False)
        statuses = catalog.statuses(versions)
        in_use = [one for one in versions if statuses[one.ref] not in UNUSABLE]
        counts[kind.kind.plural] = len(in_use)
        if kind.kind == Kind.BUILD and in_use:
            newest_build = str(in_use[-1].ref)
            waiting += _releases(workspace, [one.of(BuildFacts) for one in in_use], statuses)
    waiting += _erasures(catalog)
    return StatusAnswer(
        workspace=str(workspace.root),
        head=catalog.head(),
        counts=counts,
        newest_build=newest_build,
        aliases=catalog.aliases(),
        running=_running(workspace),
        waiting=tuple(waiting),
        due=tuple(due_dates(workspace)),
        disk=tuple(_disk(workspace.root)),
    )


def _releases(
    workspace: Workspace,
    builds: Sequence[Version[BuildFacts]],
    statuses: Mapping[Reference, Status],
) -> Iterator[Waiting]:
    """Yield who must act before the newest build of each product line can be released."""
    # In the order of their numbers, so the newest of each product line stays.
    newest = {build.facts.line: build for build in builds}
    for build in newest.values():
        if statuses[build.ref] != Status.RELEASED:
            yield _release(workspace, str(build.ref))


def _release(workspace: Workspace, build: str) -> Waiting:
    """Return who must act before a build can be released."""
    catalog = workspace.catalog
    version = catalog.get(build, BuildFacts)
    if approving.approvals(catalog, version):
        who, command = "a registrar", f"btx release {build}"
    else:
        who = _others(catalog, version.actor, ("approver",)) or "an approver"
        command = f"btx approve {build}"
    return Waiting(what=build, who=who, next=command)


def _erasures(catalog: Catalog) -> Iterator[Waiting]:
    """Yield the erasures that a second person has to confirm."""
    for event in erasure.waiting(catalog):
        who = _others(catalog, event.actor, erasure.CONFIRMED_BY)
        yield Waiting(
            what=f"erasure {event.seq} of {event.subject}",
            who=who or f"another {' or '.join(erasure.CONFIRMED_BY)}",
            next=f"btx erase --confirm {event.seq}",
        )


def _others(catalog: Catalog, first: str, roles: Sequence[str]) -> str:
    """Name the people with one of these roles who may be the second person after a first one."""
    listed = people.roll(catalog).values()
    names = [one.name for one in listed if one.name != first and set(roles) & {*one.roles}]
    return " or ".join(names)


def _running(workspace: Workspace) -> tuple[str, ...]:
    """Return who writes in the workspace now, and how far its stages have come."""
    writer = workspace.writer()
    if writer is None:
        return ()
    lines = [writer]
    for path in notes(workspace.root):
        note = Note.read(path)
        if note is not None and note.total and note.done < note.total:
            lines.append(f"{path.stem}: {note.done} of {note.total} {note.text}".strip())
    return tuple(lines)


def _disk(root: Path) -> Iterator[DiskUse]:
    """Yield how much each part of a workspace takes; a file with several names counts once."""
    seen = set[tuple[int, int]]()
    for part in PARTS:
        size = sum(_sizes(root / part, seen))
        if size:
            yield DiskUse(part=part, bytes=size)


def _sizes(folder: Path, seen: set[tuple[int, int]]) -> Iterator[int]:
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                file = os.lstat(os.path.join(where, name))
            except FileNotFoundError:
                # A stage that runs removes what it no longer needs.
                continue
            key = (file.st_dev, file.st_ino)
            if key not in seen:
                seen.add(key)
                yield file.st_blocks * 512
