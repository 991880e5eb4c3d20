"""Makes what a stranger may hand over: workspaces, dumps, checkpoints, corpora, tasks, policies.

`lay(box, random_seed)` puts one such case into a sandbox and returns the commands to run there. All
of it follows from the seed. What a case could do, if it were obeyed, is to leave traces in the
sandbox: a file elsewhere, a connection, a program that ran.
"""

import contextlib
import gzip
import json
import os
import pickle
import random
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watched import Sandbox

Command = list[str]
STATED = ["--license", "CC0-1.0", "--source", "s", "--pii", "none"]
ESCAPES = "\x1b]0;title\x07\x1b[2J\u202e\x9b31m"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Case:
    """One stranger's files, being made.

    Attributes:
        box: where they lie.
        draw: decides everything.
        dump: a folder that `registry dump` wrote of the workspace.
        seed: a checkpoint.
    """

    box: Sandbox
    draw: random.Random
    dump: Path
    seed: Path

    @property
    def root(self) -> Path:
        return self.box.workspace

    @property
    def shell(self) -> str:
        """A command that leaves a trace."""
        return f"touch {self.box.elsewhere}/ran"

    @property
    def python(self) -> str:
        """Python that leaves a trace when it is imported or run."""
        return f"open({str(self.box.elsewhere / 'ran')!r}, 'a').write('x')\n"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.box.port}/x"

    def path(self) -> str:
        """Return a path that leads out, or looks as if."""
        away = os.path.relpath(self.box.elsewhere, self.root)
        paths = (
            f"{self.box.elsewhere}/new",
            f"{self.box.elsewhere}/keep.txt",
            f"{away}/new",
            f"../{away}/new",
            f"a/../../{away}/new",
            f"work/../{away}/keep.txt",
            "../.bashrc",
            "~/.bashrc",
            "..",
            ".",
            "/",
            "",
            f"{self.box.root}/home/.ssh/id_ed25519",
            "/dev/zero",
            "/proc/self/mem",
            "a\0b",
            "\u2024\u2024/elsewhere/new",
            "\uff0e\uff0e/elsewhere/new",
            "a" * 5000,
            "a/" * 3000,
            "-rf",
            "con\r\nname",
            f"..\\..\\{away}",
            f"file://{self.box.elsewhere}/new",
            self.url,
            f"ssh://-oProxyCommand=touch%20{self.box.elsewhere}/ran/x",
        )
        return self.draw.choice(paths)

    def text(self) -> str:
        """Return a text that something might interpret."""
        texts = (
            self.path(),
            f"$({self.shell})",
            f"`{self.shell}`; {self.shell} | {self.shell} &",
            "{{ cycler.__init__.__globals__.os.popen('" + self.shell + "').read() }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{{ 'a' * 10**10 }}",
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            f"${{{self.path()}}}",
            "%s%n{0.__class__}",
            ESCAPES,
            "\ud800",
            "<script>alert(1)</script>",
            "'; DROP TABLE version; --",
            "x" * 100_000,
            "kind/name@" + "9" * 5000,
            "expert/../../x@1",
            "1e999",
            "(a+)+" * 20 + "$",
        )
        return self.draw.choice(texts)

    def value(self) -> Any:
        """Return a value of any kind."""
        values = (
            None,
            True,
            -1,
            0,
            1e308,
            10**12,
            10**30,
            float("nan"),
            float("inf"),
            [],
            {},
            [[]],
            {"a": {"b": {}}},
            nested(300),
            [self.text()] * 3,
            {self.text(): self.text()},
        )
        return self.text() if self.draw.random() < 0.6 else self.draw.choice(values)

    def content(self) -> bytes:
        """Return the bytes of a file that wants to be read as something."""
        yaml_run = f"!!python/object/apply:os.system [{self.shell!r}]\n"
        contents: tuple[Callable[[], bytes], ...] = (
            lambda: b"",
            lambda: b"\0" * 4096,
            lambda: b"\xff\xfe\x00\xd8" * 100,
            lambda: b"[" * 200_000,
            lambda: b'{"a":' * 100_000,
            lambda: b"9" * 6000,
            lambda: b'{"a": ' + b"9" * 6000 + b"}",
            lambda: yaml_run.encode(),
            lambda: f"a: {yaml_run}".encode(),
            lambda: bomb().encode(),
            lambda: b"&a [*a]\n",
            lambda: b"a: &a\n  <<: *a\n  b: 1\n",
            lambda: b"- " * 50_000,
            lambda: b"a = " + b"[" * 50_000,
            lambda: b"[" + b"a." * 20_000 + b"a]\n",
            lambda: self.pickle(),
            lambda: gzip.compress(b"\0" * (64 << 20)),
            lambda: f"#!/bin/sh\n{self.shell}\n".encode(),
            lambda: self.python.encode(),
            lambda: json.dumps(self.value()).encode(),
            lambda: json.dumps({self.text(): self.value() for _ in range(4)}).encode(),
            lambda: self.text().encode(errors="surrogatepass"),
            lambda: b"SQLite format 3\0" + b"\xff" * 4096,
            lambda: struct.pack("<Q", 1 << 60) + b"{}",
            lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        )
        return self.draw.choice(contents)()

    def pickle(self) -> bytes:
        """Return a pickle that runs a program when it is loaded."""
        return pickle.dumps(_Runs(self.shell))

    def mutate(self, value: Any, times: int = 2) -> Any:
        """Return a JSON value in which something, somewhere, is hostile."""
        for _ in range(times):
            value = self._mutated(value)
        return value

    def _mutated(self, value: Any) -> Any:
        stop = self.draw.random() < 0.25
        if isinstance(value, dict) and value and not stop:
            key = self.draw.choice(sorted(value))
            if self.draw.random() < 0.05:
                return {**value, self.text(): self.value()}
            return {**value, key: self._mutated(value[key])}
        if isinstance(value, list) and value and not stop:
            at = self.draw.randrange(len(value))
            return [*value[:at], self._mutated(value[at]), *value[at + 1 :]]
        return self.path() if isinstance(value, str) and self.draw.random() < 0.6 else self.value()


