"""Log messages for operators.

Who shows them, and that the processes of a command inherit the level.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, subprocess, sys
from pipelines.workspace.diagnostics import show_diagnostics
show_diagnostics(at="info" if sys.argv[1] == "verbose" else None)
logging.getLogger("pipelines.anything").info("ours")
logging.getLogger("somebody.else").info("theirs")
subprocess.run([sys.executable, "-c", "import os; print(os.environ.get('BTX_LOG'))"], check=True)
"""


def run(how: str, level: str | None) -> tuple[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "BTX_LOG"}
    if level is not None:
        environment["BTX_LOG"] = level
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize(
    ("how", "level", "inherited", "shown"),
    [
        ("quiet", None, "None", False),
        ("quiet", "", "", False),
        ("quiet", "warning", "warning", False),
        ("quiet", "info", "info", True),
        ("verbose", None, "info", True),
        ("verbose", "warning", "info", True),
        ("verbose", "debug", "debug", True),
    ],
)
def test_a_started_process_shows_what_the_command_shows(
    how: str, level: str | None, inherited: str, shown: bool
) -> None:
    stdout, stderr = run(how, level)
    assert stdout == inherited
    assert stderr.endswith("INFO pipelines.anything: ours") == shown
    assert "theirs" not in stderr


def test_a_stage_reads_the_level_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.stages", "mix"]
    environment = {**os.environ, "BTX_LOG": "loud"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "BTX_LOG\n  found loud" in done.stderr
    assert "Traceback" not in done.stderr
