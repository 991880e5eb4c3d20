"""Search: every field, facts of one's own, and what the log says, by terms that all must hold."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.find import lines
from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.governance import approving, keys, lookup, stating
from registry.records.facts import ExportFacts
from registry.records.own_facts import FactSchema

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.sql"))
SCHEMA = FactSchema.model_validate(
    {"facts": {"residency": {"kinds": ["data"]}, "rows": {"type": "number", "kinds": ["data"]}}}
)


FOUND: list[tuple[list[str], list[str]]] = [
    (["holder=acme ltd"], ["data/law@1"]),
    (["holder~acme", "kind=data"], ["data/law@1"]),
    (["own.residency=EU"], ["data/law@1"]),
    (["own.rows>9", "own.rows<=12"], ["data/law@1"]),
    (["own.rows>90"], []),
    (["kind=data", "own.residency!=EU"], ["data/tax@1"]),
    (["ends<2027-02-01"], ["data/tax@1"]),
    (["approved_by=*"], ["build/1"]),
    (["approved_by=dora", "registered_by=ann"], ["build/1"]),
    (["exported_to~share"], ["build/1"]),
    (["folder=/srv/share/acme"], ["export/build-1@1"]),
    (["data=data/law@1"], ["expert/law@1"]),
    (["members=expert/law@1", "kind=build"], ["build/1"]),
    (["file=config.json"], ["build/1"]),
    (["status=registered", "license=Apache-2.0"], ["seed/base@1"]),
]


@pytest.fixture
def story(governed: Any) -> Any:
    """Return build/1 of expert/law@1, approved by dora and exported; data/law and data/tax."""
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    governed.seed()
    law = governed.data(holder="Acme Ltd", own={"residency": "EU", "rows": 12})
    governed.data("tax", retain_until="2027-01-31", pii="reviewed")
    governed.build(governed.expert(law))
    dora = governed.person("dora", "approver")
    approving.approve(governed.as_("dora"), "build/1", dora)
    facts = ExportFacts(folder="/srv/share/acme", target="vllm")
    catalog.register("build-1", facts, parents=[("build/1", "exported_from")])
    from registry.records.events import Exported

    catalog.event(Exported(folder="/srv/share/acme", target="vllm"), "build/1")
    return governed


def test_what_holds_every_term_is_found(story: Any) -> None:
    found = [
        (words, [row.ref for row in lookup.search(story.as_("ann"), words)]) for words, _ in FOUND
    ]
    assert found == FOUND


def test_an_amended_fact_is_found_as_it_is_now(story: Any) -> None:
    catalog = story.as_("ann")
    stating.amend(catalog, "data/law@1", {"residency": "US"}, "moved")
    assert lookup.search(catalog, ["own.residency=EU"]) == []
    (row,) = lookup.search(catalog, ["own.residency=US"], ["holder"])
    assert row.values == {"own.residency": ("US",), "holder": ("Acme Ltd",)}


def test_a_retracted_approval_is_found_no_more(story: Any) -> None:
    catalog = story.as_("dora")
    (event,) = approving.standing_acts(catalog, "approved")
    approving.retract(catalog, event, keys.signer("dora", story.keys / "dora.pem"), "wrong text")
    assert lookup.search(catalog, ["approved_by=dora"]) == []


@pytest.mark.parametrize("word", ["", "=Acme", "holder=", "holder!Acme"])
def test_what_is_no_term_is_refused(word: str) -> None:
    with pytest.raises(Invalid, match="no term"):
        lookup.read_terms([word])


def test_a_field_that_nothing_has_is_refused_with_those_that_there_are(story: Any) -> None:
    with pytest.raises(Invalid, match=r"approved_by.*own\.residency"):
        lookup.search(story.as_("ann"), ["own.residence=EU"])


def test_a_cell_of_csv_is_no_formula(story: Any) -> None:
    story.data("evil", holder="=HYPERLINK(1)")
    rows = lookup.search(story.as_("ann"), ["holder~hyper"])
    assert lookup.as_csv(rows).splitlines() == [
        "ref,kind,status,registered_at,holder",
        f"data/evil@1,data,registered,{rows[0].registered_at},'=HYPERLINK(1)",
    ]


def test_a_field_that_has_a_column_gets_no_second_one(story: Any) -> None:
    story.data("law", holder="Acme")
    terms = ["status=registered", "kind=data", "holder=Acme"]
    rows = lookup.search(story.as_("ann"), terms, ["registered_at"])
    head = lookup.as_csv(rows).splitlines()[0]
    assert head == "ref,kind,status,registered_at,holder"
    assert lines(rows)[0] == ["ref", "status", "holder", "registered_at"]
    assert {"status", "registered_at"} < {*rows[0].values}


@pytest.mark.parametrize("dump", GOLDEN, ids=lambda path: path.stem)
def test_what_the_database_narrows_down_is_all_that_a_closer_look_finds(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value that stands in a row of any age is found by it, and by a part of it."""
    database = tmp_path / "registry.db"
    with sqlite3.connect(database) as connection:
        connection.executescript(dump.read_text())
    catalog = Catalog(f"sqlite:///{database}", actor="ann")
    words = set[str]()
    for row in lookup.search(catalog, [], ["ref", "digest", "holder", "license", "data", "file"]):
        words |= {f"ref={row.ref}", row.ref, row.ref.upper(), row.ref[2:-1]}
        for name, values in row.values.items():
            words |= {f'{name}="{value}"' for value in values if value}
    narrowed = {word: lookup.search(catalog, lookup.split_words(word)) for word in words}
    assert all(narrowed.values())
    monkeypatch.setattr(lookup, "_candidates", lambda catalog, terms: None)
    for word, rows in narrowed.items():
        assert lookup.search(catalog, lookup.split_words(word)) == rows, word
