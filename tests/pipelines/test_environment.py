"""A version's provenance names the programs and the revision that made it."""

import subprocess
from pathlib import Path

from pipelines.workspace.environment import _revision, environment


def test_the_programs_are_those_installed() -> None:
    import torch

    found = environment()
    assert torch.__version__.startswith(found.packages["torch"].split("+")[0])
    assert found.python is not None
    assert found.python.count(".") == 2


def test_the_revision_is_the_checkouts_and_says_when_files_differ_from_it(tmp_path: Path) -> None:
    assert _revision(tmp_path) == (None, None)

    def git(*words: str) -> str:
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *named, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-m", "a")
    git("tag", "v1")
    assert _revision(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("b")
    assert _revision(tmp_path) == (git("rev-parse", "HEAD"), True)


def test_a_package_below_somebody_elses_repository_has_no_revision(tmp_path: Path) -> None:
    subprocess.run(["git", "init", str(tmp_path)], check=True, capture_output=True)
    (tmp_path / "site-packages").mkdir()
    assert _revision(tmp_path / "site-packages") == (None, None)