class _Runs:
    """What a pickle makes of a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def bomb() -> str:
    """A few lines of YAML that are a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines) + "\n"


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, also where its folder is not there or something lies in its place."""
    _free(path)
    path.write_bytes(content if isinstance(content, bytes) else _encoded(content))
    return path


def _free(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def link(path: Path, target: Path) -> None:
    _free(path)
    path.symlink_to(target)


def second_name(path: Path, target: Path) -> None:
    """Put a hard link there."""
    _free(path)
    os.link(target, path)


def pipe(path: Path) -> None:
    _free(path)
    os.mkfifo(path)


# Workspaces


def settings(case: Case) -> list[Command]:
    """btx.toml names servers, folders, commands, and sizes without bounds."""
    draw, box = case.draw, case.box
    text = json.dumps(case.text())
    lines = (
        f'[registry]\nurl = "postgresql+psycopg://eve@127.0.0.1:{box.port}/db"',
        f'[registry]\nurl = "sqlite:///{box.elsewhere}/registry.db"',
        f'[registry]\nurl = "sqlite:///../elsewhere/{draw.randrange(9)}.db"',
        f"[registry]\nurl = {text}",
        f'[ray]\naddress = "ray://127.0.0.1:{box.port}"',
        f'[slurm]\nslurm_setup = ["{case.shell}"]',
        f'[machine]\nrendezvous = "127.0.0.1:{box.port}"\nnodes = 2\nprocesses = 2',
        f"[machine]\nthreads = {10 ** draw.randrange(3, 30)}",
        f"[machine]\nprocesses = {10 ** draw.randrange(3, 30)}",
        f'[machine]\nexecutor = "{draw.choice(["ray", "slurm", "ssh"])}"',
        f"[recipe.train]\nsteps = {10 ** draw.randrange(6, 40)}",
        f"[recipe.train]\nbatch = {10 ** draw.randrange(6, 40)}",
        f"[recipe.tune]\nsequence = {10 ** draw.randrange(6, 40)}",
        f"[recipe.evaluate]\nmax_tokens = {10 ** draw.randrange(6, 40)}",
        f"[recipe.evaluate]\ntasks = [{text}]",
        f"[recipe.expert.{text}]\nsteps = 1",
        f'[log]\nreport_to = ["{draw.choice(["wandb", "mlflow", "trackio", "os"])}"]',
        f"[line.{text}]\nexperts = [{text}]",
        f"[line.x]\nexperts = [{text}]",
        "a = " + "[" * 20_000,
    )
    text = "\n".join(draw.sample(lines, draw.choice((1, 1, 2))))
    write(case.root / "btx.toml", text + "\n")
    return [["rebuild", "--dry-run"], ["train", "math", "--dry-run"], ["rebuild", "--line", "x"]]


def dvc_settings(case: Case) -> list[Command]:
    """DVC's own settings name caches and remotes."""
    box = case.box
    sections = (
        f"[cache]\n    dir = {box.elsewhere}/cache\n",
        "[cache]\n    dir = ../../elsewhere/cache\n",
        "[cache]\n    type = symlink\n    shared = group\n",
        f"[core]\n    site_cache_dir = {box.elsewhere}/site\n",
        f"[core]\n    remote = evil\n['remote \"evil\"']\n    url = {case.url}\n",
        "[core]\n    remote = evil\n['remote \"evil\"']\n    url = ../../elsewhere\n",
        f"[core]\n    remote = evil\n['remote \"evil\"']\n    url = {case.path()}\n",
        f"[core]\n    remote = evil\n['remote \"evil\"']\n    url = ssh://127.0.0.1:{box.port}/x\n",
        f"[state]\n    dir = {box.elsewhere}/state\n",
        f"[index]\n    dir = {box.elsewhere}/index\n",
        "[core]\n    autostage = true\n    hardlink_lock = true\n",
        f"[exp]\n    code = {case.shell}\n",
        "[core\n",
    )
    where = case.root / ".dvc" / case.draw.choice(("config", "config.local"))
    kept = where.read_text() if where.exists() else ""
    write(where, kept + "".join(case.draw.sample(sections, 2)))
    return [["repair"], ["registry", "gc"], ["data", "add", "more", corpus(case), *STATED]]


