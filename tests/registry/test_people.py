"""Who signed what, and what of it counts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.errors import Conflict, Invalid, NotFound, Refused
from registry.governance import approving, attestations, changes, keys, people
from registry.records.events import Act, Acted, AnyBody, Envelope

SOON = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()


def test_an_approval_by_a_second_person_counts_once(governed: Any) -> None:
    build = governed.story()
    ben = governed.person("ben", "approver")
    for _ in range(2):
        approving.approve(governed.as_("ben"), "build/1", ben)
    assert [line.actor for line in approving.approvals(governed.as_("ann"), build)] == ["ben"]


def test_nobody_approves_what_they_registered_nor_without_the_role(governed: Any) -> None:
    governed.story()
    ann, cy = governed.person("ann", "approver", "registrar"), governed.person("cy", "registrar")
    with pytest.raises(Refused, match="a second person"):
        approving.approve(governed.as_("ann"), "build/1", ann)
    with pytest.raises(Refused, match="an approver"):
        approving.approve(governed.as_("cy"), "build/1", cy)
    with pytest.raises(Refused, match="one person"):
        approving.approve(governed.as_("ann"), "build/1", governed.person("ben", "approver"))


def test_an_approval_written_without_its_signers_key_does_not_count(governed: Any) -> None:
    build = governed.story()
    ben = governed.person("ben", "approver")
    mallory = keys.new_key("ben", governed.keys / "mallory.pem")
    with pytest.raises(Refused, match="as on the list of people"):
        approving.approve(governed.as_("ben"), "build/1", mallory)
    act = Act(
        act="approved",
        subject="build/1",
        digest=build.digest,
        actor="ben",
        at="2026-01-01T00:00:00Z",
        why="",
    )

    def signed(key: Any, kind: str = people.ACT, **change: str) -> Acted:
        """Return the event of the act, with a signature over an act that was changed so."""
        envelope = attestations.sign(act.to_json() | change, key, kind)
        return Acted(act=act, envelope=Envelope.from_json(envelope, "test"))

    forger = governed.as_("ben")
    forger.event(Acted(act=act), "build/1")
    forger.event(signed(mallory.key), "build/1")
    forger.event(signed(ben.key, subject="build/2"), "build/1")
    forger.event(signed(ben.key, digest="0" * 64), "build/1")
    # The right words under another type.
    forger.event(signed(ben.key, attestations.IN_TOTO), "build/1")
    governed.as_("ann").event(signed(ben.key), "build/1")
    assert approving.approvals(governed.as_("ann"), build) == []
    forger.event(signed(ben.key), "build/1")
    assert len(approving.approvals(governed.as_("ann"), build)) == 1


def test_what_was_signed_before_a_person_left_the_roll_still_counts_and_nothing_after(
    governed: Any,
) -> None:
    build = governed.story()
    governed.person("ben", "approver")
    cy = governed.person("cy", "approver")
    approving.approve(governed.as_("cy"), "build/1", cy)
    changes.change_actor(governed.as_("ann"), changes.Change("cy", (), keys.public_pem(cy)))
    assert [line.actor for line in approving.approvals(governed.as_("ann"), build)] == ["cy"]
    with pytest.raises(Refused):
        approving.approve(governed.as_("cy"), "build/1", cy)


def test_a_closed_roll_changes_by_an_auditors_signature_only(governed: Any) -> None:
    governed.person("ida", "auditor")
    with pytest.raises(Refused, match="auditor"):
        governed.person("mal", "approver")
    governed.person("ben", "approver", by="ida")
    catalog = governed.as_("mal")
    key = keys.new_key("mal", governed.keys / "mal2.pem")
    act = Act(
        act="actor",
        subject="actor/mal",
        roles=("approver",),
        public_key=keys.public_pem(key),
        at="2026-01-01T00:00:00Z",
    )
    # Past the functions of people: an event that nobody signed.
    catalog.event(Acted(act=act), "actor/mal", kind="actor")
    assert set(people.roll(catalog)) == {"ida", "ben"}


def test_an_act_that_cannot_be_read_is_left_out_and_the_others_count(governed: Any) -> None:
    build = governed.story()
    ben = governed.person("ben", "approver")
    approving.approve(governed.as_("ben"), "build/1", ben)
    for kind, subject in (("actor", "actor/mal"), ("actor", "actor/ben"), ("approved", "build/1")):
        for body in ({}, {"act": None}, {"act": {"act": kind}}, {"act": 7, "envelope": 7}):
            event = AnyBody.from_json(body, "test")
            governed.as_("ben").event(event, subject, kind=kind)
    keyless = Act(act="actor", subject="actor/eve", roles=("approver",), at="2026-01-01T00:00:00Z")
    governed.as_("ann").event(Acted(act=keyless), "actor/eve", kind="actor")
    governed.as_("eve").event(Acted(act=keyless), "build/1")
    assert set(people.roll(governed.as_("ann"))) == {"ben", "eve"}
    assert [line.actor for line in approving.approvals(governed.as_("ann"), build)] == ["ben"]


def granted(rule: str = "licence/allowed", subject: str = "data/x@1") -> approving.Grant:
    return approving.Grant(rule, subject, "0" * 64, {"license": "Other"})


def test_a_waiver_has_a_reason_and_an_end_within_a_year(governed: Any) -> None:
    ben = governed.person("ben", "approver")
    catalog = governed.as_("ben")
    for until in ("2020-01-01", "2999-01-01", "soon", ""):
        with pytest.raises(Invalid):
            approving.waive(catalog, granted(), ben, until=until, why="w")
    with pytest.raises(Invalid, match="no reason"):
        approving.waive(catalog, granted(), ben, until=SOON, why=" ")
    with pytest.raises(Invalid, match="POLICY/RULE"):
        approving.waive(catalog, granted(rule="licence"), ben, until=SOON, why="w")
    with pytest.raises(Invalid, match="no version"):
        approving.waive(catalog, granted(subject="data/x"), ben, until=SOON, why="w")
    approving.waive(catalog, granted(), ben, until=SOON, why="contract 4711")
    assert [w.until[:10] for w in approving.waivers(catalog, "data/x@1", "ann")] == [SOON]
    assert approving.waivers(catalog, "data/x@1", "ben") == [], (
        "whoever registers cannot lean on their own waiver"
    )


def test_a_key_file_is_its_owners_alone_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys" / "ann.pem"
    made = keys.new_key("ann", path)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(Conflict):
        keys.new_key("ann", path)
    monkeypatch.setenv("BTX_KEY_FILE", str(path))
    assert attestations.key_id(keys.signer("ann").key) == attestations.key_id(made.key)


def test_a_key_may_be_encrypted_or_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ann.pem"
    monkeypatch.setenv("BTX_KEY_PASSPHRASE", "correct horse")
    made = keys.new_key("ann", path)
    assert b"ENCRYPTED" in path.read_bytes()
    monkeypatch.setenv("BTX_KEY", path.read_text())
    assert attestations.key_id(keys.signer("ann").key) == attestations.key_id(made.key)
    monkeypatch.setenv("BTX_KEY_PASSPHRASE", "wrong")
    with pytest.raises(Invalid, match="BTX_KEY_PASSPHRASE"):
        keys.signer("ann")
    monkeypatch.delenv("BTX_KEY")
    with pytest.raises(NotFound):
        keys.signer("ann", tmp_path / "none.pem")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "-x", "x" * 65, "ann\n"])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        keys.key_file(name)
