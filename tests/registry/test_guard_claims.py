"""A verdict is given by what the log and the rows say, and not by what its writer says of them.

Whoever registers can write a verdict by the registry's own functions and sign it with their own
key: the policies are the adopted ones, and judging them again agrees. What it says is a lie.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import collect_evidence
from registry.governance import acts, adoption, approving, gaps, gate, people, stating
from registry.governance.policies import load
from registry.records.facts import BuildFacts
from registry.records.own_facts import FactSchema

POLICIES = Path(__file__).parents[2] / "policies"
NC = "CC-BY-NC-4.0"
Lie = Callable[[dict[str, Any]], Mapping[str, Any]]


@pytest.fixture
def told(governed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ida audits, ben approves, ann registers under her key."""
    governed.person("ida", "auditor")
    adoption.adopt(governed.as_("ida"), load(POLICIES), governed.signer("ida"))
    governed.person("ann", "registrar", by="ida")
    governed.person("ben", "approver", by="ida")
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / "ann.pem"))
    return governed


def lying(told: Any, question: gate.Question, lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log a verdict on evidence that says something else than the log and the rows."""
    completed = gate._completed

    def changed(*args: Any) -> Any:
        evidence, waivers = completed(*args)
        return {**evidence, **lie(evidence)}, waivers

    with monkeypatch.context() as patch:
        patch.setattr(gate, "_completed", changed)
        assert gate.decide(told.as_("ann"), question).outcome in ("allowed", "waived")


def release(told: Any, at: datetime | None = None) -> gate.Question:
    catalog = told.as_("ann")
    about = collect_evidence.of_build(catalog, catalog.get("build/1", BuildFacts), None)
    question: gate.Question = told.question("release", about, at)
    return question


def released(told: Any) -> list[str]:
    """Log the release of build/1, signed; return what is found of it."""
    from registry.records.events import Released

    catalog = told.as_("ann")
    envelope = acts.vouched(catalog, "released", "build/1", catalog.get("build/1").digest)
    catalog.event(Released(verdict="allowed", envelope=envelope), "build/1")
    assert gaps.unsigned(catalog)[1] == [], "she signs what she says"
    return [gap.found for gap in gaps.ungated(catalog, "build/1")]


def approved(told: Any) -> Any:
    return approving.approve(told.as_("ben"), "build/1", told.signer("ben"))


def line(event_at: str) -> dict[str, Any]:
    return {"actor": "ben", "at": event_at, "roles": ["approver"]}


def with_data(evidence: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return members whose data is said to be something else."""
    members = [
        {**member, "data": [{**one, **change} for one in member["data"]]}
        for member in evidence["members"]
    ]
    return {"members": members}


LIES: Mapping[str, tuple[Lie, str]] = {
    "registrar": (lambda e: {"registrar": "zed"}, "registrar 'zed'"),
    "roles of who asks": (
        lambda e: {"actor": {**e["actor"], "roles": ["approver", "registrar"]}},
        "roles",
    ),
    "an open list": (lambda e: {"actor": {**e["actor"], "roll": "open"}}, "roll 'open'"),
    "another who asks": (lambda e: {"actor": {**e["actor"], "name": "ben"}}, "name 'ben'"),
    "another source": (lambda e: with_data(e, source="ours"), "source 'ours'"),
    "another end": (lambda e: with_data(e, retain_until="2099-01-01"), "retain_until '2099"),
    "another holder": (lambda e: with_data(e, holder="us"), "holder 'us'"),
    "a fact of its data": (lambda e: with_data(e, own={"dpia": "passed"}), "own fact dpia"),
    "an own fact": (lambda e: {"own": {"reviewed": "yes"}}, "own fact reviewed"),
    "one of the company": (lambda e: {"organisation": {"dpo": "yes"}}, "own fact dpo"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_release_by_a_verdict_that_lies_is_found(
    told: Any, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.story()
    approved(told)
    lying(told, release(told), LIES[lie][0], monkeypatch)
    (found,) = released(told)
    assert LIES[lie][1] in found


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_release_by_an_approval_that_nobody_gave_or_that_was_taken_back_is_found(
    told: Any, taken_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.story()
    at = acts.now()
    if taken_back:
        event = approved(told)
        approving.retract(told.as_("ben"), event, told.signer("ben"), "wrong build")
        at = event.at
    lying(told, release(told), lambda e: {"approvals": [line(at)]}, monkeypatch)
    assert released(told) == ["judged on an approval by ben that did not stand by then"]


def test_an_honest_release_is_found_fault_with_by_nobody_whatever_comes_after_it(
    told: Any,
) -> None:
    schema = {"facts": {"dpia": {"kinds": ["data"]}, "dpo": {"kinds": ["organisation"]}}}
    stating.declare(told.as_("ida"), FactSchema.model_validate(schema), told.signer("ida"))
    told.story()
    stating.amend(told.as_("ann"), "data/law@1", {"dpia": "passed"}, "read", told.signer("ann"))
    stating.amend(told.as_("ann"), "organisation", {"dpo": "yes"}, "new", told.signer("ann"))
    event = approved(told)
    assert gate.decide(told.as_("ann"), release(told)).outcome == "allowed"
    assert released(told) == []
    stating.amend(told.as_("ann"), "data/law@1", {"dpia": "failed"}, "again", told.signer("ann"))
    approving.retract(told.as_("ben"), event, told.signer("ben"), "for the next one")
    told.person("cy", "approver", by="ida")
    assert [gap.found for gap in gaps.ungated(told.as_("ann"), "build/1")] == []


def test_a_corpus_that_was_let_in_by_a_waiver_that_was_taken_back_is_found(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = (datetime.now(UTC) + timedelta(days=10)).date().isoformat()
    about = told.data_candidate("novels", license=NC)
    event = told.waive(told.signer("ben"), "licence/allowed", about, until)
    held = approving.waivers(told.as_("ann"), "data/novels@1", "ann")
    approving.retract(told.as_("ida"), event, told.signer("ida"), "counsel disagreed")
    completed = gate._completed
    with monkeypatch.context() as patch:
        patch.setattr(gate, "_completed", lambda *args: (completed(*args)[0], held))
        assert told.decide("register", about).outcome == "waived"
    catalog = told.as_("ann")
    facts = told.data_facts(domain="novels", license=NC)
    catalog.register("novels", facts, files=[told.file_of("novels")])
    (gap,) = gaps.ungated(catalog, "data/novels@1")
    assert "is no signed act" in gap.found


def test_a_verdict_of_another_time_than_it_was_logged_at_is_found(told: Any) -> None:
    """Data whose end is past asks as of a day before it."""
    facts = {"retain_until": "2020-12-31"}
    about = told.data_candidate("law", **facts)
    assert told.decide("register", about).outcome == "refused"
    back = datetime(2020, 6, 1, tzinfo=UTC)
    assert told.decide("register", about, back).outcome == "allowed"
    catalog = told.as_("ann")
    catalog.register("law", told.data_facts(domain="law", **facts), files=[told.file_of("law")])
    (gap,) = gaps.ungated(catalog, "data/law@1")
    assert "judged as of 2020-06-01" in gap.found


def test_an_act_that_was_signed_long_before_it_was_logged_is_found(told: Any) -> None:
    """Somebody kept an approval that its signer never sent, and logs it at a better time."""
    from registry.governance import attestations
    from registry.records.events import Acted, Envelope

    told.story()
    act = approving.drafted(told.as_("ben"), "build/1", "ben")
    act = act.model_copy(update={"at": "2026-01-01T08:00:00Z"})
    envelope = attestations.sign(act.to_json(), told.signer("ben").key, people.ACT)
    body = Acted(act=act, envelope=Envelope.from_json(envelope, "test"))
    told.as_("ben").event(body, "build/1", kind="approved")
    (gap,) = gaps.unsigned(told.as_("ann"))[1]
    assert "signed at 2026-01-01T08:00:00Z" in gap.found
