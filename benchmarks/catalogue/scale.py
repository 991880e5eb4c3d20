"""A large registry: 10,000 experts, 100,000 lineage edges, 1,000 builds; how long its questions take.

    python benchmarks/catalogue/scale.py [--experts 10000] [--url URL]

Out: one JSON document: seconds to fill, milliseconds of each question inside the process (first and median on the clock, and the median of
this process's own time, which neighbours do not move), seconds of `btx show` as a command, on the clock and its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.catalogue.catalog import Catalog
from registry.digest import sha256_bytes
from registry.records.facts import (
    Architecture,
    BuildFacts,
    BuildRecipe,
    DataFacts,
    ExpertFacts,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.results import Result
from registry.records.version import FileFact

LICENCES = ("MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0", "PSF-2.0")
MEMBERS = 40


def fill(catalog: Catalog, experts: int) -> int:
    """A fiftieth as many data versions, a tenth as many snapshots and builds. Returns the number of edges: ten an expert."""
    add, data, builds, edges = catalog.register, max(8, experts // 50), experts // 10, 0
    add("base", SeedFacts(license="Apache-2.0"))
    for number in range(data):
        corpus = DataFacts(
            license=LICENCES[number % 5],
            holder=f"holder{number % 7}",
            source="generated",
            pii="none",
        )
        add(f"d{number}", corpus, files=[_file(f"data{number}")])
    for number in range(experts):
        trained_on = [f"data/d{(number * 7 + step * 13) % data}" for step in range(4)]
        first = trained_on[0].partition("/")[2]
        result = Result(data=f"{trained_on[0]}@1", domain=first, bits_per_byte=number)
        expert = ExpertFacts(
            seed="seed/base@1",
            data=tuple(f"{ref}@1" for ref in trained_on),
            mode="anchored",
            licenses=(LICENCES[number % 5],),
            results=(result,),
        )
        add(
            f"e{number}",
            expert,
            files=[_file(f"expert{number}")],
            parents=[("seed/base", "branched_from"), *((ref, "trained_on") for ref in trained_on)],
        )
        edges += 5
    for number in range(builds):
        members = [
            f"expert/e{(number * 37 + step * 11) % experts}"
            for step in range(min(MEMBERS, experts))
        ]
        # The number, a key of nobody's, keeps two snapshots of the same members apart.
        frozen = SnapshotFacts.from_json({"mode": "anchored", "number": number}, "a snapshot")
        snapshot = add(
            "main",
            frozen,
            parents=[("seed/base", "seed"), *((ref, "member") for ref in members)],
        )
        tuned_on = [(f"data/d{(number + step) % data}", "tuned_on") for step in range(8)]
        files = [_file(f"build{number}{name}", f"model-{name}.safetensors") for name in range(10)]
        add(
            "",
            BuildFacts(
                content=str(number),
                recipe=BuildRecipe(tune={"mode": "router"}),
                architecture=Architecture(top_k=2, routing="top-k", seed_expert=True),
            ),
            files=files,
            parents=[(snapshot.ref, "composed_from"), *tuned_on],
        )
        edges += 1 + len(members) + 9
    return edges


def questions(catalog: Catalog) -> dict[str, Callable[[], Any]]:
    """The questions a person asks; newest build, middling expert."""
    return {
        "lineage data --down": lambda: catalog.lineage("data/d3", down=True),
        "lineage build": lambda: catalog.lineage("build"),
        "list experts --license": lambda: catalog.versions(
            ExpertFacts, license="CC-BY-4.0", files=False
        ),
        "the same, with each one's status": lambda: catalog.statuses(
            catalog.versions(ExpertFacts, license="CC-BY-4.0", files=False)
        ),
        "list experts --holder": lambda: catalog.versions(
            ExpertFacts, holder="holder3", files=False
        ),
        "list experts --metric": lambda: catalog.versions(
            ExpertFacts, metric="bits_per_byte<100", files=False
        ),
        "list experts": lambda: catalog.versions(ExpertFacts, files=False),
        "list experts with their files": lambda: catalog.versions(ExpertFacts),
        "statuses of all experts": lambda: catalog.statuses(catalog.versions(ExpertFacts)),
        "get": lambda: catalog.get("expert/e77"),
        "status": lambda: catalog.status("build"),
        "impact of data": lambda: catalog.impact("data/d3"),
    }


def milliseconds(ask: Callable[[], Any], times: int = 7) -> dict[str, float]:
    taken, own = [], []
    for _ in range(times):
        started, before = time.perf_counter(), time.process_time()
        ask()
        taken.append((time.perf_counter() - started) * 1000)
        own.append((time.process_time() - before) * 1000)
    return {
        "first_ms": round(taken[0], 1),
        "median_ms": round(statistics.median(taken), 1),
        "own_ms": round(statistics.median(own), 1),
    }


def show_as_a_command(root: Path, url: str) -> dict[str, float]:
    """Of five runs; the smallest is what the command itself needs on a busy machine."""
    (root / "btx.toml").write_text("[registry]\n")
    command = [sys.executable, "-m", "pipelines.cli.app", "show", "expert/e77", "--json"]
    taken, own = [], []
    for _ in range(5):
        started, before = time.perf_counter(), _children_s()
        done = subprocess.run(
            command,
            capture_output=True,
            env={**os.environ, "BTX_REGISTRY_URL": url, "BTX_WORKSPACE": str(root)},
            check=True,
        )
        taken.append(time.perf_counter() - started)
        own.append(_children_s() - before)
        assert json.loads(done.stdout)["ref"] == "expert/e77@1"
    return {
        "least_s": round(min(taken), 3),
        "median_s": round(statistics.median(taken), 3),
        "own_s": round(statistics.median(own), 3),
    }


def _children_s() -> float:
    used = os.times()
    return used.children_user + used.children_system


def _file(name: str, path: str = "model.safetensors") -> FileFact:
    return FileFact(path, len(name), sha256_bytes(name.encode()))


def main() -> None:
    read = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    read.add_argument("--experts", type=int, default=10_000)
    read.add_argument("--url", help="an empty registry; default: SQLite in a temporary folder")
    asked = read.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = asked.url or f"sqlite:///{folder}/registry.db"
        catalog, started = Catalog(url, actor="scale"), time.perf_counter()
        edges = fill(catalog, asked.experts)
        filled_s = round(time.perf_counter() - started, 1)
        fresh = Catalog(url, actor="scale")
        answers: dict[str, Any] = {
            "experts": asked.experts,
            "edges": edges,
            "builds": asked.experts // 10,
            "filled_s": filled_s,
        }
        answers |= {name: milliseconds(ask) for name, ask in questions(fresh).items()}
        answers["reached by data"] = len(fresh.lineage("data/d3", down=True).nodes)
        answers["experts of one licence"] = len(fresh.versions(ExpertFacts, license="CC-BY-4.0"))
        answers["btx show"] = show_as_a_command(Path(folder), url)
        print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
