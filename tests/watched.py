"""Runs commands of `btx` in an account and folders of their own, and reports what they do outside.

One process imports everything once; each command is a fork of it, in a session of its own, as an
account that owns nothing else where the tests run as root. `Sandbox.run` returns how it ended and
every act that is no command's to do: writing elsewhere, connecting, starting programs, executing
what lies among the files, reading secrets.
"""

import json
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

HOOK = Path(__file__).with_name("watch_hook")
# Who owns nothing else; where it cannot run this Python, commands run as the tests do.
ACCOUNT = "nobody"
# Of a command: what a busy machine takes, and what a command computes at most.
LIMIT_S = 900
CPU_S = 60
ADDRESS_SPACE = 8 << 30
FILE_BYTES = 1 << 30
# Of the home folder, what commands may write to.
OWN_FOLDERS = (".config/btx", ".local/share", ".cache", ".btx")


@cache
def account() -> str:
    """Return the account that commands run as; empty: that of the tests."""
    if os.geteuid() != 0:
        return ""
    try:
        command = [sys.executable, "-c", "import encodings"]
        done = subprocess.run(command, user=ACCOUNT, capture_output=True)
    except PermissionError:
        return ""
    return "" if done.returncode else ACCOUNT


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it did that it may not do."""

    status: int
    stdout: str
    stderr: str
    acts: tuple[str, ...]
    seconds: float

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


@dataclass
class Sandbox:
    """Folders for one stranger's files, and what must not change or be read beside them.

    Attributes:
        root: holds all others.
        sent: what the listening server got; its address is what strangers name.
    """

    root: Path
    server: "Server"
    sent: list[bytes] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        own = [f"home/{name}" for name in OWN_FOLDERS]
        for name in ("given", "out", "tmp", "elsewhere/folder", "home/.ssh", *own):
            (self.root / name).mkdir(parents=True)
        (self.elsewhere / "keep.txt").write_text("to be kept\n")
        (self.elsewhere / "keep.json").write_text("{}\n")
        (self.root / "home/.bashrc").write_text("# mine\n")
        (self.root / "home/.ssh/id_ed25519").write_text("SECRET-OF-THE-USER\n")

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def given(self) -> Path:
        return self.root / "given"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def elsewhere(self) -> Path:
        return self.root / "elsewhere"

    def hand_over(self) -> None:
        """Give all of it to the account that commands run as."""
        if account():
            subprocess.run(["chown", "-R", "-h", account(), str(self.root)], check=True)

    def order(self) -> dict[str, Any]:
        home = self.root / "home"
        folders = [self.workspace, self.out, self.root / "tmp"]
        return {
            "log": str(self.root / "tmp/acts"),
            "writable": [*map(str, folders), *(str(home / name) for name in OWN_FOLDERS)],
            "hidden": [str(home / ".ssh")],
            "data": [f"{self.workspace}/", f"{self.given}/", f"{self.elsewhere}/"],
        }

    def environment(self) -> dict[str, str]:
        home = str(self.root / "home")
        return {
            "HOME": home,
            "TMPDIR": str(self.root / "tmp"),
            "XDG_CONFIG_HOME": f"{home}/.config",
            "XDG_CACHE_HOME": f"{home}/.cache",
            "XDG_DATA_HOME": f"{home}/.local/share",
            "DVC_SITE_CACHE_DIR": str(self.root / "tmp/dvc"),
            "BTX_HEADS": f"{home}/.local/share/heads",
            "BTX_ACTOR": "visitor",
            "BTX_WATCH": json.dumps(self.order()),
        }

    def run(self, *arguments: str, program: str = "", folder: Path | None = None) -> Ended:
        """Run one command, or else a Python `program`, as the stranger's files lie now."""
        log = Path(self.order()["log"])
        log.unlink(missing_ok=True)
        before = self.untouched()
        received = len(self.sent)
        started = time.monotonic()
        reply = self.server.ask(
            {
                "folder": str(folder or self.workspace),
                "arguments": list(arguments),
                "program": program,
                "environment": self.environment(),
                "order": self.order(),
                "account": account(),
            }
        )
        acts = []
        if log.exists():
            for line in dict.fromkeys(log.read_text().splitlines()):
                act = json.loads(line)
                acts.append(f"{act['act']} {act['what']} by {' '.join(act['process'])[:120]}")
        after = self.untouched()
        changed = before.items() ^ after.items()
        acts += [f"changed {path}" for path in sorted({path for path, _ in changed})]
        acts += [f"sent {what!r}" for what in self.sent[received:]]
        seconds = time.monotonic() - started
        return Ended(reply["status"], reply["stdout"], reply["stderr"], tuple(acts), seconds)

    def untouched(self) -> dict[str, tuple[Any, ...]]:
        """Return what may not change: names, kinds, sizes, times and links."""
        own = tuple(f"{self.root}/home/{name}" for name in OWN_FOLDERS)
        facts: dict[str, tuple[Any, ...]] = {}
        for name in ("elsewhere", "home", "given"):
            for folder, folders, files in os.walk(self.root / name):
                folders[:] = [one for one in folders if not f"{folder}/{one}".startswith(own)]
                for path in (f"{folder}/{one}" for one in (*folders, *files)):
                    status = os.lstat(path)
                    # A folder's own time moves when a command makes what it may make in it.
                    when = 0 if path.startswith(f"{self.root}/home") else status.st_mtime_ns
                    facts[path] = (status.st_mode, status.st_size, when, status.st_ino)
        return facts


