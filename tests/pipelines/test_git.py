"""Git is asked about a stranger's repository, and runs nothing that its settings name."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.workspace.existing_project import enclosing_repository
from pipelines.workspace.git import git
from pipelines.workspace.workspace import create

AUTHOR = "A <a@b.c> 1700000000 +0000"
LOG = ("log", "--all", "--format=", "--name-only", "--", "*.dvc")


def run(root: Path, *arguments: str, told: str | None = None) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, input=told, capture_output=True, text=True)
    return done.stdout.strip()


def commit(root: Path, header: str = "") -> str:
    """Commit a tree with a file, by a commit with another line in its header."""
    blob = run(root, "hash-object", "-w", "--stdin", told="text")
    tree = run(root, "mktree", told=f"100644 blob {blob}\tfile.dvc\n")
    body = f"tree {tree}\nauthor {AUTHOR}\ncommitter {AUTHOR}\n{header}\nsaid\n"
    made = run(root, "hash-object", "-t", "commit", "-w", "--stdin", told=body)
    run(root, "update-ref", "refs/heads/main", made)
    return tree


def a_monitor(root: Path, program: str) -> None:
    run(root, "config", "core.fsmonitor", program)


def a_signature(root: Path, program: str) -> None:
    lines = ("-----BEGIN PGP SIGNATURE-----", "", "x", "-----END PGP SIGNATURE-----")
    commit(root, "gpgsig " + "\n ".join(lines) + "\n")
    run(root, "config", "log.showSignature", "true")
    run(root, "config", "gpg.program", program)


def a_server_with_the_rest(root: Path, program: str) -> None:
    tree = commit(root)
    (root / ".git/objects" / tree[:2] / tree[2:]).unlink()
    settings = {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "evil",
        "remote.evil.promisor": "true",
        "remote.evil.url": "ssh://nobody@localhost:1/x",
        "protocol.ssh.allow": "always",
        "core.sshCommand": program,
    }
    for key, value in settings.items():
        run(root, "config", key, value)


@pytest.mark.parametrize(
    ("lay", "command"),
    [
        (a_monitor, ("check-ignore", "--quiet", "below")),
        (a_monitor, ("describe", "--always", "--dirty")),
        (a_signature, LOG),
        (a_server_with_the_rest, LOG),
    ],
)
def test_a_program_that_a_repository_names_is_not_run(
    lay: Callable[[Path, str], None], command: tuple[str, ...], tmp_path: Path
) -> None:
    root, ran = tmp_path / "root", tmp_path / "ran"
    root.mkdir()
    run(root, "init", "--quiet", "-b", "main")
    commit(root)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    program.chmod(0o755)
    lay(root, str(program))
    git(root, *command)
    assert not ran.exists()
    run(root, *command)
    assert ran.exists(), "git by itself does run it"


def test_a_workspace_below_a_strangers_repository_runs_nothing_of_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    run(tmp_path, "init", "--quiet")
    run(tmp_path, "config", "core.fsmonitor", f"touch {ran}")
    workspace = create(tmp_path / "below")
    assert enclosing_repository(workspace.root) == tmp_path
    assert not ran.exists()
