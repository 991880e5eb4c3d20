"""Report what a process does beyond what a command may do with a stranger's files.

With this folder on PYTHONPATH every Python that is started reports too.

BTX_WATCH is JSON: log (a file, one JSON object a line), writable (the folders that may change),
hidden (folders of which nothing may be read), data (folders of which nothing may be executed).
"""

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

# Of each event, which arguments are names that change, each with where its folder's handle is.
CHANGES = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
}
# The same, where what a link leads to changes.
FOLLOWED = {
    "os.chmod": (0, 2),
    "os.chown": (0, 3),
    "os.utime": (0, 3),
    "os.truncate": (0, None),
    "os.setxattr": (0, None),
    "sqlite3.connect": (0, None),
}
CONNECTIONS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen")
# What this program starts by itself.
OWN_MODULES = ("dvc", "pipelines.stages", "pipelines.stages.start", "torch.distributed.run")
OWN_PROGRAMS = ("git", "nvidia-smi", "uname", "ldconfig", "lscpu", "file")
DANGEROUS = ("os", "posix", "subprocess", "sys", "shutil", "builtins", "pty", "socket", "runpy")
HARMLESS = ("builtins.set", "builtins.frozenset", "builtins.slice", "builtins.range")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DEVICES = ("/dev/", "/proc/")


def install(order: dict[str, Any]) -> None:
    """Watch this process from now on."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    data = tuple(order["data"])
    busy = False

    def report(act: str, what: object) -> None:
        line = json.dumps({"act": act, "what": str(what)[:300], "process": sys.argv[:4]})
        os.write(log, line.encode(errors="backslashreplace") + b"\n")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            for act, what in _acts(event, arguments, order, data):
                report(act, what)
        finally:
            busy = False

    sys.addaudithook(watch)


def _acts(
    event: str, arguments: tuple[Any, ...], order: dict[str, Any], data: tuple[str, ...]
) -> Iterator[tuple[str, object]]:
    """Yield what of one event is no command's to do."""
    if event == "open":
        path = _whole(arguments[0], None, follow=True)
        if path is None:
            return
        if isinstance(arguments[2], int) and arguments[2] & WRITES:
            yield from _written(path, order)
        if _below(path, order["hidden"]):
            yield "read", path
    elif event in CHANGES:
        for name, handle in CHANGES[event]:
            yield from _written(_whole(arguments[name], arguments[handle], follow=False), order)
        if event == "os.link":
            source = _whole(arguments[0], arguments[2], follow=True)
            if source and _below(source, order["hidden"]):
                yield "read", source
    elif event in FOLLOWED:
        name, at = FOLLOWED[event]
        if event == "sqlite3.connect" and "mode=ro" in str(arguments[0]):
            return
        handle = arguments[at] if at is not None and len(arguments) > at else None
        yield from _written(_whole(arguments[name], handle, follow=True), order)
    elif event in CONNECTIONS:
        yield "connect", arguments[-1] if event != "socket.getaddrinfo" else arguments[0]
    elif event in STARTS:
        if not _own(event, arguments, data):
            yield "start", arguments[:2]
    else:
        yield from _executed(event, arguments, data)


def _executed(
    event: str, arguments: tuple[Any, ...], data: tuple[str, ...]
) -> Iterator[tuple[str, object]]:
    """Yield code of a stranger's that is about to run."""
    if event == "exec":
        name = getattr(arguments[0], "co_filename", "")
    elif event == "compile":
        name = arguments[1]
    elif event in ("import", "ctypes.dlopen"):
        name = arguments[1 if event == "import" else 0]
    elif event == "pickle.find_class":
        whole = ".".join(map(str, arguments))
        if str(arguments[0]).split(".")[0] in DANGEROUS and whole not in HARMLESS:
            yield "unpickle", whole
        return
    else:
        return
    path = _whole(name, None, follow=True) if name else None
    if path and str(name).startswith("/") and path.startswith(data):
        yield "code", path


def _own(event: str, arguments: tuple[Any, ...], data: tuple[str, ...]) -> bool:
    """Whether a program is one that this project starts."""
    if event != "subprocess.Popen":
        return False
    program, words = str(arguments[0]), [str(_text(word)) for word in arguments[1]]
    if (os.path.realpath(program) if "/" in program else "").startswith(data):
        return False
    if os.path.basename(program).startswith("python"):
        modules = [word for flag, word in itertools.pairwise(words) if flag == "-m"]
        return bool(modules) and modules[0] in OWN_MODULES
    if os.path.basename(program) in ("sh", "bash"):
        return words[-1].startswith("python -P -m pipelines.stages ")
    return os.path.basename(program) in OWN_PROGRAMS


def _written(path: str | None, order: dict[str, Any]) -> Iterator[tuple[str, object]]:
    if path and not path.startswith(DEVICES) and not _below(path, order["writable"]):
        yield "write", path


def _whole(name: Any, handle: Any, *, follow: bool) -> str | None:
    """Return a path with its links resolved; None for what is no path."""
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    name = _text(name)
    if not isinstance(name, str) or name.startswith(":memory:") or "\0" in name:
        return None
    name = name.removeprefix("file:").split("?")[0] if name.startswith("file:") else name
    if isinstance(handle, int) and handle >= 0:
        name = os.path.join(f"/proc/self/fd/{handle}", name)
    if follow:
        return os.path.realpath(name)
    folder, last = os.path.split(name.rstrip("/"))
    return os.path.join(os.path.realpath(folder), last)


def _text(name: Any) -> Any:
    return os.fsdecode(name) if isinstance(name, bytes) else name


def _below(path: str, folders: list[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


Watch = Callable[[str, tuple[Any, ...]], None]

if "BTX_WATCH" in os.environ:
    install(json.loads(os.environ["BTX_WATCH"]))