def dvc_files(case: Case) -> list[Command]:
    """.dvc files, dvc.yaml and dvc.lock name paths, remotes and commands."""
    pointers = (
        f"outs:\n- path: {json.dumps(case.path())}\n  md5: {'a' * 32}.dir\n  hash: md5\n",
        f"wdir: {json.dumps(case.path())}\nouts:\n- path: x\n  md5: {'a' * 32}\n",
        f"deps:\n- path: {case.url}\nouts:\n- path: '1'\n  md5: {'a' * 32}.dir\n",
        f"deps:\n- path: x\n  repo:\n    url: {case.url}\nouts:\n- path: '1'\n",
        f"cmd: {case.shell}\nouts:\n- path: '1'\n",
        f"outs:\n- path: '1'\n  remote: evil\n  md5: {'../' * 6}elsewhere/keep.txt\n",
        f"outs:\n- path: '1'\n  cache: false\n  push: false\n  desc: {json.dumps(case.text())}\n",
    )
    stages = (
        f"  evil:\n    cmd: {case.shell}\n    outs: [x]\n",
        f"  evil:\n    wdir: {case.box.elsewhere}\n    cmd: {case.shell}\n    outs: [new]\n",
        f"  evil:\n    foreach: {json.dumps(['a', case.text()])}\n    do: {{cmd: {case.shell}}}\n",
        f"  evil:\n    cmd: x\n    deps: [{json.dumps(case.path())}]\n    params: [evil.py:a]\n",
    )
    draw = case.draw
    names = ["data/math/1.dvc", "seeds/base/1.dvc", "experts/math/1.dvc", "builds/1.dvc"]
    kind = draw.randrange(5)
    if kind == 0:
        write(case.root / draw.choice(names), draw.choice(pointers))
    elif kind == 4:
        # A file that is damaged is looked for where the cache's list of its folder says.
        listing = draw.choice(sorted((case.root / ".dvc/cache/files/md5").glob("*/*.dir")))
        entries = json.loads(listing.read_bytes())
        for entry in entries:
            entry["md5"] = draw.choice(("xx{}", "../../../../../../../../..{}")).format(case.path())
        write(listing, case.content() if draw.random() < 0.3 else json.dumps(entries))
        for path in (case.root / "data").glob("*/1/**/*"):
            if not path.is_dir() or path.is_symlink():
                path.unlink()
    elif kind == 1:
        write(
            case.root / f"data/{draw.choice('abc')}/{draw.randrange(9)}.dvc", draw.choice(pointers)
        )
    elif kind == 2:
        write(case.root / "evil.py", case.python)
        text = (case.root / "dvc.yaml").read_text()
        write(case.root / "dvc.yaml", text + draw.choice(stages))
    else:
        name = draw.choice(["dvc.yaml", "dvc.lock", "sub/dvc.yaml", *names])
        write(case.root / name, case.content())
    return [
        ["repair"],
        ["registry", "gc"],
        ["audit"],
        ["data", "add", "more", corpus(case), *STATED],
    ]


def git_files(case: Case) -> list[Command]:
    """What git obeys in a folder: settings, hooks, filters, drivers, other folders."""
    draw, shell = case.draw, case.shell
    sections = (
        f'[core]\n\tfsmonitor = "{shell}"\n',
        f'[core]\n\tsshCommand = "{shell}"\n\tgitProxy = "{shell}"\n',
        f'[core]\n\tpager = "{shell}"\n\teditor = "{shell}"\n\taskpass = "{shell}"\n',
        "[core]\n\thooksPath = hooks\n",
        f"[core]\n\tworktree = {case.box.elsewhere}\n",
        f'[diff]\n\texternal = "{shell}"\n',
        f'[filter "evil"]\n\tclean = "{shell}"\n\tsmudge = "{shell}"\n',
        f'[filter "evil"]\n\tprocess = "{shell}"\n\trequired = true\n',
        f'[merge "btx-own"]\n\tdriver = "{shell}"\n',
        f"[include]\n\tpath = {case.box.root}/home/.ssh/id_ed25519\n",
        f'[alias]\n\tconfig = "!{shell}"\n\trev-parse = "!{shell}"\n',
        f'[credential]\n\thelper = "!{shell}"\n[gpg]\n\tprogram = "{shell}"\n',
        f'[extensions]\n\tworktreeConfig = true\n[url "{case.url}"]\n\tinsteadOf = https://\n',
    )
    git = case.root / ".git"
    kind = draw.randrange(4)
    if kind < 2:
        with (git / "config").open("a") as file:
            file.write("".join(draw.sample(sections, 3)))
        write(case.root / ".gitattributes", "* filter=evil diff=evil\ndvc.lock merge=btx-own\n")
    elif kind == 2:
        for name in ("pre-commit", "post-checkout", "post-index-change", "fsmonitor-watchman"):
            for folder in (git / "hooks", case.root / "hooks"):
                write(folder / name, f"#!/bin/sh\n{shell}\n").chmod(0o755)
    else:
        shutil.rmtree(git)
        write(git, f"gitdir: {case.box.elsewhere}/folder\n")
    return [["init", "."], ["data", "add", "more", corpus(case), *STATED], ["registry", "gc"]]


def modules(case: Case) -> list[Command]:
    """Files and packages that Python would import from the folder it runs in."""
    names = [
        "sitecustomize",
        "usercustomize",
        "pipelines",
        "registry",
        "btx_core",
        "torch",
        "transformers",
        "tokenizers",
        "yaml",
        "psutil",
        "git",
        "dvc",
        "lm_eval",
        "datasets",
        "numpy",
        "encodings",
        "_distutils_hack",
    ]
    for name in case.draw.sample(names, 6):
        write(case.root / f"{name}.py", case.python)
        if case.draw.random() < 0.3:
            write(case.root / name / "__init__.py", case.python)
            write(case.root / name / "__main__.py", case.python)
    write(case.root / "evil.pth", f"import os; os.system({case.shell!r})\n")
    write(case.root / "pyvenv.cfg", "home = .\n")
    return [
        ["init", "."],
        ["data", "add", "more", corpus(case), *STATED],
        ["seed", "add", "more", str(checkpoint(case)), "--license", "MIT"],
        ["rebuild", "--dry-run"],
        ["registry", "gc"],
    ]


LINKED = (
    ".btx/registry.db",
    ".btx/registry.db-wal",
    ".btx/registry.db.locks",
    ".btx/lock",
    ".btx/tokens.json",
    ".btx/private",
    ".btx/unfinished",
    ".btx/store",
    ".btx/store/tmp",
    ".btx/store/.lock",
    ".btx/store/aa",
    ".dvc/config",
    ".dvc/cache",
    ".dvc/cache/files",
    ".dvc/cache/files/md5",
    ".dvc/tmp",
    ".dvc/tmp/rwlock",
    ".dvc/tmp/lock",
    ".git/config",
    ".gitignore",
    ".gitattributes",
    "branches.yaml",
    "builds",
    "builds/.gitignore",
    "builds/1",
    "builds/1/config.json",
    "builds/2",
    "builds/.2.incoming",
    "btx.toml",
    "data",
    "data/math",
    "data/math/1",
    "data/math/2",
    "data/more",
    "data/math/.gitignore",
    "dvc.lock",
    "dvc.yaml",
    "experts/math/2",
    "exports",
    "facts.yaml",
    "policies",
    "policies/licence.yaml",
    "seeds/base/1/config.json",
    "seeds/more",
    "snapshot.json",
    "work",
    "work/branches",
    "work/evaluation.json",
    "work/metrics",
    "work/mixed",
    "work/tokens",
)


