"""What DVC addresses a file or folder by: an MD5, that of a folder with `.dir` behind it.

In:  a text of a row, an event or a list in DVC's cache.  Out: whether it can be a part of a path.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

_ADDRESS = re.compile(r"[0-9a-f]{32}(\.dir)?")


def is_address(text: object) -> bool:
    """Say whether a value is such an address."""
    return isinstance(text, str) and _ADDRESS.fullmatch(text) is not None


def _require(text: str) -> str:
    if not is_address(text):
        raise ValueError("an MD5, as DVC writes it")
    return text


Address = Annotated[str, AfterValidator(_require)]
