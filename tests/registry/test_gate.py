"""What a gate refused, or never saw, is found; a verdict can be given again."""

import json
import os
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.catalogue.rows import Event
from registry.digest import canonical_json
from registry.governance import gate, people
from registry.governance.policies import load, moment

POLICIES = load(Path(__file__).parents[2] / "policies")
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["ref", "data", "x"]), inner, max_size=3),
    ),
    max_leaves=8,
)


def rules(verdict: Any) -> list[str]:
    return [rule.name for rule in verdict.refusals()]


def days(governed: Any, number: int) -> str:
    return (governed.at + timedelta(days=number)).date().isoformat()


def test_a_whole_story_through_the_gates_leaves_no_gap(governed: Any) -> None:
    governed.story()
    assert gate.ungated(governed.as_("ann"), "build/1") == []


def test_a_refused_candidate_leaves_an_event_with_reason_and_remedy_and_no_row(
    governed: Any,
) -> None:
    verdict = governed.decide("register", _data_evidence(license=None))
    assert rules(verdict) == ["licence/stated"]
    (event,) = gate.verdicts(governed.as_("ann"), "data/x@1")
    assert event.kind == "refused"
    reason = {
        "rule": "licence/stated",
        "message": "data/x@1 has no licence",
        "remedy": "state the licence it came under with --license SPDX-ID",
    }
    assert event.body["reasons"] == [reason]
    assert governed.as_("ann").status("data/x@1") == "refused"
    assert governed.as_("ann").list("data") == []


def test_what_was_registered_past_the_gate_is_found(governed: Any) -> None:
    governed.seed()
    data = governed.data()
    catalog = governed.as_("ann")
    facts = {
        "seed": "seed/base@1",
        "data": [str(data.ref)],
        "licenses": ["CC0-1.0"],
        "mode": "anchored",
        "preflight": {"finite": True},
    }
    smuggled = catalog.register(
        "expert", "law", facts, parents=[("seed/base@1", "branched_from"), (data.ref, "trained_on")]
    )
    governed.build(
        smuggled
    )  # the fixture registers whatever the gate says, as a caller of the API could
    assert {(gap.subject, gap.found) for gap in gate.ungated(catalog, "build/1")} == {
        ("expert/law@1", "no verdict of gate register"),
        ("build/1", "refused at gate build: standing/gated"),
    }


def test_a_refused_expert_that_was_registered_all_the_same_is_found(governed: Any) -> None:
    governed.seed()
    bad = governed.data(
        "law", license="CC-BY-NC-4.0"
    )  # the fixture registers whatever the gate says, as a caller of the API could
    governed.build(governed.expert(bad))
    gaps = gate.ungated(governed.as_("ann"), "build/1")
    assert {(gap.subject, gap.found) for gap in gaps} == {
        ("data/law@1", "refused at gate register: licence/allowed"),
        ("expert/law@1", "refused at gate register: expert-data/gated"),
        ("build/1", "refused at gate build: standing/gated"),
    }


def test_rows_written_by_sql_are_found(governed: Any, tmp_path: Any) -> None:
    governed.story()
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        (snapshot,) = connection.execute(
            "SELECT id FROM version WHERE kind = 'snapshot'"
        ).fetchone()
        row = connection.execute("SELECT * FROM version WHERE kind = 'expert'").fetchone()
        connection.execute(
            "INSERT INTO version VALUES (900, 'expert', 'evil', 1, ?, ?, 'ann', ?)",
            (*row[4:6], row[7]),
        )
        connection.execute("INSERT INTO edge VALUES (?, 900, 'member')", (snapshot,))
    assert "expert/evil@1" in [gap.subject for gap in gate.ungated(governed.as_("ann"), "build/1")]


def test_a_verdict_on_other_facts_than_the_registered_ones_is_found(governed: Any) -> None:
    governed.seed()
    catalog = governed.as_("ann")
    governed.decide("register", _data_evidence(license="CC0-1.0"))
    facts = {
        key: value
        for key, value in _data_evidence(license="CC-BY-NC-4.0").items()
        if key not in ("kind", "ref", "name", "files")
    }
    data = catalog.register("data", "x", facts | {"domain": "x"})
    governed.build(governed.expert(data))
    gaps = [gap for gap in gate.ungated(catalog, "build/1") if gap.subject == "data/x@1"]
    assert [gap.found for gap in gaps] == [
        "judged on license 'CC0-1.0' where 'CC-BY-NC-4.0' is registered"
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "allowed"},
        {"rules": {}},
        {"at": "2020-01-01"},
        {"documents": ["0" * 64] * 2},
        {"documents": []},
        {"waivers": None},
    ],
)
def test_a_forged_verdict_does_not_judge_again(governed: Any, change: dict[str, Any]) -> None:
    governed.decide("register", _data_evidence(license="Other"))
    catalog = governed.as_("ann")
    (event,) = gate.verdicts(catalog, "data/x@1")
    assert gate.disagreement(catalog, event) is None
    forged = Event(**(vars(event) | {"body": event.body | {"outcome": "allowed"} | change}))
    assert gate.disagreement(catalog, forged) is not None


