"""Register, get and list versions in this catalogue and in MLflow's model registry, side by side in one run.

    python benchmarks/catalogue/beside_mlflow.py [--versions 3000] [--mlflow 3.18.0] [--venv DIR]

Both by their Python client on a SQLite file, each in a process of its own, in turns: a block of one, then a block of the other, so that
whatever else the machine does weighs on both. MLflow comes into a virtual environment of its own, made here.
Out: one JSON document; milliseconds, median and the 5th and 95th percentile; the ratio of medians, MLflow's over ours.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BLOCKS = 10
LISTED = 3  # times a block: listing is slow


class Ours:
    """One expert name, version after version, with a licence to find it by."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(ROOT))
        # Imported here: MLflow's side runs in an environment without them.
        from registry.catalogue.catalog import Catalog
        from registry.records.facts import DataFacts, ExpertFacts
        from registry.records.version import FileFact

        self.catalog = Catalog(f"sqlite:///{folder}/ours.db", actor="bench")
        self.file, self.expert = FileFact, ExpertFacts
        self.catalog.register("d", DataFacts(license="MIT"))

    def register(self, number: int) -> None:
        facts = self.expert(licenses=(f"LicenseRef-{number % 10}",))
        files = [self.file("model.safetensors", 1, f"{number:064x}")]
        self.catalog.register("e", facts, files=files, parents=[("data/d@1", "trained_on")])

    def get(self, number: int) -> None:
        found = self.catalog.get(f"expert/e@{number}", self.expert)
        assert found.facts.licenses == (f"LicenseRef-{number % 10}",)

    def list_all(self, number: int) -> None:
        assert len(self.catalog.versions(self.expert, name="e")) == number

    def search(self, number: int) -> None:
        found = self.catalog.versions(self.expert, license="LicenseRef-3")
        assert abs(len(found) - number / 10) <= 1


class Theirs:
    """One registered model, version after version, with a tag to find it by. No lineage, no log: it keeps none."""

    def __init__(self, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(f"sqlite:///{folder}/theirs.db", f"sqlite:///{folder}/theirs.db")
        self.client.create_registered_model("e")

    def register(self, number: int) -> None:
        tags = {"number": str(number), "license": f"LicenseRef-{number % 10}"}
        self.client.create_model_version("e", f"file:///nowhere/{number}", tags=tags)

    def get(self, number: int) -> None:
        assert self.client.get_model_version("e", str(number)).tags["number"] == str(number)

    def list_all(self, number: int) -> None:
        assert len(self._all("name = 'e'")) == number

    def search(self, number: int) -> None:
        assert (
            abs(len(self._all("name = 'e' and tags.license = 'LicenseRef-3'")) - number / 10) <= 1
        )

    def _all(self, words: str) -> list[Any]:
        found: list[Any] = []
        page = self.client.search_model_versions(words, max_results=10_000)
        found += page
        while page.token:
            page = self.client.search_model_versions(
                words, max_results=10_000, page_token=page.token
            )
            found += page
        return found


def serve(registry: Any) -> None:
    """One line in: operation and numbers. One line out: milliseconds of each."""
    for line in sys.stdin:
        operation, *numbers = json.loads(line)
        print(
            json.dumps([_milliseconds(getattr(registry, operation), number) for number in numbers]),
            flush=True,
        )


def _milliseconds(call: Callable[[int], None], number: int) -> float:
    started = time.perf_counter()
    call(number)
    return (time.perf_counter() - started) * 1000


class Worker:
    def __init__(self, python: str, side: str, folder: Path) -> None:
        command = [python, __file__, "--worker", side, "--folder", str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, operation: str, numbers: list[int]) -> list[float]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([operation, *numbers]) + "\n")
        self.process.stdin.flush()
        return list(json.loads(self.process.stdout.readline()))


def mlflow_python(folder: Path, version: str) -> str:
    """The interpreter of a virtual environment that has this MLflow; made when it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", f"mlflow=={version}"], check=True
        )
    return str(python)


def measure(workers: dict[str, Worker], versions: int) -> dict[str, dict[str, list[float]]]:
    """Per operation and side the milliseconds of each call; the sides take turns, and who begins changes from block to block."""
    taken: dict[str, dict[str, list[float]]] = {
        name: {side: [] for side in workers} for name in ("register", "get", "list_all", "search")
    }
    each = versions // BLOCKS
    for block in range(BLOCKS):
        first, last = block * each + 1, (block + 1) * each
        jobs = {
            "register": list(range(first, last + 1)),
            "get": list(range(1, last + 1, max(1, last // 100))),
            "list_all": [last] * LISTED,
            "search": [last] * LISTED,
        }
        for name, numbers in jobs.items():
            for side in sorted(workers, reverse=bool(block % 2)):
                took = workers[side].ask(name, numbers)
                # Listing is told of the whole registry only; the other calls of every block.
                taken[name][side] = (
                    took if name in ("list_all", "search") else taken[name][side] + took
                )
    return taken


def summary(taken: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, sides in taken.items():
        told[name] = {side: _spread(some) for side, some in sides.items()}
        told[name]["ratio"] = round(
            statistics.median(sides["mlflow"]) / statistics.median(sides["btx"]), 1
        )
    return told


def _spread(some: list[float]) -> dict[str, float]:
    ordered = sorted(some)
    places = {
        "p5": ordered[len(ordered) // 20],
        "median": statistics.median(ordered),
        "p95": ordered[len(ordered) * 19 // 20],
    }
    return {name: round(value, 2) for name, value in places.items()}


def main() -> None:
    read = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    read.add_argument("--versions", type=int, default=3000)
    read.add_argument("--mlflow", default="3.17.2")
    read.add_argument("--venv", type=Path, help="default: a temporary folder")
    read.add_argument("--worker", choices=("btx", "mlflow"), help=argparse.SUPPRESS)
    read.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = read.parse_args()
    if asked.worker:
        return serve((Ours if asked.worker == "btx" else Theirs)(asked.folder))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        other = mlflow_python(asked.venv or folder / "venv", asked.mlflow)
        workers = {
            "btx": Worker(sys.executable, "btx", folder),
            "mlflow": Worker(other, "mlflow", folder),
        }
        taken = measure(workers, asked.versions)
        print(
            json.dumps(
                {
                    "versions": asked.versions,
                    "mlflow": asked.mlflow,
                    "milliseconds": summary(taken),
                },
                indent=1,
            )
        )
        for worker in workers.values():
            worker.process.communicate("")


if __name__ == "__main__":
    main()
