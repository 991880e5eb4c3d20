"""Several accounts of one group in one workspace, and accounts that may only read.

Where the tests run as root, the second account is root without the rights that set it apart: to it
files of others are files of others.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.add_data import add_data
from pipelines.workspace.workspace import Workspace, create
from registry.catalogue.store import Store
from registry.records.facts import DataStatement

SAID = DataStatement(license="MIT", source="s", pii="none")
STATED = ["--license", "MIT", "--source", "s", "--pii", "none"]
# Any other account's number.
FIRST = 65534
RIGHTS = ("dac_override", "dac_read_search", "fowner", "chown", "fsetid", "sys_admin")
two_accounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can act as two accounts",
)
Second = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def second() -> Second:
    """Run `btx` as the second account of the group."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        without = ",".join(f"-{right}" for right in RIGHTS)
        program = [sys.executable, "-m", "pipelines.cli", *arguments]
        command = ["setpriv", "--bounding-set", without, "--inh-caps", "-all", *program]
        environment = {**os.environ, "BTX_ACTOR": "second"}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run


def belongs_to_first(root: Path) -> None:
    subprocess.run(["chown", "-R", "-h", f"{FIRST}:{os.getegid()}", str(root)], check=True)


def corpus(folder: Path, text: str) -> str:
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(f"{text}\n" * 30)
    return str(folder)


@pytest.fixture
def shared(tmp_path: Path) -> Workspace:
    """A workspace that a group may write to, whatever the umask of its members."""
    before = os.umask(0o022)
    root = tmp_path / "w"
    root.mkdir()
    root.chmod(0o2775)
    made = create(root)
    add_data(made, "math", Path(corpus(tmp_path / "math", "one")), SAID)
    os.umask(before)
    made.catalog.close()
    return made


def closed(root: Path) -> Iterator[str]:
    """Yield what the group cannot write to; what is read-only to all is so on purpose."""
    for path in [root, *root.rglob("*")]:
        mode = path.lstat().st_mode
        own = ".git/" in f"{path.relative_to(root)}/" or path.is_symlink()
        if own or (path.is_file() and stat.S_IMODE(mode) == 0o444):
            continue
        if not mode & stat.S_IWGRP or (path.is_dir() and not mode & stat.S_ISGID):
            yield f"{path.relative_to(root)} {stat.filemode(mode)}"


def test_what_is_made_where_a_group_may_write_the_group_may_write(
    shared: Workspace, tmp_path: Path
) -> None:
    assert [*closed(shared.root)] == []
    shared.root.chmod(0o755)
    before = os.umask(0o022)
    add_data(shared, "units", Path(corpus(tmp_path / "units", "two")), SAID)
    os.umask(before)
    assert "data/units" in str(list(closed(shared.root))), "elsewhere the umask holds"


@pytest.mark.slow
@two_accounts
def test_a_second_account_works_where_a_first_one_did(
    shared: Workspace, tmp_path: Path, second: Second
) -> None:
    root = shared.root
    belongs_to_first(root)
    first = ("data", "add", "math", corpus(tmp_path / "code", "three"), *STATED)
    again = ("data", "add", "units", corpus(tmp_path / "units", "four"), *STATED)
    acts = (first, ("note", "data/math", "seen"), ("registry", "gc"))
    for act in (*acts, ("withdraw", "data/math@1", "--why", "gone"), again):
        if act == again:
            assert list(closed(root)) == []
            # What the second account made is another's to whoever comes next.
            belongs_to_first(root)
        done = second(root, *act)
        assert done.returncode == 0, (act, done.stderr)
    assert second(root, "audit", "data/math@2").returncode == 0


@two_accounts
def test_what_only_its_owner_may_make_read_only_is_copied_to_the_store(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    file = tmp_path / "file"
    file.write_text("weights")
    file.chmod(0o664)
    store.put(file)
    program = (
        "import sys; from pathlib import Path; from registry.catalogue.store import Store\n"
        "store = Store(Path(sys.argv[1])); print(store.put(Path(sys.argv[2])))\n"
    )
    other = tmp_path / "other"
    other.write_text("other weights")
    other.chmod(0o664)
    subprocess.run(["chmod", "-R", "g+w", str(store.root)], check=True)
    for path in (file, other):
        belongs_to_first(store.root)
        belongs_to_first(path)
        without = ",".join(f"-{right}" for right in RIGHTS)
        command = ["setpriv", "--bounding-set", without, sys.executable, "-c", program]
        done = subprocess.run([*command, store.root, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert store.verify(done.stdout.strip())
    assert stat.S_IMODE(other.stat().st_mode) == 0o664, "the given file is its owner's"


READING = [
    ["list", "data"],
    ["show", "build/1"],
    ["lineage", "build/1"],
    ["audit", "build/1"],
    ["report", "build/1"],
    ["status"],
    ["search", "math"],
    ["due"],
    ["policy", "check", "build/1"],
    ["registry", "head"],
    ["registry", "backup", "{out}/backup"],
    ["explain", "build/1", "--text", "area"],
]


@two_accounts
@pytest.mark.slow
def test_who_may_only_read_uses_every_command_that_reads(
    own_story: Workspace, tmp_path: Path, second: Second
) -> None:
    own_story.catalog.close()
    root = own_story.root
    belongs_to_first(root)
    subprocess.run(["chmod", "-R", "go-w", str(root)], check=True)
    for act in READING:
        done = second(root, *(word.format(out=tmp_path) for word in act))
        assert done.returncode == 0, (act, done.stdout, done.stderr)
    for act in (
        ["note", "build/1", "x"],
        ["data", "add", "x", str(tmp_path), *STATED],
        ["rebuild"],
    ):
        done = second(root, *act)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


@two_accounts
@pytest.mark.slow
def test_a_second_account_rebuilds(own_story: Workspace, second: Second, story: Any) -> None:
    own_story.catalog.close()
    root = own_story.root
    subprocess.run(["chmod", "-R", "g+w", str(root / ".btx"), str(root / "work")], check=True)
    folders = ["find", str(root), "-type", "d", "-exec", "chmod", "2775", "{}", "+"]
    subprocess.run(folders, check=True)
    files = [
        "find",
        str(root),
        "-type",
        "f",
        "!",
        "-perm",
        "444",
        "-exec",
        "chmod",
        "g+w",
        "{}",
        "+",
    ]
    subprocess.run(files, check=True)
    belongs_to_first(root)
    done = second(root, "rebuild", "--without", "math")
    assert done.returncode == 0, done.stderr
    assert second(root, "audit", "build/2").returncode == 0
    assert list(closed(root / "builds")) == []
