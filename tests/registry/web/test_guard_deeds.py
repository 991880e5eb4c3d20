"""Waivers, retractions and changes of the list are signed in the browser by whoever may, or not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.governance import approving, changes, keys, people
from registry.governance.changes import Change

SOON = (datetime.now(UTC) + timedelta(days=20)).date().isoformat()
DEEDS = ("waivers", "retractions", "people")


def prepared(web: Any, governed: Any, deed: str) -> tuple[str, dict[str, Any]]:
    """Return who may do a deed, and what they ask for."""
    if deed == "waivers":
        governed.decide("register", governed.data_candidate("letters", source=None))
        asked = {"ref": "data/letters@1", "rule": "provenance/source", "until": SOON, "why": "w"}
        return "dora", asked
    if deed == "retractions":
        envelope = web.signed("dora")
        done = web.client.post("/api/builds/1/approvals", json=envelope, headers=web.as_("dora"))
        assert done.status_code == 201, done.text
        event = approving.standing_acts(web.site.catalog, "approved", "build/1")[0]
        return "dora", {"event": event.seq, "why": "one more look"}
    key = keys.public_pem(web.keys["mallory"])
    return "max", {"name": "nora", "approver": "on", "public_key": key, "why": "new"}


def drafted(web: Any, deed: str, name: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    answer = web.client.post(f"/api/{deed}/draft", json=asked, headers=web.as_(name))
    assert answer.status_code == 200, answer.text
    return [one["act"] for one in answer.json()["acts"]]


def send(web: Any, deed: str, name: str, asked: dict[str, Any], envelopes: list[Any]) -> int:
    body = {**asked, "envelopes": envelopes}
    return int(web.client.post(f"/api/{deed}", json=body, headers=web.as_(name)).status_code)


@pytest.mark.parametrize("deed", DEEDS)
def test_a_deed_counts_only_as_it_was_drafted_and_signed_by_whoever_may(
    web: Any, governed: Any, deed: str
) -> None:
    name, asked = prepared(web, governed, deed)
    acts = drafted(web, deed, name, asked)
    before = web.site.catalog.last()
    changes = ({"why": "else"}, {"subject": "build/9"}, {"at": "2026-01-01T00:00:00Z"})
    for envelopes in (
        [],
        web.sealed(acts, "mallory"),
        *(web.sealed([acts[0] | change], name) for change in changes),
    ):
        assert send(web, deed, name, asked, envelopes) == 403
    signed = web.sealed(acts, name)
    assert send(web, deed, name, {**asked, "why": "for another reason"}, signed) == 403
    for other in ("ann", "eve"):
        assert send(web, deed, other, asked, signed) == 403
    assert web.site.catalog.last() == before
    assert send(web, deed, name, asked, signed) == 201
    assert send(web, deed, name, asked, signed) in (403, 404), "replayed"


def test_what_is_waived_taken_back_and_changed_in_the_browser_counts(
    web: Any, governed: Any
) -> None:
    for deed in DEEDS:
        name, asked = prepared(web, governed, deed)
        signed = web.sealed(drafted(web, deed, name, asked), name)
        assert send(web, deed, name, asked, signed) == 201
    catalog = web.site.catalog
    page = web.client.get("/api/waivers", headers=web.as_("eve")).json()
    assert [(act["kind"], act["rule"]) for act in page["acts"]] == [("waived", "provenance/source")]
    assert approving.standing_acts(catalog, "approved") == []
    assert people.roll(catalog)["nora"].roles == ("approver",)


def test_no_one_drafts_a_waiver_of_a_rule_that_allows_none(web: Any) -> None:
    asked = {"ref": "build/1", "rule": "release/second-person", "until": SOON, "why": "w"}
    answer = web.client.post("/api/waivers/draft", json=asked, headers=web.as_("dora"))
    assert answer.status_code == 403, answer.text


def test_the_last_auditor_stays_on_the_list(web: Any) -> None:
    asked = {"name": "max", "why": "leaves"}
    answer = web.client.post("/api/people/draft", json=asked, headers=web.as_("max"))
    assert (answer.status_code, "last auditor" in answer.text) == (403, True)


def test_a_person_on_the_list_is_changed_for_a_reason_alone(web: Any) -> None:
    pem = keys.public_pem(keys.Signer("nora", Ed25519PrivateKey.generate()))
    head = web.site.catalog.head()

    def answered(**asked: Any) -> tuple[int, bool]:
        told = [
            web.client.post(f"/api/people{draft}", json=asked, headers=web.as_("max"))
            for draft in ("/draft", "")
        ]
        return told[0].status_code, all("no reason" in one.text for one in told)

    assert answered(name="dora", why=" ") == (422, True), "off the list"
    assert answered(name="dora", registrar=True, approver=True) == (422, True)
    assert answered(name="dora", approver=True, public_key=pem) == (422, True)
    assert answered(name="dora", approver=True, since="2026-01-01") == (422, True)
    assert answered(name="dora", why="left") == (200, False)
    assert answered(name="nora", approver=True, public_key=pem) == (200, False), "a new person"
    assert web.site.catalog.head() == head


def test_the_tokens_and_sessions_of_who_left_open_nothing(web: Any) -> None:
    """On whichever server they are: the list is in the registry. What was signed stays."""
    catalog, auditor = web.site.catalog, web.keys["max"]
    acting = web.site.acting("max")
    pem = keys.public_pem(web.keys["dora"])
    csrf = web.login("dora")

    envelope = web.signed("dora")

    def told() -> tuple[int, ...]:
        as_a_program = web.as_("dora")
        web.client.cookies.clear()
        read = web.client.get("/api/waivers", headers=as_a_program).status_code
        wrote = web.client.post("/api/builds/1/approvals", json=envelope, headers=as_a_program)
        web.client.cookies.set("btx", cookie)
        page = web.client.get("/", follow_redirects=False).status_code
        post = web.client.post("/api/audits", json={"ref": "build/1"}, headers={"x-csrf": csrf})
        return read, wrote.status_code, page, post.status_code

    cookie = web.client.cookies["btx"]
    assert told()[:3] == (200, 201, 200)
    changes.change_actor(acting, Change("dora", (), pem, None, "left"), auditor)
    assert told() == (401, 401, 303, 401)
    assert len(approving.standing_acts(catalog, "approved", "build/1")) == 1
    changes.change_actor(acting, Change("dora", ("approver",), pem, None, "back"), auditor)
    assert told()[0] == 200