def links(case: Case) -> list[Command]:
    """Links that lead out of the workspace, from where commands read and write."""
    box, draw = case.box, case.draw
    targets = (
        box.elsewhere,
        box.elsewhere / "folder",
        box.elsewhere / "keep.txt",
        box.elsewhere / "keep.json",
        box.elsewhere / "new",
        box.root / "home/.ssh/id_ed25519",
        box.root / "home/.ssh",
        box.root / "home/.bashrc",
        Path("/dev/zero"),
        Path("/proc/self"),
    )
    for name in draw.sample(LINKED, draw.choice((1, 1, 2))):
        # An outer link may stand in the way of an inner one.
        with contextlib.suppress(OSError):
            link(case.root / name, draw.choice(targets))
    return [
        ["data", "add", "math", corpus(case), *STATED],
        ["rebuild", "--dry-run"],
        ["registry", "gc"],
        ["audit"],
        ["repair"],
        ["withdraw", "data/code", "--why", "gone"],
    ]


def special(case: Case) -> list[Command]:
    """Pipes, sockets, hard links, folders and closed files where plain files are expected."""
    names = [name for name in LINKED if "." in name.split("/")[-1]]
    for name in case.draw.sample(names, 2):
        path = case.root / name
        write(path, "")
        path.unlink()
        kind = case.draw.randrange(4)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            os.link(case.box.elsewhere / "keep.json", path)
        elif kind == 2:
            path.mkdir()
        else:
            write(path, "{}").chmod(0)
    return [["status"], ["list", "builds"], ["rebuild", "--dry-run"], ["policy", "test"]]


def any_file(case: Case) -> list[Command]:
    """Any file of a workspace with any content."""
    small = [
        path
        for path in sorted(case.root.rglob("*"))
        if path.is_file() and ".git/" not in str(path) and path.stat().st_size < 100_000
    ]
    for path in case.draw.sample(small, 3):
        content = case.content()
        with contextlib.suppress(ValueError, RecursionError):
            if case.draw.random() < 0.6:
                content = json.dumps(case.mutate(json.loads(path.read_bytes()))).encode()
        write(path, content)
    return [["audit"], ["rebuild", "--dry-run"], ["export", "build/1", "{out}/x", "--draft"]]


def own_files(case: Case) -> list[Command]:
    """What commands wrote themselves and read again: lists, orders, tokens, reports."""
    names = (
        ".btx/tokens.json",
        ".btx/private/1",
        ".btx/searches.json",
        ".btx/lock",
        ".dvc/tmp/rwlock",
        "snapshot.json",
        "branches.yaml",
        "dvc.lock",
        "facts.yaml",
        "work/evaluation.json",
        "work/metrics/train.jsonl",
        "builds/1/config.json",
        "builds/1/provenance.json",
        "builds/1/model.safetensors.index.json",
        "builds/1/tokenizer.json",
        "builds/1/tokenizer_config.json",
        "experts/math/1/config.json",
        "experts/math/1/tokenizer.json",
    )
    for name in case.draw.sample(names, 2):
        path = case.root / name
        content = case.content()
        if path.is_file() and name.endswith(".json") and case.draw.random() < 0.7:
            content = json.dumps(case.mutate(json.loads(path.read_bytes()))).encode()
        write(path, content)
    return [
        ["audit", "build/1"],
        ["explain", "build/1", "--text", "one"],
        ["token", "list"],
        ["status"],
        ["repair", "build/1"],
        ["export", "build/1", "{out}/x", "--draft"],
    ]


# Registries


def database(case: Case) -> list[Command]:
    """A database with triggers, views and rows that no program of ours wrote."""
    draw = case.draw
    path = json.dumps(case.path(), ensure_ascii=True).replace("'", "''")
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
    everywhere = f"SELECT x, x, x, x FROM ({endless})"
    changes = (
        [f"CREATE VIEW endless AS {endless}", "CREATE TABLE other(a)"],
        [
            "ALTER TABLE label RENAME TO label_",
            f"CREATE VIEW label(version_id, key, value, number) AS {everywhere}",
        ],
        [
            "ALTER TABLE event RENAME TO event_",
            "CREATE VIEW event AS SELECT * FROM event_ UNION ALL SELECT * FROM event_",
        ],
        [f"CREATE TRIGGER evil AFTER INSERT ON event BEGIN INSERT INTO label {everywhere}; END"],
        ["CREATE TRIGGER evil BEFORE INSERT ON version BEGIN SELECT zeroblob(900000000); END"],
        [f"UPDATE version SET facts = json_set(facts, '$.folder', {path!r})"],
        ["UPDATE version SET facts = '{}'"],
        ["UPDATE version SET facts = zeroblob(100)"],
        ["UPDATE version SET facts = replace(printf('%.50000c', '['), '[', '[')"],
        ["UPDATE version SET name = '../../elsewhere'"],
        ["UPDATE version SET name = x'ff00ff'"],
        ["UPDATE version SET number = 99999999999999999999999"],
        ["UPDATE version SET number = 'one'"],
        [f"UPDATE file SET path = {path!r}"],
        ["UPDATE file SET path = '../../../elsewhere/new' WHERE version_id = 2"],
        ["UPDATE file SET sha256 = '../../elsewhere/keep.txt'"],
        ["UPDATE file SET bytes = -1"],
        ["UPDATE edge SET from_id = to_id"],
        ["UPDATE event SET body = '[' || body || ']'"],
        ["UPDATE event SET actor = char(27) || ']0;title' || char(7)"],
        ["UPDATE event SET at = 'never', kind = 'shell'"],
        ["UPDATE event SET seq = -seq"],
        ["UPDATE document SET body = '{\"a\": ' || printf('%.6000c', '9') || '}'"],
        ["UPDATE alembic_version SET version_num = '../../x'"],
        ["DROP TABLE label"],
        ["DELETE FROM event"],
        ["PRAGMA journal_mode = DELETE", "PRAGMA user_version = 7"],
    )
    _sql(case.root / ".btx/registry.db", draw.choice(changes))
    return [
        ["list", "builds"],
        ["show", "build/1"],
        ["audit"],
        ["registry", "dump", "{out}/dump"],
        ["registry", "gc"],
        ["rebuild", "--dry-run"],
        ["repair"],
        ["data", "add", "more", corpus(case), *STATED],
        ["explain", "build/1", "--text", "one"],
    ]


