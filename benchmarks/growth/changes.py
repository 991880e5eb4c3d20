"""A build in which one expert is replaced or taken out, beside the same one tuned from nothing.

    python benchmarks/growth/changes.py --dir SCRATCH [--seeds 0 1 2]

Everything shared trains. The build before is the yardstick's, of prose, code and math. Code or math
is replaced by a branch that was trained longer, or taken out, by the product's own growth. Prints
for each recipe, random seed and change how far bits per byte on held-out text end from those of the
build before, and of a tuning from nothing with the same experts; at the end the means of each
recipe and change.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from models import TUNE, Bits, Measured, Models, started
from run import ALL, models_of
from texts import GENERAL

from btx_core.training.recipes import TuneRecipe
from btx_core.training.router_start import Grown
from btx_core.training.tune import TuneJob

_GROWN = replace(TUNE, grow=0.2)
WAYS = {
    "the default of `grow`": _GROWN,
    "the demonstration's": replace(
        _GROWN, grow_rate=1.5, grow_batch=1.5, grow_share=0.42, grow_keep=1.0
    ),
}
LONGER = "trained longer"


@dataclass(frozen=True)
class Change:
    """What becomes of the build of all experts.

    Attributes:
        name: for a person.
        members: that the new build has, in their order in the old one.
        kinds: of their branches, where another one than before.
    """

    name: str
    members: Sequence[str]
    kinds: Mapping[str, str]

    @property
    def rows(self) -> dict[int, int]:
        """The router rows that stay, by their number in the new build; the seed's is the first."""
        rows = {0: 0}
        for row, name in enumerate(self.members, 1):
            if name not in self.kinds:
                rows[row] = ALL.index(name) + 1
        return rows


CHANGES = [
    change
    for one in ALL
    if one != GENERAL
    for change in (
        Change(f"{one} replaced", ALL, {one: LONGER}),
        Change(f"{one} taken out", [name for name in ALL if name != one], {}),
    )
]


def changed(models: Models, change: Change, way: TuneRecipe) -> Measured:
    """Return the figures of the build of all experts after a change."""
    before, _ = models.from_nothing("all", ALL)
    inputs = replace(models.inputs(change.members, change.kinds), grown=Grown(before, change.rows))
    job = TuneJob.load(inputs, replace(way, seed=models.random_seed))
    job.start_routers()
    report = job.run()
    return models.measured(job.routed, report.tokens, report.flops)


def more(found: Bits, whole: Bits, domains: Sequence[str]) -> Bits:
    """Return by how much bits per byte are above, in percent; below zero is better."""
    return {name: 100 * (found[name] / whole[name] - 1) for name in domains}


def main() -> None:
    """Print a line for each recipe, random seed and change, and the means."""
    options = started(__doc__ or "")
    rows: dict[tuple[str, str], list[float]] = defaultdict(list)
    for random_seed in options.seeds:
        models = models_of(options.dir, random_seed)
        _, before = models.from_nothing("all", ALL)
        for change in CHANGES:
            _, whole = models.from_nothing(change.name, change.members, change.kinds)
            for name, way in WAYS.items():
                found = changed(models, change, way)
                for beside, other in (("the build before", before), ("from nothing", whole)):
                    above = more(found.reported, other.reported, change.members)
                    of = f"{change.name}   {name}   beside {beside}"
                    figures = "   ".join(f"{key} {value:+.2f} %" for key, value in above.items())
                    print(f"random seed {random_seed}   {of}:   {figures}", flush=True)
                    for domain, value in above.items():
                        rows[of, domain].append(value)
    print("\nmeans, with the least and the most")
    for key, values in rows.items():
        spread = f"{statistics.fmean(values):+.2f} % ({min(values):+.2f} to {max(values):+.2f})"
        print(f"{'   '.join(key)}: {spread}")


if __name__ == "__main__":
    main()
