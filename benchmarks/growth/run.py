"""How well a build grows by one expert, beside tuning from nothing: the yardstick of growth.

    python benchmarks/growth/run.py --dir SCRATCH [--seeds 0 1 2] [--recipes NAME ...]

For each random seed there are a seed model that knows prose alone, a branch of prose, code and math
each, and a build of all three that was tuned from nothing. A build of all but one is grown by the
last, code or math, by every recipe. All held-out text is measured, many small documents: one part
of it to choose recipes by, another to report. Writes SCRATCH/results.jsonl, one row for each
recipe, random seed and order, and prints the table; what an earlier run measured is used.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from growing import RECIPES, grow
from models import Measured, Models
from texts import GENERAL, domains

# By the domain that joins: the domains of the build, the joining one last.
ORDERS = {"code": (GENERAL, "math", "code"), "math": (GENERAL, "code", "math")}
ALL = (GENERAL, "math", "code")
PARTS = {"chosen_on": "the text that recipes are chosen on", "reported": "the other held-out text"}


@dataclass(frozen=True)
class Kept:
    """What a grown build keeps of one tuned from nothing, in percent.

    Attributes:
        joining: of its gain over the seed model on the domain that joined.
        old: of its gain on the old domain.
        general: by how much bits per byte of general text are above its own; negative is better.
        flops: of what its tuning took.
    """

    joining: float
    old: float
    general: float
    flops: float


def models_of(root: Path, random_seed: int) -> Models:
    """Return the models of one random seed."""
    texts = {name: text for name, text in domains(root / "data").items() if name in ALL}
    return Models(root / str(random_seed), random_seed, texts)


def measure(root: Path, random_seeds: list[int], names: list[str]) -> list[dict]:
    """Return the rows that were asked for; measure those that are missing."""
    results = root / "results.jsonl"
    results.touch()
    rows = [json.loads(text) for text in results.read_text().splitlines()]
    known = {(row["name"], row["seed"], row["new"]) for row in rows}
    for random_seed in random_seeds:
        for name in names:
            for new, members in ORDERS.items():
                if (name, random_seed, new) in known:
                    continue
                models = models_of(root, random_seed)
                measured = grow(models, members, RECIPES[name])
                whole = models.from_nothing("all", ALL)[1]
                seed = models.dense(models.seed, "seed-figures")
                row = {
                    "name": name,
                    "seed": random_seed,
                    "new": new,
                    "measured": asdict(measured),
                    "from_nothing": asdict(whole),
                    "seed_model": asdict(seed),
                }
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                rows.append(row)
                print(f"{name}   random seed {random_seed}   {new} last   {kept(row)}", flush=True)
    return [row for row in rows if row["name"] in names and row["seed"] in random_seeds]


def kept(row: dict, part: str = "reported") -> Kept:
    """Return what a row keeps, on one part of the held-out text."""
    grown, whole, seed = (
        Measured(**row[name]) for name in ("measured", "from_nothing", "seed_model")
    )
    bits, best, least = (getattr(one, part) for one in (grown, whole, seed))
    new = row["new"]
    old = next(name for name in ALL if name not in (GENERAL, new))

    def share(domain: str) -> float:
        return 100 * (least[domain] - bits[domain]) / (least[domain] - best[domain])

    general = 100 * (bits[GENERAL] / best[GENERAL] - 1)
    return Kept(share(new), share(old), general, 100 * grown.flops / whole.flops)


def table(rows: list[dict], part: str) -> Iterator[str]:
    """Yield the table in Markdown: means, with the least and the most."""
    figures = "joining · old · general"
    yield f"| recipe | code last: {figures} | math last: {figures} | FLOPs |"
    yield "|---|---|---|---|"
    for name in dict.fromkeys(row["name"] for row in rows):
        cells, flops = [], []
        for new in ORDERS:
            found = [kept(row, part) for row in rows if (row["name"], row["new"]) == (name, new)]
            flops += [one.flops for one in found]
            columns = [
                [getattr(one, key) for one in found] for key in ("joining", "old", "general")
            ]
            cells.append(" · ".join(map(_spread, columns)) if found else "–")
        yield f"| {name} | {cells[0]} | {cells[1]} | {statistics.fmean(flops):.0f} % |"


def _spread(values: list[float]) -> str:
    middle = f"{statistics.fmean(values):.1f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--measured", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    # The order of float additions, and so every figure, depends on the number of threads.
    torch.set_num_threads(1)
    if options.measured:
        results = (options.dir / "results.jsonl").read_text()
        rows = [row for row in map(json.loads, results.splitlines()) if row["name"] in RECIPES]
    else:
        rows = measure(options.dir, options.seeds, options.recipes)
    for part, about in PARTS.items():
        print(f"\nOn {about}:\n")
        print("\n".join(table(rows, part)))


if __name__ == "__main__":
    main()
