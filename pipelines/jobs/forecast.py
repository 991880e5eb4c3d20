"""What a planned rebuild would write and take: nothing is written here.

In:  a plan, the shards that earlier builds wrote.  Out: every weight file with its size and whether
it is written or linked; seconds and cost, scaled from the newest build of its seed that was timed.
The planner that mixes says what would be written, from headers alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.jobs.build_plan import Plan, recipes_of
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.governance.one_more import REWRITTEN, scaled, timed
from registry.records.answers.building import PlannedFile
from registry.records.facts import BuildFacts

if TYPE_CHECKING:
    from btx_core.mixing.mix import MixRecipe
    from btx_core.mixing.plan import Shard

# Shards of earlier builds by slot and member digest.
Shards = Mapping[tuple[int, str], Path]


@dataclass(frozen=True)
class Forecast:
    """What a rebuild would write and take.

    Attributes:
        weights: every weight file of the build.
        seconds: by stage; empty where nothing is known.
        cost: tokens and FLOPs of tuning.
        measured_on: the build of the same seed that was scaled; None: there is none.
    """

    weights: Sequence[PlannedFile]
    seconds: Mapping[str, float]
    cost: Mapping[str, float]
    measured_on: str | None

    def size(self, action: str) -> int:
        """Return the bytes of the weight files that are to be written, or linked."""
        return sum(file.bytes for file in self.weights if file.action == action)


def forecast(
    workspace: Workspace, planned: Plan, shards: Shards, previous: Path | None, tokens: int
) -> Forecast:
    """Say what the plan would write, and how long that took before, scaled.

    Args:
        workspace: where the members lie.
        planned: the plan.
        shards: what earlier builds wrote of its members.
        previous: the folder of the last build of this seed.
        tokens: of the tuning.
    """
    # Imported here: only a forecast and the stages need the weights' side.
    from btx_core.mixing.shards import file_layout

    mix, tune = recipes_of(planned)
    weights = []
    for shard in _shards(workspace, planned, mix, shards, previous):
        anew = any(shard.file.startswith(f"model-{part}") for part in REWRITTEN[tune.mode])
        linked = shard.link is not None and not anew
        size = file_layout(shard.outputs).size
        weights.append(
            PlannedFile(file=shard.file, bytes=size, action="link" if linked else "write")
        )
    builds = workspace.catalog.versions(BuildFacts)
    of_seed = [build for build in builds if build.facts.seed == str(planned.seed.ref)]
    measured = timed(of_seed, tokens)
    if not measured:
        return Forecast(weights, {}, {}, None)
    past = measured[-1]
    written = sum(file.bytes for file in weights if file.action == "write")
    seconds, cost = scaled(past, written, tokens, len(planned.measured))
    return Forecast(weights, seconds, cost, str(past.ref))


def _shards(
    workspace: Workspace, planned: Plan, mix: "MixRecipe", shards: Shards, previous: Path | None
) -> Sequence["Shard"]:
    from btx_core.mixing.plan import plan_mix
    from btx_core.mixing.recipe import Member
    from btx_core.mixing.seed_model import SeedModel

    seed = SeedModel.open(folders.folder_of(workspace.root, planned.seed), mix)
    members = []
    for member in planned.members:
        folder = folders.folder_of(workspace.root, member.version)
        name = member.version.ref.name
        members.append(Member(name, member.slot, folder, shards.get(member.key)))
    return plan_mix(seed, members, mix, previous).shards
