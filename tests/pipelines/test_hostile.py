"""Commands in a stranger's workspace, or on a stranger's files, do no more than they say.

They write nowhere else, connect to nothing, execute nothing that lies there, and end with a
message.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hostile
import pytest
from watched import Ended, Sandbox, Server, sandbox

from pipelines.jobs import archive
from pipelines.workspace.workspace import Workspace


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def box(server: Server) -> Iterator[Sandbox]:
    with sandbox(server) as made:
        made.workspace.mkdir()
        yield made


MISDEEDS = {
    "writing": "open('{elsewhere}/new', 'w')",
    "appending": "import os; os.open('{elsewhere}/keep.txt', os.O_WRONLY | os.O_APPEND)",
    "by a link": "import os; os.symlink('{elsewhere}', 'out'); open('out/new', 'w')",
    "removing": "import os; os.remove('{elsewhere}/keep.txt')",
    "by a handle": "import shutil; shutil.rmtree('{elsewhere}/folder')",
    "renaming": "import os; os.rename('{elsewhere}/keep.txt', '{elsewhere}/kept.txt')",
    "a link elsewhere": "import os; os.symlink('/etc', '{elsewhere}/etc')",
    "a mode": "import os; os.chmod('{elsewhere}/keep.txt', 0o777)",
    "a time": "import os; os.utime('{elsewhere}/keep.txt')",
    "a database": "import sqlite3; sqlite3.connect('{elsewhere}/new.db').execute('vacuum')",
    "a secret": "open('{root}/home/.ssh/id_ed25519').read()",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', {port})).send(b'hello')",
    "a name": "import socket; socket.getaddrinfo('example.com', 80)",
    "a program": "import os; os.system('true')",
    "another program": "import subprocess; subprocess.run(['touch', '{elsewhere}/new'])",
    "a program beside": "import subprocess; subprocess.run(['./git'])",
    "Python's own": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'])",
    "a module": "import sys; sys.path.insert(0, '.'); import evil",
    "a module of a child": (
        "import subprocess, sys, os; os.environ.pop('PYTHONSAFEPATH', None);"
        "subprocess.run([sys.executable, '-m', 'dvc', '--version'])"
    ),
    "a pickle": "import pickle; pickle.loads(b'cos\\nsystem\\n(S\"true\"\\ntR.')",
    "by a program in C": "import subprocess; subprocess.run(['git', 'init', '{elsewhere}/r'])",
}


@pytest.mark.parametrize("name", MISDEEDS)
def test_a_misdeed_is_noticed(box: Sandbox, name: str) -> None:
    (box.workspace / "evil.py").write_text("pass\n")
    (box.workspace / "dvc").mkdir()
    (box.workspace / "dvc/__init__.py").write_text("")
    (box.workspace / "dvc/__main__.py").write_text("")
    (box.workspace / "git").write_text("#!/bin/sh\n")
    (box.workspace / "git").chmod(0o755)
    box.hand_over()
    fields = {"root": box.root, "elsewhere": box.elsewhere, "port": box.port}
    ended = box.run(program=MISDEEDS[name].format(**fields))
    assert ended.acts, ended.text


def test_a_deed_is_no_misdeed(box: Sandbox) -> None:
    box.hand_over()
    program = (
        "import subprocess, sys, sqlite3, os, shutil, tempfile\n"
        "open('new', 'w').write('x'); os.link('new', 'link')\n"
        "shutil.copy('new', tempfile.mkdtemp())\n"
        "subprocess.run(['git', 'init', '-q', '.']); sqlite3.connect('a.db').execute('select 1')\n"
        f"subprocess.run([{sys.executable!r}, '-m', 'dvc', '--version'])\n"
        f"open({str(box.elsewhere / 'keep.txt')!r}).read()\n"
    )
    ended = box.run(program=program)
    assert (ended.acts, ended.status) == ((), 0), ended.text


SERVE = """
from pathlib import Path
from starlette.testclient import TestClient
from btx_core.problems import BtxError
from pipelines.jobs.serve import Address, site
from pipelines.workspace.workspace import Workspace
from registry.web.application import application
from registry.web.middleware import Limits
PAGES = ("/", "/data", "/experts", "/builds", "/builds/1", "/events", "/search?q=a", "/api/builds")
try:
    state = site(Workspace.find(), Address(), Limits())
    secret, _ = state.tokens.issue("eve", ("viewer",), days=1, keep=False)
    served = TestClient(
        application(state), base_url="http://127.0.0.1:8765", raise_server_exceptions=False
    )
    for page in PAGES:
        answer = served.get(page, headers={"authorization": f"Bearer {secret}"})
        if answer.status_code == 500:
            print("Traceback of", page, answer.text[-2000:])
