"""Growing a build of which only the routers train: all of their weights, or the joining expert's.

    python benchmarks/growth/routers.py --dir SCRATCH [--seeds 0]

The branches are trained beside the seed's own blocks. Where the weights of the experts that stay
keep their bytes, adding an expert and taking it out gives the build before. Prints, for each random
seed and order, what a grown build keeps of one tuned from nothing, with them kept and without.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from models import Measured, Models, tuned_as
from run import ALL, ORDERS, models_of
from texts import GENERAL

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.weight_files import ROUTER
from btx_core.routed import RoutedModel
from btx_core.training.branch import train
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob
from btx_core.training.write_back import write_tuned

BESIDE = TrainRecipe(steps=350, learning_rate=3e-3, batch=8, replay=0.5, beside=0.7)
TUNE = TuneRecipe(
    mode="router",
    steps=400,
    learning_rate=1e-2,
    balance=0.0,
    home=0.3,
    general_share=1 / 3,
    grow=0.2,
)


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
    return models.measured(RoutedModel(job.routed.network), report.tokens, report.flops)


def main() -> None:
    """Print a line for each random seed, order and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for random_seed in options.seeds:
        models = models_of(options.dir, random_seed)
        out = options.dir / f"routers-{random_seed}"
        out.mkdir()
        seed = models.dense(models.seed, "seed-figures").reported
        whole = built(models, ALL, out / "all").reported
        for new, members in ORDERS.items():
            built(models, members[:-1], out / f"without-{new}")
            grown = Grown(out / f"without-{new}", {0: 0, 1: 1})
            for way, kept in (("kept", None), ("trained", {})):
                patched = mock.patch.object(TuneJob, "_kept_rows", kept or {})
                if kept is None:
                    bits = built(models, members, out / f"{new}-{way}", grown).reported
                else:
                    with patched:
                        bits = built(models, members, out / f"{new}-{way}", grown).reported
                shares = {
                    name: 100 * (seed[name] - bits[name]) / (seed[name] - whole[name])
                    for name in ALL
                    if name != GENERAL
                }
                figures = "  ".join(f"{name} {share:.1f} %" for name, share in shares.items())
                general = 100 * (bits[GENERAL] / whole[GENERAL] - 1)
                print(
                    f"random seed {random_seed}   {new} last   other weights {way}   {figures}   "
                    f"general {general:+.2f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
