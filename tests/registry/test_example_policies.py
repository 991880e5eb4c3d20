"""The policies that companies have: each refuses and admits real candidates, by their own facts.

What differs between the two candidates of a case is stated as a user states it: with the
registration, by an amendment, by an approval.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import collect_evidence
from registry.governance import approving, gate, stating
from registry.governance.gate import Question
from registry.governance.policy_files import load
from registry.records.events import Judged
from registry.records.evidence import Evidence
from registry.records.kinds import Gate
from registry.records.own_facts import Attachment

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
FACTS = Path(__file__).parents[2] / "pipelines/workspace/facts.yaml"
SCHEMA = stating.read_schema(FACTS)
PAPER = Attachment(name="dpia.pdf", sha256="a" * 64, bytes=3)
Candidate = tuple[Gate, Evidence]


def refusals(governed: Any, candidate: Candidate, days_later: float = 0) -> list[str]:
    name, evidence = candidate
    question = Question(
        gate=name,
        subject=str(evidence.ref),
        evidence=evidence,
        policies=load(EXAMPLES),
        at=governed.at + timedelta(days=days_later),
        proposed=True,
        schema=SCHEMA,
    )
    return [rule.name for rule in gate.check(governed.as_("ann"), question).refusals()]


@pytest.fixture
def company(governed: Any) -> Any:
    stating.declare(governed.as_("ann"), SCHEMA)
    governed.seed()
    return governed


def build_of(company: Any, at: Gate = Gate.RELEASE, **data: Any) -> Candidate:
    expert = company.expert(company.data(**data))
    build = company.build(expert)
    return at, company.build_evidence(expert, ref=str(build.ref))


def planned(company: Any, *experts: Any) -> Evidence:
    catalog = company.as_("ann")
    asked = collect_evidence.of_candidate(catalog, "build/1", "seed/base@1", experts)
    return asked.model_copy(update={"line": "main"})


def test_data_of_customers_in_the_eu_needs_an_assessment(company: Any) -> None:
    customers = {"residency": "EU", "data_subjects": "customers"}

    def asked(**own: Any) -> list[str]:
        evidence = company.data_candidate(pii="reviewed", own=own)
        return refusals(company, (Gate.REGISTER, evidence))

    assert asked() == ["eu-customers/residency"]
    assert asked(**customers) == ["eu-customers/dpia"]
    assert asked(**customers, dpia=PAPER) == []
    assert asked(residency="US", data_subjects="customers") == []


def test_data_that_must_go_soon_is_in_no_release(company: Any) -> None:
    end = (company.at + timedelta(days=200)).date().isoformat()
    candidate = build_of(company, retain_until=end)
    assert refusals(company, candidate) == []
    assert "retention-ahead/members" in refusals(company, candidate, days_later=120)


def test_an_expert_of_a_department_waits_for_its_approver(company: Any) -> None:
    expert = company.expert(company.data())
    catalog = company.as_("ann")
    candidate = (Gate.BUILD, planned(company, expert))
    assert refusals(company, candidate) == []
    stating.amend(catalog, expert.ref, {"department": "legal"}, "moved")
    assert refusals(company, candidate) == ["department-approval/approved"]
    bob, dora = (company.person(name, "approver") for name in ("bob", "dora"))
    approving.approve(company.as_("bob"), str(expert.ref), bob)
    assert refusals(company, candidate) == ["department-approval/approved"]
    approving.approve(company.as_("dora"), str(expert.ref), dora)
    assert refusals(company, candidate) == []


def test_no_more_experts_of_one_holder_than_agreed(company: Any) -> None:
    names = ("law", "tax", "code")
    experts = [company.expert(company.data(name, holder="Acme"), name) for name in names]
    two = (Gate.BUILD, planned(company, *experts[:2]))
    three = (Gate.BUILD, planned(company, *experts))
    assert refusals(company, two) == []
    assert refusals(company, three) == ["holder-limit/most"]


def test_non_commercial_material_stays_out_of_what_is_sold(company: Any) -> None:
    _, evidence = build_of(company, license="CC-BY-NC-4.0")
    assert refusals(company, (Gate.BUILD, evidence)) == ["non-commercial/kept-out"]
    research = evidence.model_copy(update={"line": "research"})
    assert refusals(company, (Gate.BUILD, research)) == []


def test_share_alike_material_decides_the_licence_of_what_goes_out(company: Any) -> None:
    candidate = build_of(company, license="CC-BY-SA-4.0")
    assert refusals(company, candidate) == ["share-alike/same"]
    catalog = company.as_("ann")
    stating.amend(catalog, "build/1", {"licence": "MIT"}, "as always")
    assert refusals(company, candidate) == ["share-alike/same"]
    stating.amend(catalog, "build/1", {"licence": "CC-BY-SA-4.0"}, "as counsel says")
    assert refusals(company, candidate) == []


@pytest.mark.parametrize(("days", "rules"), [(89, []), (91, ["fresh-evaluation/recent"])])
def test_a_release_is_measured_on_what_came_in_lately(
    company: Any, days: int, rules: list[str]
) -> None:
    assert refusals(company, build_of(company), days_later=days) == rules


def test_what_a_registered_version_states_today_is_what_a_gate_is_shown(company: Any) -> None:
    version = company.data(own={"residency": "EU"})
    stating.amend(company.as_("ann"), version.ref, {"residency": "US"}, "moved")
    expert = company.expert(version)
    company.decide("build", planned(company, expert))
    (event,) = gate.verdicts(company.as_("ann"), "build/1")
    judged = company.as_("ann").document(event.read(Judged).evidence)
    assert judged["members"][0]["data"][0]["own"]["residency"] == "US"