def _sql(path: Path, statements: Sequence[str]) -> None:
    """Run statements on a database, past its triggers."""
    connection = sqlite3.connect(path, isolation_level=None)
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in rows:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        # A statement that this database refuses is no attack.
        with contextlib.suppress(sqlite3.Error):
            connection.execute(statement)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def dumps(case: Case) -> list[Command]:
    """A dump whose rows and objects are a stranger's."""
    draw = case.draw
    folder = case.box.given / "dump"
    subprocess.run(["cp", "-a", str(case.dump), str(folder)], check=True)
    tables = ["event", "document", "version", "file", "edge", "label"]
    for table in draw.sample(tables, 2):
        path = folder / f"{table}.jsonl"
        lines = path.read_bytes().splitlines() or [b"{}"]
        at = draw.randrange(len(lines))
        kind = draw.randrange(3)
        if kind:
            changed = case.mutate(json.loads(lines[at]), 1 + draw.randrange(2))
            lines[at] = json.dumps(changed).encode(errors="surrogatepass")
        else:
            lines[at] = case.content().replace(b"\n", b" ")
        write(path, b"\n".join(lines) + b"\n")
    if draw.random() < 0.5:
        write(
            folder / "registry.json",
            json.dumps(case.mutate(json.loads((folder / "registry.json").read_bytes()))),
        )
    objects = sorted((folder / "objects").rglob("*"))
    victim = draw.choice([path for path in objects if path.is_file()])
    if draw.random() < 0.3:
        link(
            victim,
            draw.choice(
                [case.box.root / "home/.ssh/id_ed25519", Path("/dev/zero"), case.box.elsewhere]
            ),
        )
    elif draw.random() < 0.3:
        victim.unlink()
        os.mkfifo(victim)
    word = draw.choice(("load", "restore"))
    return [
        ["init", "{out}/new"],
        ["IN", "{out}/new", "registry", word, str(folder)],
        ["IN", "{out}/new", "audit"],
    ]


# Models


def checkpoint(case: Case) -> Path:
    """Return a plain copy of a checkpoint, to be made worse."""
    folder = case.box.given / f"checkpoint{len(list(case.box.given.iterdir()))}"
    shutil.copytree(case.seed, folder, copy_function=shutil.copyfile)
    return folder


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_bytes()) if path.exists() else {}
    write(path, json.dumps(content | changes))


def header_of(case: Case) -> bytes:
    """Return a safetensors file whose header lies."""
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers: tuple[Any, ...] = (
        {"a": tensor | {"shape": [10**12, 10**12]}},
        {"a": tensor | {"shape": [10**30]}},
        {"a": tensor | {"data_offsets": [0, 10**15]}},
        {"a": tensor | {"data_offsets": [8, 0]}},
        {"a": tensor | {"shape": nested(500)}},
        {"a": tensor | {"dtype": "PICKLE"}},
        {case.text(): tensor},
        {"__metadata__": {case.text(): case.value()}, "a": tensor},
        {f"t{n}": tensor for n in range(50_000)},
    )
    text = json.dumps(case.draw.choice(headers)).encode()
    size = case.draw.choice((len(text), len(text), 1 << 40, (1 << 63) + 1, 1))
    return struct.pack("<Q", size) + text + b"\0" * 8


