"""The demonstration's fourth expert: the build that it joins, grown and tuned from nothing.

    python benchmarks/growth/demo.py --dir SCRATCH [--seeds 0 1 2]

Tells the demonstration up to its second build, which grows out of the first by the
demonstration's own settings, and then tunes the same four experts from nothing. Prints for each
random seed (of branches, tunings and the order of the text) bits per byte on held-out text, what
growth keeps of the gain over the seed model that the other has, and the cost of both tunings.
"""

import argparse
import sys
from pathlib import Path

from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import rebuild
from pipelines.story import demo
from pipelines.story.narrator import Narrator
from pipelines.workspace.bars import bar
from pipelines.workspace.workspace import Workspace
from registry.records.facts import BuildFacts
from registry.records.version import Version

SETTINGS = demo.SETTINGS


def settings(random_seed: int) -> str:
    """Return the demonstration's settings with this random seed in training and tuning."""
    text = SETTINGS
    for table in ("[recipe.train]\n", "[recipe.tune]\n"):
        assert table in text, f"the demonstration has no {table.strip()}"
        text = text.replace(table, f"{table}seed = {random_seed}\n")
    return text


def both(folder: Path, narrator: Narrator) -> tuple[Version[BuildFacts], Version[BuildFacts]]:
    """Return the demonstration's second build, and the same experts tuned from nothing."""
    story = demo.Story(folder, narrator, bar)
    story.two_builds(None)
    catalog = story.workspace.catalog
    return story.builds[1], catalog.get(from_nothing(story.workspace), BuildFacts)


def from_nothing(workspace: Workspace) -> str:
    """Tune the experts of the newest build from nothing; return the new build."""
    build = rebuild(workspace, Request(from_nothing=True)).build
    assert build is not None
    return build


def report(random_seed: int, grown: Version[BuildFacts], whole: Version[BuildFacts]) -> None:
    """Print both builds, domain by domain, and what they cost."""
    print(f"\nrandom seed {random_seed}: {grown.ref} grown, {whole.ref} from nothing")
    at_once = {result.domain: result for result in whole.facts.results}
    for result in grown.facts.results:
        seed, other = result.seed_bits_per_byte, at_once[result.domain].bits_per_byte
        own = result.bits_per_byte
        gained = f"{100 * (seed - own) / (seed - other):.1f} % of the gain" if seed else ""
        more = f"{100 * (own / other - 1):+.2f} %"
        print(f"{result.domain}: seed {seed:.3f}, {own:.3f} to {other:.3f}, {more}, {gained}")
    for what in ("tokens", "flops", "wall_s"):
        took, else_took = (getattr(build.facts.cost.tune, what) for build in (grown, whole))
        print(f"{what}: {took:.4g} to {else_took:.4g}, {100 * took / else_took:.0f} %")


def main() -> None:
    """Print a table for each random seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    for random_seed in options.seeds:
        demo.SETTINGS = settings(random_seed)
        report(random_seed, *both(options.dir / str(random_seed), Narrator(sys.stderr)))


if __name__ == "__main__":
    main()
