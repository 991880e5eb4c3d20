"""Search and facts of one's own, on the pages as by command."""

from typing import Any

from registry.governance import lookup, stating
from registry.records.own_facts import FactSchema

Web = Any  # conftest.py's
SCHEMA = FactSchema.model_validate({"facts": {"residency": {"kinds": ["data"]}}})


def test_a_page_finds_what_the_command_finds_and_shows_what_is_stated(
    web: Web, governed: Any
) -> None:
    auditor = web.keys["max"]
    stating.declare(governed.as_("max"), SCHEMA, auditor)
    stating.amend(governed.as_("max"), "data/law@1", {"residency": "EU <b>"}, "asked", auditor)
    web.login("eve")
    version = web.client.get("/data/law/1")
    assert "residency" in version.text
    assert "EU &lt;b&gt;" in version.text
    page = web.client.get("/search", params={"q": 'own.residency~EU "holder=the state"'})
    assert (page.status_code, "data/law@1" in page.text) == (200, True)
    assert "the state" in page.text
    terms = {"q": "own.residency~EU"}
    rows = web.client.get("/api/search", params=terms).json()
    own = lookup.search(web.site.catalog, ["own.residency~EU"])
    assert rows == [row.to_json() for row in own]
    table = web.client.get("/api/search", params={**terms, "format": "csv"}).text
    assert table == lookup.as_csv(own)
    wrong = web.client.get("/search", params={"q": "holder="})
    assert (wrong.status_code, "no term" in wrong.text) == (200, True)
    assert web.client.get("/api/search", params={"q": "holder="}).status_code == 422


def test_a_word_is_found_wherever_it_stands_and_the_row_says_where(web: Web, governed: Any) -> None:
    catalog = web.site.catalog
    stating.declare(governed.as_("max"), SCHEMA, web.keys["max"])
    stating.amend(
        governed.as_("max"), "data/law@1", {"residency": "Utopia"}, "asked", web.keys["max"]
    )
    digest = catalog.get("data/law@1").digest
    for word, field in (
        ("LAW", "ref"),
        ("the state", "holder"),
        (digest[:10], "digest"),
        ("utopia", "own.residency"),
    ):
        rows = {row.ref: row.values for row in lookup.search(catalog, [word])}
        places = rows["data/law@1"][lookup.MATCH]
        assert any(place.startswith(f"{field}: ") for place in places), word
    assert lookup.search(catalog, ["no-such-word"]) == []
    both = {row.ref for row in lookup.search(catalog, ["law", "kind=expert"])}
    assert both
    assert all(ref.startswith("expert/") for ref in both)


def test_every_page_has_the_field_that_searches_everything(web: Web) -> None:
    web.login("eve")
    for path in ("/", "/builds", "/data/law/1", "/audit"):
        assert 'action="/search"' in web.client.get(path).text, path
