"""People: one key is one person, the list stays closed, acts are signed and can be taken back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.errors import Refused
from registry.formats import collect, render
from registry.governance import (
    acts,
    adoption,
    approving,
    attestations,
    changes,
    contesting,
    gaps,
    keys,
    people,
)
from registry.governance.changes import Change
from registry.governance.policy_files import load
from registry.records.events import Act, Acted, Envelope, Released, Withdrawn
from registry.web.views import overview

POLICIES = Path(__file__).parents[2] / "policies"


def acting(governed: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the registry as this person opens it, with the key at hand."""
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / f"{name}.pem"))
    return governed.as_(name)


@pytest.fixture
def closed(governed: Any) -> Any:
    """ida audits, ann registers, ben and cy approve; the shipped policies were adopted."""
    governed.person("ida", "auditor")
    adoption.adopt(governed.as_("ida"), load(POLICIES), governed.signer("ida"))
    governed.person("ann", "registrar", by="ida")
    for name in ("ben", "cy"):
        governed.person(name, "approver", by="ida")
    return governed


@pytest.fixture
def told(closed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, with build/1 registered by ann under her key."""
    acting(closed, "ann", monkeypatch)
    closed.story()
    return closed


def test_one_key_is_one_person_also_years_later(closed: Any) -> None:
    """Not under a second name, not after its owner left, not one that was replaced."""
    ida, catalog = closed.signer("ida"), closed.as_("ida")
    pem = keys.public_pem(closed.signer("ann"))
    old = keys.public_pem(closed.signer("ben"))
    changes.change_actor(catalog, Change("ben", (), old), ida)
    for stolen in (pem, old):
        with pytest.raises(Refused, match="the key of"):
            changes.change_actor(catalog, Change("alias", ("approver",), stolen), ida)
    assert "alias" not in people.roll(catalog)


@pytest.mark.parametrize("order", ["private first", "public first", "private alone"])
def test_a_private_key_comes_into_no_list_and_no_log(
    governed: Any, tmp_path: Path, order: str
) -> None:
    """Whoever keeps the list could act as that person, and so could every reader of the log."""
    made = keys.new_key("dora", tmp_path / "dora.pem")
    private, public = (tmp_path / "dora.pem").read_text(), keys.public_pem(made)
    files = {"private first": private + public, "public first": public + private}
    change = Change("dora", ("approver",), files.get(order, private))
    with pytest.raises(Refused, match="private key"):
        changes.change_actor(governed.as_("ann"), change)
    assert people.roll(governed.as_("ann")) == {}


def test_of_the_file_of_a_key_only_the_key_comes_into_the_log(
    governed: Any, tmp_path: Path
) -> None:
    public = keys.public_pem(keys.new_key("dora", tmp_path / "dora.pem"))
    change = Change("dora", ("approver",), f"Dora Doe, born 1 May 1990\n{public}tel. 0123\n")
    changes.change_actor(governed.as_("ann"), change)
    assert people.roll(governed.as_("ann"))["dora"].public_key == public


def test_who_left_does_not_come_back_under_another_name_or_by_an_older_signature(
    closed: Any,
) -> None:
    ida, catalog = closed.signer("ida"), closed.as_("ida")
    pem = keys.public_pem(closed.signer("ben"))
    added = catalog.events(kind="actor")[-2]
    changes.change_actor(catalog, Change("ben", (), pem, None, "left the company"), ida)
    with pytest.raises(Refused, match="the key of ben"):
        changes.change_actor(catalog, Change("benjamin", ("approver",), pem), ida)
    closed.as_("ida").event(added.read(Acted), added.subject, kind="actor")
    assert people.roll(catalog)["ben"].roles == ()
    # One who left may come again, by an auditor.
    changes.change_actor(catalog, Change("ben", ("approver",), pem), ida)
    assert people.roll(catalog)["ben"].roles == ("approver",)


def test_a_registrars_own_key_under_another_name_approves_nothing(governed: Any) -> None:
    """Also where the list is open and the second name came past the program."""
    build = governed.story()
    ann = governed.person("ann", "registrar")
    pem = keys.public_pem(ann)
    alias = Act(act="actor", subject="actor/al", roles=("approver",), public_key=pem, at=acts.now())
    governed.as_("ann").event(Acted(act=alias), "actor/al", kind="actor")
    approving.approve(governed.as_("al"), "build/1", keys.Signer("al", ann.key))
    assert approving.approvals(governed.as_("ann"), build) == []
    ben = governed.person("ben", "approver")
    twice = alias.model_copy(update={"subject": "actor/ben2", "public_key": keys.public_pem(ben)})
    governed.as_("ann").event(Acted(act=twice), "actor/ben2", kind="actor")
    approving.approve(governed.as_("ben"), "build/1", ben)
    approving.approve(governed.as_("ben2"), "build/1", keys.Signer("ben2", ben.key))
    assert [line.actor for line in approving.approvals(governed.as_("ann"), build)] == ["ben"]


def test_the_last_auditor_cannot_leave_and_a_closed_list_stays_closed(closed: Any) -> None:
    ida, catalog = closed.signer("ida"), closed.as_("ida")
    pem = keys.public_pem(ida)
    for roles in ((), ("registrar",)):
        with pytest.raises(Refused, match="the last auditor"):
            changes.change_actor(catalog, Change("ida", roles, pem), ida)
    # Past the function: ida's own signed act does not open the list either.
    leave = Act(act="actor", subject="actor/ida", roles=(), public_key=pem, at=acts.now())
    acts.sign(catalog, leave, ida)
    assert people.is_closed(catalog)
    with pytest.raises(Refused):
        closed.person("mal", "approver")
    closed.person("eva", "auditor", by="ida")
    changes.change_actor(catalog, Change("ida", (), pem), ida)
    assert people.is_closed(catalog)


def test_what_a_stolen_key_signed_is_void_from_the_day_that_is_named(told: Any) -> None:
    build = told.as_("ann").get("build/1")
    approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    assert len(approving.approvals(told.as_("ann"), build)) == 1
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    pem = keys.public_pem(told.signer("ben"))
    ida, catalog = told.signer("ida"), told.as_("ida")
    changes.change_actor(catalog, Change("ben", ("approver",), pem, tomorrow, "not yet"), ida)
    assert len(approving.approvals(told.as_("ann"), build)) == 1
    changes.change_actor(catalog, Change("ben", ("approver",), pem, yesterday, "stolen"), ida)
    assert approving.approvals(told.as_("ann"), build) == []
    new = keys.new_key("ben2", told.keys / "ben2.pem")
    change = Change("ben", ("approver",), keys.public_pem(new), None, "a new key")
    changes.change_actor(catalog, change, ida)
    approving.approve(told.as_("ben"), "build/1", keys.Signer("ben", new.key))
    assert len(approving.approvals(told.as_("ann"), build)) == 1, "the new key counts"


def test_an_approval_or_a_waiver_is_taken_back_by_who_signed_it_or_an_auditor(told: Any) -> None:
    build = told.as_("ann").get("build/1")
    event = approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    with pytest.raises(Refused, match="ben, who signed it"):
        approving.retract(told.as_("cy"), event, told.signer("cy"), "I would not have")
    forged = Act(
        act="retracted",
        subject="build/1",
        digest=event.digest,
        actor="ben",
        why="w",
        at=acts.now(),
    )
    told.as_("ben").event(Acted(act=forged), "build/1", kind="retracted")
    assert len(approving.approvals(told.as_("ann"), build)) == 1, "nobody signed that"
    approving.retract(told.as_("ben"), event, told.signer("ben"), "wrong text")
    assert approving.approvals(told.as_("ann"), build) == []
    with pytest.raises(Refused, match="does not count"):
        approving.retract(told.as_("ben"), event, told.signer("ben"), "again")
    again = approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    assert len(approving.approvals(told.as_("ann"), build)) == 1, "a new one counts"
    approving.retract(told.as_("ida"), again, told.signer("ida"), "ben was away that day")
    assert approving.approvals(told.as_("ann"), build) == []


def test_a_withdrawal_needs_a_role_and_the_persons_key(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match="outsider would withdraw"):
        contesting.withdraw(told.as_("outsider"), "data/law@1", "because I can")
    monkeypatch.setenv("BTX_KEY_FILE", str(told.keys / "none.pem"))
    with pytest.raises(Refused, match="no key of ben"):
        contesting.withdraw(told.as_("ben"), "data/law@1", "in the name of ben")
    monkeypatch.setenv("BTX_KEY_FILE", str(told.keys / "ann.pem"))
    with pytest.raises(Refused, match="not ben's"):
        contesting.withdraw(told.as_("ben"), "data/law@1", "with another key")
    assert told.as_("ann").status("data/law@1") == "registered"
    for name in ("ann", "ben", "ida"):
        contesting.withdraw(acting(told, name, monkeypatch), "data/law@1", "consent ended")
    assert told.as_("ann").status("build/1") == "tainted"
    assert gaps.unsigned(told.as_("ann"))[1] == []


def test_acts_that_nobody_signed_are_found_whether_they_count_or_not(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = told.as_("ann")
    examined, found = gaps.unsigned(catalog)
    assert (examined >= 6, found) == (True, [])
    forger = told.as_("ben")
    forger.event(Withdrawn(why="because I can"), "data/law@1")
    forger.event(Released(verdict="allowed"), "build/1")
    approval = Act(act="approved", subject="build/1", actor="ben", at=acts.now())
    forger.event(Acted(act=approval), "build/1")
    pem = keys.public_pem(keys.new_key("mal", told.keys / "mal.pem"))
    join = Act(act="actor", subject="actor/mal", roles=("auditor",), public_key=pem, at="2026")
    told.as_("mal").event(Acted(act=join), "actor/mal", kind="actor")
    # A signature over another act, by the right person.
    other = attestations.sign(
        Act(act="withdrawn", subject="data/other@1", actor="ben", at=acts.now()).to_json(),
        told.signer("ben").key,
        people.ACT,
    )
    body = Withdrawn(why="w", envelope=Envelope.from_json(other, "test"))
    forger.event(body, "seed/base@1")
    subjects = [gap.subject.split(",")[0] for gap in gaps.unsigned(catalog)[1]]
    assert subjects == ["data/law@1", "build/1", "build/1", "actor/mal", "seed/base@1"]


def test_a_verdict_in_anothers_name_is_found(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ben writes as ann, by a name that anybody can set: the signature is not hers."""
    from registry.governance import gate
    from registry.records.events import Judged

    logged = gate.verdicts(told.as_("ann"), "data/law@1")[-1].read(Judged)
    as_ann = acts.vouched(
        acting(told, "ben", monkeypatch), "verdict", "data/law@1", logged.documents[1]
    )
    told.as_("ann").event(logged.model_copy(update={"envelope": as_ann}), "data/law@1")
    told.as_("ann").event(logged.model_copy(update={"envelope": None}), "data/law@1")
    found = [gap.found for gap in gaps.unsigned(told.as_("ann"))[1]]
    assert found == ["verdict in the name of ann, without their signature"] * 2
    swapped = (logged.documents[0], logged.documents[0])
    fresh = acts.vouched(
        acting(told, "ann", monkeypatch), "verdict", "data/law@1", logged.documents[1]
    )
    change = {"documents": swapped, "envelope": fresh}
    told.as_("ann").event(logged.model_copy(update=change), "data/law@1")
    found = [gap.found for gap in gaps.unsigned(told.as_("ann"))[1]]
    assert found == ["verdict in the name of ann, without their signature"] * 3


def test_an_older_registry_is_not_asked_for_signatures_that_it_could_not_have(
    governed: Any,
) -> None:
    governed.person("ida", "auditor")
    governed.as_("ann").event(Withdrawn(why="w"), "data/law@1")
    assert gaps.unsigned(governed.as_("ann")) == (0, [])


OPEN = "The list of actors is open: names and approvals prove nobody."


def test_an_approval_on_an_open_list_is_told_to_prove_nobody(governed: Any) -> None:
    governed.story()
    approving.approve(governed.as_("ben"), "build/1", governed.person("ben", "approver"))
    assert OPEN in render(collect(governed.as_("ann"), "build/1"), "md")
    assert overview(governed.as_("ann")).open_list is True


def test_a_closed_list_is_not_told_to_be_open(told: Any) -> None:
    assert OPEN not in render(collect(told.as_("ann"), "build/1"), "md")
    assert overview(told.as_("ann")).open_list is False


def test_who_came_on_an_open_list_is_told_until_an_auditor_signs_for_them(governed: Any) -> None:
    """Somebody may have put a second name of their own on it before the list was kept."""
    roll = people.Roll
    for name in ("ann", "alias"):
        governed.person(name, "approver")
    assert roll.read(governed.as_("ann")).unconfirmed() == []
    governed.person("ida", "auditor")
    catalog, ida = governed.as_("ida"), governed.signer("ida")
    assert roll.read(catalog).unconfirmed() == ["alias", "ann"]
    pem = {name: keys.public_pem(governed.signer(name)) for name in ("ann", "alias")}
    # What nobody signed confirms nobody.
    join = Act(
        act="actor",
        subject="actor/alias",
        roles=("approver",),
        public_key=pem["alias"],
        at=acts.now(),
    )
    governed.as_("alias").event(Acted(act=join), "actor/alias", kind="actor")
    changes.change_actor(catalog, Change("ann", ("approver",), pem["ann"]), ida)
    assert roll.read(catalog).unconfirmed() == ["alias"]
    changes.change_actor(catalog, Change("alias", (), pem["alias"], None, "who is that?"), ida)
    assert roll.read(catalog).unconfirmed() == []


def test_a_change_that_does_not_count_makes_nobody_of_two_people_one(told: Any) -> None:
    """Somebody logs that ann and mallory have ben's key; no auditor signs it."""
    approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    build = told.as_("ann").get("build/1")
    pem = keys.public_pem(told.signer("ben"))
    for name in ("ann", "mallory"):
        act = Act(
            act="actor",
            subject=f"actor/{name}",
            roles=("registrar",),
            public_key=pem,
            at=acts.now(),
        )
        told.as_("cy").event(Acted(act=act), act.subject, kind="actor")
    assert len(gaps.unsigned(told.as_("ann"))[1]) == 2
    assert [one.actor for one in approving.approvals(told.as_("ann"), build)] == ["ben"]
    changes.change_actor(told.as_("ida"), Change("ben", (), pem), told.signer("ida"))
    assert people.roll(told.as_("ann"))["ben"].roles == ()


@pytest.mark.parametrize("by", ["ida", "mal"])
def test_what_a_stolen_auditors_key_revoked_is_void_too(told: Any, by: str) -> None:
    """The thief acts as ida, or puts mal on the list, who revokes ben's key."""
    told.person("max", "auditor", by="ida")
    approving.approve(told.as_("ben"), "build/1", told.signer("ben"))
    build = told.as_("ann").get("build/1")
    stolen = datetime.now(UTC).isoformat()
    if by == "mal":
        told.person("mal", "auditor", by="ida")
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    pem = keys.public_pem(told.signer("ben"))
    revoked = Change("ben", ("approver",), pem, yesterday, "stolen, they say")
    changes.change_actor(told.as_(by), revoked, told.signer(by))
    assert approving.approvals(told.as_("ann"), build) == []
    new = keys.public_pem(keys.new_key("ida2", told.keys / "ida2.pem"))
    named = Change("ida", ("auditor",), new, stolen, "stolen")
    changes.change_actor(told.as_("max"), named, told.signer("max"))
    assert [one.actor for one in approving.approvals(told.as_("ann"), build)] == ["ben"]
