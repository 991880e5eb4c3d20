"""What a gate is told of a build: all that it was made from, and what its users have now."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.jobs import collect_evidence
from pipelines.jobs.release import build_evidence
from pipelines.workspace.settings_file import Settings
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.records.events import Released
from registry.records.evidence import BuildEvidence
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Member, SeedFacts
from registry.records.results import Result
from registry.records.version import Version


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """seed/base of data/prose, expert/law of data/contracts.

    Rows alone, since evidence reads nothing else.
    """
    made = Workspace(tmp_path, Settings())
    (tmp_path / ".btx").mkdir()
    catalog = made.catalog_to_fill
    for name, licence in (("prose", "PSF-2.0"), ("contracts", "CC0-1.0 AND (MIT AND ISC)")):
        catalog.register(name, DataFacts(license=licence, pii="none", retain_until=None))
    catalog.register(
        "base",
        SeedFacts(license="Apache-2.0 OR MIT", data=("data/prose@1",)),
        parents=[("data/prose@1", "trained_on")],
    )
    facts = ExpertFacts(
        seed="seed/base@1",
        data=("data/contracts@1",),
        licenses=(catalog.get("data/contracts", DataFacts).facts.license,),
    )
    catalog.register(
        "law",
        facts,
        parents=[("seed/base@1", "branched_from"), ("data/contracts@1", "trained_on")],
    )
    yield made
    catalog.close()


def build(catalog: Catalog, bits: float, line: str = "main") -> Version[BuildFacts]:
    result = Result(data="data/contracts@1", domain="contracts", bits_per_byte=bits)
    facts = BuildFacts(
        seed="seed/base@1",
        members=(Member(ref="expert/law@1", slot=1),),
        line=line,
        results=(result,),
    )
    return catalog.register("", facts)


def candidate(catalog: Catalog) -> BuildEvidence:
    experts = [catalog.get("expert/law", ExpertFacts)]
    return collect_evidence.of_candidate(catalog, "build/1", "seed/base@1", experts)


def test_a_build_answers_for_its_seeds_licence_and_data_too(workspace: Workspace) -> None:
    catalog = workspace.catalog
    facts = candidate(catalog)
    assert facts.seed_license == "Apache-2.0 OR MIT"
    assert [line.ref for line in facts.seed_data] == ["data/prose@1"]
    catalog.withdraw("data/prose@1", "consent ended")
    again = candidate(catalog)
    assert [line.status for line in again.seed_data] == ["withdrawn"]
    assert [line.status for line in again.members] == ["tainted"]


def test_every_licence_is_told_and_of_a_choice_all_until_one_was_taken(
    workspace: Workspace,
) -> None:
    told = candidate(workspace.catalog).licenses
    assert told == ("Apache-2.0", "CC0-1.0", "ISC", "MIT", "PSF-2.0")


def test_a_release_is_compared_with_the_last_release_and_not_with_the_build_before(
    workspace: Workspace,
) -> None:
    catalog = workspace.catalog
    first, _, third = (build(catalog, bits) for bits in (0.9, 0.8, 0.7))
    assert build_evidence(workspace, third).previous is None
    catalog.event(Released(), first.ref)
    told = build_evidence(workspace, third)
    assert [line.previous_bits_per_byte for line in told.results or ()] == [0.9]
    assert told.to_json()["previous"] == {"contracts": {"bits_per_byte": 0.9}}
    assert build_evidence(workspace, first).previous is None


def test_a_release_is_not_compared_with_one_of_another_product_line(workspace: Workspace) -> None:
    """Which other people use, and which may be better on its own domains."""
    catalog = workspace.catalog
    main, small, next_small = (
        build(catalog, bits, line) for bits, line in ((0.5, "main"), (0.9, "small"), (0.8, "small"))
    )
    catalog.event(Released(), small.ref)
    catalog.event(Released(), main.ref)
    told = build_evidence(workspace, next_small)
    assert told.compared_with == "build/2"
    assert [line.previous_bits_per_byte for line in told.results or ()] == [0.9]
    assert build_evidence(workspace, main).compared_with is None
