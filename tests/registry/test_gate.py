"""What a gate refused, or never saw, is found; a verdict can be given again."""

import json
import math
import os
import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.jobs import collect_evidence
from registry.digest import canonical_json
from registry.errors import Damaged
from registry.governance import approving, gaps, gate
from registry.governance.policies import Candidate, judge, moment
from registry.governance.policy_files import load
from registry.records.events import Act, Acted, AnyBody, Judged, Reason, Released
from registry.records.evidence import EVIDENCE, ApprovalLine, DataEvidence
from registry.records.facts import DataFacts, DataStatement, ExpertFacts, Weights
from registry.records.kinds import Kind, Mode
from registry.records.results import Result

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
    assert gaps.ungated(governed.as_("ann"), "build/1") == []


def test_a_refused_candidate_leaves_an_event_with_reason_and_remedy_and_no_row(
    governed: Any,
) -> None:
    verdict = governed.decide("register", data_evidence(governed, license=None))
    assert rules(verdict) == ["licence/stated"]
    (event,) = gate.verdicts(governed.as_("ann"), "data/x@1")
    assert event.kind == "refused"
    (licence,) = [policy for policy in POLICIES if policy.name == "licence"]
    remedies = {one.rule: one.remedy for one in licence.validations}
    reason = Reason(
        rule="licence/stated",
        message="data/x@1 has no licence",
        remedy=remedies["stated"],
    )
    assert "--license SPDX-ID" in reason.remedy
    assert event.read(Judged).reasons == (reason,)
    assert governed.as_("ann").status("data/x@1") == "refused"
    assert governed.as_("ann").versions(DataFacts) == []


def test_what_was_registered_past_the_gate_is_found(governed: Any) -> None:
    governed.seed()
    data = governed.data()
    catalog = governed.as_("ann")
    smuggled = catalog.register(
        "law",
        governed.expert_facts(data, preflight=Weights(finite=True)),
        parents=[("seed/base@1", "branched_from"), (data.ref, "trained_on")],
    )
    governed.build(smuggled)
    assert {(gap.subject, gap.found) for gap in gaps.ungated(catalog, "build/1")} == {
        ("expert/law@1", "no verdict of gate register"),
        ("build/1", "refused at gate build: standing/gated"),
    }


def test_a_refused_expert_that_was_registered_all_the_same_is_found(governed: Any) -> None:
    governed.seed()
    bad = governed.data("law", license="AGPL-3.0-only")
    governed.build(governed.expert(bad))
    found = gaps.ungated(governed.as_("ann"), "build/1")
    assert {(gap.subject, gap.found) for gap in found} == {
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
    assert "expert/evil@1" in [gap.subject for gap in gaps.ungated(governed.as_("ann"), "build/1")]


@pytest.mark.parametrize(
    ("key", "other"), [*((key, "MIT") for key in DataStatement.model_fields), ("bytes", 7)]
)
def test_a_verdict_on_other_facts_than_the_registered_ones_is_found(
    governed: Any, key: str, other: object
) -> None:
    catalog = governed.as_("ann")
    governed.decide("register", data_evidence(governed))
    catalog.register("x", governed.data_facts(domain="x"), files=[governed.file_of("x")])
    assert gaps.ungated(catalog, "data/x@1") == []
    changed = governed.data_facts(domain="x", **{key: other})
    catalog.register("x", changed, files=[governed.file_of("x")])
    governed.decide("register", data_evidence(governed, ref="data/x@2"))
    (gap,) = gaps.ungated(catalog, "data/x@2")
    judged = data_evidence(governed).to_json()[key]
    assert gap.found == f"judged on {key} {judged!r} where {other!r} is registered"


def test_a_verdict_on_another_reading_of_the_licence_is_found(governed: Any) -> None:
    catalog = governed.as_("ann")
    facts = governed.data_facts(domain="x", license="CC-BY-NC-4.0")
    told = collect_evidence.of_data("data/x@1", facts, [governed.file_of("x")])
    forged = told.model_copy(update={"license_alternatives": (("MIT",),)})
    assert governed.decide("register", forged).outcome == "allowed"
    catalog.register("x", facts, files=[governed.file_of("x")])
    (gap,) = gaps.ungated(catalog, "data/x@1")
    assert gap.found.startswith("judged on license_alternatives (('MIT',),)")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("seed", {"seed": "seed/base@2"}),
        ("mode", {"mode": Mode.FULL}),
        ("data", {"data": ()}),
        ("weights", {"preflight": Weights(finite=True)}),
        ("contamination", {"contamination": 0.5}),
        ("results", {"results": ()}),
        *(("results", {key: 0.25}) for key in ("bits_per_byte", "seed_bits_per_byte")),
        *(("results", {key: 0.25}) for key in ("accuracy", "seed_accuracy")),
    ],
)
def test_a_verdict_on_another_expert_than_the_registered_one_is_found(
    governed: Any, key: str, change: dict[str, Any]
) -> None:
    governed.seed()
    data = governed.data()
    catalog, facts = governed.as_("ann"), governed.expert_facts(data)
    governed.decide("register", collect_evidence.of_expert(catalog, "expert/law@1", facts, []))
    if not change.keys() & ExpertFacts.model_fields.keys():
        change = {"results": (facts.results[0].model_copy(update=change),)}
    catalog.register(
        "law",
        facts.model_copy(update=change),
        parents=[("seed/base@1", "branched_from"), (data.ref, "trained_on")],
    )
    (gap,) = gaps.ungated(catalog, "expert/law@1")
    assert gap.found.startswith(f"judged on {key} ")