class Server:
    """The process that commands are forked from."""

    def __init__(self) -> None:
        hook = f"{HOOK}:{Path(__file__).parent}:{Path(__file__).parents[1]}"
        environment = {**os.environ, "PYTHONPATH": hook, "OMP_NUM_THREADS": "1"}
        environment.pop("BTX_WATCH", None)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def sandbox(server: Server) -> Iterator[Sandbox]:
    """Yield a sandbox in a folder that other accounts reach, and a server that listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    sent: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError):
                connection.settimeout(1)
                sent.append(connection.recv(4096))
            connection.close()

    threading.Thread(target=listen, daemon=True).start()
    root = Path(tempfile.mkdtemp(prefix="btx-watched-", dir="/tmp")).resolve()
    root.chmod(0o755)
    try:
        yield Sandbox(root, server, sent, listener.getsockname()[1])
    finally:
        # shutdown() wakes the thread that accepts; close() alone would leave it there.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        subprocess.run(["chmod", "-R", "u+rwX", str(root)], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)


def _serve() -> None:
    """Answer requests from stdin until it ends."""
    _import_all()
    answers = os.fdopen(os.dup(1), "w")
    # Nothing that a module prints reaches the answers.
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()
    # Without the tidying of all that was imported.
    os._exit(0)


def _import_all() -> None:
    import importlib
    import pkgutil

    import pipelines.jobs

    names = [name for _, name, _ in pkgutil.iter_modules(pipelines.jobs.__path__)]
    for name in ("pipelines.cli.app", *(f"pipelines.jobs.{name}" for name in names)):
        importlib.import_module(name)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    folder = Path(request["order"]["log"]).parent
    outputs = [folder / "stdout", folder / "stderr"]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _child(request, outputs)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    status = _wait(child)
    stdout, stderr = (path.read_bytes().decode(errors="backslashreplace") for path in outputs)
    return {"status": status, "stdout": stdout, "stderr": stderr}


def _child(request: dict[str, Any], outputs: Sequence[Path]) -> int:
    os.setsid()
    os.chdir(request["folder"])
    if request["account"]:
        account = pwd.getpwnam(request["account"])
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    for path, number in zip(outputs, (1, 2), strict=True):
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.update(request["environment"])
    tempfile.tempdir = request["environment"]["TMPDIR"]
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.argv = ["btx", *request["arguments"]]
    from sitecustomize import install

    install(request["order"])
    if request["program"]:
        exec(compile(request["program"], "<program>", "exec"), {"__name__": "__program__"})
        return 0
    from pipelines.cli import app

    app.main()
    return 0


def _wait(child: int) -> int:
    """Wait for a child, for so long; end all that it started. Returns its status; -9: too long."""
    until = time.monotonic() + LIMIT_S
    pause_s = 0.002
    status = None
    while status is None and time.monotonic() < until:
        done, found = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(found)
        else:
            time.sleep(pause_s)
            pause_s = min(0.05, pause_s * 1.5)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
        return -signal.SIGKILL
    return status


if __name__ == "__main__":
    _serve()
