"""The tutorial and the how-to pages, run as they stand there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import documented
import pytest
from tiny_gguf import tiny, write_gguf

from pipelines.workspace.reports import training_report
from pipelines.workspace.workspace import Workspace
from registry.records.facts import Spent

PAGES = [page for page in documented.pages() if page.startswith("docs/how-to/")]


def run(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's commands in a folder; the first one that fails ends it."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", "-euo", "pipefail", "-c", documented.script(page)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if documented.script(page)])
def test_the_commands_of_a_how_to_page_work_in_a_workspace(
    own_story: Workspace, checkpoint: Path, page: str
) -> None:
    shutil.copytree(checkpoint, own_story.root.parent / "checkpoints/math")
    done = run(page, own_story.root)
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_a_training_elsewhere_took_is_read_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/math").mkdir(parents=True)
    (tmp_path / "workspace").mkdir()
    page = documented.script("docs/how-to/register-elsewhere.md")
    written = next(line for line in page.splitlines() if "btx-train.json" in line)
    subprocess.run(["bash", "-c", written], cwd=tmp_path / "workspace", check=True)
    report = training_report(tmp_path / "checkpoints/math")
    assert report is not None
    assert report.spent == Spent(tokens=4_000_000, flops=3.2e15, wall_s=3600)


def test_a_command_that_fails_ends_a_page(tmp_path: Path) -> None:
    assert run("docs/how-to/ci.md", tmp_path).returncode != 0


@pytest.mark.slow
def test_the_tutorial_works_from_its_first_to_its_last_command(tmp_path: Path) -> None:
    write_gguf(tiny(), tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")
    done = run("docs/tutorial.md", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exit status 3" in done.stdout
    assert (tmp_path / "draft/config.json").is_file()
