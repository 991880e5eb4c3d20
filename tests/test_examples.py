"""The notebooks in examples/ work, cell by cell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def program(notebook: Path) -> str:
    """Return the code of a notebook, cell after cell."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_output(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    assert all(cell.get("outputs", []) == [] for cell in cells)
    compile(program(notebook), str(notebook), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_to_its_last_cell(notebook: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", program(notebook)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "data/math@1" in done.stdout
    assert "0 findings" in done.stdout
