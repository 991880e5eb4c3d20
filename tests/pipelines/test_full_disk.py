"""A disk that fills up under a command.

The command says so, what was there stays whole, and the command completes once there is room.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Kilobytes left when the command starts; where it stops moves with them.
# A sweep: BTX_ROOMS="20 60 130 260 330 450".
SWEEP = os.environ.get("BTX_ROOMS", "").split()
ROOMS = [
    pytest.param(command, int(room), marks=[pytest.mark.slow] if command == "rebuild" else [])
    for command, usual in (("register", "60"), ("rebuild", "200"))
    for room in SWEEP or [usual]
]
SCRIPT = """
import json, os, shutil, subprocess, sys
from pathlib import Path
story, disk, btx, room, *command = sys.argv[1:]
root = Path(disk) / "workspace"
subprocess.run(["cp", "-a", story, root], check=True)
left = shutil.disk_usage(disk).free - int(room) * 1024
(Path(disk) / "ballast").write_bytes(bytes(left))
def run(*words):
    done = subprocess.run([btx, *words], cwd=root, capture_output=True, text=True)
    return {"status": done.returncode, "out": done.stdout, "told": done.stderr}
answer = {"full": run(*command)}
(Path(disk) / "ballast").unlink()
answer["between"] = run("audit", "build/1", "--json")
answer["again"] = run(*command)
answer["after"] = run("audit", "build" if command[0] == "rebuild" else "expert/math", "--json")
print(json.dumps(answer))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("command", "room"), ROOMS)
def test_a_full_disk_is_told_and_leaves_all_that_was_there(
    story: Any, checkpoint: Path, tmp_path: Path, command: str, room: int
) -> None:
    words = {
        "register": ["register", "math", str(checkpoint), "--data", "data/math"],
        "rebuild": ["rebuild", "--without", "math"],
    }[command]
    asked = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*asked, f"mount -t tmpfs tmpfs {tmp_path}"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    mounted = f'mount -t tmpfs -o size=12m tmpfs {tmp_path} && exec "$@"'
    python = [
        sys.executable,
        "-c",
        SCRIPT,
        str(story.root),
        str(tmp_path),
        str(Path(sys.executable).with_name("btx")),
        str(room),
        *words,
    ]
    done = subprocess.run(
        [*asked, mounted, "sh", *python],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["full"]["status"] == 1 or (SWEEP and answer["full"]["status"] == 0), answer[
        "full"
    ]
    assert "room" in answer["full"]["told"] or answer["full"]["status"] == 0, answer["full"]
    assert "Traceback" not in answer["full"]["told"]
    between = json.loads(answer["between"]["out"])["findings"]
    assert {finding["check"] for finding in between} <= {"unfinished"}
    assert answer["again"]["status"] == 0, answer["again"]
    assert (answer["after"]["status"], json.loads(answer["after"]["out"])["findings"]) == (0, [])
