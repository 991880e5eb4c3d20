"""Run the parts one after another, each in a process of its own, and print one table.

In:  --out, where gpu.json and the log of each part are kept, and the metrics of the story's runs;
     --seconds, for all parts together.
Out: the table on stdout and in gpu.json, which is written anew after every part: a machine that is
     taken away leaves what was measured until then.

Plain Python, so that it can say on a bare machine what is missing.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# What the stages need, and what the registry needs beside it.
STAGES = ("torch", "transformers", "safetensors", "accelerate", "peft")
# Seconds that a part may take; it gets less where less is left.
PARTS = {"stages": 110, "speed-135m": 110, "speed-1.1b": 150, "story": 300}
REAL = ROOT / "benchmarks/real/run.py"


def missing(names: tuple[str, ...] = ()) -> list[str]:
    """Return the declared requirements that this Python does not have, or has in an older version.

    Args:
        names: only these; empty: all.
    """
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lacking = []
    for requirement in declared:
        name, _, least = requirement.partition(">=")
        if names and name not in names:
            continue
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append(requirement)
            continue
        if numbers(found) < numbers(least):
            lacking.append(f"{requirement} (found {found})")
    return lacking


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version, for comparison."""
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def machine() -> dict[str, str]:
    """Return what this machine is, in words."""
    described = {"python": platform.python_version(), "processor": platform.processor()}
    for name in STAGES:
        try:
            described[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            described[name] = "missing"
    command = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
    asked = subprocess.run(command, capture_output=True, text=True)
    described["card"] = asked.stdout.strip() or "none"
    return described


def run_part(name: str, command: list[str], log: Path, limit_s: float) -> dict[str, object]:
    """Run one part and return what it measured, whatever became of it."""
    rows = log.with_suffix(".jsonl")
    rows.unlink(missing_ok=True)
    started, error = time.monotonic(), ""
    with log.open("w") as opened:
        try:
            status = subprocess.run(
                [*command, "--rows", str(rows)],
                stdout=opened,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
            ).returncode
            error = "" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            error = f"not done after {limit_s:.0f} s"
    if error:
        text = log.read_text(errors="replace").strip()
        error += f": {text.splitlines()[-1][:200]}" if text else ""
    measured = rows.read_text().splitlines() if rows.exists() else []
    return {
        "part": name,
        "seconds": round(time.monotonic() - started, 1),
        "error": error,
        "rows": [json.loads(line) for line in measured],
    }


def table(results: list[dict[str, object]]) -> str:
    """Return one Markdown table of all rows."""
    lines = ["| part | what | tokens/s | peak GB | |", "|---|---|---:|---:|---|"]
    for result in results:
        for row in result["rows"]:  # type: ignore[attr-defined]
            speed = f"{row['tokens_per_s']:,.0f}" if row.get("tokens_per_s") else ""
            peak = f"{row['peak_bytes'] / 1e9:.2f}" if row.get("peak_bytes") else ""
            note = row.get("error") or row.get("note", "")
            lines.append(f"| {result['part']} | {row['what']} | {speed} | {peak} | {note} |")
        if result["error"]:
            lines.append(f"| {result['part']} | | | | {result['error']} |")
    return "\n".join(lines)


def joined(files: list[Path], folder: Path) -> Path | None:
    """Return the seed's file; several are the parts of one, and are put together."""
    if len(files) <= 1:
        return files[0] if files else None
    whole = folder / "seed.gguf"
    with whole.open("wb") as out:
        for file in files:
            out.write(file.read_bytes())
    return whole


def main() -> None:
    """Run what can run here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=470)
    parser.add_argument(
        "--seed", type=Path, nargs="+", default=[], help="a GGUF file, or its parts"
    )
    parser.add_argument("--texts", type=Path, help="what benchmarks/real/run.py --prepare wrote")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, on any machine")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    report: dict[str, object] = {"machine": machine(), "missing": missing()}
    print(json.dumps(report, indent=1))
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        seed = joined(options.seed, Path(scratch))
        for name in options.parts:
            lacking = missing(() if name == "story" else STAGES)
            reason = f"missing: {', '.join(lacking)}" if lacking else ""
            if name == "story" and not (seed and options.texts):
                reason = reason or "needs --seed and --texts"
            left = until - time.monotonic()
            # On a slow machine a test waits for all of it.
            left = left if options.tiny else min(PARTS[name], left)
            if left < 5:
                reason = reason or "no time left"
            if reason:
                results.append({"part": name, "seconds": 0.0, "error": reason, "rows": []})
            else:
                work = str(Path(scratch) / name)
                command = [sys.executable, str(HERE / "parts.py"), name, "--dir", work]
                if name == "story":
                    command = [sys.executable, str(REAL), "--dir", work, "--seed", str(seed)]
                    command += ["--texts", str(options.texts), "--scale", "gpu"]
                if options.tiny:
                    command += ["--tiny"]
                log = options.out / f"{name}.log"
                results.append(run_part(name, command, log, left))
                for file in Path(work).glob("work/metrics/*.jsonl"):
                    shutil.copy(file, options.out / f"{name}-{file.name}")
            report["parts"] = results
            (options.out / "gpu.json").write_text(json.dumps(report, indent=1))
            print(f"{name}: {results[-1]['error'] or 'done'}, {results[-1]['seconds']} s")
    print("\n" + table(results))


if __name__ == "__main__":
    main()
