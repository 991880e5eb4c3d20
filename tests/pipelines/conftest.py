"""A copy of the story for each test that writes: git, DVC's cache, store and database included."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.workspace import Workspace


@pytest.fixture
def own_story(story, tmp_path: Path) -> Workspace:  # type: ignore[no-untyped-def]
    root = tmp_path / "workspace"
    subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)  # -a keeps hard links among the copied files
    return Workspace.find(root)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def btx() -> Run:
    """Run the command as a user does: btx(folder, "list", "experts")."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [str(Path(sys.executable).with_name("btx")), *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run
