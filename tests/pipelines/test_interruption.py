"""Ctrl-C ends a process with a word and status 130, also while a library is being loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from btx_core.problems import Interrupted
from pipelines.stages.dvc_runs import reproduce

# A library that makes an error of its own of whatever is raised while it loads.
LIBRARY = """\
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)
except BaseException:
    raise RuntimeError("aborted") from None
"""
LOADED_FIRST = """\
from pipelines.workspace.interruption import answered
def load():
    import library
    return print
answered(load)
"""
LOADED_LATER = """\
import time
from pipelines.workspace.interruption import answered
def main():
    import library
    time.sleep(60)
answered(lambda: main)
"""
AT_THE_END = """\
import atexit, os, signal
from pipelines.workspace.interruption import answered
answered(lambda: lambda: print("done"))
class Late:
    def __del__(self): self.kill(self.pid, self.signal)
late = Late()
late.kill, late.pid, late.signal = os.kill, os.getpid(), signal.SIGINT
"""


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        (LOADED_FIRST, 130, "interrupted\n"),
        (LOADED_LATER, 130, "interrupted\n"),
        (AT_THE_END, 0, ""),
    ],
)
def test_ctrl_c_is_answered_whenever_it_comes(
    program: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "library.py").write_text(LIBRARY)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (status, said)


# What DVC loads, and a Ctrl-C for the process that started DVC.
SLOW_TQDM = """\
import os, signal, time
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""


def test_ctrl_c_while_dvc_is_being_loaded_leaves_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tqdm.py").write_text(SLOW_TQDM)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with pytest.raises(Interrupted):
        reproduce(tmp_path, ["mix"], variables={"PYTHONPATH": path})
    assert capfd.readouterr().err == "interrupted\n"
