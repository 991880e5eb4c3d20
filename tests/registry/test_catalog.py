"""What is registered can be read back as it was, once, by name; its status is what the log says.

On both engines.
"""

import sqlite3
from dataclasses import replace

import pytest

from registry.catalogue.catalog import Catalog
from registry.catalogue.lineage import Edge
from registry.errors import Conflict, Damaged, Invalid, NotFound, Refused
from registry.records.events import AnyBody, Judged, Progress, Released
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Member,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.kinds import Kind, Mode, Relation, Status
from registry.records.references import parse
from registry.records.results import Result
from registry.records.version import FileFact

FILES = [
    FileFact("b/two.txt", 3, "b" * 64, md5="c" * 32),
    FileFact("a.txt", 2, "a" * 64, linked=True),
]


def chain(catalog: Catalog) -> None:
    """Register seed and data -> expert -> snapshot -> build."""
    catalog.register("base", SeedFacts(license="apache-2.0"))
    catalog.register("math", DataFacts(license="cc-by-4.0", holder="Acme"), files=FILES)
    catalog.register(
        "math",
        ExpertFacts(seed="seed/base@1", data=("data/math@1",), mode=Mode.ANCHORED),
        parents=[("seed/base", "branched_from"), ("data/math", "trained_on")],
    )
    catalog.register(
        "all",
        SnapshotFacts(mode=Mode.ANCHORED, members=(Member(ref="expert/math@1", slot=1),)),
        parents=[("seed/base", "seed"), ("expert/math", "member")],
    )
    catalog.register(
        "", BuildFacts(status=Status.EVALUATED), parents=[("snapshot/all@1", "composed_from")]
    )


def numbered(number: float) -> DataFacts:
    """Return the facts of a corpus that differ by a number, under a key that nobody knows."""
    return DataFacts.from_json({"n": number}, "test")


def test_a_version_reads_back_as_it_was_registered(catalog: Catalog) -> None:
    given = {"license": "MIT", "text": "ä €\U0001f600\n", "n": [1, 2.5, None, True]}
    facts = DataFacts.from_json(given, "test")
    made = catalog.register("math", facts, files=FILES)
    found = catalog.get("data/math@1")
    assert found == catalog.get("data/math") == made
    assert found.facts == facts
    assert found.facts.to_json() == given
    assert found.files == (FILES[1], FILES[0])
    assert (found.actor, found.registered_at) == ("ada", "2026-03-01T00:00:00.000000Z")
    assert str(found.ref) == "data/math@1"


def test_a_version_of_another_kind_than_asked_for_is_wrong_usage(catalog: Catalog) -> None:
    catalog.register("math", numbered(1))
    assert catalog.get("data/math", DataFacts) == catalog.get("data/math")
    with pytest.raises(Invalid, match="expected an expert") as caught:
        catalog.get("data/math", ExpertFacts)
    assert caught.value.exit_status == 2


def test_the_same_content_again_is_the_same_version(catalog: Catalog) -> None:
    def given(number: float, license: str) -> DataFacts:
        return DataFacts.from_json({"license": license, "n": number}, "test")

    first = catalog.register("math", given(1, "MIT"), files=FILES)
    head = catalog.head()
    again = catalog.register("math", given(1.0, "mit"), files=FILES[::-1])
    assert (again.ref, again.created, first.created) == (first.ref, False, True)
    assert catalog.head() == head
    other = catalog.register("math", given(2, "MIT"), files=FILES)
    assert other.ref.version == 2
    assert catalog.next_version(Kind.DATA, "math") == 3


def test_a_number_that_holds_other_content_is_a_conflict(catalog: Catalog) -> None:
    catalog.register("math", numbered(1), version=1)
    assert not catalog.register("math", numbered(1), version=1).created
    with pytest.raises(Conflict, match="data/math@1"):
        catalog.register("math", numbered(2), version=1)
    assert len(catalog.versions(DataFacts)) == 1