def worsen(case: Case, folder: Path) -> None:
    """Make a checkpoint what a stranger could hand over."""
    draw = case.draw
    config = folder / "config.json"
    big = 10 ** draw.randrange(5, 40)
    sizes = (
        "num_hidden_layers",
        "hidden_size",
        "vocab_size",
        "intermediate_size",
        "num_attention_heads",
    )
    code = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    remote = {"auto_map": {"AutoModelForCausalLM": f"evil/{case.path()}--evil.Model"}}
    template = folder / "tokenizer_config.json"
    index = {"metadata": {}, "weight_map": {"a": case.path(), "b": WEIGHTS}}
    ways: tuple[Callable[[], object], ...] = (
        lambda: edit(config, **code),
        lambda: edit(config, **remote),
        lambda: edit(config, **{draw.choice(sizes): big}),
        lambda: edit(config, _name_or_path=case.path(), model_type=case.text()),
        lambda: edit(config, architectures=[case.text()], torch_dtype=case.text()),
        lambda: edit(
            config, quantization_config={"quant_method": case.text(), "modules": case.path()}
        ),
        lambda: edit(config, rope_scaling=case.value(), layer_types=case.value()),
        lambda: write(config, json.dumps(case.mutate(json.loads(config.read_bytes()), 3))),
        lambda: write(config, case.content()),
        lambda: edit(template, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
        lambda: edit(template, chat_template=case.text(), tokenizer_class=case.text()),
        lambda: edit(template, tokenizer_file=case.path(), vocab_file=case.path()),
        lambda: write(folder / "chat_template.jinja", case.text()),
        lambda: write(folder / "additional_chat_templates/x.jinja", case.text()),
        lambda: write(folder / "tokenizer.json", case.content()),
        lambda: write(
            folder / "tokenizer.json",
            json.dumps(case.mutate(json.loads((folder / "tokenizer.json").read_bytes()))),
        ),
        lambda: write(folder / "tokenizer.model", case.content()),
        lambda: write(
            folder / "generation_config.json", json.dumps({"custom_generate": case.path()})
        ),
        lambda: write(folder / "custom_generate/generate.py", case.python),
        lambda: write(folder / WEIGHTS, header_of(case)),
        lambda: write(folder / "model.safetensors.index.json", json.dumps(index)),
        lambda: (
            write(folder / "model.safetensors.index.json", json.dumps(index)),
            (folder / WEIGHTS).unlink(missing_ok=True),
        ),
        lambda: (
            write(folder / "pytorch_model.bin", case.pickle()),
            (folder / WEIGHTS).unlink(missing_ok=True),
        ),
        lambda: [
            write(folder / name, case.pickle())
            for name in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth")
        ],
        lambda: link(
            folder / draw.choice((WEIGHTS, "config.json", "tokenizer.json", "x.txt")),
            Path(
                draw.choice(
                    (
                        f"{case.box.root}/home/.ssh/id_ed25519",
                        "/dev/zero",
                        f"{case.box.elsewhere}/keep.json",
                    )
                )
            ),
        ),
        lambda: (
            link(folder / "fifo", Path("x")),
            (folder / "fifo").unlink(),
            pipe(folder / draw.choice(("fifo", "merges.txt", "special_tokens_map.json"))),
        ),
        lambda: (
            write(
                folder / "adapter_config.json",
                json.dumps(
                    {
                        "peft_type": "LORA",
                        "base_model_name_or_path": case.path(),
                        "auto_mapping": {"parent_library": "evil"},
                        "target_modules": case.text(),
                    }
                ),
            ),
            write(folder / "adapter_model.safetensors", header_of(case)),
        ),
        lambda: (
            write(
                folder / "model.gguf",
                b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60) + case.content()[:9999],
            ),
            (folder / WEIGHTS).unlink(missing_ok=True),
            config.unlink(missing_ok=True),
        ),
        lambda: second_name(folder / "preprocessor_config.json", case.box.elsewhere / "keep.json"),
        lambda: write(folder / ".git/hooks/post-checkout", f"#!/bin/sh\n{case.shell}\n"),
    )
    for way in draw.sample(ways, draw.choice((1, 1, 2))):
        way()
    if draw.random() < 0.5:
        write(folder / "evil.py", case.python)


def checkpoints(case: Case) -> list[Command]:
    """A checkpoint, as a seed and as an expert, in a mix and a training."""
    folder = checkpoint(case)
    worsen(case, folder)
    fine = checkpoint(case)
    commands = [
        ["seed", "add", "other", str(folder), "--license", "MIT"],
        ["register", "math", str(folder), "--data", "data/math"],
        ["mix", str(fine), str(folder), "--out", "{out}/mix"],
        ["mix", str(folder), str(folder), "--out", "{out}/mix2"],
        ["train", "new", "--data", "data/math", "--seed", "seed/other", "--dry-run"],
    ]
    return commands


def registered_model(case: Case) -> list[Command]:
    """A model that lies in a stranger's workspace as registered."""
    folder = case.root / case.draw.choice(("builds/1", "experts/math/1", "seeds/base/1"))
    for path in folder.rglob("*"):
        if path.is_file():
            # Not through the link into the store.
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
    worsen(case, folder)
    return [
        ["explain", "build/1", "--text", "one"],
        ["export", "build/1", "{out}/x", "--draft"],
        ["audit", "build/1", "--recompute"],
        ["rebuild", "--dry-run"],
        ["repair"],
        ["train", "math", "--dry-run"],
    ]


# Corpora


def corpus(case: Case) -> str:
    """Return a plain corpus."""
    folder = case.box.given / f"corpus{len(list(case.box.given.iterdir()))}"
    words = [f"Sentence {n} says {case.draw.random()}.\n" for n in range(60)]
    write(folder / "a.txt", "".join(words))
    return str(folder)