@pytest.mark.parametrize(
    "change",
    [
        {"results": ()},
        {"members": ()},
        {"routing": None},
        {"routing": {"dead": ["law"]}},
        *({"cost": {key: 1}} for key in ("active_parameters", "total_parameters", "tokens_per_s")),
    ],
)
def test_a_release_on_other_figures_than_the_registered_ones_is_found(
    governed: Any, change: dict[str, Any]
) -> None:
    story = governed.story()
    catalog = governed.as_("ann")
    approving.approve(governed.as_("ben"), "build/1", governed.person("ben", "approver"))
    right = governed.build_evidence(catalog.get("expert/law@1"))
    facts = story.facts.to_json()
    other = {key: change[key] if key != "cost" else facts["cost"] | change[key] for key in change}
    judged = replace(story, stored=canonical_json(facts | other).decode())
    wrong = collect_evidence.of_build(catalog, judged, None)
    for about, found in ((right, 0), (wrong, 1), (right, 1)):
        governed.decide("release", about)
        catalog.event(Released(), "build/1")
        assert len(gaps.ungated(catalog, "build/1")) == found


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
    governed.decide("register", data_evidence(governed, license="Other"))
    catalog = governed.as_("ann")
    (event,) = gate.verdicts(catalog, "data/x@1")
    assert gaps.disagreement(catalog, event) is None
    body = json.loads(event.stored) | {"outcome": "allowed"} | change
    forged = replace(event, stored=canonical_json(body).decode())
    assert gaps.disagreement(catalog, forged) is not None


@pytest.mark.parametrize("body", [{}, {"gate": "register"}, {"gate": 7, "outcome": []}])
def test_a_verdict_that_cannot_be_read_is_a_gap_and_no_crash(
    governed: Any, body: dict[str, Any]
) -> None:
    governed.story()
    catalog = governed.as_("ann")
    catalog.event(AnyBody.from_json(body, "test"), "data/law@1", kind="verdict")
    (gap,) = gaps.ungated(catalog, "build/1")
    assert gap.subject == "data/law@1"
    assert "body" in gap.found


def test_a_verdict_is_given_again_years_later_and_after_the_policies_changed(governed: Any) -> None:
    governed.decide("register", data_evidence(governed, retain_until=days(governed, 10)))
    catalog = governed.as_("ann")
    (event,) = gate.verdicts(catalog, "data/x@1")
    again = gate.judge_again(catalog, event)
    assert (again.outcome, again.at) == ("allowed", event.read(Judged).at)
    assert (
        governed.decide(
            "register",
            data_evidence(governed, retain_until=days(governed, 10)),
            at=governed.at + timedelta(days=3650),
        ).outcome
        == "refused"
    )
    assert gaps.disagreement(catalog, event) is None


