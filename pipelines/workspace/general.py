"""Which data versions show what a seed could do: whatever is made of it is measured on them.

In:  a workspace and a seed.
Out: the data versions that the seed was trained on, and those that were registered for evaluation
alone. Measuring on them is the jobs' work, judging the figures the policies'.
"""

from collections.abc import Iterable

from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid
from registry.records.facts import DataFacts, Facts, SeedFacts
from registry.records.kinds import UNUSABLE, DataUse
from registry.records.version import Version


def general_data(workspace: Workspace, seed: Version[SeedFacts]) -> list[Version[DataFacts]]:
    """Return the data versions that show what a seed could do.

    Args:
        workspace: where they are registered.
        seed: the seed.

    Returns:
        Those that it was trained on, then the newest usable version of each that is for evaluation
        alone; none that is out of use.
    """
    catalog = workspace.catalog
    trained_on = [catalog.get(ref, DataFacts) for ref in seed.facts.data]
    kept = [one for one in catalog.versions(DataFacts) if one.facts.use == DataUse.EVALUATION]
    statuses = catalog.statuses([*trained_on, *kept])
    # In the order of their numbers, so the newest usable version of each name stays.
    newest = {one.ref.name: one for one in kept if statuses[one.ref] not in UNUSABLE}
    versions = {version.ref: version for version in (*trained_on, *newest.values())}
    return [one for one in versions.values() if statuses[one.ref] not in UNUSABLE]


def refuse_evaluation_data(versions: Iterable[Version[Facts]]) -> None:
    """Refuse to train on data that was registered for evaluation alone."""
    for version in versions:
        facts = version.facts
        if isinstance(facts, DataFacts) and facts.use == DataUse.EVALUATION:
            raise Invalid(
                str(version.ref),
                found="registered with --use evaluation",
                expected="data that may be trained on",
                next="name another data version",
            )