def test_a_verdict_is_given_again_years_later_and_after_the_policies_changed(governed: Any) -> None:
    governed.decide("register", _data_evidence(retain_until=days(governed, 10)))
    catalog = governed.as_("ann")
    (event,) = gate.verdicts(catalog, "data/x@1")
    again = gate.judge_again(catalog, event)
    assert (again.outcome, again.at) == ("allowed", event.body["at"])
    assert (
        governed.decide(
            "register",
            _data_evidence(retain_until=days(governed, 10)),
            at=governed.at + timedelta(days=3650),
        ).outcome
        == "refused"
    )
    assert gate.disagreement(catalog, event) is None


def test_the_same_evidence_in_many_numbers_judges_again_to_the_same_rules(governed: Any) -> None:
    story = governed.story()
    catalog = governed.as_("ann")
    for gate_name in ("build", "release", "export"):
        governed.decide(
            gate_name, governed.build_evidence(catalog.get("expert/law@1"), ref=str(story.ref))
        )
    events = [event for kind in ("verdict", "refused") for event in catalog.events(kind=kind)]
    assert len(events) == 7
    assert [gate.disagreement(catalog, event) for event in events] == [None] * 7
    for event in events:
        assert canonical_json(json.loads(canonical_json(event.body))) == canonical_json(event.body)


def test_release_without_a_second_person_is_refused_and_with_one_allowed(governed: Any) -> None:
    build = governed.story()
    evidence = governed.build_evidence(governed.as_("ann").get("expert/law@1")) | {
        "approvals": [{"actor": "ben", "at": "2026-01-01"}]
    }
    assert rules(governed.decide("release", evidence)) == ["release/second-person"], (
        "what the caller says of approvals does not count"
    )
    people.approve(governed.as_("ben"), str(build.ref), governed.person("ben", "approver"))
    assert governed.decide("release", evidence | {"approvals": []}).outcome == "allowed"


def test_release_with_a_withdrawn_member_is_refused(governed: Any) -> None:
    governed.story()
    people.approve(governed.as_("ben"), "build/1", governed.person("ben", "approver"))
    catalog = governed.as_("ann")
    catalog.withdraw("data/law@1", "the holder said so")
    assert set(
        rules(governed.decide("release", governed.build_evidence(catalog.get("expert/law@1"))))
    ) == {
        "standing/members",
        "standing/data",
    }


def test_what_came_in_by_a_waiver_goes_out_with_it_unless_renewed(governed: Any) -> None:
    governed.seed()
    ben = governed.person("ben", "approver")
    as_ben = governed.as_("ben")
    people.waive(
        as_ben, "licence/allowed", "data/law@1", ben, until=days(governed, 10), why="contract 4711"
    )
    build = governed.build(governed.expert(governed.data(license="LicenseRef-Contract")))
    people.approve(as_ben, str(build.ref), ben)
    catalog = governed.as_("ann")
    evidence = governed.build_evidence(catalog.get("expert/law@1"))
    verdict = governed.decide("release", evidence)
    assert verdict.outcome == "allowed"
    (line,) = catalog.document(gate.kept(gate.verdicts(catalog, "build/1", "release")[-1])[1])[
        "waivers"
    ]
    assert (line["rule"], line["subject"], line["actor"]) == (
        "licence/allowed",
        "data/law@1",
        "ben",
    )
    later = moment(days(governed, 11))
    assert rules(governed.decide("release", evidence, at=later)) == ["waivers/unexpired"]
    people.waive(
        as_ben,
        "licence/allowed",
        "data/law@1",
        ben,
        until=days(governed, 60),
        why="contract renewed",
    )
    assert governed.decide("release", evidence, at=later).outcome == "allowed"
    assert gate.ungated(catalog, "build/1") == []