def corpora(case: Case) -> list[Command]:
    """A corpus of any form."""
    draw, folder = case.draw, Path(corpus(case))
    rows = [{"text": "one " * 40}, {"messages": [{"role": case.text(), "content": case.value()}]}]
    row = json.dumps(case.mutate(draw.choice(rows)))
    state = {"_data_files": [{"filename": case.path()}], "_fingerprint": "a", "_format_kwargs": {}}
    ways: tuple[Callable[[], object], ...] = (
        lambda: write(folder / "b.jsonl", f"{row}\n" * 30),
        lambda: write(folder / "b.jsonl", case.content()),
        lambda: write(folder / "b.json", case.content()),
        lambda: write(folder / "b.txt", case.content()),
        lambda: write(folder / "b.csv", "text,author\n" + '"' + "x" * 500_000 + "\n" + case.text()),
        lambda: write(folder / "b.parquet", b"PAR1" + case.content()[:100_000] + b"PAR1"),
        lambda: write(folder / "b.arrow", b"ARROW1\0\0" + case.content()[:100_000]),
        lambda: (
            write(folder / "state.json", json.dumps(state)),
            write(
                folder / "dataset_info.json",
                json.dumps(case.mutate({"features": {}, "builder_name": "evil"})),
            ),
            write(folder / "data-00000-of-00001.arrow", case.content()),
        ),
        lambda: write(folder / "evil.py", case.python),
        lambda: write(folder / "b.txt.gz", gzip.compress(b"\0" * (200 << 20), 1)),
        lambda: write(folder / "b.jsonl.gz", gzip.compress(b"[" * (50 << 20), 1)),
        lambda: write(folder / "b.txt.zst", b"\x28\xb5\x2f\xfd" + case.content()[:9999]),
        lambda: write(
            folder / "b.jsonl",
            json.dumps(
                {"text": "x", "author": case.text(), "id": case.text(), "license": case.text()}
            )
            + "\n",
        ),
        lambda: link(folder / "b.txt", case.box.root / "home/.ssh/id_ed25519"),
        lambda: link(folder / "sub", case.box.elsewhere),
        lambda: link(folder / "b.txt", Path("/dev/zero")),
        lambda: link(folder / "loop", folder),
        lambda: pipe(folder / "b.txt"),
        lambda: second_name(folder / "b.txt", case.box.elsewhere / "keep.txt"),
        lambda: _sparse(folder / "b.txt", 3 << 30),
        lambda: write(folder / "c" / ("d" * 200) / ("e" * 200) / "f.txt", "one\n" * 40),
        lambda: os.close(os.open(os.fsencode(folder) + b"/\xff\xfe.txt", os.O_CREAT)),
        lambda: write(folder / f"{ESCAPES}.txt", "one\n" * 40),
        lambda: write(folder / "line\nbreak.txt", "one\n" * 40),
        lambda: write(folder / "${HOME}.txt", "one\n" * 40),
        lambda: write(folder / ".dvc/config", f"[cache]\n    dir = {case.box.elsewhere}\n"),
        lambda: write(folder / ".git/hooks/post-checkout", f"#!/bin/sh\n{case.shell}\n"),
        lambda: write(folder / ".dvcignore", "*\n"),
        lambda: write(folder / "dvc.yaml", f"stages:\n  evil:\n    cmd: {case.shell}\n"),
    )
    for way in draw.sample(ways, draw.choice((1, 2))):
        way()
    told = ["--holder", case.text(), "--purpose", case.text()] if draw.random() < 0.3 else []
    told = [word for word in told if "\0" not in word and "\ud800" not in word]
    return [
        ["data", "add", "more", str(folder), *STATED, *told],
        ["list", "data"],
        ["show", "data/more"],
        ["search", "--document", f"{folder}/a.txt"],
        ["train", "new", "--data", "data/more", "--dry-run"],
    ]


# Rules, tasks, stated facts


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def policies(case: Case) -> list[Command]:
    """A policy file of any content, and expressions that want more than they may."""
    draw = case.draw
    expressions = (
        "evidence.__class__.__mro__[1].__subclasses__()",
        "''.__class__",
        "__import__('os').system('" + case.shell + "') == 0",
        "9" * 4000 + " > 1",
        "2 ** 999999 > 1",
        "9223372036854775807 * 9223372036854775807 > 0",
        "".join(f"[1,2,3,4,5,6,7,8,9].all({name}, " for name in "abcde") + "true" + ")" * 5,
        "'" + "a" * 30 + "'.matches('(a+)+$')",
        "(" * 5000 + "true" + ")" * 5000,
        "!" * 20_000 + "true",
        "true" + " && true" * 20_000,
        "'a'.join('b')",
        "evidence.own[" + json.dumps(case.text(), ensure_ascii=True) + "] == ''",
        "evidence" * 3000,
        "type(evidence) == type(1)",
        "timestamp('9999-99-99T00:00:00Z') < now",
        "1/0 == 1",
        "\0",
    )
    rule = {
        "name": draw.choice(("r", case.text())),
        "allow": draw.choice(expressions),
        "when": draw.choice(expressions),
        "message": case.text(),
        "remedy": case.text(),
    }
    policy = {
        "name": "evil",
        "gate": draw.choice(("register", "build", case.text())),
        "rules": [rule],
    }
    name = draw.choice(("evil.yaml", "licence.yaml", "tests/evil.yaml", "examples/evil.yaml"))
    kind = draw.randrange(4)
    if kind == 0:
        write(case.root / "policies" / name, case.content())
    elif kind == 1:
        write(case.root / "policies" / name, json.dumps(policy, ensure_ascii=True))
    else:
        shipped = sorted((case.root / "policies").rglob("*.yaml"))
        text = draw.choice(shipped).read_text()
        import yaml

        changed = case.mutate(yaml.safe_load(text), 2)
        write(case.root / "policies" / name, json.dumps(changed, ensure_ascii=True))
    return [
        ["policy", "test"],
        ["policy", "check", "build/1"],
        ["policy", "adopt"],
        ["policy", "try", str(case.root / "policies")],
        ["data", "add", "more", corpus(case), *STATED],
    ]


def facts(case: Case) -> list[Command]:
    """A schema of own facts, and a file that states some."""
    entry = {"kinds": ["data"], "type": case.text(), "values": case.value(), "required": True}
    schema = case.mutate({"residency": entry, "dpia": {"kinds": ["data"], "type": "file"}})
    write(case.root / "facts.yaml", case.draw.choice((case.content(), json.dumps(schema).encode())))
    given = write(
        case.box.given / "facts.yaml",
        case.draw.choice(
            (case.content(), json.dumps({case.text(): case.value(), "dpia": case.path()}).encode())
        ),
    )
    paper = write(case.box.given / "paper", case.content())
    return [
        ["fact", "list", "data/math"],
        ["data", "add", "more", corpus(case), *STATED, "--facts", str(given)],
        ["data", "add", "again", corpus(case), *STATED, "--license-text", str(paper)],
        ["fact", "set", "data/math", "residency=EU", "--facts", str(given), "--why", "x"],
        ["note", "data/math", "one"],
    ]


def keys(case: Case) -> list[Command]:
    """Keys, signatures and tokens of any content."""
    key = write(case.box.given / "key.pem", case.content())
    write(case.box.root / "home/.config/btx/visitor.pem", case.content()).chmod(0o600)
    return [
        ["actor", "add", "eve", "--role", "auditor", "--public-key", str(key)],
        ["audit", "build/1", "--key", str(key)],
        ["registry", "head", "--sign"],
        ["report", "build/1", "--format", "in-toto", "--sign", "--out", "{out}/r"],
        ["approve", "build/1", "--why", "x"],
    ]


