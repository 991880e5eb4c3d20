"""Heads of the log that are written down outside of the registry, by themselves.

In:  an open catalogue.  Out: a line in a file of the person who acts; the heads in that file.
Whoever rewrites the whole log cannot rewrite what others have written down. The folder is
BTX_HEADS, or else ~/.config/btx/heads: on another disk it is worth more.
"""

import json
import os
from pathlib import Path

from btx_core.files import whole_file
from registry.catalogue import audit_log
from registry.catalogue.catalog import Catalog
from registry.digest import digest
from registry.records.heads import Head

# A RuntimeError comes of an account without a home, as containers run under.
NO_FOLDER = (OSError, RuntimeError)


def file_of(catalog: Catalog) -> Path:
    """Return the file with the heads of the registry at this address.

    A log that was written anew is held to the heads of the one before it; so is another registry
    that took the place of one.
    """
    chosen = os.environ.get("BTX_HEADS")
    folder = Path(chosen) if chosen else Path.home() / ".config" / "btx" / "heads"
    url = catalog.database.url.rpartition("@")[2]
    return folder / f"{digest({'registry': url})[:16]}.jsonl"


def pin(catalog: Catalog) -> Path | None:
    """Write the head down. A last line that a crash left half written goes.

    Returns:
        The file; None where it cannot be written: the act itself stands.
    """
    with catalog.database.read() as rows:
        newest = rows("SELECT at FROM event ORDER BY seq DESC LIMIT 1")
        statement = audit_log.head_statement(rows, str(newest[0][0]) if newest else "")
    line = json.dumps({**statement.to_json(), "actor": catalog.actor})
    try:
        path = file_of(catalog)
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_last_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except NO_FOLDER:
        return None
    return path


def pinned(catalog: Catalog) -> list[Head]:
    """Return the heads that were written down here; lines that hold none are left out."""
    return kept(catalog).heads


def kept(catalog: Catalog) -> audit_log.KeptHeads:
    """Return the heads that were written down here, and the numbers of lines that hold none."""
    try:
        path = file_of(catalog)
    except NO_FOLDER:
        return audit_log.KeptHeads([], [])
    return _read(path.read_bytes() if path.is_file() else b"")


def _read(text: bytes) -> audit_log.KeptHeads:
    return audit_log.heads_in(text.decode(errors="replace"))


def _end_last_line(path: Path) -> None:
    """Give the next head a line of its own, where the last one was not written to its end."""
    text = path.read_bytes() if path.is_file() else b""
    last = text.rpartition(b"\n")[2]
    if last:
        ended = b"" if _read(last).unreadable else last + b"\n"
        with whole_file(path, replace=True) as temporary:
            temporary.write_bytes(text.removesuffix(last) + ended)
