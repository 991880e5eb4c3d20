"""Kill a command at its Nth change of the file system below a folder.

With this folder on PYTHONPATH every Python that the command starts counts too.

BTX_KILL is JSON: root, counter (a file outside the root, a byte a change), at (N), whole (its
process group, or its first process alone).
"""

import json
import os
import signal
import sys
from typing import Any

_CHANGES = {
    "os.rename": 2,
    "os.link": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.chmod": 1,
    "os.utime": 1,
    "os.symlink": 2,
    "sqlite3.connect": 1,  # to write: who only reads names a URI
}


def install(order: dict[str, Any]) -> None:
    counter = os.open(order["counter"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            )
            paths = arguments[:1] if changes else ()
        else:
            paths = arguments[: _CHANGES.get(event, 0)]
        if not any(
            isinstance(path, str | os.PathLike)
            and os.path.abspath(os.fspath(path)).startswith(order["root"])
            for path in paths
        ):
            return
        os.write(counter, b".")
        if os.fstat(counter).st_size == order["at"]:
            first = int(os.environ["BTX_KILL_FIRST"])
            (os.killpg if order["whole"] else os.kill)(first, signal.SIGKILL)

    sys.addaudithook(watch)


if "BTX_KILL" in os.environ:
    os.environ.setdefault("BTX_KILL_FIRST", str(os.getpid()))
    install(json.loads(os.environ["BTX_KILL"]))
