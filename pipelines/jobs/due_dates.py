"""Tell what has ended and what ends soon: waivers, dates of retention, tokens of the pages."""

from pipelines.jobs.access_tokens import tokens
from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid
from registry.governance import due
from registry.records.answers.upkeep import DueRow
from registry.web.officer import due_rows

# As far as the page looks ahead.
MOST_DAYS = 3660


def due_dates(workspace: Workspace, days: float = due.SOON_DAYS) -> list[DueRow]:
    """Return what has ended of all that is in use, and what ends within some days; soonest first.

    Tokens that have ended open nothing, and are left out.

    Raises:
        Invalid: for a number of days that is none.
    """
    if not 0 <= days <= MOST_DAYS:
        raise Invalid(
            "--days", found=f"{days:g}", expected=f"0 to {MOST_DAYS}", next="btx due --days 90"
        )
    return due_rows(workspace.catalog, tokens(workspace), days)
