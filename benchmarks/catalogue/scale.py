"""How long the questions of a large registry take: 10,000 experts, 100,000 lineage edges.

    python benchmarks/catalogue/scale.py [--experts 10000] [--url URL]

Out: one JSON document: seconds to fill the registry; milliseconds of each question inside the
process (the first, the median, and the median of this process's own time, which other processes
do not change); seconds of `btx show` as a command.
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
from registry.records.kinds import Mode
from registry.records.references import Reference
from registry.records.results import Result
from registry.records.version import FileFact

LICENCES = ("MIT", "Apache-2.0", "CC-BY-4.0", "CC0-1.0", "PSF-2.0")
MEMBERS = 40
# Of a question, and of a command.
REPEATS, COMMANDS = 7, 5


def fill(catalog: Catalog, experts: int) -> int:
    """Register experts, a fiftieth as many data versions, and a tenth as many builds.

    Args:
        catalog: of an empty registry.
        experts: how many.

    Returns:
        The number of lineage edges, about ten an expert.
    """
    data = max(8, experts // 50)
    catalog.register("base", SeedFacts(license="Apache-2.0"))
    for number in range(data):
        corpus = DataFacts(
            license=LICENCES[number % 5],
            holder=f"holder{number % 7}",
            source="generated",
            pii="none",
        )
        catalog.register(f"d{number}", corpus, files=[_file(f"data{number}")])
    edges = sum(_add_expert(catalog, number, data) for number in range(experts))
    for number in range(experts // 10):
        edges += _add_build(catalog, number, experts, data)
    return edges


def _add_expert(catalog: Catalog, number: int, data: int) -> int:
    """Register an expert that was trained on four data versions; return its edges."""
    trained_on = [f"data/d{(number * 7 + step * 13) % data}" for step in range(4)]
    domain = trained_on[0].partition("/")[2]
    expert = ExpertFacts(
        seed="seed/base@1",
        data=tuple(f"{reference}@1" for reference in trained_on),
        mode=Mode.ANCHORED,
        licenses=(LICENCES[number % 5],),
        results=(Result(data=f"{trained_on[0]}@1", domain=domain, bits_per_byte=number),),
    )
    parents = [
        ("seed/base", "branched_from"),
        *((reference, "trained_on") for reference in trained_on),
    ]
    catalog.register(f"e{number}", expert, files=[_file(f"expert{number}")], parents=parents)
    return len(parents)


def _add_build(catalog: Catalog, number: int, experts: int, data: int) -> int:
    """Register a snapshot and its build; return the edges of both."""
    members = [
        f"expert/e{(number * 37 + step * 11) % experts}" for step in range(min(MEMBERS, experts))
    ]
    # The number, a key that no program reads, keeps two snapshots of the same members apart.
    frozen = SnapshotFacts.from_json({"mode": "anchored", "number": number}, "a snapshot")
    snapshot_parents = [
        ("seed/base", "seed"),
        *((reference, "member") for reference in members),
    ]
    snapshot = catalog.register("main", frozen, parents=snapshot_parents)
    build = BuildFacts(
        content=str(number),
        recipe=BuildRecipe(tune={"mode": "router"}),
        architecture=Architecture(top_k=2, routing="top-k", seed_expert=True),
    )
    files = [_file(f"build{number}{name}", f"model-{name}.safetensors") for name in range(10)]
    tuned_on = [(f"data/d{(number + step) % data}", "tuned_on") for step in range(8)]
    parents: list[tuple[str | Reference, str]] = [(snapshot.ref, "composed_from"), *tuned_on]
    catalog.register("", build, files=files, parents=parents)
    return len(snapshot_parents) + len(parents)


def questions(catalog: Catalog) -> dict[str, Callable[[], object]]:
    """Return the questions that a person asks, of the newest build and an expert in the middle."""
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


def milliseconds(ask: Callable[[], object]) -> dict[str, float]:
    """Ask a question several times; return the first and the median by the clock, and own time."""
    taken_ms, own_ms = [], []
    for _ in range(REPEATS):
        started, before = time.perf_counter(), time.process_time()
        ask()
        taken_ms.append((time.perf_counter() - started) * 1000)
        own_ms.append((time.process_time() - before) * 1000)
    return {
        "first_ms": round(taken_ms[0], 1),
        "median_ms": round(statistics.median(taken_ms), 1),
        "own_ms": round(statistics.median(own_ms), 1),
    }


def show_as_a_command(root: Path, url: str) -> dict[str, float]:
    """Run `btx show` several times; the least is what it takes by itself on a busy machine."""
    (root / "btx.toml").write_text("[registry]\n")
    command = [sys.executable, "-m", "pipelines.cli.app", "show", "expert/e77", "--json"]
    environment = {**os.environ, "BTX_REGISTRY_URL": url, "BTX_WORKSPACE": str(root)}
    taken_s, own_s = [], []
    for _ in range(COMMANDS):
        started, before = time.perf_counter(), _children_s()
        answered = subprocess.run(command, capture_output=True, env=environment, check=True)
        taken_s.append(time.perf_counter() - started)
        own_s.append(_children_s() - before)
        assert json.loads(answered.stdout)["ref"] == "expert/e77@1"
    return {
        "least_s": round(min(taken_s), 3),
        "median_s": round(statistics.median(taken_s), 3),
        "own_s": round(statistics.median(own_s), 3),
    }


def _children_s() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def _file(name: str, path: str = "model.safetensors") -> FileFact:
    return FileFact(path, len(name), sha256_bytes(name.encode()))


def main() -> None:
    """Fill a registry, ask every question and print the answers' times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--url", help="an empty registry; default: SQLite in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"sqlite:///{folder}/registry.db"
        started = time.perf_counter()
        edges = fill(Catalog(url, actor="scale"), options.experts)
        filled_s = round(time.perf_counter() - started, 1)
        # A second one, so that no question finds what filling left in memory.
        catalog = Catalog(url, actor="scale")
        answers: dict[str, object] = {
            "experts": options.experts,
            "edges": edges,
            "builds": options.experts // 10,
            "filled_s": filled_s,
        }
        answers |= {name: milliseconds(ask) for name, ask in questions(catalog).items()}
        answers["reached by data"] = len(catalog.lineage("data/d3", down=True).nodes)
        one_licence = catalog.versions(ExpertFacts, license="CC-BY-4.0")
        answers["experts of one licence"] = len(one_licence)
        answers["btx show"] = show_as_a_command(Path(folder), url)
        print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
