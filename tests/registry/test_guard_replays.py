"""A signed act counts once: who can write events cannot use what others signed a second time."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.errors import Refused
from registry.governance import (
    adoption,
    approving,
    changes,
    gaps,
    keys,
    people,
    remarks,
    stating,
)
from registry.governance.changes import Change
from registry.governance.policy_files import load
from registry.records.events import Acted, Envelope
from registry.records.own_facts import FactSchema
from registry.records.version import Event

POLICIES = Path(__file__).parents[2] / "policies"
NC = "CC-BY-NC-4.0"


@pytest.fixture
def told(governed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ida audits, ben and cy approve, and ann registered build/1 under her key."""
    governed.person("ida", "auditor")
    adoption.adopt(governed.as_("ida"), load(POLICIES), governed.signer("ida"))
    governed.person("ann", "registrar", by="ida")
    for name in ("ben", "cy"):
        governed.person(name, "approver", by="ida")
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / "ann.pem"))
    governed.story()
    return governed


def spelled_anew(payload: str) -> str:
    """Return another text that base64 decodes to the same bytes, where there is one."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    end = payload.rstrip("=")
    other = end[:-1] + alphabet[alphabet.index(end[-1]) ^ 1] + payload[len(end) :]
    same = base64.b64decode(other) == base64.b64decode(payload)
    return other if same else payload


def replay(governed: Any, event: Event, *, respell: bool = False) -> Event:
    """Log an event again, as anybody can who opens the registry under its actor's name."""
    body = event.read(Acted)
    assert body.envelope is not None
    if respell:
        envelope = body.envelope
        text = spelled_anew(envelope.payload)
        body = body.model_copy(update={"envelope": envelope.model_copy(update={"payload": text})})
    documents = [governed.as_("ann").document(one) for one in body.documents]
    body = body.model_copy(update={"documents": ()})
    kind, subject = event.kind, event.subject
    again: Event = governed.as_(event.actor).event(body, subject, kind=kind, documents=documents)
    assert f"{subject}, event {again.seq}" in {gap.subject for gap in found(governed)}
    return again


def found(governed: Any) -> list[gaps.Gap]:
    return gaps.unsigned(governed.as_("ann"))[1]


@pytest.mark.parametrize("respell", [False, True])
def test_an_approval_that_was_taken_back_does_not_count_when_it_is_logged_again(
    told: Any, respell: bool
) -> None:
    build = told.as_("ann").get("build/1")
    event = approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    approving.retract(told.as_("ben"), event, told.signer("ben"), "wrong build")
    replay(told, event, respell=respell)
    assert approving.approvals(told.as_("ann"), build) == []
    approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    assert len(approving.approvals(told.as_("ann"), build)) == 1, "a new one counts"


def test_a_copy_with_another_signature_neither_counts_nor_keeps_the_act_itself_out(
    told: Any,
) -> None:
    from registry.governance import attestations

    build = told.as_("ann").get("build/1")
    event = approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    body = event.read(Acted)
    assert body.envelope is not None
    approving.retract(told.as_("ben"), event, told.signer("ben"), "wrong build")
    (signature,) = body.envelope.signatures
    junk = signature.model_copy(update={"sig": base64.b64encode(b"\0" * 64).decode()})
    both = body.envelope.model_copy(update={"signatures": (junk, signature)})
    told.as_("ben").event(body.model_copy(update={"envelope": both}), "build/1", kind="approved")
    assert approving.approvals(told.as_("ann"), build) == []
    act = approving.drafted(told.as_("ben"), "build/1", "ben")
    signed = attestations.sign(act.to_json(), told.signer("ben").key, people.ACT)
    genuine = Envelope.from_json(signed, "test")
    early = genuine.model_copy(update={"signatures": (junk,)})
    told.as_("ben").event(Acted(act=act, envelope=early), "build/1", kind="approved")
    approving.admit(told.as_("ben"), "build/1", genuine)
    assert len(approving.approvals(told.as_("ann"), build)) == 1