def test_what_is_not_there_is_named_with_what_is(catalog: Catalog) -> None:
    catalog.register("math", DataFacts())
    with pytest.raises(NotFound, match=r"expected one of data/math@1"):
        catalog.get("data/math@9")
    with pytest.raises(NotFound, match=r"expected one of data/math\n"):
        catalog.get("data/maths")
    with pytest.raises(NotFound, match="there is none yet") as none:
        catalog.get("expert/math")
    assert none.value.next.startswith("btx train")
    with pytest.raises(NotFound):
        catalog.register("math", ExpertFacts(), parents=[("seed/base", "branched_from")])
    assert [event.kind for event in catalog.events()] == ["registered"]


def test_a_licence_is_spdx_or_refused(catalog: Catalog) -> None:
    for given, stored in (
        ("apache-2.0 OR mit", "Apache-2.0 OR MIT"),
        ("LicenseRef-House", "LicenseRef-House"),
    ):
        made = catalog.register("a", DataFacts(license=given))
        assert made.facts.license == stored
    assert catalog.register("a", SeedFacts(license="mit")).facts.license == "MIT"
    with pytest.raises(Invalid, match="SPDX"):
        catalog.register("c", DataFacts(license="free for all"))


def test_a_withdrawal_taints_what_was_made_from_it_and_nothing_else(catalog: Catalog) -> None:
    chain(catalog)
    catalog.register("code", DataFacts())
    assert catalog.status("build/1") == "evaluated"
    catalog.event(Released(), "build/1")
    assert catalog.status("build/1") == "released"
    event = catalog.withdraw("data/math", "consent ended")
    assert catalog.withdraw("data/math@1", "again") == event
    everything = [
        version
        for kind in (SeedFacts, DataFacts, ExpertFacts, BuildFacts)
        for version in catalog.versions(kind)
    ]
    assert {str(ref): word for ref, word in catalog.statuses(everything).items()} == {
        "seed/base@1": "registered",
        "data/math@1": "withdrawn",
        "data/code@1": "registered",
        "expert/math@1": "tainted",
        "build/1": "tainted",
    }
    with pytest.raises(Refused, match="data/math@1") as caught:
        catalog.register("next", SnapshotFacts(), parents=[("expert/math", "member")])
    assert caught.value.exit_status == 3


def test_progress_is_read_from_the_log_and_a_refusal_needs_no_row(catalog: Catalog) -> None:
    catalog.register("", BuildFacts())
    assert catalog.status("build/1") == "registered"
    for word in ("mixed", "tuned"):
        catalog.event(Progress(status=word), "build/1")
        assert catalog.status("build/1") == word
    catalog.event(AnyBody.from_json({"rule": "licence"}, "test"), "expert/bad@1", kind="refused")
    assert catalog.status("expert/bad@1") == "refused"
    assert catalog.versions(ExpertFacts) == []


def test_a_status_or_a_document_that_nobody_wrote_is_named_as_damage(lite: Catalog) -> None:
    lite.register("", BuildFacts())
    lite.event(Progress(status="half done"), "build/1")
    with pytest.raises(Damaged, match="build/1, status") as caught:
        lite.status("build/1")
    assert "half done" in str(caught.value)
    lite.event(Released(), "build/1")
    assert lite.status("build/1") == "released"
    key = lite.put_document({"a": 1})
    with sqlite3.connect(lite.database.path or "") as connection:
        connection.execute("DROP TRIGGER document_no_update")
        connection.execute("UPDATE document SET body = '[1]'")
    with pytest.raises(Damaged, match=f"document {key}"):
        lite.document(key)


