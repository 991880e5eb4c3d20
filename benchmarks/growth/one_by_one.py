"""Experts that join one by one where only routers train, beside all of them tuned at once.

    python benchmarks/growth/one_by_one.py --dir SCRATCH [--seeds 0 1]

Branches are trained beside the seed's own blocks; that of the general text stands in for the
seed's. A build of the first two is tuned from nothing, and every other expert joins the build
before: its own router weights train, those of the experts that stay keep their bytes. Prints, for
each random seed and order, bits per byte on all held-out text against a build of all that was tuned
from nothing, and the share of that build's gain over the seed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from models import Measured, Models, tuned_as
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
ORDERS = ((GENERAL, "math", "code", "units"), (GENERAL, "units", "code", "math"))


def branch(models: Models, domain: str) -> Path:
    """Return a branch beside the seed; that of the general text is a plain one."""
    if domain == GENERAL:
        return models.branch(domain)
    path = models.folder / "beside" / domain
    if not path.is_dir():
        recipe = replace(BESIDE, seed=models.random_seed)
        general = models.texts[GENERAL].folder
        train(models.seed, [models.texts[domain].folder], recipe, path, general=general)
    return path


def built(
    models: Models, members: tuple[str, ...], out: Path, grown: Grown | None = None
) -> Measured:
    """Tune a build of these members, write it to a new folder and measure it."""
    mixed = out.with_name(f"{out.name}-mixed")
    slots = [Member(name, slot, branch(models, name)) for slot, name in enumerate(members, 1)]
    mix(models.seed, slots, MixRecipe(seed_expert=False), mixed)
    own = {tuned_as(n): OwnExpert(index, branch(models, n)) for index, n in enumerate(members)}
    texts = {tuned_as(name): [models.texts[name].folder] for name in members}
    recipe = replace(TUNE, seed=models.random_seed)
    job = TuneJob.load(TuneInputs(mixed, texts, own, models.seed, grown), recipe)
    job.start_routers()
    report = job.run()
    write_tuned(job.routed, mixed, (ROUTER,), out)
    return models.measured(job.routed, report.tokens, report.flops)


def one_by_one(models: Models, order: tuple[str, ...], out: Path) -> Measured:
    """Return the build that holds all, each having joined the one before."""
    measured = built(models, order[:2], out / "2")
    for count in range(3, len(order) + 1):
        before = Grown(out / str(count - 1), {row: row for row in range(count - 1)})
        measured = built(models, order[:count], out / str(count), before)
    return measured


def main() -> None:
    """Print a line for each random seed and order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for random_seed in options.seeds:
        models = Models(options.dir / str(random_seed), random_seed, domains(options.dir / "data"))
        seed = models.dense(models.seed, "seed-figures").reported
        out = options.dir / f"one-by-one-{random_seed}"
        for number, order in enumerate(ORDERS):
            folder = out / str(number)
            folder.mkdir(parents=True)
            whole = built(models, order, folder / "at-once").reported
            bits = one_by_one(models, order, folder).reported
            figures = []
            for name in order:
                kept = 100 * (seed[name] - bits[name]) / (seed[name] - whole[name])
                more = 100 * (bits[name] / whole[name] - 1)
                figures.append(f"{name} {bits[name]:.3f} {more:+.2f} % (gain {kept:.1f} %)")
            print(f"random seed {random_seed}   {', '.join(order)}:   {'   '.join(figures)}")


if __name__ == "__main__":
    main()
