"""What a stranger's workspace names is not obeyed before its user has said so on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from pipelines.stages import dvc_runs
from pipelines.workspace import trust
from pipelines.workspace.environment import child_environment
from pipelines.workspace.workspace import Workspace, create, template
from registry.errors import Invalid, Refused

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "w")


def setting(text: str) -> Callable[[Path, Path], None]:
    def write(root: Path, elsewhere: Path) -> None:
        (root / "btx.toml").write_text(text.replace("ELSEWHERE", str(elsewhere)))

    return write


def link(name: str) -> Callable[[Path, Path], None]:
    def write(root: Path, elsewhere: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(elsewhere / "target")

    return write


def dvc_setting(text: str) -> Callable[[Path, Path], None]:
    def write(root: Path, elsewhere: Path) -> None:
        with (root / ".dvc/config").open("a") as file:
            file.write(text.replace("ELSEWHERE", str(elsewhere)))

    return write


def git_setting(
    text: str, secret: str = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
) -> Callable[[Path, Path], None]:
    def write(root: Path, elsewhere: Path) -> None:
        (root.parent / "key").write_text(secret)
        with (root / ".git/config").open("a") as file:
            file.write(text.replace("ELSEWHERE", str(elsewhere)))

    return write


def stage(old: str, new: str) -> Callable[[Path, Path], None]:
    def write(root: Path, elsewhere: Path) -> None:
        text = (root / "dvc.yaml").read_text()
        assert old in text
        (root / "dvc.yaml").write_text(text.replace(old, new.replace("ELSEWHERE", str(elsewhere))))

    return write


def pipe(name: str) -> Callable[[Path, Path], None]:
    def write(root: Path, elsewhere: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return write


NAMED = {
    "a pipe among the rules": pipe("policies/licence.yaml"),
    "a pipe for the facts": pipe("facts.yaml"),
    "a pipe for DVC": pipe(".dvc/config.local"),
    "a server": setting('[registry]\nurl = "postgresql+psycopg://eve@198.51.100.7/db"\n'),
    "a file elsewhere": setting('[registry]\nurl = "sqlite:///ELSEWHERE/registry.db"\n'),
    "a file above": setting('[registry]\nurl = "sqlite:///../elsewhere/registry.db"\n'),
    "a cluster": setting('[ray]\naddress = "ray://198.51.100.7:10001"\n'),
    "a lineage server": setting('[openlineage]\nurl = "http://198.51.100.7:5000"\n'),
    "a command of Slurm's": setting('[slurm]\nslurm_setup = ["touch ELSEWHERE/ran"]\n'),
    "a lock that is a link": link(".btx/lock"),
    "a folder of work that is a link": link("work"),
    "a name that is a link": link("experts/math"),
    "a cache that is a link": link(".dvc/cache"),
    "a folder of DVC's cache that is a link": link(".dvc/cache/files/md5"),
    "a folder of the store that is a link": link(".btx/store/3f"),
    "a branch that is a link": link("work/branches/math"),
    "a cache elsewhere": dvc_setting("[cache]\n    dir = ELSEWHERE/cache\n"),
    "DVC's own files elsewhere": dvc_setting("[core]\n    site_cache_dir = ELSEWHERE/site\n"),
    "a file that git takes in": git_setting("[include]\n\tpath = ELSEWHERE/../key\n"),
    "one line of a file": git_setting("[include]\n\tpath = ELSEWHERE/../key\n", "hunter2\n"),
    "a file under a condition": git_setting('[INCLUDEIF "gitdir:**"] path=ELSEWHERE/../key\n'),
    "another command": stage("python -P -m pipelines.stages mix", "touch ELSEWHERE/ran"),
    "a longer command": stage("pipelines.stages tune", "pipelines.stages tune; id"),
    "an output elsewhere": stage("- work/mixed:\n          cache", "- ELSEWHERE:\n          cache"),
    "an output above": stage("- work/tuned:\n          cache", "- work/../..:\n          cache"),
    "a folder to run in": stage("  evaluate:\n", "  evaluate:\n    wdir: ELSEWHERE\n"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_workspace_that_names_such_is_refused_until_its_user_confirms_exactly_that(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    NAMED[name](workspace.root, elsewhere)
    for open_it in (Workspace.find, create):
        with pytest.raises(Refused, match="btx trust") as refusal:
            open_it(workspace.root)
    assert list(elsewhere.iterdir()) == []
    statements = Workspace.unconfirmed(workspace.root).statements()
    assert statements
    assert all(statement in refusal.value.found for statement in statements)
    trust.confirm(workspace.root, statements)
    assert Workspace.find(workspace.root).root == workspace.root
    with (workspace.root / ".dvc/config").open("a") as file:
        file.write("[state]\n    dir = /var/other\n")
    with pytest.raises(Refused, match="/var/other"):
        Workspace.find(workspace.root)


def test_settings_that_git_takes_in_from_elsewhere_need_no_word(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "more").write_text("[user]\n\tname = ada\n")
    git_setting(f"[include]\n\tpath = {tmp_path}/more\n")(workspace.root, tmp_path)
    assert Workspace.find(workspace.root).root == workspace.root


def test_what_init_lays_down_needs_no_word(workspace: Workspace) -> None:
    assert workspace.statements() == []
    own = "stages:\n  report:\n    cmd: python report.py\n    outs: [report.md]\n"
    shipped = (template() / "dvc.yaml").read_text().replace("python -P", "python")
    (workspace.root / "dvc.yaml").write_text(shipped.replace("stages:\n", own, 1))
    (workspace.root / "work").mkdir(exist_ok=True)
    (workspace.root / "work/inside").symlink_to(workspace.root / "policies")
    assert Workspace.find(workspace.root).statements() == []


def test_the_environment_names_a_server_without_a_word(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting('[registry]\nurl = "postgresql+psycopg://eve@198.51.100.7/db"\n')(
        workspace.root, workspace.root
    )
    monkeypatch.setenv("BTX_REGISTRY_URL", "sqlite:///.btx/registry.db")
    assert Workspace.find(workspace.root).catalog.events() == workspace.catalog.events()


@pytest.fixture
def stranger() -> Iterator[tuple[int, list[bytes]]]:
    """Return the port of a server, and what it is sent."""
    sent: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            sent.append(connection.recv(4096))
            connection.close()

    Thread(target=listen, daemon=True).start()
    yield server.getsockname()[1], sent
    server.close()


def test_no_command_sends_anything_to_a_server_that_a_workspace_names(
    workspace: Workspace, stranger: tuple[int, list[bytes]], btx: Run, tmp_path: Path
) -> None:
    port, sent = stranger
    (tmp_path / "corpus.txt").write_text("one")
    url = f"postgresql+psycopg://eve@127.0.0.1:{port}/db"
    setting(f'[registry]\nurl = "{url}"\n')(workspace.root, tmp_path)
    for arguments in (["list", "builds"], ["audit", "build/1"], ["rebuild"], ["registry", "gc"]):
        ended = btx(workspace.root, *arguments)
        assert (ended.returncode, sent) == (3, [])
        assert f"127.0.0.1:{port}" in ended.stderr
        assert "eve@" not in ended.stderr
    assert btx(workspace.root, "trust").returncode == 0
    assert btx(workspace.root, "list", "builds").returncode == 1
    assert sent, "confirmed, it is asked"


@pytest.mark.parametrize(
    "secret", ["user:hunter2@host/db", "user@host/db?password=hunter2", "host/db?password=hunter2"]
)
def test_a_password_in_the_settings_is_refused_and_never_shown(
    workspace: Workspace, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting(f'[registry]\nurl = "postgresql+psycopg://{secret}"\n')(workspace.root, workspace.root)
    found = Workspace.unconfirmed(workspace.root)
    with pytest.raises(Invalid, match="environment") as refusal:
        assert found.registry_url
    assert "hunter2" not in f"{refusal.value}{found.statements()}"
    whole = f'[registry]\nurl = "postgresql+psycopg://{secret}"\n'
    setting(whole.replace("hunter2", "${DB_WORD}"))(workspace.root, workspace.root)
    monkeypatch.setenv("DB_WORD", "hunter2")
    found = Workspace.unconfirmed(workspace.root)
    assert "hunter2" in found.registry_url
    assert "hunter2" not in str(found.statements())


SHADOWS = ("psutil", "yaml", "git", "tokenizers", "pipelines", "registry", "torch", "dvc")


def test_nothing_is_imported_from_the_folder_that_a_command_runs_in(
    tmp_path: Path, btx: Run
) -> None:
    root = tmp_path / "w"
    root.mkdir()
    for name in SHADOWS:
        text = f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n"
        (root / f"{name}.py").write_text(text)
    (root / "corpus").mkdir()
    (root / "corpus/a.txt").write_text("one\n" * 30)
    assert btx(root, "init", ".").returncode == 0
    added = btx(
        root, "data", "add", "a", "corpus", "--license", "MIT", "--source", "s", "--pii", "none"
    )
    assert added.returncode == 0, added.stderr
    stage_run = [sys.executable, "-m", "pipelines.stages", "mix"]
    ended = subprocess.run(
        stage_run, cwd=root, env=child_environment(), capture_output=True, text=True
    )
    assert "snapshot.json" in ended.stderr, "the stage itself ran, and misses its order"
    assert dvc_runs.stale(root, []) == []
    assert not (tmp_path / "ran").exists()
    unsafe = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run(stage_run, cwd=root, env=unsafe, capture_output=True)
    assert (tmp_path / "ran").exists(), "without the guard the folder is imported from"