def test_lineage_goes_both_ways_to_the_end(catalog: Catalog) -> None:
    chain(catalog)
    catalog.register("apart", DataFacts())
    up = catalog.lineage("build/1")
    assert str(up.nodes[0].ref) == "build/1"
    assert {str(node.ref) for node in up.nodes} == {
        "seed/base@1",
        "data/math@1",
        "expert/math@1",
        "snapshot/all@1",
        "build/1",
    }
    assert Edge(parse("expert/math@1"), parse("data/math@1"), "trained_on") in up.edges
    assert len(up.edges) == 5
    down = catalog.lineage("data/math", down=True)
    assert [str(node.ref) for node in down.nodes] == [
        "data/math@1",
        "expert/math@1",
        "snapshot/all@1",
        "build/1",
    ]
    assert len(down.edges) == 3
    assert catalog.lineage("data/apart").edges == []


def test_a_list_without_files_is_the_same_but_for_them(catalog: Catalog) -> None:
    chain(catalog)
    whole, bare = catalog.versions(DataFacts), catalog.versions(DataFacts, files=False)
    assert any(version.files for version in whole)
    assert bare == [replace(version, files=()) for version in whole]


def test_searches_find_by_every_term(catalog: Catalog) -> None:
    chain(catalog)
    catalog.register(
        "code",
        DataFacts(license="MIT", holder="Beta"),
        files=[FileFact("c", 1, "c0ffee" + "0" * 58)],
    )
    measured = Result(data="data/code@1", domain="code", bits_per_byte=0.9, accuracy=0.5)
    catalog.register(
        "code",
        ExpertFacts(data=("data/code@1",), results=(measured,)),
        parents=[("data/code", "trained_on")],
    )

    def found(kind: str, **filters: str) -> list[str]:
        record = {"data": DataFacts, "expert": ExpertFacts, "build": BuildFacts}[kind]
        return [str(version.ref) for version in catalog.versions(record, **filters)]

    assert found("expert", license="CC-BY-4.0") == ["expert/math@1"]
    assert found("build", license="cc-by-4.0") == ["build/1"]
    assert found("build", license="MIT") == []
    assert (
        found("expert", holder="Beta")
        == found("expert", data="data/code")
        == found("expert", domain="code")
        == ["expert/code@1"]
    )
    assert found("expert", data="data/code@1", license="MIT") == ["expert/code@1"]
    assert found("expert", data="data/code@2") == []
    assert found("expert", seed="seed/base") == ["expert/math@1"]
    assert found("data", digest="c0ffee") == ["data/code@1"]
    assert found("data", digest=catalog.get("data/code").digest[:12]) == ["data/code@1"]
    for name in ("", "code.", "code@1.", "domains.code."):
        assert found("expert", metric=f"{name}bits_per_byte<1") == ["expert/code@1"]
        assert found("expert", metric=f"{name}accuracy>=0.5") == ["expert/code@1"]
        assert found("expert", metric=f"{name}accuracy>0.5") == []
    assert found("expert", metric="bits_per_byte<0.9") == []
    later = catalog.get("data/code").registered_at
    assert found("data", after=later) == ["data/code@1"]
    assert found("data", before=later) == ["data/math@1"]
    assert found("data", after="2026-03-01", before="2026-03-02") == ["data/code@1", "data/math@1"]
    assert found("data", name="math") == ["data/math@1"]


@pytest.mark.parametrize(
    "filters",
    [
        {"metric": "x"},
        {"metric": "math.bits_per_bite<1"},
        {"digest": "zz"},
        {"after": "yesterday"},
        {"before": "2026-02-31"},
        {"colour": "red"},
    ],
)
def test_a_filter_that_cannot_be_read_is_wrong_usage(
    lite: Catalog, filters: dict[str, str]
) -> None:
    with pytest.raises(Invalid) as caught:
        lite.versions(DataFacts, **filters)
    assert caught.value.exit_status == 2


def test_documents_are_kept_once_under_their_digest(catalog: Catalog) -> None:
    key = catalog.put_document({"b": 1, "a": [1.0]})
    assert catalog.put_document({"a": [1], "b": 1.0}) == key
    assert catalog.document(key) == {"a": [1], "b": 1}
    assert len(catalog.events(kind="kept")) == 1
    body = Judged(gate="register", kind="expert", outcome="refused", at="2026-03-01T00:00:00Z")
    event = catalog.event(body, "expert/a@1", documents=[{"a": 2}])
    assert catalog.document(event.body.documents[0]) == {"a": 2}
    assert catalog.events("expert/a@1", "verdict") == [event]
    with pytest.raises(NotFound):
        catalog.document("0" * 64)


