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
    wrong = web.client.get("/search", params={"q": "nonsense"})
    assert (wrong.status_code, "no term" in wrong.text) == (200, True)
    assert web.client.get("/api/search", params={"q": "nonsense"}).status_code == 422
