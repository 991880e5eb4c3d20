"""Experts that join one by one where only routers train, beside all of them tuned at once.

    python benchmarks/growth/one_by_one.py --dir SCRATCH [--seeds 0 1 2]

Branches are trained beside the seed's own blocks; that of the general text stands in for the
seed's. A build of the first two is tuned from nothing; then every other expert joins the build
before, in two orders, or experts join, are replaced and leave at random until all are there. Prints
for each way to grow, random seed and order how far bits per byte on all held-out text end from
those of a build of the same experts that was tuned from nothing, and the share of its gain over the
seed; at the end the means of each way, on the text that ways are chosen on and on the other.
"""

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from models import Measured, Models, started, tuned_as
from texts import GENERAL, domains

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.weight_files import ROUTER
from btx_core.training.branch import train
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob
from btx_core.training.write_back import write_tuned

# The recipe of exact removal, as docs/ARCHITECTURE.md says it.
BESIDE = TrainRecipe(steps=350, learning_rate=3e-3, batch=8, replay=0.5, beside=0.7)
TUNE = TuneRecipe(
    mode="router",
    steps=400,
    learning_rate=1e-2,
    balance=0.0,
    home=0.3,
    general_share=0.33,
    grow=0.2,
)
WAYS = {
    "rows that stay keep their bytes, a fifth of the rate": replace(TUNE, grow_rate=0.2),
    "rows that stay keep their bytes, half of the rate": replace(TUNE, grow_rate=0.5),
    "rows that stay keep their bytes, the whole rate": TUNE,
    "all rows train, the whole rate": replace(TUNE, grow_rows="all"),
    "all rows train, twice the rate": replace(TUNE, grow_rows="all", grow_rate=2.0),
}
ORDERS = ((GENERAL, "math", "code", "units"), (GENERAL, "units", "code", "math"))

# A domain and the version of its expert, the general text first.
Members = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Ended:
    """How far a line of builds ends from one that was tuned from nothing.

    Attributes:
        way: how it grew.
        part: of the held-out text.
        more: by domain, by how much bits per byte are above, in percent; below zero is better.
    """

    way: str
    part: str
    more: dict[str, float]


def branch(models: Models, domain: str, version: int) -> Path:
    """Return a branch beside the seed; that of the general text is a plain one."""
    if domain == GENERAL:
        return models.branch(domain)
    path = models.folder / "beside" / f"{domain}-{version}"
    if not path.is_dir():
        recipe = replace(BESIDE, seed=models.random_seed + 100 * (version - 1))
        general = models.texts[GENERAL].folder
        train(models.seed, [models.texts[domain].folder], recipe, path, general=[general])
    return path


def built(
    models: Models, members: Members, way: TuneRecipe, out: Path, grown: Grown | None = None
) -> Measured:
    """Tune a build of these members, write it to a new folder and measure it."""
    mixed = out.with_name(f"{out.name}-mixed")
    folders = {domain: branch(models, domain, version) for domain, version in members}
    slots = [Member(name, slot, folder) for slot, (name, folder) in enumerate(folders.items(), 1)]
    mix(models.seed, slots, MixRecipe(seed_expert=False), mixed)
    own = {
        tuned_as(name): OwnExpert(index, folder)
        for index, (name, folder) in enumerate(folders.items())
    }
    texts = {tuned_as(name): [models.texts[name].folder] for name in folders}
    recipe = replace(way, seed=models.random_seed)
    job = TuneJob.load(TuneInputs(mixed, texts, own, models.seed, grown), recipe)
    job.start_routers()
    report = job.run()
    write_tuned(job.routed, mixed, (ROUTER,), out)
    return models.measured(job.routed, report.tokens, report.flops)


def line(
    models: Models, builds: Sequence[Members], first: Path, way: TuneRecipe, out: Path
) -> Measured:
    """Return the last of these builds, each grown from the one before; the first one is there."""
    out.mkdir()
    folder = first
    for number, (before, members) in enumerate(pairwise(builds), 1):
        rows = {row: before.index(one) for row, one in enumerate(members) if one in before}
        grown, folder = Grown(folder, rows), out / str(number)
        measured = built(models, members, way, folder, grown)
    return measured


def one_by_one(order: Sequence[str]) -> list[Members]:
    """Return the builds by which all join in this order, the first two together."""
    return [tuple((name, 1) for name in order[:count]) for count in range(2, len(order) + 1)]


def changes(generator: random.Random) -> list[Members]:
    """Return builds by which experts join, are replaced and leave, until all are there."""
    general, *names = ORDERS[0]
    present = {generator.choice(names): 1}
    builds = [((general, 1), *present.items())]
    todo = generator.sample(("add", "add", "replace", "remove", "add"), 5)
    while todo:
        absent = [name for name in names if name not in present]
        # What cannot be done yet waits; the general text's expert is never alone.
        ways = {"add": bool(absent), "replace": 1 in present.values(), "remove": len(present) > 1}
        change = next(one for one in todo if ways[one])
        todo.remove(change)
        if change == "add":
            present[generator.choice(absent)] = 1
        elif change == "replace":
            present[generator.choice([name for name in present if present[name] == 1])] = 2
        else:
            del present[generator.choice(sorted(present))]
        builds.append(((general, 1), *sorted(present.items())))
    return builds


def ended(models: Models, label: str, builds: Sequence[Members], out: Path) -> Iterator[Ended]:
    """Grow a line in every way and print where it ends; yield it for each held-out text."""
    seed = models.dense(models.seed, "seed-figures")
    out.mkdir(parents=True)
    whole = built(models, builds[-1], TUNE, out / "at-once")
    first = out / "first"
    built(models, builds[0], TUNE, first)
    for number, (name, way) in enumerate(WAYS.items()):
        found = line(models, builds, first, way, out / str(number))
        for part in ("chosen_on", "reported"):
            bits, at_once, before = (getattr(one, part) for one in (found, whole, seed))
            more = {domain: 100 * (bits[domain] / at_once[domain] - 1) for domain in at_once}
            yield Ended(name, part, more)
        figures = []
        for domain, above in more.items():
            kept = (before[domain] - bits[domain]) / (before[domain] - at_once[domain])
            figures.append(f"{domain} {above:+.2f} % (gain {100 * kept:.0f} %)")
        print(f"{label}   {name}:   {'   '.join(figures)}", flush=True)


def main() -> None:
    """Print a line for each way, random seed and order, and the means."""
    options = started(__doc__ or "")
    rows: list[Ended] = []
    for random_seed in options.seeds:
        models = Models(options.dir / str(random_seed), random_seed, domains(options.dir / "data"))
        lines = {", ".join(order): one_by_one(order) for order in ORDERS}
        lines["changes at random"] = changes(random.Random(random_seed))
        for number, (order, builds) in enumerate(lines.items()):
            out = options.dir / f"one-by-one-{random_seed}" / str(number)
            rows += ended(models, f"random seed {random_seed}   {order}", builds, out)
    for part in ("chosen_on", "reported"):
        print(f"\n{part}: mean of all domains, the mean of a line that is farthest, any domain's")
        for name in WAYS:
            found = [row.more.values() for row in rows if (row.way, row.part) == (name, part)]
            means = [statistics.fmean(one) for one in found]
            mean, farthest = statistics.fmean(means), max(means)
            worst = max(value for one in found for value in one)
            print(f"{name}: {mean:+.2f} %, {farthest:+.2f} %, {worst:+.2f} %")


if __name__ == "__main__":
    main()
