"""Fifty people read pages and the API while a rebuild runs in the same workspace.

    python benchmarks/web/readers.py WORKSPACE [--clients 50] [--seconds 60] [--pause 0.5]

WORKSPACE: the demo's, or one with at least two experts and no table [recipe.tune]; a copy is made. The rebuild is run alone, then under the
readers; each leaves an expert out and tunes for another number of steps, so that tune and evaluate run. Rebuilds go on, one after
another, for as long as people read.
Out: one JSON document: latencies, errors, seconds of the rebuilds alone and under load.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from client import load

STEPS = 150  # of tuning
BTX = str(Path(sys.executable).with_name("btx"))
PATHS = [
    "/",
    "/builds",
    "/experts",
    "/build/1",
    "/expert/math/1",
    "/data/math/1",
    "/lineage?ref=data/math",
    "/impact?ref=data/math@1",
    "/audit",
    "/api/overview",
    "/api/experts/math/1",
    "/api/builds/1",
    "/api/lineage?ref=build/1",
    "/api/events?limit=50",
    "/api/impact?ref=data/math",
]


def btx(root: Path, *arguments: str) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [BTX, *arguments, "--json"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        json.loads(done.stdout)
        if done.returncode == 0
        else {"status": "failed", "stderr": done.stderr[-500:]}
    )


def timed_rebuild(root: Path, recipe: str, without: str, steps: int) -> dict[str, Any]:
    """Another number of tuning steps: tuned and evaluated anew."""
    (root / "btx.toml").write_text(f"{recipe}\n[recipe.tune]\nsteps = {steps}\n")
    started = time.perf_counter()
    answer = btx(root, "rebuild", "--without", without)
    return {
        "build": answer.get("build"),
        "status": answer["status"],
        "seconds": round(time.perf_counter() - started, 1),
        **({"why": answer["stderr"]} if "stderr" in answer else {}),
    }


def main() -> None:
    read = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    read.add_argument("workspace", type=Path)
    read.add_argument("--clients", type=int, default=50)
    read.add_argument("--seconds", type=float, default=60)
    read.add_argument(
        "--pause",
        type=float,
        default=0.5,
        help="seconds between two pages of one person, on average",
    )
    read.add_argument("--port", type=int, default=8811)
    asked = read.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "workspace"
        subprocess.run(["cp", "-a", str(asked.workspace), str(root)], check=True)
        secrets = [
            btx(root, "token", "add", f"reader{number}")["token"] for number in range(asked.clients)
        ]
        recipe = (root / "btx.toml").read_text()
        timed_rebuild(
            root, recipe, "units", STEPS
        )  # mixes, and reads the libraries from a cold disk: not counted
        alone = [timed_rebuild(root, recipe, "units", STEPS + number) for number in (1, 2)]
        server = subprocess.Popen(
            [BTX, "serve", "--port", str(asked.port)], cwd=root, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout
            server.stdout.readline()
            time.sleep(1)
            headers = [f"Authorization: Bearer {secret}" for secret in secrets]
            load(f"127.0.0.1:{asked.port}", PATHS, headers[:5], 3, 0)  # warm
            during: list[dict[str, Any]] = []
            reading = threading.Event()

            def rebuilds() -> None:
                while not reading.is_set():
                    during.append(timed_rebuild(root, recipe, "units", STEPS + 3 + len(during)))

            writer = threading.Thread(target=rebuilds)
            writer.start()
            taken = load(f"127.0.0.1:{asked.port}", PATHS, headers, asked.seconds, asked.pause)
            reading.set()
            writer.join()
        finally:
            server.terminate()
            server.wait()
    answers = {
        "clients": asked.clients,
        "seconds": round(taken.seconds, 1),
        "pause_s": asked.pause,
        "requests": len(taken.ms),
        "requests_per_s": round(len(taken.ms) / taken.seconds, 1),
        "errors": len(taken.wrong),
        "first_errors": taken.wrong[:5],
        "median_ms": taken.percentile(0.5),
        "p95_ms": taken.percentile(0.95),
        "p99_ms": taken.percentile(0.99),
        "most_ms": taken.percentile(1),
        "rebuild_alone": alone,
        "rebuilds_under_load": during,
        "load_average": os.getloadavg(),
    }
    print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
