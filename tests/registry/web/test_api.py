"""The API keeps to its own description; every write asks for its role; pages say the same."""

import html
import os
import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from registry.formats import FORMATS
from registry.records.answers.auditing import ExpertWeight, ExplainAnswer, ExplainedToken, Source
from registry.records.events import StageRan
from registry.records.facts import DataFacts, ExpertFacts
from registry.records.version import FileFact
from registry.web import history, views
from registry.web.relations import TRAIN
from registry.web.site import CHAIN_HOLDS_S

Web = Any  # conftest.py's
EXAMPLES = int(os.environ.get("BTX_EXAMPLES", "0")) or 5  # a long campaign sets the variable
HOST = {"host": "127.0.0.1:8765"}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def test_the_api_answers_as_it_says(web: Web) -> None:
    """Each role in turn gets no 5xx, and no status or form that is not described.

    Nonsense is refused, and without a token nothing is answered.
    """
    described = schemathesis.openapi.from_asgi(
        "/api/openapi.json", web.client.app, headers=HOST, config=SchemathesisConfig()
    )
    asked = []
    for found in described.get_all_operations():
        operation = found.ok()
        asked.append(operation.label)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            assert case.call(headers=HOST).status_code in (401, 404, 422), "without a token"
            for name in web.secrets:
                case.call_and_validate(
                    headers={**HOST, "authorization": f"Bearer {web.secrets[name]}"}, checks=CHECKS
                )

        ask()
    assert len(asked) >= 20


LONE = ("\\ud800", "a\\udfff", "\\udc00\\ud800")


@pytest.mark.parametrize("text", LONE)
def test_half_a_character_is_the_senders_mistake(web: Web, text: str) -> None:
    bodies = {
        "/api/withdrawals": f'{{"ref": "data/law@1", "why": "{text}"}}',
        "/api/audits": f'{{"ref": "{text}xxx"}}',
        "/api/explanations": f'{{"build": "build/1", "text": "{text}"}}',
    }
    for path, body in bodies.items():
        headers = web.as_("ann" if path == "/api/withdrawals" else "max", **JSON)
        assert web.client.post(path, content=body, headers=headers).status_code in (404, 422), path
    for query in ("kind=%00", "name=%ED%A0%80", "q=%00"):
        for page in ("/api/events", "/api/versions", "/events", "/search"):
            answer = web.client.get(f"{page}?{query}", headers=web.as_("eve"))
            assert answer.status_code < 500, (page, query, answer.text)


JSON = {"content-type": "application/json"}
WRITES = {
    "/api/audits": {"max"},
    "/api/withdrawals": {"ann", "dora", "max"},
    "/api/builds/{number}/release": {"ann"},
    "/api/builds/{number}/approvals": {"dora"},
    "/api/waivers": {"dora"},
    "/api/waivers/draft": {"dora"},
    "/api/retractions": {"dora", "max"},
    "/api/retractions/draft": {"dora", "max"},
    "/api/people": {"max"},
    "/api/people/draft": {"max"},
    "/api/erasures": {"ann", "dora", "max"},
    "/api/erasures/draft": {"ann", "dora", "max"},
    "/api/confirmations": {"dora", "max"},
    "/api/confirmations/draft": {"dora", "max"},
    "/api/documents-held": {"ann", "dora", "max"},
}


def test_every_write_asks_for_its_role_and_nothing_else_writes(web: Web) -> None:
    described = web.client.app.openapi()["paths"]
    posts = {path for path, methods in described.items() if methods.keys() - {"get"}}
    assert posts == {*WRITES, "/api/explanations"}
    for path, owners in WRITES.items():
        for name in web.secrets.keys() - owners:
            answer = web.client.post(path.format(number=1), json={}, headers=web.as_(name))
            assert answer.status_code == 403, (path, name)
            assert "role" in answer.json()["expected"]
        for name in owners:
            answer = web.client.post(path.format(number=99), json={}, headers=web.as_(name))
            assert answer.status_code in (404, 422), (path, name)


PAGES = [
    "/",
    "/builds",
    "/experts",
    "/data",
    "/expert/law/1",
    "/build/1",
    "/data/law/1",
    "/seed/base/1",
    "/snapshot/main/1",
    "/lineage",
    "/lineage?ref=data/law",
    "/impact",
    "/impact?ref=data/law@1",
    "/explain",
    "/audit",
    "/audit?kind=actor",
    "/approve",
    "/approve/1",
    "/waivers",
    "/due",
    "/policies",
    "/people",
    "/people?name=dora",
    "/erase",
]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_for_every_role_without_script_or_style_in_it(web: Web, path: str) -> None:
    for name in web.secrets:
        answer = web.client.get(path, headers=web.as_(name))
        assert answer.status_code == 200, answer.text[:400]
        assert not re.search(r"<script(?! src)|<style|\sstyle=|\son\w+=|javascript:", answer.text)
        assert not re.search(r"""(src|href|action)=["'](https?:)?//""", answer.text), (
            "nothing from elsewhere"
        )
    assert web.client.get(path, follow_redirects=False).headers["location"].startswith("/login")


