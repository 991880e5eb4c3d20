"""Words that must be able to go: reasons and names, kept outside the log as salted digests.

In:  a folder of this machine, and words.  Out: a digest for the log, and the words again while they
are kept.
The log is kept for ever, so it holds the digest alone. The salt lies with the words: once their
file is gone, nobody can try words against the digest.
"""

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from btx_core.files import any_json
from registry.catalogue.catalog import Catalog
from registry.digest import digest
from registry.errors import NotFound

Words = Mapping[str, str]


@contextmanager
def kept(folder: Path, words: Words, catalog: Catalog) -> Iterator[str]:
    """Write words down, where their owner alone may read them, for an act that the block logs.

    Where the act is refused or interrupted they go. Where a group works in the workspace, so may
    the group: one asks, another confirms.

    Args:
        folder: where they are kept.
        words: by name, such as `why`.
        catalog: where the act is logged.

    Yields:
        The digest that stands for them in the log.
    """
    record = {"salt": secrets.token_hex(32), "words": dict(words)}
    key = digest(record)
    parent = folder.parent
    group = stat.S_IRWXG if parent.is_dir() and parent.stat().st_mode & stat.S_IWGRP else 0
    folder.mkdir(parents=True, exist_ok=True, mode=0o700 | group)
    mode = 0o600 | (group & 0o060)
    descriptor = os.open(_path(folder, key), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file)
    try:
        yield key
    except BaseException:
        # Ctrl-C at the passphrase, too; what failed after the act was logged stays readable.
        if not _is_logged(catalog, key):
            shred(folder, key)
        raise


def read(folder: Path, key: str) -> Words | None:
    """Return the words of a digest; None where they are not kept here, or are other words."""
    try:
        record = any_json(_path(folder, key).read_text(encoding="utf-8"))
        return dict(record["words"]) if digest(record) == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def shred(folder: Path, key: str) -> None:
    """Forget the words of a digest. Raises NotFound where they are not kept here."""
    try:
        _path(folder, key).unlink()
    except FileNotFoundError:
        raise NotFound(
            f"words of digest {key[:12]}",
            found="nothing on this machine",
            expected=f"a file in {folder}",
            next="run it where the act was done; what was shredded is gone",
        ) from None


def _is_logged(catalog: Catalog, key: str) -> bool:
    """Say whether an event names these words."""
    query = "SELECT 1 FROM event WHERE body LIKE :named"
    with catalog.database.read() as rows:
        return bool(rows(query, named=f'%"private":"{key}"%'))


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"
