"""Rebuilds whose registry is on a server: two clones at once, and a server that goes away."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.jobs import archive
from pipelines.jobs.audit import audit
from pipelines.workspace.workspace import Workspace
from registry.records.facts import BuildFacts

pytestmark = pytest.mark.slow

BTX = str(Path(sys.executable).with_name("btx"))


@pytest.fixture
def on_server(
    story: Any, tmp_path: Path, postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the story whose registry is on the server."""
    root = tmp_path / "one"
    subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
    archive.dump(Workspace.find(root), tmp_path / "dump")
    monkeypatch.setenv("BTX_REGISTRY_URL", postgresql())
    archive.load(Workspace.find(root), tmp_path / "dump")
    return root


def start(root: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [BTX, *words, "--json"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(running: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    while not reached():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)


def test_of_two_clones_that_rebuild_at_once_each_ends_with_its_own_build(
    on_server: Path, tmp_path: Path
) -> None:
    other = tmp_path / "two"
    subprocess.run(["cp", "-a", str(on_server), str(other)], check=True)
    wishes = {on_server: "code", other: "math"}
    running = {root: start(root, "rebuild", "--without", name) for root, name in wishes.items()}
    said = {root: process.communicate() for root, process in running.items()}
    assert [process.returncode for process in running.values()] == [0, 0], said
    made = {root: json.loads(answer)["build"] for root, (answer, _) in said.items()}
    assert sorted(made.values()) == ["build/2", "build/3"]
    later = next(root for root, build in made.items() if build == "build/3")
    assert "build/2 was taken meanwhile: this is build/3" in said[later][1]
    for root, build in made.items():
        workspace = Workspace.find(root)
        members = workspace.catalog.get(build, BuildFacts).facts.members
        assert f"expert/{wishes[root]}@1" not in {member.ref for member in members}
        wrong = audit(workspace, build).findings
        assert not [one for one in wrong if one.check not in ("standing", "actors")], wrong
        assert sorted(path.name for path in (root / "builds").glob("[0-9]*")) == sorted(
            ["1", "1.dvc", build[6:], f"{build[6:]}.dvc"]
        )


@pytest.mark.parametrize("stage", ["mix", "tune", "evaluate"])
def test_a_server_that_is_started_anew_while_a_stage_runs_is_waited_for(
    on_server: Path, postgresql_server: Any, stage: str
) -> None:
    running = start(on_server, "rebuild", "--without", "code")
    until(running, lambda: stage in stages_under(running))
    postgresql_server.stop()
    starting = threading.Timer(3, postgresql_server.start)
    starting.start()
    answer, said = running.communicate()
    starting.join()
    assert running.returncode == 0, said
    assert json.loads(answer)["build"] == "build/2"


def test_a_server_that_stays_away_ends_the_command_and_every_process_under_it(
    on_server: Path, postgresql_server: Any
) -> None:
    running = start(on_server, "rebuild", "--without", "code")
    until(running, lambda: "tune" in stages_under(running))
    under = psutil.Process(running.pid).children(recursive=True)
    postgresql_server.stop()
    answer, said = running.communicate()
    postgresql_server.start()
    assert running.returncode != 0
    assert json.loads(answer)["error"]["kind"] == "Unavailable", said
    assert "Traceback" not in said
    _, going_on = psutil.wait_procs(under, timeout=10)
    assert going_on == []
    again = start(on_server, "rebuild", "--without", "code")
    answer, said = again.communicate()
    assert (again.returncode, json.loads(answer)["build"]) == (0, "build/2"), said


def stages_under(process: "subprocess.Popen[str]") -> set[str]:
    """Return the names of the stages that run under a command."""
    found = set()
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if any(word.startswith("pipelines.stages") for word in words):
            found.add(words[-1])
    return found