def test_recorded_words_stay_words_on_every_page(web: Web, governed: Any) -> None:
    bad = '"><img src=x onerror=alert(1)>'
    governed.data("bad", source=bad, holder=bad)
    for path in ("/data/bad/1", "/impact?ref=data/bad@1", "/lineage?ref=data/bad@1", "/"):
        assert "<img" not in web.client.get(path, headers=web.as_("eve")).text
    assert "<img" not in web.client.get("/audit?subject=" + bad, headers=web.as_("eve")).text
    assert (
        bad in web.client.get("/api/data/bad/1", headers=web.as_("eve")).json()["facts"]["source"]
    )


def test_pages_tell_a_problem_as_the_api_does(web: Web) -> None:
    page, api_answer = (
        web.client.get(f"{start}/99", headers=web.as_("eve")) for start in ("/build", "/api/builds")
    )
    assert page.status_code == api_answer.status_code == 404
    assert api_answer.json()["subject"] in page.text


def test_every_file_that_a_page_offers_comes_as_a_file_that_no_browser_runs(web: Web) -> None:
    offered = set()
    for path in ("/build/1", "/expert/law/1", "/data/law/1", "/seed/base/1", "/snapshot/main/1"):
        links = re.findall(
            r'href="(/api/(?:reports|documents)/[^"]+)"',
            web.client.get(path, headers=web.as_("eve")).text,
        )
        for link in links:
            answer = web.client.get(html.unescape(link), headers=web.as_("eve"))
            assert answer.status_code == 200, (path, link, answer.text)
            if answer.headers["content-type"] == "application/json":
                answer.json()
            if "/reports/" in link:
                assert answer.headers["content-disposition"].startswith("attachment")
                assert answer.headers["content-security-policy"] == "sandbox"
        offered |= {link.split("/")[3].split("?")[0] for link in links}
    assert set(FORMATS) <= offered


def test_policies_and_evidence_of_a_gate_are_there_to_read(web: Web) -> None:
    gate = web.client.get("/api/builds/1", headers=web.as_("eve")).json()["gates"][0]
    policies, evidence = (
        web.client.get(f"/api/documents/{digest}", headers=web.as_("eve")).json()
        for digest in gate["documents"][:2]
    )
    assert policies["policies"]
    assert evidence["members"]


def test_approvals_come_as_they_were_signed(web: Web) -> None:
    envelope = web.signed("dora")
    web.client.post("/api/builds/1/approvals", json=envelope, headers=web.as_("dora"))
    assert web.client.get("/api/builds/1/approvals", headers=web.as_("eve")).json() == [envelope]
    assert "/api/builds/1/approvals" in web.client.get("/build/1", headers=web.as_("eve")).text


def test_what_breaks_is_told_in_the_same_form_with_the_same_headers(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "overview", lambda *given: 1 / 0)
    for path in ("/", "/api/overview"):
        answer = web.client.get(path, headers=web.as_("eve"))
        assert answer.status_code == 500
        assert "ZeroDivisionError" in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.fixture
def explained(web: Web) -> list[int]:
    """How many explanations ran at once, in place of a model."""
    running, most = [], []

    def explain(build: str, text: str) -> ExplainAnswer:
        running.append(text)
        most.append(len(running))
        time.sleep(0.05)
        running.remove(text)
        weight = ExpertWeight(ref="expert/law@1", weight=1.0)
        token = ExplainedToken(text=text, experts=(weight,), layers=((1.0,),))
        source = Source(ref="expert/law@1", share=1.0, data=("data/law@1",), licenses=("MIT",))
        return ExplainAnswer(
            build=build, status="evaluated", tokens=(token,), sources=(source,), shared=()
        )

    vars(web.site)["jobs"] = replace(web.site.jobs, explain=explain)
    return most


def test_explanations_run_one_after_another(web: Web, explained: list[int]) -> None:
    """What listens to a model hears every pass through it."""

    def ask(number: int) -> tuple[int, str]:
        answer = web.client.post(
            "/api/explanations",
            json={"build": "build/1", "text": f"text {number}"},
            headers=web.as_("eve"),
        )
        return number, answer.json()["tokens"][0]["text"]

    with ThreadPoolExecutor(4) as threads:
        assert [text for number, text in threads.map(ask, range(4))] == [
            f"text {number}" for number in range(4)
        ]
    assert max(explained) == 1


def test_an_explanation_is_found_again_by_who_asked_and_by_nobody_else(
    web: Web, explained: list[int]
) -> None:
    csrf = web.login("eve")
    form = {"build": "build/1", "text": "two\r\nlines", "csrf": csrf}
    where = web.client.post("/explain", data=form, follow_redirects=False).headers["location"]
    page = web.client.get(where).text
    assert page.count("two\nlines") == 3, "in the form, and twice as its one token"
    web.client.cookies.clear()
    web.login("ann")
    assert web.client.get(where).status_code == 404
    assert (
        web.client.get("/api/explanations/" + where.split("/")[-1] + "/stream").status_code == 404
    )


