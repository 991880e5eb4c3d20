"""The prepared run for a GPU works at its smallest size, so that it does when a GPU is lent."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_gguf import tiny, write_gguf

ROOT = Path(__file__).parents[1]
STAGES = {
    *(f"train {mode}" for mode in ("anchored", "full", "lora", "beside", "bfloat16")),
    *(f"tune {mode}" for mode in ("none", "router", "shared", "all", "grow")),
    "evaluate",
    "explain",
    "harness",
}


def run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(out), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / "benchmarks/gpu/run.sh"), "--tiny", "--seconds", "3000", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def texts(folder: Path) -> Path:
    """Text as `benchmarks/real/run.py --prepare` leaves it: of each domain its own few letters."""
    letters = random.Random(0)
    for name, alphabet in {"general": "abc", "japanese": "xyz", "perl": "$;{"}.items():
        for part, count in ((folder / name, 60), (folder / name / "heldout", 8)):
            part.mkdir(parents=True)
            documents = ["".join(letters.choices(alphabet + " ", k=400)) for _ in range(count)]
            lines = [json.dumps({"text": text}) + "\n" for text in documents]
            (part / "text.jsonl").write_text("".join(lines))
        statement = {"license": "CC0-1.0", "source": "made for a test", "pii": "none"}
        (folder / f"{name}.statement.json").write_text(json.dumps(statement))
    return folder


@pytest.mark.slow
def test_every_part_runs_and_reports(tmp_path: Path) -> None:
    seed = write_gguf(tiny(), tmp_path / "tiny.gguf").read_bytes()
    # As two files, for a way in that takes no large ones.
    halves = [tmp_path / "seed.part-0", tmp_path / "seed.part-1"]
    for half, content in zip(halves, (seed[:5000], seed[5000:]), strict=True):
        half.write_bytes(content)
    answer = run(
        tmp_path / "out",
        "--seed",
        *map(str, halves),
        "--texts",
        str(texts(tmp_path / "texts")),
        "--parts",
        "stages",
        "speed-135m",
        "story",
    )
    report = json.loads((tmp_path / "out/gpu.json").read_text())
    by_part = {part["part"]: part for part in report["parts"]}
    for part in report["parts"]:
        assert not part["error"], (tmp_path / "out" / f"{part['part']}.log").read_text()[-3000:]
        for row in part["rows"]:
            assert "error" not in row, row
    assert {row["what"] for row in by_part["stages"]["rows"]} == STAGES
    assert all(row["tokens_per_s"] > 0 for row in by_part["speed-135m"]["rows"])
    assert {row["what"] for row in by_part["story"]["rows"]} == {"general", "japanese", "perl"}
    assert "| tune router |" in answer.stdout


def test_a_part_that_cannot_run_says_why_and_hides_no_other(tmp_path: Path) -> None:
    run(tmp_path, "--parts", "story")
    (part,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert part["error"] == "needs --seed and --texts"
