"""What one more expert costs: tokens, FLOPs, seconds and bytes of branch, register and rebuild.

    python benchmarks/growth/price.py --dir SCRATCH [--sizes 2 4 8 16]

For every size N a registry of N experts takes in expert N + 1, and the build is made twice: grown
from the build of N, and from nothing. Beside both stands what all N + 1 branches and a tuning from
nothing take. Every domain is generated, in a vocabulary of its own. Writes SCRATCH/price.jsonl, a
table on stdout and SCRATCH/price.png; what an earlier run measured is used.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from btx_core.training.branch import train
from btx_core.training.recipes import TrainRecipe
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import look_ahead, rebuild
from pipelines.jobs.register import register
from pipelines.story.small_seed import PretrainConfig, pretrain
from pipelines.workspace.workspace import Workspace, create
from registry.records.answers import RebuildAnswer
from registry.records.facts import DataStatement

SETTINGS = """\
[registry]
url = "sqlite:///.btx/registry.db"
[recipe.tune]
steps = 100
batch = 4
sequence = 128
learning_rate = 5e-3
warmup_steps = 10
grow = 0.2
[recipe.evaluate]
max_tokens = 500
"""
BRANCH = TrainRecipe(steps=50, learning_rate=3e-3)
SIZE = PretrainConfig(vocabulary=512, hidden=32, feed_forward=96, layers=2, heads=2)
STATEMENT = DataStatement(
    license="CC0-1.0", source="generated", holder="nobody", purpose="benchmark", pii="none"
)


@contextmanager
def silent(_: str) -> Iterator:
    """Show no progress."""
    yield lambda done, total, text: None


def write_text(folder: Path, number: int) -> Path:
    """Write documents of one domain, each a few sentences of its own words."""
    if not folder.is_dir():
        generator = random.Random(number)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(generator.choices(letters, k=generator.randint(2, 8))) for _ in range(60)]
        folder.mkdir(parents=True)
        with (folder / "text.jsonl").open("w") as file:
            for _ in range(600):
                text = " ".join(generator.choices(words, k=generator.randint(8, 30)))
                file.write(json.dumps({"text": text}) + "\n")
    return folder


class Bench:
    """One registry that grows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.experts = 0
        create(root / "workspace")
        (root / "workspace" / "btx.toml").write_text(SETTINGS)
        self.workspace = Workspace.find(root / "workspace")
        general = write_text(root / "text" / "general", 0)
        pretrain(SIZE, [general], TrainRecipe(mode="full", steps=100), root / "seed")
        add_data(self.workspace, "general", general, STATEMENT)
        add_seed(self.workspace, "base", root / "seed", data=["data/general"], license="CC0-1.0")

    def take_in(self) -> dict[str, float]:
        """Train and register one more expert; return what that took."""
        self.experts += 1
        name = f"domain{self.experts}"
        text = write_text(self.root / "text" / name, self.experts)
        started = time.monotonic()
        report = train(self.root / "seed", [text], BRANCH, self.root / "branches" / name)
        trained = time.monotonic()
        add_data(self.workspace, name, text, STATEMENT)
        version = register(
            self.workspace,
            name,
            self.root / "branches" / name,
            data=[f"data/{name}"],
            seed="seed/base@1",
            show=silent,
        )
        return {
            "branch_tokens": report.tokens,
            "branch_flops": report.flops,
            "branch_s": trained - started,
            "register_s": time.monotonic() - trained,
            "register_bytes": sum(file.bytes for file in version.files),
        }

    def build(self, *, from_nothing: bool) -> dict[str, float]:
        """Build all experts; return what that took."""
        started = time.monotonic()
        answer: RebuildAnswer = rebuild(self.workspace, Request(from_nothing=from_nothing))
        tuning = answer.tuning
        assert tuning
        assert (tuning.from_ == "nothing") == from_nothing
        return {
            "tokens": tuning.tokens,
            "flops": tuning.flops,
            "s": time.monotonic() - started,
            "bytes_written": answer.bytes_written,
            "bytes_linked": answer.bytes_linked,
        }


def measure(root: Path, sizes: list[int]) -> Iterator[dict]:
    """Yield a row for each size."""
    bench = Bench(root)
    for size in sizes:
        while bench.experts < size:
            bench.take_in()
        bench.build(from_nothing=True)
        told = look_ahead(bench.workspace).price
        assert told
        taken = bench.take_in()
        grown = bench.build(from_nothing=False)
        whole = bench.build(from_nothing=True)
        yield {
            "experts": size,
            "told": told.to_json(),
            "taken_in": taken,
            "grown": grown,
            "from_nothing": whole,
        }


def table(rows: list[dict]) -> str:
    """Return the price of expert N + 1 as Markdown."""
    lines = [
        "| N | way | tokens | FLOPs | seconds | bytes written |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, price in prices(row).items():
            lines.append(
                f"| {row['experts']} | {name} | {price['tokens']:,.0f} | {price['flops']:.2e} | "
                f"{price['s']:.0f} | {price['bytes']:,.0f} |"
            )
    return "\n".join(lines)


def prices(row: dict) -> dict[str, dict[str, float]]:
    """Return what each way to come to N + 1 experts takes."""
    taken, every = row["taken_in"], row["experts"] + 1
    found = {}
    for name, build, branches in (
        ("one more, grown", row["grown"], 1),
        ("one more, tuned from nothing", row["from_nothing"], 1),
        ("all branches and a tuning from nothing", row["from_nothing"], every),
    ):
        found[name] = {
            "tokens": branches * taken["branch_tokens"] + build["tokens"],
            "flops": branches * taken["branch_flops"] + build["flops"],
            "s": branches * (taken["branch_s"] + taken["register_s"]) + build["s"],
            "bytes": branches * taken["register_bytes"]
            + build["bytes_written"]
            + (build["bytes_linked"] if branches > 1 else 0),
        }
    return found


def picture(rows: list[dict], path: Path) -> None:
    """Draw the four prices over N."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    columns = figure.subplots(1, 4)
    titles = {"tokens": "tokens", "flops": "FLOPs", "s": "seconds", "bytes": "bytes written"}
    colours = ("#2a6f97", "#e07a1f", "#8a8a8a")
    for axes, (key, title) in zip(columns, titles.items(), strict=True):
        for colour, name in zip(colours, prices(rows[0]), strict=True):
            sizes = [row["experts"] for row in rows]
            axes.plot(sizes, [prices(row)[name][key] for row in rows], "o-", c=colour, label=name)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("experts before")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*columns[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure what is missing, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8, 16])
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = options.dir / "price.jsonl"
    if not results.exists():
        options.dir.mkdir(parents=True, exist_ok=True)
        for row in measure(options.dir, options.sizes):
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    rows = [json.loads(text) for text in results.read_text().splitlines()]
    print(table(rows))
    picture(rows, options.dir / "price.png")


if __name__ == "__main__":
    main()
