"""Register, get and list versions in this catalogue and in MLflow's model registry, in one run.

    python benchmarks/catalogue/beside_mlflow.py [--versions 3000] [--mlflow 3.17.2] [--venv DIR]

Both are used by their Python client on a SQLite file, each in a process of its own. They take
turns, a block of one and then a block of the other, so that other work on the machine slows both.
MLflow is installed into a virtual environment of its own.

Out: one JSON document: milliseconds, median and the 5th and 95th percentile; the ratio of the
medians, MLflow's over this catalogue's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]
BLOCKS = 10
# Calls of a slow operation in a block.
LISTED = 3
# Each call of these depends on how much is registered: only the last block is reported.
OF_THE_WHOLE = ("list_all", "search")
OPERATIONS = ("register", "get", *OF_THE_WHOLE)

# Milliseconds of each call: by operation, then by side.
Taken = dict[str, dict[str, list[float]]]


class Side(Protocol):
    """A registry with one name, of which version after version is registered."""

    def register(self, number: int) -> None:
        """Register version `number`."""

    def get(self, number: int) -> None:
        """Get version `number` and check it."""

    def list_all(self, number: int) -> None:
        """List all versions and check that there are `number`."""

    def search(self, number: int) -> None:
        """List the versions of one licence of ten and check that there are enough."""


class Ours:
    """This catalogue: an expert with a licence."""

    def __init__(self, folder: Path) -> None:
        """Make a registry in the folder."""
        sys.path.insert(0, str(ROOT))
        # Imported here: MLflow's side runs in an environment without them.
        from registry.catalogue.catalog import Catalog
        from registry.records.facts import DataFacts, ExpertFacts
        from registry.records.version import FileFact

        self.catalog = Catalog(f"sqlite:///{folder}/ours.db", actor="bench")
        self.file, self.expert = FileFact, ExpertFacts
        self.catalog.register("d", DataFacts(license="MIT"))

    def register(self, number: int) -> None:
        """Register version `number`, with a file and its lineage."""
        facts = self.expert(licenses=(f"LicenseRef-{number % 10}",))
        files = [self.file("model.safetensors", 1, f"{number:064x}")]
        self.catalog.register("e", facts, files=files, parents=[("data/d@1", "trained_on")])

    def get(self, number: int) -> None:
        """Get version `number` and check it."""
        version = self.catalog.get(f"expert/e@{number}", self.expert)
        assert version.facts.licenses == (f"LicenseRef-{number % 10}",)

    def list_all(self, number: int) -> None:
        """List all versions and check that there are `number`."""
        assert len(self.catalog.versions(self.expert, name="e")) == number

    def search(self, number: int) -> None:
        """List the versions of one licence of ten and check that there are enough."""
        versions = self.catalog.versions(self.expert, license="LicenseRef-3")
        assert abs(len(versions) - number / 10) <= 1


class Theirs:
    """MLflow: a registered model with a tag. It keeps no lineage of versions and no log."""

    def __init__(self, folder: Path) -> None:
        """Make a registry in the folder."""
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(f"sqlite:///{folder}/theirs.db", f"sqlite:///{folder}/theirs.db")
        self.client.create_registered_model("e")

    def register(self, number: int) -> None:
        """Register version `number`, with two tags."""
        tags = {"number": str(number), "license": f"LicenseRef-{number % 10}"}
        self.client.create_model_version("e", f"file:///nowhere/{number}", tags=tags)

    def get(self, number: int) -> None:
        """Get version `number` and check it."""
        assert self.client.get_model_version("e", str(number)).tags["number"] == str(number)

    def list_all(self, number: int) -> None:
        """List all versions and check that there are `number`."""
        assert len(self._matching("name = 'e'")) == number

    def search(self, number: int) -> None:
        """List the versions of one licence of ten and check that there are enough."""
        versions = self._matching("name = 'e' and tags.license = 'LicenseRef-3'")
        assert abs(len(versions) - number / 10) <= 1

    # Any: MLflow is not installed where types are checked.
    def _matching(self, condition: str) -> list[Any]:
        page = self.client.search_model_versions(condition, max_results=10_000)
        versions = list(page)
        while page.token:
            page = self.client.search_model_versions(
                condition, max_results=10_000, page_token=page.token
            )
            versions += page
        return versions


def answer(side: Side) -> None:
    """Read an operation and numbers per line of stdin, and print the milliseconds of each call."""
    for text in sys.stdin:
        operation, *numbers = json.loads(text)
        call = getattr(side, operation)
        print(json.dumps([_milliseconds(call, number) for number in numbers]), flush=True)


def _milliseconds(call: Callable[[int], None], number: int) -> float:
    started = time.perf_counter()
    call(number)
    return (time.perf_counter() - started) * 1000


class Worker:
    """The process of one side."""

    def __init__(self, python: str, side: str, folder: Path) -> None:
        """Start the process.

        Args:
            python: the interpreter.
            side: btx or mlflow.
            folder: of its database.
        """
        command = [python, __file__, "--worker", side, "--folder", str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, operation: str, numbers: Sequence[int]) -> list[float]:
        """Let the side do an operation for each number; return the milliseconds of each call."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([operation, *numbers]) + "\n")
        self.process.stdin.flush()
        return list(json.loads(self.process.stdout.readline()))


