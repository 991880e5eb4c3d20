"""Write files that a user named and that must not exist yet.

In:  paths and what they are to hold.  Out: whole files, or a refusal before the first.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from btx_core.files import whole_file
from registry.errors import Conflict, Invalid


def write_new(files: Mapping[Path, bytes]) -> None:
    """Write new files; where one of them cannot be, none is written.

    Raises:
        Conflict: when something is at a path already.
        Invalid: when a path lies in no folder.
    """
    for path in files:
        if os.path.lexists(path):
            raise Conflict(
                str(path), found="something there", expected="a new file", next="name another file"
            )
        if not path.parent.is_dir():
            raise Invalid(
                str(path),
                found=f"no folder {path.parent}",
                expected="a file in an existing folder",
                next="make the folder",
            )
    for path, content in files.items():
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
