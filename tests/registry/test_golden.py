"""The registry of a whole demonstration, as 0.1.0 wrote it, says the same today.

The expected figures are what 0.1.0 itself printed of this registry.
"""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.catalogue import dump
from registry.catalogue.audit_log import verify
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, audit, row_findings
from registry.catalogue.store import Store
from registry.digest import canonical_json
from registry.governance import gaps, gate
from registry.records.events import BODIES, AnyBody, Judged
from registry.records.evidence import EVIDENCE
from registry.records.facts import (
    FACTS,
    BuildFacts,
    DataFacts,
    ExpertFacts,
    Facts,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.kinds import Kind
from registry.records.results import Result, Specialist, labels

GOLDEN = Path(__file__).parent / "golden"
HEAD = (GOLDEN / "demo.head").read_text().strip()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of the registry; tests that write take a copy."""
    path = tmp_path_factory.mktemp("demo") / "registry.db"
    connection = sqlite3.connect(path)
    connection.executescript((GOLDEN / "demo.sql").read_text())
    connection.close()
    return path


@pytest.fixture(scope="module")
def demo(file: Path) -> Iterator[Catalog]:
    catalog = Catalog(f"sqlite:///{file}", actor="ada")
    yield catalog
    catalog.close()


def test_the_head_is_the_one_that_was_recorded(demo: Catalog) -> None:
    assert demo.head() == HEAD
    with demo.database.read() as rows:
        assert verify(rows, HEAD) == (55, [])


def test_every_versions_facts_are_read_and_keep_what_they_held(demo: Catalog) -> None:
    counts = {kind: len(demo.versions(record)) for kind, record in FACTS.items()}
    assert counts == {
        Kind.DATA: 4,
        Kind.SEED: 1,
        Kind.EXPERT: 4,
        Kind.SNAPSHOT: 3,
        Kind.BUILD: 3,
        Kind.EVALUATION: 0,
        Kind.EXPORT: 0,
    }
    # What later became `results`, or is taken from the last release when it is asked for.
    brought_into_shape = {"evaluation", "previous", "recipe", "routing"}
    for record in FACTS.values():
        for version in demo.versions(record):
            row, now = json.loads(version.stored), version.facts.to_json()
            for key in row.keys() - brought_into_shape:
                assert canonical_json(now[key]) == canonical_json(row[key]), (version.ref, key)
            again = type(version.facts).from_json(now, "test")
            assert again == version.facts


def test_every_event_is_read_and_says_the_same(demo: Catalog) -> None:
    for event in demo.events():
        assert type(event.body) is BODIES.get(event.kind, AnyBody)
        assert canonical_json(event.body.to_json()).decode() == event.stored
    assert {event.kind for event in demo.events()} == {
        *("registered", "stage", "verdict", "refused", "withdrawn")
    }


def test_every_row_and_every_document_is_what_its_event_says(demo: Catalog) -> None:
    with demo.database.read() as rows:
        assert row_findings(rows) == (29, [])


@pytest.mark.parametrize(
    ("ref", "versions", "verdicts", "withdrawn"),
    [
        ("build/1", 9, 8, ["data/code@1"]),
        ("build/2", 11, 10, ["data/code@1"]),
        ("build/3", 9, 8, []),
    ],
)
def test_an_audit_finds_what_it_found(
    demo: Catalog, tmp_path: Path, ref: str, versions: int, verdicts: int, withdrawn: list[str]
) -> None:
    given = AuditContext(
        store=Store(tmp_path / "store"),
        stored=frozenset(),
        judge=lambda event: gate.judge_again(demo, event).outcome,
    )
    report = audit(demo, ref, given, pinned=HEAD)
    examined = {check.name: check.examined for check in report.checks}
    assert examined["schema"] == 20
    assert (examined["log"], examined["rows"]) == (55, 29)
    assert (examined["standing"], examined["verdicts"]) == (versions, verdicts)
    assert [(one.check, one.subject) for one in report.findings] == [
        ("standing", subject) for subject in withdrawn
    ]
    assert gaps.ungated(demo, ref) == []


def test_every_verdict_is_judged_again_to_the_same_outcome_rule_by_rule(demo: Catalog) -> None:
    events = [*demo.events(kind="verdict"), *demo.events(kind="refused")]
    assert len(events) == 13
    for event in events:
        body = event.read(Judged)
        again = gate.judge_again(demo, event)
        assert (again.outcome, gate.outcomes(again)) == (body.outcome, dict(body.rules))
        assert gaps.disagreement(demo, event) is None


def test_the_evidence_of_every_verdict_is_read(demo: Catalog) -> None:
    for event in demo.events(kind="verdict"):
        body = event.read(Judged)
        document = demo.document(body.evidence)
        evidence = EVIDENCE[Kind(body.kind)].from_json(document, "test")
        assert evidence.ref == event.subject
        for key, value in document.items():
            assert key in evidence.to_json(), key
            assert evidence.to_json()[key] is not None or value is None


STATUSES = {
    "data/code@1": "withdrawn",
    "data/math@1": "registered",
    "data/prose@1": "registered",
    "data/units@1": "registered",
    "seed/base@1": "registered",
    "expert/code@1": "tainted",
    "expert/math@1": "registered",
    "expert/prose@1": "registered",
    "expert/units@1": "registered",
    "build/1": "tainted",
    "build/2": "tainted",
    "build/3": "evaluated",
}
DIGESTS = {
    "data/code@1": "859221c4f06eb55d1f1dbd3b7e706bc76b2b4acb127476d1446b83994b084b8a",
    "data/math@1": "95b611ea3b6774edc012875d9d8d41f82f1986ac690259445d6c9a6bff878031",
    "data/prose@1": "d1981173d0833252ee6d44c1d20941fda3331a85e8e269d10c00c0efd7e72675",
    "data/units@1": "62bccc7272c61daba9fa268dc8ded81e8af0a967a3b0c3e1c2096c59688028a3",
    "seed/base@1": "7ce8309d060e18274fa94ffd43cac5438d6d9951181b42f41dce18084d1cc8a8",
    "expert/code@1": "74a68e6f55c35e19ac6e8f6daa08ba18b7fccb6919740f9bd5597f81dae3d875",
    "expert/math@1": "26cdcc1f98d75dc82bfeeca02b55b620f833c84f4a5815409e32b2ca666a8728",
    "expert/prose@1": "d57ca700aff266e8cbbfc6f61a902d88f0e434543c9ec81ab8aa191e6b2cbc2b",
    "expert/units@1": "44b48f52684f1e8595add1d44f7103a22dcf823d6925087213efcf556d028b43",
    "build/1": "befa5ca3d7f4ecd030936d583a0ad3886ce5462b2f917e3d8b3e952c4a83f0cc",
    "build/2": "64a0143e2e0bf5d04927aa801eaf4c06b6247145fac47f3b1a6442b14646be48",
    "build/3": "d11c8a8a46045650b9096779f785cb9ef57d8eb71656c752e054b6fe014dc0eb",
}


def test_lists_name_the_same_versions_with_the_same_digests_and_statuses(demo: Catalog) -> None:
    listed = [
        version
        for kind in (DataFacts, SeedFacts, ExpertFacts, BuildFacts)
        for version in demo.versions(kind)
    ]
    assert {str(version.ref): version.digest for version in listed} == DIGESTS
    found = demo.statuses(listed)
    assert {str(ref): str(status) for ref, status in found.items()} == STATUSES
    assert {ref: str(demo.status(ref)) for ref in STATUSES} == STATUSES


def test_a_list_of_data_says_the_same_of_each(demo: Catalog) -> None:
    listed = demo.versions(DataFacts)
    facts = [(one.ref.name, one.facts.license, one.facts.bytes) for one in listed]
    assert facts == [
        ("code", "PSF-2.0", 705245),
        ("math", "CC0-1.0", 660137),
        ("prose", "PSF-2.0", 661625),
        ("units", "CC0-1.0", 660019),
    ]
    assert {one.facts.pii for one in listed} == {"none"}
    assert {one.facts.holder for one in demo.versions(DataFacts, license="CC0-1.0")} == {
        "the user of btx demo"
    }


CODE, MATH, PROSE, UNITS = (f"expert/{name}@1" for name in ("code", "math", "prose", "units"))
BUILDS = ["build/1", "build/2", "build/3"]


@pytest.mark.parametrize(
    ("key", "value", "experts", "builds"),
    [
        ("license", "PSF-2.0", [CODE, PROSE], BUILDS),
        ("license", "cc0-1.0", [MATH, UNITS], BUILDS),
        ("license", "MIT", [], []),
        ("holder", "Python Software Foundation", [CODE, PROSE], BUILDS),
        ("data", "data/math", [MATH], BUILDS),
        ("data", "data/code@1", [CODE], BUILDS[:2]),
        ("domain", "units", [UNITS], BUILDS[1:]),
        ("seed", "seed/base", [CODE, MATH, PROSE, UNITS], BUILDS),
        ("name", "math", [MATH], []),
        ("digest", "befa5ca3", [], ["build/1"]),
        ("after", "2026-11-26T07:45:00Z", [], BUILDS[1:]),
        ("before", "2026-11-26T07:43:02Z", [MATH], []),
    ],
)
def test_a_search_finds_the_same(
    demo: Catalog, key: str, value: str, experts: list[str], builds: list[str]
) -> None:
    found = {kind: demo.versions(kind, **{key: value}) for kind in (ExpertFacts, BuildFacts)}
    assert [str(one.ref) for one in found[ExpertFacts]] == experts
    assert [str(one.ref) for one in found[BuildFacts]] == builds


@pytest.mark.parametrize(
    ("kind", "metric", "expected"),
    [
        (ExpertFacts, "bits_per_byte<1", [MATH, UNITS]),
        (ExpertFacts, "domains.math.bits_per_byte<1", [MATH]),
        (ExpertFacts, "seed_bits_per_byte>3", [MATH, UNITS]),
        (ExpertFacts, "accuracy>0", [MATH, UNITS]),
        (ExpertFacts, "tokens>1", [CODE, MATH, PROSE, UNITS]),
        (BuildFacts, "math.bits_per_byte<0.7", BUILDS),
        (BuildFacts, "math.bits_per_byte<0.67", ["build/1", "build/3"]),
        (BuildFacts, "code.bits_per_byte<2.651", ["build/1"]),
        (BuildFacts, "math.specialist_bits_per_byte<1", BUILDS),
        (BuildFacts, "units.accuracy>0", BUILDS[1:]),
        (BuildFacts, "prose.seed_bits_per_byte>2", BUILDS),
        (BuildFacts, "math.answers>1", BUILDS),
    ],
)
def test_a_search_by_figures_finds_the_same(
    demo: Catalog, kind: type[Facts], metric: str, expected: list[str]
) -> None:
    assert [str(one.ref) for one in demo.versions(kind, metric=metric)] == expected


def test_the_figures_of_experts_are_the_same(demo: Catalog) -> None:
    figures = {
        "code": (2.7174969678582945, 2.977473968635089, None),
        "math": (0.8930864067723142, 4.520626190355782, 0.008247422680412371),
        "prose": (2.351079752582372, 2.388861565010658, None),
        "units": (0.7740820046241169, 4.425622336729991, 0.023706896551724137),
    }
    for name, expected in figures.items():
        facts = demo.get(f"expert/{name}", ExpertFacts).facts
        (result,) = facts.results
        assert (result.data, result.domain) == (f"data/{name}@1", name)
        found = (result.bits_per_byte, result.seed_bits_per_byte, result.accuracy)
        assert found == expected
        assert result.tokens == 15000
        assert facts.train is not None
        assert facts.train.tokens == 358400
        assert facts.preflight is not None
        assert facts.preflight.recommendation == "router"


def test_the_figures_of_a_build_are_the_same_in_todays_shape(demo: Catalog) -> None:
    facts = demo.get("build/3", BuildFacts).facts
    assert facts.results == (
        Result(
            data="data/math@1",
            domain="math",
            bits_per_byte=0.6645767204883399,
            seed_bits_per_byte=4.520626190355782,
            specialists=(
                Specialist(bits_per_byte=0.8930864067723142, accuracy=0.008247422680412371),
            ),
            new_to_seed=True,
            accuracy=0.010309278350515464,
            seed_accuracy=0,
            answers=485,
            tokens=15000,
        ),
        Result(
            data="data/prose@1",
            domain="prose",
            bits_per_byte=2.3737418749656083,
            seed_bits_per_byte=2.388861565010658,
            specialists=(Specialist(bits_per_byte=2.351079752582372),),
            new_to_seed=False,
            tokens=15000,
        ),
        Result(
            data="data/units@1",
            domain="units",
            bits_per_byte=0.577095742391944,
            seed_bits_per_byte=4.425622336729991,
            specialists=(
                Specialist(bits_per_byte=0.7740820046241169, accuracy=0.023706896551724137),
            ),
            new_to_seed=True,
            accuracy=0.015086206896551725,
            seed_accuracy=0,
            answers=464,
            tokens=15000,
        ),
    )
    named = labels(facts.results)
    assert list(named.values()) == ["math", "prose", "units"]
    # As the build's report said, in percent; of prose it said that there is little to keep.
    kept = {named[one.data]: one.gain_kept for one in facts.results}
    assert [f"{kept[domain]:.0%}" for domain in ("math", "units")] == ["106%", "105%"]


def test_what_a_build_is_made_of_is_the_same(demo: Catalog) -> None:
    facts = demo.get("build/3", BuildFacts).facts
    members = [(member.ref, member.slot) for member in facts.members]
    assert members == [(MATH, 2), (PROSE, 3), (UNITS, 4)]
    assert facts.tuned_on == ("data/math@1", "data/prose@1", "data/units@1")
    assert facts.architecture is not None
    assert facts.architecture.to_json() == {
        "top_k": 2,
        "routing": "top-k",
        "seed_expert": True,
        "active_parameters": 427584,
        "total_parameters": 722496,
    }
    assert facts.tuned == "shared"
    assert facts.recipe.tune["steps"] == 600
    assert facts.recipe.mix["method"] == "mean"
    assert facts.given_recipe is not None
    assert dict(facts.given_recipe.mix) == {"mode": "anchored"}
    assert facts.cost.total.tokens == 1382400
    assert facts.cost.tokens_per_s == 25171.7
    assert facts.routing is not None
    assert [(one.data, len(one.layers)) for one in facts.routing.shares] == [
        ("data/math@1", 4),
        ("data/prose@1", 4),
        ("data/units@1", 4),
    ]
    snapshot = demo.get("snapshot/main@3", SnapshotFacts).facts
    assert [member.ref for member in snapshot.members] == [MATH, PROSE, UNITS]


def test_a_lineage_and_a_withdrawal_reach_the_same(demo: Catalog) -> None:
    up = {str(node.ref) for node in demo.lineage("build/3").nodes}
    assert up == {
        *("build/3", "snapshot/main@3", "seed/base@1", MATH, PROSE, UNITS),
        *("data/math@1", "data/prose@1", "data/units@1"),
    }
    impact = demo.impact("data/code")
    assert [str(ref) for ref in impact.experts] == [CODE]
    removals = {str(build.ref): build.removal for build in impact.builds}
    assert removals == {"build/1": "rebuild", "build/2": "rebuild", "build/3": "none"}


def test_a_dump_and_a_load_give_the_same_head(demo: Catalog, tmp_path: Path) -> None:
    """Without the bytes: the registry alone was kept."""
    store = Store(tmp_path / "store")
    dump.dump(demo, store, tmp_path / "out")
    loaded = Catalog(f"sqlite:///{tmp_path}/loaded.db", actor="ada")
    dump.load(tmp_path / "out", loaded, Store(tmp_path / "other"))
    assert loaded.head() == HEAD
    assert loaded.events() == demo.events()
    assert [one.stored for one in loaded.versions(BuildFacts)] == [
        one.stored for one in demo.versions(BuildFacts)
    ]
    with loaded.database.read() as rows:
        assert row_findings(rows) == (29, [])
    loaded.close()


def test_the_same_facts_registered_again_are_the_version_that_is_there(
    file: Path, tmp_path: Path
) -> None:
    """A row whose facts have today's shape already keeps its digest."""
    copy = tmp_path / "registry.db"
    copy.write_bytes(file.read_bytes())
    catalog = Catalog(f"sqlite:///{copy}", actor="ada")
    there = catalog.get("data/math@1", DataFacts)
    again = catalog.register("math", there.facts, files=there.files)
    assert (again.ref, again.created) == (there.ref, False)
    assert catalog.head() == HEAD
    catalog.close()
