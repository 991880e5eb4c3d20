"""A withdrawal does not wait for a running rebuild; the stages notice it and stop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.jobs.withdraw import withdraw
from pipelines.workspace.workspace import Workspace

LONG = "steps = 20\n", "steps = 500000\n"


@pytest.mark.slow
@pytest.mark.parametrize("ref", ["data/prose@1", "expert/math@1"])
def test_a_withdrawal_during_a_rebuild_is_done_at_once_and_stops_it(
    own_story: Workspace, ref: str, tmp_path: Path
) -> None:
    """The seed's data, a member: the rebuild would run for hours."""
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text().replace(*LONG))
    program = "from pipelines.cli.app import main; main()"
    with (tmp_path / "stderr").open("w") as stderr:
        running = subprocess.Popen(
            [sys.executable, "-c", program, "rebuild"],
            cwd=own_story.root,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            until = time.monotonic() + 600
            while not own_story.catalog.events("build/2", "stage"):
                assert running.poll() is None, (tmp_path / "stderr").read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
            withdraw(own_story, ref, "at once")
            assert own_story.catalog.status(ref) == "withdrawn"
            assert running.wait(timeout=300) == 1
        finally:
            if running.poll() is None:
                running.kill()
    assert "while the stages ran" in (tmp_path / "stderr").read_text()
    assert not (own_story.root / "builds/2").exists()
    assert own_story.catalog.events("build/2", "stage")[-1].body.state == "interrupted"
