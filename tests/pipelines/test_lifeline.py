"""What a stage ends with: its command, every process between the two, or a lease."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines.stages import lifeline
from pipelines.stages.lifeline import COMMAND, leased
from pipelines.workspace import run_lock
from pipelines.workspace.workspace import create

# Starts the next one of its kind until none is left to start, says so, and sleeps.
CHAIN = """\
import subprocess, sys, time
from pipelines.stages.lifeline import end_with_command, environment_below
below, first = int(sys.argv[1]), sys.argv[2] == "first"
if not first:
    end_with_command()
if below:
    again = [sys.executable, "-c", sys.argv[3], str(below - 1), "next", sys.argv[3]]
    subprocess.Popen(again, env=environment_below(), start_new_session=True)
else:
    print("ready", flush=True)
time.sleep(600)
"""
LEASED = """\
import sys, time
from pathlib import Path
from pipelines.stages import lifeline
lifeline.PATIENCE_S = float(sys.argv[3])
lifeline.Lease(Path(sys.argv[1]), sys.argv[2]).end_with()
print("ready", flush=True)
time.sleep(600)
"""


def started(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """A process that has said that it is ready."""
    environment = {name: value for name, value in os.environ.items() if name != COMMAND}
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_whichever_process_is_killed_all_below_it_end(killed: int) -> None:
    command = started(CHAIN, "3", "first", CHAIN)
    first = psutil.Process(command.pid)
    chain = [first, *first.children(recursive=True)]
    try:
        assert len(chain) == 4
        time.sleep(2 * lifeline.POLL_S)
        assert not any(map(is_gone, chain)), "while all run, nobody ends"
        chain[killed].kill()
        until = time.monotonic() + 60
        # A zombie that nobody waits for is gone too.
        while not all(map(is_gone, chain[killed:])) and time.monotonic() < until:
            time.sleep(0.05)
        assert all(map(is_gone, chain[killed:]))
        assert [is_gone(one) for one in chain[:killed]] == [False] * killed
    finally:
        for process in chain:
            if process.is_running():
                process.kill()
        command.wait()


def test_a_lease_that_is_renewed_is_kept_and_its_end_is_the_end(tmp_path: Path) -> None:
    with leased(tmp_path / "tune.json") as lease:
        process = started(LEASED, str(lease.path), lease.token, "60")
        time.sleep(3 * lifeline.POLL_S)
        assert process.poll() is None
    assert process.wait(60) < 0
    with leased(tmp_path / "tune.json") as lease:
        # Another command has taken its place.
        process = started(LEASED, str(lease.path), lease.token, "60")
        lease.path.write_text("another")
        assert process.wait(60) < 0


def test_a_lease_that_nobody_renews_ends(tmp_path: Path) -> None:
    path = tmp_path / "tune.lease"
    path.write_text("mine")
    assert started(LEASED, str(path), "mine", "0.1").wait(60) < 0


def test_a_stage_that_is_started_again_waits_for_the_run_before(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with run_lock.held(tmp_path, "tune", 0):
            order.append("second")

    with run_lock.held(tmp_path, "tune", 0), run_lock.held(tmp_path, "tune", 1):
        waiting = [
            threading.Thread(target=second),
            threading.Thread(target=lambda: run_lock.wait_until_gone(tmp_path, "tune")),
        ]
        for thread in waiting:
            thread.start()
        time.sleep(5 * run_lock.POLL_S)
        assert all(thread.is_alive() for thread in waiting)
        order.append("first")
    for thread in waiting:
        thread.join(60)
    assert order == ["first", "second"]


def test_who_writes_next_waits_for_what_a_killed_command_left(tmp_path: Path) -> None:
    workspace = create(tmp_path)
    written: list[str] = []

    def write() -> None:
        with workspace.writing("a test"):
            written.append("written")

    pipe = tmp_path / "work" / "progress" / "pipe.0.lock"
    with run_lock.held(tmp_path, "tune", 0):
        os.mkfifo(pipe)
        waiting = threading.Thread(target=write)
        waiting.start()
        time.sleep(5 * run_lock.POLL_S)
        assert not written
    waiting.join(60)
    assert written
