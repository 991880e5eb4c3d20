"""README's own commands, run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
# Recipes that take minutes: a test has no hour.
QUICK = """
[recipe.train]
steps = 20
[recipe.tune]
steps = 5
[recipe.evaluate]
max_tokens = 1000
"""


def block(heading: str) -> list[str]:
    """The commands of the first code block under a heading, without comments."""
    found = re.search(
        rf"^## {re.escape(heading)}\n.*?^```\n(.*?)^```$", README.read_text(), re.M | re.S
    )
    assert found, f"no code block under {heading!r}"
    return [line.split("  #")[0].strip() for line in found[1].splitlines()]


def test_a_first_expert_is_registered_built_and_audited(
    tiny_corpora: Path, tiny_seed: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_corpora / "math", tmp_path / "corpora" / "legal")
    shutil.copytree(tiny_seed, tmp_path / "checkpoints" / "our-llama")
    work = tmp_path / "work"
    work.mkdir()
    commands = block("A first expert")
    commands.insert(
        1,
        "python - <<'END'\nfrom pathlib import Path\npath = Path('btx.toml')\n"
        f"path.write_text(path.read_text().split('[recipe.train]')[0] + {QUICK!r})\nEND",
    )
    script = "set -e\n" + "\n".join(commands)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", script.replace("../", f"{tmp_path}/")],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no findings" in done.stdout
    assert (work / "my-models/builds/1/config.json").is_file()
