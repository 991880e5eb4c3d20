"""Releases and withdrawals are signed where a person's key is, never by a key of the server's."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from registry.governance import approving, gaps, keys

RELEASE, WITHDRAW = "/api/builds/1/release", "/api/withdrawals"
DRAFT_RELEASE = "/api/builds/1/release-statement"
REF, WHY = "data/law@1", "the holder took it back"
DRAFT_WITHDRAWAL = f"/api/withdrawal-statement?ref={REF}&why={WHY}"


def approved(web: Any, why: str = "reviewed") -> None:
    done = web.client.post(
        "/api/builds/1/approvals", json=web.signed("dora", why=why), headers=web.as_("dora")
    )
    assert done.status_code == 201, done.text


def release(web: Any, envelopes: list[dict[str, Any]]) -> Any:
    return web.client.post(RELEASE, json={"envelopes": envelopes}, headers=web.as_("ann"))


def withdraw(web: Any, envelopes: list[dict[str, Any]], why: str = WHY) -> Any:
    body = {"ref": REF, "why": why, "envelopes": envelopes}
    return web.client.post(WITHDRAW, json=body, headers=web.as_("ann"))


def test_what_is_signed_in_the_browser_is_released_and_withdrawn_without_a_key_here(
    web: Any,
) -> None:
    approved(web)
    acts = web.statements("ann", DRAFT_RELEASE)
    assert [act["act"] for act in acts] == ["verdict", "released"]
    answer = release(web, web.sealed(acts, "ann"))
    assert (answer.status_code, answer.json()["status"]) == (200, "released"), answer.text
    answer = withdraw(web, web.sealed(web.statements("ann", DRAFT_WITHDRAWAL), "ann"))
    assert (answer.status_code, answer.json()["status"]) == (201, "withdrawn"), answer.text
    assert gaps.unsigned(web.site.catalog)[1] == []
    assert not list(keys.key_file("ann").parent.glob("*"))


def test_a_key_that_lies_on_the_server_signs_nothing(web: Any, governed: Any) -> None:
    approved(web)
    held = keys.key_file("ann")
    held.parent.mkdir(parents=True)
    shutil.copy(Path(governed.keys) / "ann.pem", held)
    for answer in (
        web.client.post(RELEASE, headers=web.as_("ann")),
        release(web, []),
        withdraw(web, []),
    ):
        assert answer.status_code == 403, answer.text
        assert "no fresh signature by ann" in answer.json()["found"]
    csrf = web.login("ann")
    form = {"ref": REF, "why": WHY, "csrf": csrf}
    assert web.client.post("/withdraw", data=form).status_code == 403
    assert web.client.post("/release/1", data={"csrf": csrf}).status_code == 403
    assert web.site.catalog.events("build/1", "released") == []
    assert web.site.catalog.events(REF, "withdrawn") == []


CHANGES: dict[str, dict[str, Any]] = {
    "another digest": {"digest": "0" * 64},
    "another subject": {"subject": "build/2"},
    "another act": {"act": "approved"},
    "another actor": {"actor": "dora"},
    "drafted long ago": {"at": "2026-01-01T00:00:00Z"},
    "drafted for later": {"at": "2999-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("position", [0, 1])
def test_a_release_that_was_signed_for_something_else_is_refused(
    web: Any, change: str, position: int
) -> None:
    approved(web)
    acts = web.statements("ann", DRAFT_RELEASE)
    changed = [*acts]
    changed[position] = acts[position] | CHANGES[change]
    for envelopes in (
        web.sealed(changed, "ann"),
        web.sealed(acts, "mallory"),
        web.sealed(acts, "ann")[position : position + 1],
    ):
        assert release(web, envelopes).status_code == 403
    assert web.site.catalog.events("build/1", "released") == []
    assert release(web, web.sealed(acts, "ann")).status_code == 200


def test_a_release_is_signed_anew_when_what_the_gate_is_told_has_changed(
    web: Any, governed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    approved(web)
    envelopes = web.sealed(web.statements("ann", DRAFT_RELEASE), "ann")
    for event in approving.standing_acts(web.site.catalog, "approved", "build/1"):
        approving.retract(governed.as_("dora"), event, web.keys["dora"], "read again")
    approved(web, "read again, and found good")
    assert "no fresh signature" in release(web, envelopes).json()["found"]
    envelopes = web.sealed(web.statements("ann", DRAFT_RELEASE), "ann")
    assert release(web, envelopes).status_code == 200
    assert release(web, envelopes).status_code == 403, "replayed"


def test_nothing_is_drafted_that_the_gate_refuses(web: Any) -> None:
    answer = web.client.get(DRAFT_RELEASE, headers=web.as_("ann"))
    assert (answer.status_code, "release/second-person" in answer.text) == (403, True)


def test_a_withdrawal_is_for_the_words_and_the_version_that_were_signed(web: Any) -> None:
    acts = web.statements("ann", DRAFT_WITHDRAWAL)
    assert withdraw(web, web.sealed(acts, "ann"), "for other reasons").status_code == 403
    for change in CHANGES.values():
        assert withdraw(web, web.sealed([acts[0] | change], "ann")).status_code == 403
    assert withdraw(web, web.sealed(acts, "mallory")).status_code == 403
    assert web.site.catalog.events(REF, "withdrawn") == []
    assert withdraw(web, web.sealed(acts, "ann")).status_code == 201
