"""Fifty people read pages and the API while a rebuild runs in the same workspace.

    python benchmarks/web/readers.py WORKSPACE [--clients 50] [--seconds 60] [--pause 0.5]

WORKSPACE: the demo's, or one with at least two experts and no table [recipe.tune]; a copy is made.
Out: one JSON document: latencies, errors, seconds of the rebuilds by themselves and under load.

The rebuild is run by itself first, then again and again while people read. Each leaves an expert
out and tunes for another number of steps, so that tune and evaluate run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from client import Load, Taken, load

# Of tuning.
STEPS = 150
# The expert that every rebuild leaves out.
LEFT_OUT = "units"
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


@dataclass(frozen=True)
class Rebuild:
    """One rebuild; `why` says why it failed."""

    build: str | None
    status: str
    seconds: float
    why: str | None = None


# Any: an answer of btx, as JSON.
def btx(root: Path, *arguments: str) -> dict[str, Any]:
    """Run a btx command and return its answer; where it fails, a status and what stderr said."""
    finished = subprocess.run(
        [BTX, *arguments, "--json"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        return {"status": "failed", "stderr": finished.stderr[-500:]}
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def timed_rebuild(root: Path, settings: str, steps: int) -> Rebuild:
    """Rebuild with another number of tuning steps, so that it is tuned and evaluated anew."""
    (root / "btx.toml").write_text(f"{settings}\n[recipe.tune]\nsteps = {steps}\n")
    started = time.perf_counter()
    answer = btx(root, "rebuild", "--without", LEFT_OUT)
    seconds = round(time.perf_counter() - started, 1)
    return Rebuild(answer.get("build"), answer["status"], seconds, answer.get("stderr"))


def read_while_rebuilding(
    root: Path, settings: str, task: Load, headers: list[str]
) -> tuple[Taken, list[Rebuild]]:
    """Let people read, and rebuild again and again until they stop."""
    rebuilds: list[Rebuild] = []
    stopped = threading.Event()

    def rebuild_again() -> None:
        while not stopped.is_set():
            rebuilds.append(timed_rebuild(root, settings, STEPS + 3 + len(rebuilds)))

    writer = threading.Thread(target=rebuild_again)
    writer.start()
    taken = load(task, headers)
    stopped.set()
    writer.join()
    return taken, rebuilds


def main() -> None:
    """Copy the workspace, serve it, read and rebuild it, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--pause",
        type=float,
        default=0.5,
        help="seconds between two pages of one person, on average",
    )
    parser.add_argument("--port", type=int, default=8811)
    options = parser.parse_args()
    host = f"127.0.0.1:{options.port}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "workspace"
        subprocess.run(["cp", "-a", str(options.workspace), str(root)], check=True)
        readers = [f"reader{number}" for number in range(options.clients)]
        secrets = [btx(root, "token", "add", reader)["token"] for reader in readers]
        headers = [f"Authorization: Bearer {secret}" for secret in secrets]
        settings = (root / "btx.toml").read_text()
        # Not counted: it mixes, and reads the libraries from a cold disk.
        timed_rebuild(root, settings, STEPS)
        alone = [timed_rebuild(root, settings, STEPS + number) for number in (1, 2)]
        command = [BTX, "serve", "--port", str(options.port)]
        server = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            server.stdout.readline()
            time.sleep(1)
            # To warm up.
            load(Load(host, PATHS, seconds=3), headers[:5])
            task = Load(host, PATHS, options.seconds, options.pause)
            taken, during = read_while_rebuilding(root, settings, task, headers)
        finally:
            server.terminate()
            server.wait()
    answers = {
        "clients": options.clients,
        "seconds": round(taken.seconds, 1),
        "pause_s": options.pause,
        "requests": len(taken.ms),
        "requests_per_s": round(len(taken.ms) / taken.seconds, 1),
        "errors": len(taken.wrong),
        "first_errors": taken.wrong[:5],
        "median_ms": taken.percentile(0.5),
        "p95_ms": taken.percentile(0.95),
        "p99_ms": taken.percentile(0.99),
        "most_ms": taken.percentile(1),
        "rebuild_alone": [asdict(rebuild) for rebuild in alone],
        "rebuilds_under_load": [asdict(rebuild) for rebuild in during],
        "load_average": os.getloadavg(),
    }
    print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
