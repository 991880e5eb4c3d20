"""Which product lines need another build once a withdrawal or an erasure reached some.

In:  the catalogue, and the builds and experts that were reached.
Out: the newest build of each of these lines, and the command that builds the line anew.
"""

from collections.abc import Collection

from registry.catalogue.catalog import Catalog
from registry.records.facts import BuildFacts, ExpertFacts
from registry.records.kinds import UNUSABLE
from registry.records.version import Version

NO_EXPERT_LEFT = "no usable expert is left: btx train or btx register others, then btx rebuild"


def reached_lines(catalog: Catalog, reached: Collection[str]) -> dict[str, Version[BuildFacts]]:
    """Return the newest build of each product line whose newest build is reached, by line.

    A line of which only older builds are reached needs nothing: they are past. A build that was
    registered by mistake is the newest of no line.
    """
    builds, mistaken = catalog.versions(BuildFacts, files=False), catalog.retired()
    # In the order of their numbers, so the newest of each product line stays.
    newest = {one.facts.line: one for one in builds if str(one.ref) not in mistaken}
    return {line: build for line, build in newest.items() if str(build.ref) in reached}


def is_expert_left(catalog: Catalog, reached: Collection[str]) -> bool:
    """Say whether an expert is in use that was not reached: of none, nothing can be built."""
    experts = catalog.statuses(catalog.versions(ExpertFacts, files=False))
    return any(
        str(ref) not in reached and status not in UNUSABLE for ref, status in experts.items()
    )


def rebuild_command(line: str) -> str:
    """Return the command that builds a product line anew."""
    main = BuildFacts.model_fields["line"].default
    return "btx rebuild" if line == main else f"btx rebuild --line {line}"