def test_an_audit_is_watched_to_its_end_and_found_again(web: Web) -> None:
    started = web.client.post("/api/audits", json={"ref": "build/1"}, headers=web.as_("max")).json()
    stream = web.client.get(f"/api/audits/{started['id']}/stream", headers=web.as_("eve")).text
    sent = [line for line in stream.splitlines() if line.startswith("data: ")]
    assert '"state": "done"' in sent[-1]
    again = web.client.get(f"/api/audits/{started['id']}", headers=web.as_("eve")).json()
    assert {check["name"] for check in again["checks"]} >= {"log", "rows", "files", "verdicts"}
    assert again["findings"], "the rows' files are not on this disk"
    assert web.client.get(f"/audit/{started['id']}", headers=web.as_("eve")).status_code == 200


def test_impact_names_the_rebuild_that_cures_it(web: Web) -> None:
    found = web.client.get("/api/impact?ref=data/law", headers=web.as_("eve")).json()
    assert found["builds"][0]["members"] == ["expert/law@1"]
    assert found["cure"] == {
        "build": "build/1",
        "keeps": [],
        "drops": ["expert/law@1"],
        "commands": ['btx withdraw data/law@1 --why "..."', TRAIN, "btx rebuild"],
    }


def test_impact_names_copies_that_no_lineage_names(web: Web) -> None:
    catalog = web.site.catalog
    file = FileFact("a.txt", 9, "7" * 64)
    for name in ("first", "second"):
        catalog.register(name, DataFacts(license="MIT", bytes=9), files=[file])
    why = "holds the same files, 100 %: withdraw it too"
    found = web.client.get("/api/impact?ref=data/first", headers=web.as_("eve")).json()
    assert [(one["ref"], one["why"]) for one in found["twins"]] == [("data/second@1", why)]
    assert why in web.client.get("/impact?ref=data/first", headers=web.as_("eve")).text


def test_events_are_filtered_and_paged(web: Web) -> None:
    first = web.client.get("/api/events?limit=3", headers=web.as_("eve")).json()
    assert [event["seq"] for event in first["events"]] == sorted(
        (event["seq"] for event in first["events"]), reverse=True
    )
    second = web.client.get(
        f"/api/events?limit=3&before={first['next']}", headers=web.as_("eve")
    ).json()
    assert second["events"][0]["seq"] == first["events"][-1]["seq"] - 1
    only = web.client.get("/api/events?subject=data/law", headers=web.as_("eve")).json()
    assert {event["subject"] for event in only["events"]} == {"data/law@1"}
    assert {event["words"] for event in only["events"] if event["kind"] == "verdict"} == {
        "register allowed"
    }


def test_versions_are_filtered_and_paged_by_name(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = web.site.catalog.get("expert/law", ExpertFacts).facts
    for name in ("tax", "law"):
        web.site.catalog.register(name, facts.model_copy(update={"note": name}))
    whole = ["expert/tax@1", "expert/law@2", "expert/law@1"]
    monkeypatch.setattr(views, "PAGE", 1)
    ask = lambda query: web.client.get(  # noqa: E731
        f"/api/versions/experts?{query}", headers=web.as_("eve")
    ).json()
    found = [ask(f"start={start}") for start in range(len(whole) + 1)]
    assert [[line["ref"] for line in page["versions"]] for page in found] == [
        *([ref] for ref in whole),
        [],
    ]
    assert {page["total"] for page in found} == {len(whole)}
    assert [line["ref"] for line in ask("text=law@1")["versions"]] == ["expert/law@1"]


def test_the_audit_page_tells_a_broken_chain_and_reads_an_unchanged_one_once(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, chain = [], history.chain
    monkeypatch.setattr(history, "chain", lambda *given: looks.append(1) or chain(*given))

    def open_() -> str:
        return web.client.get("/audit", headers=web.as_("eve")).text

    assert "unbroken" in open_()
    assert "unbroken" in open_()
    assert len(looks) == 1
    web.site.catalog.event(StageRan(state="started"), "build/1")
    assert "unbroken" in open_()
    assert len(looks) == 2, "another head"
    with sqlite3.connect(web.site.url.removeprefix("sqlite:///")) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE event SET actor = 'nobody' WHERE seq = 2")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + CHAIN_HOLDS_S + 1)
    assert "unbroken" not in (page := open_())
    assert "FAIL" in page


def test_a_withdrawal_without_a_reason_is_refused_however_it_is_signed(web: Any) -> None:
    acts = web.statements("ann", "/api/withdrawal-statement?ref=data/law@1&why=%20")
    sent = {"ref": "data/law@1", "why": " ", "envelopes": web.sealed(acts, "ann")}
    answer = web.client.post("/api/withdrawals", json=sent, headers=web.as_("ann"))
    assert answer.status_code == 422, answer.text
    assert "no reason" in answer.text
    assert web.site.catalog.status("data/law@1") == "registered"