def mlflow_python(folder: Path, version: str) -> str:
    """Return the interpreter of a virtual environment with MLflow; make it where it is missing."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", f"mlflow=={version}"], check=True
        )
    return str(python)


def measure(workers: Mapping[str, Worker], versions: int) -> Taken:
    """Let the sides register versions block by block, and time every operation.

    Args:
        workers: by side; they take turns, and the side that begins changes from block to block.
        versions: how many are registered in all.

    Returns:
        Milliseconds of each call.
    """
    taken: Taken = {name: {side: [] for side in workers} for name in OPERATIONS}
    each = versions // BLOCKS
    for block in range(BLOCKS):
        first, last = block * each + 1, (block + 1) * each
        numbers_of = {
            "register": list(range(first, last + 1)),
            "get": list(range(1, last + 1, max(1, last // 100))),
            "list_all": [last] * LISTED,
            "search": [last] * LISTED,
        }
        for name, numbers in numbers_of.items():
            for side in sorted(workers, reverse=bool(block % 2)):
                earlier = [] if name in OF_THE_WHOLE else taken[name][side]
                taken[name][side] = earlier + workers[side].ask(name, numbers)
    return taken


def summary(taken: Taken) -> dict[str, dict[str, object]]:
    """Return each operation's spread by side, and the ratio of the medians."""
    return {
        name: {
            **{side: _spread(milliseconds) for side, milliseconds in sides.items()},
            "ratio": round(statistics.median(sides["mlflow"]) / statistics.median(sides["btx"]), 1),
        }
        for name, sides in taken.items()
    }


def _spread(milliseconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {
        "p5": round(ordered[len(ordered) // 20], 2),
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[len(ordered) * 19 // 20], 2),
    }


def main() -> None:
    """Print the measurements; with --worker, be one side's process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=3000)
    parser.add_argument("--mlflow", default="3.17.2")
    parser.add_argument("--venv", type=Path, help="default: a temporary folder")
    parser.add_argument("--worker", choices=("btx", "mlflow"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(Ours(options.folder) if options.worker == "btx" else Theirs(options.folder))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        python = mlflow_python(options.venv or folder / "venv", options.mlflow)
        workers = {
            "btx": Worker(sys.executable, "btx", folder),
            "mlflow": Worker(python, "mlflow", folder),
        }
        milliseconds = summary(measure(workers, options.versions))
        versions = {"versions": options.versions, "mlflow": options.mlflow}
        print(json.dumps({**versions, "milliseconds": milliseconds}, indent=1))
        for worker in workers.values():
            worker.process.communicate("")


if __name__ == "__main__":
    main()
