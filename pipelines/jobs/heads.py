"""Job: say the log's head, signed on request, to be kept outside; `btx audit --head` checks it.

A head kept outside shows what the chain alone cannot: a tail cut off, a chain written anew from end to end.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.catalogue import audit_log
from registry.errors import Conflict
from registry.governance import people


def head(workspace: Workspace, *, sign: bool = False, out: Path | None = None) -> dict[str, Any]:
    """seq, head, at, actor; with `sign` also the acting person's Ed25519 signature. out: a new file. Raises Conflict when it exists."""
    catalog = workspace.catalog
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with catalog.database.read() as rows:
        if sign:
            answer = {
                "actor": catalog.actor,
                **audit_log.sign_head(rows, people.signer(catalog.actor).key, at),
            }
        else:
            newest = rows("SELECT seq, digest FROM event ORDER BY seq DESC LIMIT 1")
            answer = {
                "actor": catalog.actor,
                "seq": newest[0][0] if newest else 0,
                "head": audit_log.head(rows),
                "at": at,
            }
    if out is not None:
        if out.exists():
            raise Conflict(
                str(out), found="something there", expected="a new file", next="name another file"
            )
        out.write_text(json.dumps(answer, indent=1) + "\n")
    return answer