def test_a_waiver_in_a_refused_verdict_is_leant_on_by_nobody(governed: Any) -> None:
    """It let nothing in, so its end keeps nothing out."""
    governed.seed()
    governed.data()
    ben = governed.person("ben", "approver")
    people.waive(
        governed.as_("ben"),
        "quality/beats-seed",
        "expert/x@1",
        ben,
        until=days(governed, 10),
        why="a first try",
    )
    evidence = _expert_evidence(
        evaluation={"bits_per_byte": 2.0, "seed_bits_per_byte": 1.0}, contamination=None
    )
    assert "quality/beats-seed" not in rules(governed.decide("register", evidence))
    better = _expert_evidence(evaluation={"bits_per_byte": 0.5, "seed_bits_per_byte": 1.0})
    assert rules(governed.decide("register", better, at=governed.at + timedelta(days=20))) == []


def test_a_waiver_nobody_signed_lets_nothing_in(governed: Any) -> None:
    catalog = governed.as_("ann")
    act = {
        "act": "waived",
        "subject": "data/x@1",
        "digest": None,
        "actor": "ben",
        "rule": "licence/allowed",
        "why": "w",
    }
    act["until"] = "2999-01-01T00:00:00Z"
    governed.person("ben", "approver")
    governed.as_("ben").event("waived", "data/x@1", {"act": act})
    assert governed.decide("register", _data_evidence(license="Other")).outcome == "refused"
    assert catalog.status("data/x@1") == "refused"


def test_a_release_event_without_a_release_verdict_is_found(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    catalog.event("released", "build/1")
    assert [gap.found for gap in gate.ungated(catalog, "build/1")] == ["no verdict of gate release"]


def test_a_closed_roll_lets_nothing_in_from_outside_it(
    governed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    governed.person("ida", "auditor")
    claimed = {"name": "ann", "roles": ["registrar"], "roll": "open"}
    assert rules(governed.decide("register", _data_evidence(actor=claimed))) == [
        "people/registrar",
        "people/key",
    ]
    governed.person("ann", "registrar", by="ida")
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / "ida.pem"))
    assert rules(governed.decide("register", _data_evidence())) == ["people/key"], (
        "a name that anybody can set is not enough"
    )
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / "ann.pem"))
    assert governed.decide("register", _data_evidence()).outcome == "allowed"


@settings(
    max_examples=int(os.environ.get("BTX_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    path=st.sampled_from(["data", "members", "seed", "name", "ref", "license", "weights"]),
    value=JSON,
    kind=st.sampled_from(["data", "expert", "build"]),
)
def test_no_evidence_makes_a_gate_stumble(governed: Any, path: str, value: Any, kind: str) -> None:
    evidence = _data_evidence(kind=kind, members=[], data=[], seed="seed/base@1") | {path: value}
    gate_name = "build" if kind == "build" else "register"
    gate.check(
        governed.as_("ann"),
        gate=gate_name,
        subject="data/x@1",
        kind=kind,
        evidence=evidence,
        policies=POLICIES[:2],
        at=governed.at,
    )


def test_evidence_that_cannot_be_kept_is_refused_and_logged(governed: Any) -> None:
    verdict = governed.decide("register", _data_evidence(bytes=float("nan")))
    assert rules(verdict) == ["gate/evidence"]
    (event,) = gate.verdicts(governed.as_("ann"), "data/x@1")
    assert gate.disagreement(governed.as_("ann"), event) is None


def test_check_logs_nothing(governed: Any) -> None:
    catalog = governed.as_("ann")
    before = catalog.head()
    evidence = _data_evidence(license=None)
    verdict = gate.check(
        catalog,
        gate="register",
        subject="data/x@1",
        kind="data",
        evidence=evidence,
        policies=POLICIES,
        at=governed.at,
    )
    assert (verdict.outcome, catalog.head()) == ("refused", before)


def _expert_evidence(**change: Any) -> dict[str, Any]:
    weights = dict.fromkeys(
        ("shapes_match", "dtype_match", "vocabulary_match", "tokenizer_match", "finite"), True
    )
    weights |= {"ancestry": {"descends": True, "shared_identical": True}, "problems": []}
    line = {
        "ref": "data/law@1",
        "license": "CC0-1.0",
        "pii": "none",
        "retain_until": None,
        "status": "registered",
    }
    return {
        "kind": "expert",
        "ref": "expert/x@1",
        "name": "x",
        "mode": "anchored",
        "seed": "seed/base@1",
        "data": [line],
        "weights": weights,
        "evaluation": None,
        "contamination": 0,
        "cost": None,
    } | change


def _data_evidence(**change: Any) -> dict[str, Any]:
    return {
        "kind": "data",
        "ref": "data/x@1",
        "name": "x",
        "license": "CC0-1.0",
        "source": "s",
        "holder": "h",
        "purpose": "p",
        "pii": "none",
        "retain_until": None,
        "files": 1,
        "bytes": 6,
    } | change
