"""What one more expert costs: tokens, FLOPs, seconds and bytes of train, register and rebuild.

    python benchmarks/growth/price.py --dir SCRATCH [--sizes 2 4 8 16] [--seeds 0]

For every size N a registry of N experts is built from nothing. Then it takes in expert N + 1, and
is rebuilt with it twice: tuned on from the build before, and tuned from nothing, as is the default.
Beside each stands what `btx rebuild --dry-run` said of it before. All by the product's own jobs, on
generated domains, each in words of its own. A random seed is a registry of its own. Writes
SCRATCH/price.jsonl, the tables on stdout and SCRATCH/price.png; what is measured already is used.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from btx_core.training.recipes import TrainRecipe
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import look_ahead, rebuild
from pipelines.jobs.register import register
from pipelines.jobs.train import train
from pipelines.story.small_seed import PretrainConfig, pretrain
from pipelines.workspace.workspace import Workspace, create
from registry.records.answers.building import Price
from registry.records.facts import DataStatement, ExpertFacts

# A branch's steps and a tuning's are as 5 to 3, as the defaults are.
SETTINGS = """\
[registry]
url = "sqlite:///.btx/registry.db"
[machine]
threads = 1
[recipe.train]
steps = 100
learning_rate = 3e-3
[recipe.tune]
steps = 60
learning_rate = 5e-3
warmup_steps = 5
grow = 0.2
[recipe.evaluate]
max_tokens = 300
"""
SIZE = PretrainConfig(vocabulary=512, hidden=32, feed_forward=96, layers=2, heads=2)
STATEMENT = DataStatement(
    license="CC0-1.0", source="generated", holder="nobody", purpose="benchmark", pii="none"
)
GROWN, ANEW = Request(), Request(from_nothing=True)
FIGURES = ("tokens", "flops", "seconds", "bytes")
WAYS = {"grown": "one more, grown", "anew": "one more, tuned from nothing", "whole": "all anew"}


@contextmanager
def silent(_: str) -> Iterator:
    """Show no progress."""
    yield lambda done, total, text: None


@dataclass(frozen=True)
class Took:
    """What some work took.

    Attributes:
        cpu: CPU seconds, of this process and of the stages that it waited for.
        seconds: of the clock.
    """

    cpu: float
    seconds: float


@contextmanager
def measured() -> Iterator[list[Took]]:
    """Append what the work in the block took to the list that this yields."""
    found: list[Took] = []
    cpu, clock = cpu_s(), time.monotonic()
    yield found
    found.append(Took(cpu_s() - cpu, time.monotonic() - clock))


def cpu_s() -> float:
    """Return the CPU seconds of this process and of the stages that it waited for."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def write_text(folder: Path, number: int) -> Path:
    """Write documents of one domain, each a few dozen of its own words."""
    generator = random.Random(number)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(generator.choices(letters, k=generator.randint(2, 8))) for _ in range(60)]
    folder.mkdir(parents=True)
    with (folder / "text.jsonl").open("w") as file:
        for _ in range(300):
            text = " ".join(generator.choices(words, k=generator.randint(8, 30)))
            file.write(json.dumps({"text": text}) + "\n")
    return folder


class Bench:
    """One registry that grows."""

    def __init__(self, root: Path, random_seed: int) -> None:
        self.root = root
        self.experts = 0
        self.first = 1000 * random_seed
        create(root / "workspace")
        (root / "workspace" / "btx.toml").write_text(SETTINGS)
        self.workspace = Workspace.find(root / "workspace")
        general = write_text(root / "text" / "general", self.first)
        pretrain(SIZE, [general], TrainRecipe(mode="full", steps=100), root / "seed")
        add_data(self.workspace, "general", general, STATEMENT)
        add_seed(self.workspace, "base", root / "seed", data=["data/general"], license="CC0-1.0")

    def take_in(self) -> dict[str, float]:
        """Train and register one more expert; return what that took."""
        self.experts += 1
        name = f"domain{self.experts}"
        text = write_text(self.root / "text" / name, self.first + self.experts)
        data = str(add_data(self.workspace, name, text, STATEMENT).ref)
        with measured() as training:
            branch = train(self.workspace, {name: data})[name]
        with measured() as registering:
            version = register(
                self.workspace, name, branch.folder, data=[data], seed="seed/base@1", show=silent
            ).of(ExpertFacts)
        report = version.facts.train
        assert report
        return {
            "tokens": report.tokens or 0,
            "flops": report.flops or 0.0,
            "seconds": training[0].seconds + registering[0].seconds,
            "cpu": training[0].cpu + registering[0].cpu,
            "register_cpu": registering[0].cpu,
            "bytes": sum(file.bytes for file in version.files),
        }

    def build(self, request: Request) -> dict[str, float]:
        """Build all experts; return what that took."""
        with measured() as building:
            answer = rebuild(self.workspace, request)
        tuning = answer.tuning
        assert tuning
        assert (tuning.from_ == "nothing") == request.from_nothing
        assert answer.build
        files = self.workspace.catalog.get(answer.build).files
        # Built a second time, it links the shard that the first time wrote.
        joined = f"model-expert-domain{self.experts}."
        shard = sum(one.bytes for one in files if one.linked and one.path.startswith(joined))
        return {
            "tokens": tuning.tokens,
            "flops": tuning.flops or 0.0,
            "seconds": building[0].seconds,
            "cpu": building[0].cpu,
            "bytes": answer.bytes_written + shard,
            "linked": answer.bytes_linked - shard,
        }

    def told(self, request: Request) -> tuple[Price, Price]:
        """Return what a dry run says of one more, and of all with it from nothing."""
        price = look_ahead(self.workspace, request).price
        assert price
        return price.one_more, price.from_nothing