except BtxError as error:
    print(error)
"""
TASK = """
from pathlib import Path
from btx_core.measuring import harness
from btx_core.problems import BtxError
try:
    harness.run(Path("builds/1"), ["tasks/t.yaml"], Path())
except BtxError as error:
    print(error)
"""
STATUSES = (0, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def dump(story: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dump") / "dump"
    archive.dump(Workspace.find(story.root), folder)
    return folder


@contextmanager
def laid(server: Server, story: Any, dump: Path, seed: int, attack: str = "") -> Iterator[Any]:
    """Yield a sandbox with a case in it, and the commands to run there."""
    with sandbox(server) as box:
        copied = ["cp", "-a", str(story.root), str(box.workspace)]
        subprocess.run(copied, check=True)
        case = hostile.Case(box, random.Random(f"{attack} {seed}"), dump, story.seed)
        commands = hostile.lay(case, attack)
        box.hand_over()
        yield box, commands


def run(box: Sandbox, command: Sequence[str]) -> Ended:
    if command[0] == "SERVE":
        return box.run(program=SERVE)
    if command[0] == "TASK":
        return box.run(program=TASK)
    if command[0] == "IN":
        return box.run(*command[2:], folder=Path(command[1]))
    return box.run(*command)


def faults(ended: Ended) -> list[str]:
    """Return what a command did or said that it may not."""
    found = list(ended.acts)
    if ended.status not in STATUSES:
        found.append(f"status {ended.status} after {ended.seconds:.0f} s")
    if "Traceback" in ended.text:
        found.append("a traceback")
    found += [
        f"{sign!r} on the terminal" for sign in ("\x1b", "\x9b", "\u202e") if sign in ended.text
    ]
    if "SECRET-OF-THE-USER" in ended.text:
        found.append("the secret")
    return found


# One of each kind; the many draw from all.
QUICK = ("settings", "git_files", "modules", "database", "checkpoints", "policies")


@pytest.mark.parametrize("attack", QUICK)
def test_a_strangers_files_are_data(server: Server, story: Any, dump: Path, attack: str) -> None:
    with laid(server, story, dump, 0, attack) as (box, commands):
        for command in commands[:2]:
            ended = run(box, command)
            assert faults(ended) == [], (command, ended.text[-3000:])


@pytest.mark.slow
def test_many_strangers_files_are_data(server: Server, story: Any, dump: Path) -> None:
    """BTX_HOSTILE: how many; BTX_HOSTILE_FROM: the first seed; BTX_HOSTILE_LOG: a file."""
    first = int(os.environ.get("BTX_HOSTILE_FROM", "1"))
    count = int(os.environ.get("BTX_HOSTILE", "40"))
    log = Path(os.environ.get("BTX_HOSTILE_LOG", os.devnull))
    wrong, ran = [], Counter[str]()
    for seed in range(first, first + count):
        with laid(server, story, dump, seed) as (box, commands):
            for command in commands:
                ended = run(box, command)
                ran[f"status {ended.status}"] += 1
                for fault in faults(ended):
                    wrong.append((seed, command, fault))
                    with log.open("a") as file:
                        print(seed, command, fault, ended.text[-3000:], file=file, flush=True)
    print(f"{count} cases, {sum(ran.values())} commands: {dict(ran)}")
    assert wrong == []
