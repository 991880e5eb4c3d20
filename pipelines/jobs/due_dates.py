"""Tell what has ended and what ends soon: waivers, dates of retention, tokens of the pages."""

from datetime import UTC, datetime, timedelta

from pipelines.jobs.serve import tokens
from pipelines.workspace.workspace import Workspace
from registry.governance import due
from registry.governance.policies import moment
from registry.records.answers import DueRow


def due_dates(workspace: Workspace, days: float = due.SOON_DAYS) -> list[DueRow]:
    """Return what has ended of all that is in use, and what ends within some days; soonest first.

    Tokens that have ended open nothing, and are left out.
    """
    at = datetime.now(UTC)
    rows = due.due(workspace.catalog, at, days)
    for token in tokens(workspace).all():
        ends = moment(token.expires)
        if not token.revoked and at < ends <= at + timedelta(days=days):
            ref = f"token/{token.id}"
            rows.append(due.row("token", ref, token.expires, at, f"btx token add {token.name}"))
    return sorted(rows, key=lambda row: (row.until, row.what, row.ref))