def test_the_same_evidence_in_many_numbers_judges_again_to_the_same_rules(governed: Any) -> None:
    story = governed.story()
    catalog = governed.as_("ann")
    for gate_name in ("build", "release", "export"):
        governed.decide(
            gate_name, governed.build_evidence(catalog.get("expert/law@1"), ref=str(story.ref))
        )
    events = [event for kind in ("verdict", "refused") for event in catalog.events(kind=kind)]
    assert len(events) == 7
    assert [gaps.disagreement(catalog, event) for event in events] == [None] * 7
    for event in events:
        assert canonical_json(json.loads(event.stored)).decode() == event.stored
        assert canonical_json(event.body.to_json()).decode() == event.stored


def test_release_without_a_second_person_is_refused_and_with_one_allowed(governed: Any) -> None:
    build = governed.story()
    plain = governed.build_evidence(governed.as_("ann").get("expert/law@1"))
    line = ApprovalLine(actor="ben", at="2026-01-01")
    claimed = plain.model_copy(update={"approvals": (line,)})
    assert rules(governed.decide("release", claimed)) == ["release/second-person"], (
        "what the caller says of approvals does not count"
    )
    approving.approve(governed.as_("ben"), str(build.ref), governed.person("ben", "approver"))
    assert governed.decide("release", plain).outcome == "allowed"


def test_release_with_a_withdrawn_member_is_refused(governed: Any) -> None:
    governed.story()
    approving.approve(governed.as_("ben"), "build/1", governed.person("ben", "approver"))
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
    contract = governed.data_candidate(license="AGPL-3.0-only")
    governed.waive(ben, "licence/allowed", contract, days(governed, 10), "contract 4711")
    build = governed.build(governed.expert(governed.data(license="AGPL-3.0-only")))
    approving.approve(as_ben, str(build.ref), ben)
    catalog = governed.as_("ann")
    about = governed.build_evidence(catalog.get("expert/law@1"))
    verdict = governed.decide("release", about)
    assert verdict.outcome == "allowed"
    logged = gate.verdicts(catalog, "build/1", "release")[-1].read(Judged)
    (line,) = catalog.document(logged.evidence)["waivers"]
    assert (line["rule"], line["subject"], line["actor"]) == (
        "licence/allowed",
        "data/law@1",
        "ben",
    )
    later = moment(days(governed, 11))
    assert rules(governed.decide("release", about, at=later)) == ["waivers/unexpired"]
    renewed = gate.grant(as_ben, "licence/allowed", "data/law@1")
    approving.waive(as_ben, renewed, ben, until=days(governed, 60), why="contract renewed")
    assert governed.decide("release", about, at=later).outcome == "allowed"
    assert gaps.ungated(catalog, "build/1") == []


def test_a_waiver_in_a_refused_verdict_is_leant_on_by_nobody(governed: Any) -> None:
    """It let nothing in, so its end keeps nothing out."""
    governed.seed()
    data = governed.data()
    ben = governed.person("ben", "approver")

    def candidate(bits_per_byte: float, **change: Any) -> Any:
        result = Result(
            data="data/law@1", domain="x", bits_per_byte=bits_per_byte, seed_bits_per_byte=1.0
        )
        facts = governed.expert_facts(data, domain="x", results=(result,), **change)
        return collect_evidence.of_expert(governed.as_("ann"), "expert/x@1", facts, [])

    worse = candidate(2.0, contamination=None)
    governed.waive(ben, "quality/beats-seed", worse, days(governed, 10), "a first try")
    verdict = governed.decide("register", worse)
    assert rules(verdict)
    assert "quality/beats-seed" not in rules(verdict)
    later = governed.at + timedelta(days=20)
    assert rules(governed.decide("register", candidate(0.5), at=later)) == []


def test_a_waiver_nobody_signed_lets_nothing_in(governed: Any) -> None:
    catalog = governed.as_("ann")
    act = Act(
        act="waived",
        subject="data/x@1",
        digest=None,
        actor="ben",
        rule="licence/allowed",
        why="w",
        until="2999-01-01T00:00:00Z",
        at="2026-01-01T00:00:00Z",
    )
    governed.person("ben", "approver")
    governed.as_("ben").event(Acted(act=act), "data/x@1", kind="waived")
    assert (
        governed.decide("register", data_evidence(governed, license="Other")).outcome == "refused"
    )
    assert catalog.status("data/x@1") == "refused"