def tasks(case: Case) -> list[Command]:
    """A task of the lm-evaluation-harness that is more than data."""
    draw = case.draw
    task: dict[str, Any] = {
        "task": "t",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "tasks/t.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc"}],
    }
    changes: tuple[dict[str, Any], ...] = (
        {"doc_to_text": case.text()},
        {"doc_to_target": case.text()},
        {"dataset_path": case.path()},
        {"dataset_path": "tasks/evil.py"},
        {"dataset_kwargs": {"data_files": {"test": case.path()}}},
        {"dataset_kwargs": {"data_files": {"test": case.url}, "trust_remote_code": True}},
        {"dataset_kwargs": {"data_dir": case.path(), "data_files": {"test": "tasks/t.jsonl"}}},
        {"metric_list": [{"metric": "tasks/evil.py"}, {"metric": case.text()}]},
        {"output_type": "generate_until", "generation_kwargs": {"until": case.value()}},
        {
            "filter_list": [
                {"name": "x", "filter": [{"function": "regex", "regex_pattern": "(a+)+$"}]}
            ]
        },
        {"process_docs": case.text(), "num_fewshot": 10**9},
        {"include": "../../elsewhere/keep.json", "group": case.text()},
        {"custom_dataset": case.text(), "fewshot_config": case.value()},
    )
    for change in draw.sample(changes, 2):
        task |= change
    text = json.dumps(task)
    if draw.random() < 0.3:
        run = f"!!python/object/apply:os.system [{case.shell!r}]"
        code = f"process_docs: !function evil.run\ntask: t\nx: {run}\n"
        text = draw.choice((code, bomb()))
    write(case.root / "tasks/t.yaml", text)
    write(case.root / "tasks/evil.py", case.python)
    question = {"question": "a" * 40, "choices": ["a", "b"], "right": 0}
    write(
        case.root / "tasks/t.jsonl", f"{json.dumps(case.mutate(question, draw.randrange(2)))}\n" * 3
    )
    with (case.root / "btx.toml").open("a") as file:
        file.write('tasks = ["tasks/t.yaml"]\n')
    return [["rebuild", "--dry-run"], ["TASK", "tasks/t.yaml"], ["TASK", "tasks/t.yaml"]]


ATTACKS: Mapping[str, Callable[[Case], list[Command]]] = {
    attack.__name__: attack
    for attack in (
        settings,
        dvc_settings,
        dvc_files,
        git_files,
        modules,
        links,
        special,
        any_file,
        own_files,
        database,
        dumps,
        checkpoints,
        registered_model,
        corpora,
        policies,
        facts,
        keys,
        tasks,
    )
}

# Every command but those of the demonstration. {out} is a folder that may be written to.
COMMANDS: Sequence[Command] = [
    line.split()
    for line in """
init .
init {out}/w
trust
status
list data
list seeds
list experts
list builds --json
list exports
search math
search --author Ann
show data/math
show seed/base --json
show expert/math
show build/1
lineage build/1
lineage data/math --down
diff expert/math expert/code
report build/1
report build/1 --format cyclonedx --out {out}/bom
report data/math --format croissant
report build/1 --format spdx
report build/1 --format openlineage
report build/1 --format prov --public
report build/1 --format in-toto
due
audit
audit build/1 --recompute
audit data/math
policy check build/1
policy test
policy try policies
policy adopt --dry-run
policy adopt
registry head
registry dump {out}/dump
registry backup {out}/backup
registry load given
registry restore given
registry gc
registry gc --dry-run
registry shred 3
rebuild --dry-run
rebuild --without math --dry-run
train math --dry-run
train new --data data/code --dry-run
explain build/1 --text area
export build/1 {out}/e --draft
export build/1 {out}/f --draft --fused
mix seeds/base/1 experts/math/1 --out {out}/m
register math experts/math/1 --data data/math
data add d {corpus} --license CC0-1.0 --source s --pii none
seed add s seeds/base/1 --license MIT
fact list build/1
fact set data/math provider=x --why y
note data/math hello
alias set production build/1
alias list
alias remove production
approve build/1 --why fine
waive licence/allowed data/math --until 2027-01-01 --why x
retract build/1 --why wrong
release build/1
contest data/math --why no
retire data/prose --why no
withdraw data/code --why gone
erase data/math --why gone --dry-run
erase data/math --why gone
actor add eve --role approver
actor list
actor remove eve --why left
actor rotate eve --why lost
key new --no-passphrase
token add eve
token list
token revoke 1
repair
repair build/1
upgrade
upgrade --apply
SERVE
""".splitlines()
    if line.strip()
]
# Of all that a case runs: what its attack is about, and some others.
OTHERS = 5


def lay(case: Case, attack: str = "") -> list[Command]:
    """Put a case into a sandbox.

    Args:
        case: where, and what decides.
        attack: which one; empty: any.

    Returns:
        The commands to run, with {out} filled in.
    """
    name = attack or case.draw.choice(sorted(ATTACKS))
    told = ATTACKS[name](case)
    if not attack and case.draw.random() < 0.2:
        with contextlib.suppress(OSError, ValueError):
            told += ATTACKS[case.draw.choice(sorted(ATTACKS))](case)
    commands = [*told, *case.draw.sample(COMMANDS, OTHERS)]
    # What the user has confirmed is obeyed from then on.
    commands.sort(key=lambda command: command == ["trust"])
    plain = corpus(case)
    filled = [
        [
            word.format(out=case.box.out, corpus=plain)
            if "{" in word and word.split("}")[0] in ("{out", "{corpus")
            else word
            for word in command
        ]
        for command in commands
    ]
    if case.draw.random() < 0.3:
        filled = [
            [*command, "--json"] if command[0] not in ("SERVE", "TASK") else command
            for command in filled
        ]
    return filled
