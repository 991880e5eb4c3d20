"""Aliases, notes and mistakes: what is said of a registered version afterwards."""

from pipelines.workspace.workspace import Workspace
from registry.governance import remarks
from registry.records.answers.registering import AliasAnswer, AliasRow, NoteAnswer
from registry.records.answers.withdrawing import RetireAnswer
from registry.records.events import AliasMoved


def move_alias(workspace: Workspace, alias: str, ref: str, why: str = "") -> AliasAnswer:
    """Let an alias stand for a version from now on; returns what it stood for before."""
    event = remarks.move_alias(workspace.catalog, alias, ref, why)
    return AliasAnswer(alias=alias, ref=event.subject, before=event.read(AliasMoved).before)


def remove_alias(workspace: Workspace, alias: str, why: str = "") -> AliasAnswer:
    """Let an alias stand for nothing any more."""
    event = remarks.remove_alias(workspace.catalog, alias, why)
    return AliasAnswer(alias=alias, ref=None, before=event.subject)


def aliases(workspace: Workspace) -> list[AliasRow]:
    """Return what every alias stands for now, by alias."""
    catalog = workspace.catalog
    rows = []
    for alias, ref in sorted(catalog.aliases().items()):
        moves = catalog.events(ref, AliasMoved.logged_as)
        last = [event for event in moves if event.read(AliasMoved).alias == alias][-1]
        status = str(catalog.status(ref))
        rows.append(AliasRow(alias=alias, ref=ref, status=status, set_by=last.actor, since=last.at))
    return rows


def note(workspace: Workspace, ref: str, text: str) -> NoteAnswer:
    """Log a note on a version."""
    event = remarks.note(workspace.catalog, ref, text)
    return NoteAnswer(ref=event.subject, text=text, actor=event.actor, at=event.at)


def retire(workspace: Workspace, ref: str, why: str) -> RetireAnswer:
    """Say that a version was registered by mistake, before anything stands on it."""
    event = remarks.retire(workspace.catalog, ref, why)
    status = str(workspace.catalog.status(event.subject))
    return RetireAnswer(ref=event.subject, status=status, why=why)