def test_a_release_event_without_a_release_verdict_is_found(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    catalog.event(Released(), "build/1")
    assert [gap.found for gap in gaps.ungated(catalog, "build/1")] == ["no verdict of gate release"]


def test_a_closed_roll_lets_nothing_in_from_outside_it(
    governed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    governed.person("ida", "auditor")
    claimed = {"name": "ann", "roles": ["registrar"], "roll": "open"}
    assert rules(governed.decide("register", data_evidence(governed, actor=claimed))) == [
        "people/registrar",
        "people/key",
    ]
    governed.person("ann", "registrar", by="ida")
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / "ida.pem"))
    assert rules(governed.decide("register", data_evidence(governed))) == ["people/key"], (
        "a name that anybody can set is not enough"
    )
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / "ann.pem"))
    assert governed.decide("register", data_evidence(governed)).outcome == "allowed"


EXAMPLES = settings(
    max_examples=int(os.environ.get("BTX_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@EXAMPLES
@given(
    path=st.sampled_from(["data", "members", "seed", "name", "ref", "license", "weights"]),
    value=JSON,
    kind=st.sampled_from(["data", "expert", "build"]),
)
def test_no_evidence_makes_a_gate_stumble(governed: Any, path: str, value: Any, kind: str) -> None:
    plain = data_evidence(governed).to_json()
    about = plain | {"kind": kind, "members": [], "data": [], "seed": "seed/base@1", path: value}
    gate_name = "build" if kind == "build" else "register"
    judge(POLICIES[:2], Candidate(gate_name, kind, about, "data/x@1"), at=governed.at)


FIELDS = sorted({name for record in EVIDENCE.values() for name in record.model_fields})


@EXAMPLES
@given(
    kind=st.sampled_from([Kind.DATA, Kind.SEED, Kind.EXPERT, Kind.BUILD]),
    change=st.dictionaries(st.sampled_from([*FIELDS, "more", "ä"]), JSON, max_size=4),
)
def test_a_record_of_evidence_with_any_fields_is_judged_logged_and_judged_again(
    governed: Any, kind: Kind, change: dict[str, Any]
) -> None:
    plain = {"kind": str(kind), "ref": f"{kind}/x@1", "name": "x", "seed": "seed/base@1"}
    fixed = {"ref": "build/1"} if kind == Kind.BUILD else {"ref": f"{kind}/x@1"}
    try:
        about = EVIDENCE[kind].from_json(plain | change | fixed, "test")
    except Damaged:
        return
    catalog = governed.as_("ann")
    verdict = governed.decide("build" if kind == Kind.BUILD else "register", about)
    event = gate.verdicts(catalog, fixed["ref"])[-1]
    assert event.read(Judged).outcome == verdict.outcome
    assert gaps.disagreement(catalog, event) is None


DEEP: list[Any] = []
for _ in range(40):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bytes", math.nan),
        ("more", math.inf),
        ("more", [{"deep": math.nan}]),
        ("more", object()),
        ("more", b"\xff"),
        ("more", "\ud800"),
        ("more", DEEP),
        ("source", "x" * 2**20),
    ],
    ids=["nan", "infinity", "nan inside", "object", "bytes", "half", "deep", "large"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydantic")
def test_evidence_that_cannot_be_kept_is_refused_and_logged(
    governed: Any, key: str, value: object
) -> None:
    verdict = governed.decide("register", data_evidence(governed).model_copy(update={key: value}))
    assert rules(verdict) == ["gate/evidence"]
    catalog = governed.as_("ann")
    (event,) = gate.verdicts(catalog, "data/x@1")
    assert catalog.document(event.read(Judged).evidence).keys() == {"unreadable"}
    assert gaps.disagreement(catalog, event) is None


def test_check_logs_nothing(governed: Any) -> None:
    catalog = governed.as_("ann")
    before = catalog.head()
    verdict = gate.check(
        catalog, governed.question("register", data_evidence(governed, license=None))
    )
    assert (verdict.outcome, catalog.head()) == ("refused", before)


def data_evidence(governed: Any, **change: Any) -> DataEvidence:
    """Return the evidence on data/x@1, of which everything is stated as a gate wants it."""
    stated = {name: change[name] for name in change if name in DataFacts.model_fields}
    facts = governed.data_facts(**{"domain": "x"} | stated)
    known = collect_evidence.of_data("data/x@1", facts, [governed.file_of("x")])
    return DataEvidence.from_json(known.to_json() | change, "evidence of a test")