def test_a_waiver_that_was_taken_back_does_not_count_when_it_is_logged_again(told: Any) -> None:
    about = told.data_candidate("novels", license=NC)
    event = told.waive(told.signer("ben"), "licence/allowed", about, later())
    approving.retract(told.as_("ida"), event, told.signer("ida"), "counsel disagreed")
    replay(told, event)
    assert told.decide("register", about).outcome == "refused"


def later() -> str:
    return (datetime.now(UTC) + timedelta(days=10)).date().isoformat()


def test_who_was_taken_off_the_list_does_not_come_back_by_the_act_that_added_them(
    told: Any,
) -> None:
    ida, catalog = told.signer("ida"), told.as_("ida")
    added = catalog.events("actor/ben", "actor")[0]
    changes.change_actor(catalog, Change("ben", (), keys.public_pem(told.signer("ben"))), ida)
    replay(told, added)
    assert people.roll(catalog)["ben"].roles == ()


def test_policies_and_facts_that_were_replaced_do_not_come_back_by_an_older_act(
    told: Any,
) -> None:
    ida, catalog = told.signer("ida"), told.as_("ida")
    loose = [policy for policy in load(POLICIES) if policy.name != "release"]
    first = adoption.adopt(catalog, loose, ida)
    adoption.adopt(catalog, load(POLICIES), ida, why="nobody releases alone")
    replay(told, first)
    valid = adoption.adopted(catalog)
    assert valid is not None
    assert valid.digest == adoption.set_digest(load(POLICIES))
    assert adoption.all_adopted(catalog)[-1] == valid, "nor in the history that pages show"
    dpia = {"dpia": {"kinds": ["data"], "set_by": ["approver"]}}
    open_to_all = {"dpia": {"kinds": ["data"]}}
    declared = stating.declare(catalog, FactSchema.model_validate({"facts": open_to_all}), ida)
    stating.declare(catalog, FactSchema.model_validate({"facts": dpia}), ida)
    replay(told, declared)
    schema = stating.valid_schema(catalog)
    assert schema is not None
    assert schema.facts["dpia"].set_by == ("approver",)


def test_a_fact_that_was_amended_does_not_come_back_by_the_act_that_stated_it(told: Any) -> None:
    ida, ben = told.signer("ida"), told.signer("ben")
    schema = FactSchema.model_validate({"facts": {"dpia": {"kinds": ["data"]}}})
    stating.declare(told.as_("ida"), schema, ida)
    stated = stating.amend(told.as_("ben"), "data/law@1", {"dpia": "passed"}, "read it", ben)
    stating.amend(told.as_("ben"), "data/law@1", {"dpia": "failed"}, "read it again", ben)
    replay(told, stated)
    assert stating.own_facts_of(told.as_("ann"), "data/law@1")["dpia"].value == "failed"


def test_an_alias_that_is_moved_by_an_older_signature_is_found(told: Any) -> None:
    first = remarks.move_alias(told.as_("ann"), "production", "build/1")
    remarks.remove_alias(told.as_("ann"), "production", "not yet")
    assert found(told) == []
    told.as_("ann").event(first.read(type(first.read(remarks.AliasMoved))), "build/1")
    assert [gap.found for gap in found(told)] == [
        f"alias by ann, whose signature stands in event {first.seq} already"
    ]


def test_an_envelope_that_is_spelled_anew_is_no_new_act_at_the_pages_door(told: Any) -> None:
    from registry.governance import attestations

    person, catalog = told.signer("ben"), told.as_("ben")
    for spaces in range(3):
        act = approving.drafted(catalog, "build/1", "ben", "read it" + " " * spaces)
        signed = attestations.sign(act.to_json(), person.key, people.ACT)
        envelope = Envelope.from_json(signed, "test")
        other = spelled_anew(envelope.payload)
        # One length of three has one spelling alone.
        if other != envelope.payload:
            break
    assert other != envelope.payload
    approving.admit(catalog, "build/1", envelope)
    with pytest.raises(Refused, match="in the log already"):
        approving.admit(catalog, "build/1", envelope.model_copy(update={"payload": other}))
