"""What one more expert would cost, beside everything from nothing: nothing is written here.

In:  a plan.  Out: tokens, FLOPs, seconds and bytes of one more expert of the plan's kind: its
branch, its registered files and a rebuild with it; beside them the same of every branch and a
tuning from nothing. What that takes is estimated by `registry.governance.worth`, as on the pages.
"""

from dataclasses import asdict, replace

from btx_core.training.recipes import TuneRecipe
from pipelines.jobs.build_plan import Plan
from pipelines.workspace.recipe_reader import recipe
from pipelines.workspace.workspace import Workspace
from registry.governance import worth
from registry.governance.one_more import Ahead, tokens_of
from registry.records.answers.building import PriceOfOneMore
from registry.records.facts import BuildFacts
from registry.records.kinds import Mode


def price_of_one_more(workspace: Workspace, planned: Plan) -> PriceOfOneMore | None:
    """Say what one more expert like those that joined before would cost.

    Args:
        workspace: whose builds were measured.
        planned: the build that it would join.

    Returns:
        The price; None until an expert that was trained here joined a build like the plan.
    """
    whole = recipe(TuneRecipe, planned.ordered.tune)
    grows = bool(whole.grow) and whole.mode != "none" and not planned.from_nothing
    tune = asdict(whole)
    from_nothing = Ahead(
        tokens=tokens_of(tune, grows=False),
        tuned=whole.mode,
        averages=planned.mode == Mode.FULL,
        texts=len(planned.measured) + 1,
        links=False,
    )
    builds = workspace.catalog.versions(BuildFacts, files=False)
    seed = str(planned.seed.ref)
    ahead = replace(from_nothing, tokens=tokens_of(tune, grows=grows), links=True)
    one = worth.one_more(workspace.catalog, builds, seed, ahead)
    every = worth.one_more(workspace.catalog, builds, seed, from_nothing)
    if not one or not every:
        return None
    count = len(planned.members) + 1
    return PriceOfOneMore(
        experts=count,
        grown=grows,
        measured_on=str(one.measured_on.ref),
        one_more=one.price(),
        from_nothing=every.price(branches=count),
    )
