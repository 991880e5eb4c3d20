"""Attempts to get in or to step up: all refused, and none changes anything."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

Web = Any  # conftest.py's
HOST = "127.0.0.1:8765"
Try = Callable[[Web], Any]
APPROVE, AUDIT, WITHDRAW, RELEASE = (
    "/api/builds/1/approvals",
    "/api/audits",
    "/api/withdrawals",
    "/api/builds/1/release",
)
GONE = {"ref": "data/law@1", "why": "because"}


def stale(web: Web) -> dict[str, Any]:
    old = (datetime.now(UTC) - timedelta(minutes=16)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return web.signed("dora", at=old)


def unsigned(web: Web) -> dict[str, Any]:
    """The payload says another thing than what was signed."""
    envelope = web.signed("dora")
    act = json.loads(base64.b64decode(envelope["payload"])) | {"why": "changed on the way"}
    return envelope | {"payload": base64.b64encode(json.dumps(act).encode()).decode()}


def approve(name: str, envelope: Callable[[Web], dict[str, Any]]) -> Try:
    return lambda web: web.client.post(APPROVE, json=envelope(web), headers=web.as_(name))


def session_post(name: str, path: str, form: dict[str, str], **headers: str) -> Try:
    def attempt(web: Web) -> Any:
        csrf = web.login(name)
        filled = {key: value.replace("CSRF", csrf) for key, value in form.items()}
        return web.client.post(path, data=filled, headers=headers, follow_redirects=False)

    return attempt


def revoked(web: Web) -> Any:
    web.site.tokens.revoke(next(token.id for token in web.site.tokens.all() if token.name == "ann"))
    return web.client.post(WITHDRAW, json=GONE, headers=web.as_("ann"))


def ended(web: Web) -> Any:
    secret, _ = web.site.tokens.issue("ann", ["registrar"], days=1e-9)
    return web.client.post(WITHDRAW, json=GONE, headers={"authorization": f"Bearer {secret}"})


def after_leaving(web: Web) -> Any:
    csrf = web.login("ann")
    cookie = web.client.cookies["btx"]
    web.client.post("/logout", data={"csrf": csrf}, follow_redirects=False)
    return web.client.post(
        "/withdraw",
        data=GONE | {"csrf": csrf},
        headers={"cookie": f"btx={cookie}"},
        follow_redirects=False,
    )


def others_csrf(web: Web) -> Any:
    csrf = web.login("eve")
    web.client.cookies.clear()
    web.login("ann")
    return web.client.post("/withdraw", data=GONE | {"csrf": csrf}, follow_redirects=False)


def session_without_word(web: Web) -> Any:
    web.login("ann")
    return web.client.post(WITHDRAW, json=GONE)


def stored_hash(web: Web) -> Any:
    digest = next(token.sha256 for token in web.site.tokens.all() if token.name == "ann")
    return web.client.get("/api/me", headers={"authorization": f"Bearer {digest}"})


def get(path: str, name: str | None = "eve", **headers: str) -> Try:
    return lambda web: web.client.get(
        path, headers=(web.as_(name) if name else {}) | headers, follow_redirects=False
    )


def post(path: str, body: Any, name: str | None, **headers: str) -> Try:
    return lambda web: web.client.post(
        path, json=body, headers=(web.as_(name) if name else {}) | headers
    )


def endless(web: Web) -> Any:
    """No length is announced."""
    return web.client.post(
        "/api/explanations", content=(b"x" * 4096 for _ in range(64)), headers=web.as_("eve")
    )


ATTEMPTS: dict[str, tuple[Try, set[int]]] = {
    # no token, or none that holds
    "read without a token": (get("/api/overview", None), {401}),
    "a page without a token": (get("/", None), {303}),
    "a made-up token": (get("/api/me", None, authorization="Bearer " + "A" * 43), {401}),
    "the hash of a token, as it is stored": (stored_hash, {401}),
    "an empty token": (get("/api/me", None, authorization="Bearer "), {401}),
    "another scheme": (get("/api/me", None, authorization="Basic YW5uOmFubg=="), {401}),
    "a made-up session": (get("/api/me", None, cookie="btx=" + "A" * 43), {401}),
    "a token in the address": (
        lambda web: web.client.get(f"/api/me?token={web.secrets['ann']}"),
        {401},
    ),
    "a token that has ended": (ended, {401}),
    "a revoked token": (revoked, {401}),
    "a session after leaving": (after_leaving, {303}),
    "login with a wrong token": (
        lambda web: web.client.post("/login", data={"token": "nothing"}),
        {401},
    ),
    # another role
    "a viewer withdraws": (post(WITHDRAW, GONE, "eve"), {403}),
    "an approver withdraws": (post(WITHDRAW, GONE, "dora"), {403}),
    "an auditor releases": (post(RELEASE, None, "max"), {403}),
    "a registrar audits": (post(AUDIT, {"ref": "build/1"}, "ann"), {403}),
    "a viewer drafts an approval": (get("/api/builds/1/statement"), {403}),
    "a viewer hands in an approver's signature": (
        approve("eve", lambda web: web.signed("dora")),
        {403},
    ),
    "a viewer's form withdraws": (session_post("eve", "/withdraw", GONE | {"csrf": "CSRF"}), {403}),
    "a viewer's form starts an audit": (
        session_post("eve", "/audit", {"ref": "build/1", "csrf": "CSRF"}),
        {403},
    ),
    "release of what nobody approved": (post(RELEASE, None, "ann"), {403}),
    "a role named in the request": (
        post(WITHDRAW, GONE | {"roles": ["registrar"]}, "eve", **{"x-role": "registrar"}),
        {403, 422},
    ),
    # signatures
    "an approval signed by another key": (
        approve("dora", lambda web: web.signed("dora", key="mallory")),
        {403},
    ),
    "an approval in another's name": (
        approve("dora", lambda web: web.signed("dora", actor="max")),
        {403},
    ),
    "an approval of another digest": (
        approve("dora", lambda web: web.signed("dora", digest="0" * 64)),
        {403},
    ),
    "an approval of another build": (
        approve("dora", lambda web: web.signed("dora", subject="build/2")),
        {403},
    ),
    "an approval drafted long ago": (approve("dora", stale), {403}),
    "an approval changed after signing": (approve("dora", unsigned), {403}),
    "an envelope with more in it": (
        approve("dora", lambda web: web.signed("dora") | {"roles": ["auditor"]}),
        {422},
    ),
    # other sites
    "a forged Host": (get("/api/me", host="evil.example"), {400}),
    "our name with another port": (get("/api/me", host="127.0.0.1:1"), {400}),
    "a rebound name": (get("/api/me", host="127.0.0.1.evil.example:8765"), {400}),
    "a cross-site post": (
        session_post("ann", "/withdraw", GONE | {"csrf": "CSRF"}, origin="https://evil.example"),
        {403},
    ),
    "a post of a sandboxed frame": (
        session_post("ann", "/withdraw", GONE | {"csrf": "CSRF"}, origin="null"),
        {403},
    ),
    "a post that the browser calls cross-site": (
        session_post(
            "ann", "/withdraw", GONE | {"csrf": "CSRF"}, **{"sec-fetch-site": "cross-site"}
        ),
        {403},
    ),
    "a form without the session's word": (session_post("ann", "/withdraw", GONE), {403}),
    "a form with another session's word": (others_csrf, {403}),
    "the API by cookie without the word": (session_without_word, {403}),
    # paths and sizes
    "a path out of the static folder": (get("/static/../../access.py"), {404}),
    "an encoded path out of it": (get("/static/%2e%2e/%2e%2e/access.py"), {404}),
    "a reference with a path": (get("/api/lineage?ref=data/../../../etc/passwd"), {404, 422}),
    "a report in a made-up form": (get("/api/reports/..%2f..%2fetc?ref=build/1"), {404, 422}),
    "SQL in a filter": (get("/api/versions/experts?text=';DROP TABLE version;--&start=-1"), {422}),
    "an oversized body": (
        post("/api/explanations", {"build": "build/1", "text": "x" * 200_000}, "eve"),
        {413},
    ),
    "an oversized body without a length": (endless, {413}),
    "another method": (
        lambda web: web.client.delete("/api/builds/1", headers=web.as_("ann")),
        {405},
    ),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_to_get_in_or_step_up_is_refused_and_changes_nothing(
    web: Web, attempt: str
) -> None:
    before = len(web.site.catalog.events())
    answer = ATTEMPTS[attempt][0](web)
    assert answer.status_code in ATTEMPTS[attempt][1], answer.text[:300]
    if answer.status_code == 303:
        assert answer.headers["location"].startswith("/login")
    assert "version_num" not in answer.text
    assert {event.kind for event in web.site.catalog.events()[before:]} <= {"refused"}, (
        "a gate's own no is the only trace"
    )
    assert web.site.audits.all() == []


def test_there_are_at_least_thirty_attempts() -> None:
    assert len(ATTEMPTS) >= 30


def test_a_login_leads_only_inside(web: Web) -> None:
    for then in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        answer = web.client.post(
            "/login", data={"token": web.secrets["eve"], "then": then}, follow_redirects=False
        )
        assert answer.headers["location"] == "/"


def test_the_same_acts_with_role_signature_and_word_are_done(web: Web) -> None:
    """The alarm: what the table refuses is refused for its own reason alone."""
    envelope = web.signed("dora")
    done = web.client.post(APPROVE, json=envelope, headers=web.as_("dora"))
    assert (done.status_code, done.json()["by"]) == (201, "dora")
    again = web.client.post(APPROVE, json=envelope, headers=web.as_("dora"))
    assert (again.status_code, "in the log already" in again.text) == (403, True), (
        "a replayed approval"
    )
    acts = web.sealed(web.statements("ann", "/api/builds/1/release-statement"), "ann")
    released = web.client.post(RELEASE, json={"envelopes": acts}, headers=web.as_("ann"))
    assert (released.status_code, released.json()["status"]) == (200, "released"), released.text
    acts = web.sealed(
        web.statements("ann", f"/api/withdrawal-statement?ref={GONE['ref']}&why={GONE['why']}"),
        "ann",
    )
    csrf = web.login("ann")
    withdrawn = web.client.post(
        WITHDRAW,
        json=GONE | {"envelopes": acts},
        headers={"origin": f"http://{HOST}", "x-csrf": csrf},
    )
    assert (withdrawn.status_code, withdrawn.json()["by"]) == (201, "ann"), withdrawn.text
    assert (
        web.client.post(AUDIT, json={"ref": "build/1"}, headers=web.as_("max")).status_code == 202
    )


def test_every_answer_carries_the_headers_that_keep_other_sites_out(web: Web) -> None:
    for answer in (
        web.client.get("/login"),
        web.client.get("/api/me"),
        web.client.get("/static/btx.js"),
        web.client.get("/", headers={"host": "x"}),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
    login = web.client.post("/login", data={"token": web.secrets["eve"]}, follow_redirects=False)
    assert "httponly" in login.headers["set-cookie"].lower()
    assert "samesite=strict" in login.headers["set-cookie"].lower()