def measure(root: Path, random_seed: int, sizes: list[int]) -> Iterator[dict]:
    """Yield a row for each size: what was said and what was taken."""
    bench = Bench(root / f"{random_seed}-{sizes[0]}", random_seed)
    taken: list[dict[str, float]] = []
    for size in sizes:
        while bench.experts < size:
            taken.append(bench.take_in())
        bench.build(ANEW)
        # That of N + 1 from nothing is the same in both answers.
        told = {
            "grown": bench.told(GROWN)[0].to_json(),
            "anew": bench.told(ANEW)[0].to_json(),
            "whole": bench.told(ANEW)[1].to_json(),
        }
        taken.append(bench.take_in())
        grown, anew = bench.build(GROWN), bench.build(ANEW)
        whole = {key: anew[key] + sum(one[key] for one in taken) for key in (*FIGURES, "cpu")}
        # A registry that had nothing links nothing.
        whole["bytes"] += anew["linked"]
        took = {
            "grown": {key: grown[key] + taken[-1][key] for key in (*FIGURES, "cpu")},
            "anew": {key: anew[key] + taken[-1][key] for key in (*FIGURES, "cpu")},
            "whole": whole,
        }
        yield {
            "seed": random_seed,
            "experts": size,
            "took": took,
            "told": told,
            "register_cpu": taken[-1]["register_cpu"],
        }


def table(rows: list[dict]) -> str:
    """Return what was taken as Markdown: means, with the least and the most of the CPU seconds."""
    lines = [
        "| N | | tokens | FLOPs | CPU seconds | bytes written |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for size in sorted({row["experts"] for row in rows}):
        for way, name in WAYS.items():
            took = [row["took"][way] for row in rows if row["experts"] == size]
            seconds = [one["cpu"] for one in took]
            between = f" ({min(seconds):.0f} to {max(seconds):.0f})" if len(took) > 1 else ""
            lines.append(
                f"| {size} | {name} | {fmean(one['tokens'] for one in took):,.0f} | "
                f"{fmean(one['flops'] for one in took):.3g} | {fmean(seconds):.0f}{between} | "
                f"{fmean(one['bytes'] for one in took):,.0f} |"
            )
    return "\n".join(lines)


def off(rows: list[dict]) -> str:
    """Return by how much a dry run was off, in percent of what was taken, as Markdown."""
    lines = ["| | " + " | ".join(FIGURES) + " |", "|---" * (1 + len(FIGURES)) + "|"]
    for way, name in WAYS.items():
        cells = []
        for key in FIGURES:
            errors = [100 * (row["told"][way][key] / row["took"][way][key] - 1) for row in rows]
            cells.append(f"{fmean(errors):+.1f} ({min(errors):+.1f} to {max(errors):+.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(rows: list[dict], path: Path) -> None:
    """Draw what one more and what all from nothing take, over N."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    columns = figure.subplots(1, 4)
    titles = {"tokens": "tokens", "flops": "FLOPs", "cpu": "CPU seconds", "bytes": "bytes written"}
    colours = {"grown": "#2a6f97", "anew": "#e07a1f", "whole": "#8a8a8a"}
    sizes = sorted({row["experts"] for row in rows})
    for axes, (key, title) in zip(columns, titles.items(), strict=True):
        for way, colour in colours.items():
            means = [
                fmean(row["took"][way][key] for row in rows if row["experts"] == size)
                for size in sizes
            ]
            axes.plot(sizes, means, "o-", c=colour, label=WAYS[way])
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("N, experts before")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*columns[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure what is missing, print the tables, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    results = options.dir / "price.jsonl"
    options.dir.mkdir(parents=True, exist_ok=True)
    results.touch()
    rows = [json.loads(text) for text in results.read_text().splitlines()]
    for random_seed in options.seeds:
        known = {row["experts"] for row in rows if row["seed"] == random_seed}
        missing = [size for size in options.sizes if size not in known]
        for row in measure(options.dir, random_seed, missing) if missing else ():
            rows.append(row)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(f"{table(rows)}\n\n{off(rows)}")
    picture(rows, options.dir / "price.png")


if __name__ == "__main__":
    main()
