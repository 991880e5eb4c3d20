"""Tell what has ended and what ends soon: waivers, dates of retention, tokens of the pages."""

from pipelines.jobs.access_tokens import tokens
from pipelines.workspace.workspace import Workspace
from registry.governance import due
from registry.records.answers.upkeep import DueRow
from registry.web.officer import due_rows


def due_dates(workspace: Workspace, days: float = due.SOON_DAYS) -> list[DueRow]:
    """Return what has ended of all that is in use, and what ends within some days; soonest first.

    Tokens that have ended open nothing, and are left out.
    """
    return due_rows(workspace.catalog, tokens(workspace), days)