def test_a_reader_sees_one_state_while_another_writes(url: str, catalog: Catalog) -> None:
    chain(catalog)
    other = Catalog(url, actor="bob")
    with catalog.database.read():
        before = catalog.head()
        other.register("code", DataFacts())
        assert catalog.head() == before
        assert len(catalog.versions(DataFacts)) == 1
    assert catalog.head() == other.head() != before
    other.close()


def test_who_holds_a_file_is_found_on_either_engine(catalog: Catalog) -> None:
    files = [FileFact(f"{n}.txt", 1, f"{n:064x}") for n in range(12)]
    held = catalog.register("law", DataFacts(), files=files)
    assert catalog.holders([file.sha256 for file in files]) == {held.ref: held.files}
    assert catalog.holders(["f" * 64]) == {}


def test_a_filter_finds_the_name_that_was_given_and_no_name_like_it(catalog: Catalog) -> None:
    for name in ("tax_law", "tax-law", "taxilaw"):
        catalog.register(name, DataFacts(domain=name, license="MIT"))
        made = ExpertFacts(seed="seed/a_b@1", data=(f"data/{name}@1",))
        catalog.register(name, made, parents=[(f"data/{name}@1", Relation.TRAINED_ON)])
    found = catalog.versions(ExpertFacts, data="data/tax_law")
    assert [str(one.ref) for one in found] == ["expert/tax_law@1"]
    assert not catalog.versions(ExpertFacts, seed="seed/a-b")
    assert len(catalog.versions(ExpertFacts, seed="seed/a_b")) == 3


def test_an_export_has_the_seed_of_its_build(catalog: Catalog) -> None:
    catalog.register("base", SeedFacts(license="MIT"))
    catalog.register("", BuildFacts(seed="seed/base@1"))
    built = [("build/1", Relation.EXPORTED_FROM)]
    catalog.register("build-1", ExportFacts(folder="/out"), parents=built)
    found = catalog.versions(ExportFacts, seed="seed/base")
    assert [str(one.ref) for one in found] == ["export/build-1@1"]
    assert not catalog.versions(ExportFacts, seed="seed/base@2")


def test_a_licence_is_found_in_an_expression_and_where_documents_state_it(
    catalog: Catalog,
) -> None:
    catalog.register("a", DataFacts(license="(MIT OR ISC) AND CC-BY-4.0"))
    catalog.register("b", DataFacts(license="MIT-0", document_licenses=("MIT",)))
    catalog.register("c", DataFacts(license="MIT-0"))
    parents = [("data/a@1", "trained_on")]
    catalog.register("x", ExpertFacts(licenses=("(MIT OR ISC) AND CC-BY-4.0",)), parents=parents)

    def found(licence: str) -> list[str]:
        kinds = (DataFacts, ExpertFacts)
        return [str(one.ref) for kind in kinds for one in catalog.versions(kind, license=licence)]

    assert found("mit") == ["data/a@1", "data/b@1", "expert/x@1"]
    assert found("ISC") == found("CC-BY-4.0") == ["data/a@1", "expert/x@1"]
    assert found("MIT-0") == ["data/b@1", "data/c@1"]
    assert found("M_T") == found("CC-BY") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("experts/math", "expected expert/math"),
        ("builds/1", "expected build/1"),
        ("../corpora/math", "not a path"),
        ("/corpora/math", "not a path"),
        ("cat/math", "one of data, seed"),
    ],
)
def test_what_is_no_reference_says_what_may_have_been_meant(text: str, expected: str) -> None:
    with pytest.raises(Invalid, match=expected):
        parse(text)
