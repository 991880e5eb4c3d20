"""Read JSON that others wrote: bounded, and with one meaning only.

In:  a file or its bytes.
Out: a JSON object. Doubled keys, NaN and nesting without end are refused, since two readers would
     take them differently, or never come back. What the keys mean is left to the callers.
"""

from __future__ import annotations

import json
from pathlib import Path

# A parsed JSON value may be anything; every caller checks the keys that it reads.
from typing import Any

from btx_core.problems import Unsafe

MAX_JSON_BYTES = 64 << 20
# How a file begins that Git LFS has not fetched.
LFS_POINTER = b"version https://git-lfs"
SAVE_ANEW = "take the checkpoint from its source again, or save it anew with save_pretrained"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: a file of at most `MAX_JSON_BYTES`.

    Returns:
        The object.

    Raises:
        Unsafe: when the file cannot be read, is too large, or holds no such object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise Unsafe(
                path,
                found=f"{size} bytes",
                expected=f"at most {MAX_JSON_BYTES}",
                next=SAVE_ANEW,
            )
        raw = path.read_bytes()
    except OSError as error:
        raise Unsafe(
            path, found=error.strerror or "unreadable", expected="a readable file", next=SAVE_ANEW
        ) from None
    return parse_json(path, raw)


def parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        path: where the bytes come from, for the error message.
        raw: UTF-8 text.

    Returns:
        The object.

    Raises:
        Unsafe: when the text is no JSON object, or one that readers understand differently.
    """
    require_fetched(path, raw)
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
        )
    # UnicodeDecodeError and JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise Unsafe(
            path, found=f"no valid JSON: {error}"[:200], expected="JSON", next=SAVE_ANEW
        ) from None
    if not isinstance(value, dict):
        raise Unsafe(
            path,
            found=f"a JSON {type(value).__name__}",
            expected="a JSON object",
            next=SAVE_ANEW,
        )
    return value


def require_fetched(path: Path, beginning: bytes) -> None:
    """Require a file itself, not the note that Git LFS keeps in its place.

    Raises:
        Unsafe: for such a note.
    """
    if beginning.startswith(LFS_POINTER):
        raise Unsafe(
            path,
            found="a Git LFS pointer, not the file itself",
            expected="the file's own bytes",
            next="git lfs pull, where the folder was cloned",
        )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key twice in one object")
    return members


def _no_constant(text: str) -> object:
    raise ValueError(f"{text}, which is not JSON")
