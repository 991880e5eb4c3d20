"""What ends is told ahead of time, and what has ended is told as long as it is in use."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from registry.governance import approving, contesting, due


def days(governed: Any, number: int) -> str:
    return (governed.at + timedelta(days=number)).date().isoformat()


def told(governed: Any, later: int = 0, ahead: float = 30) -> list[tuple[str, str, str]]:
    at = governed.at + timedelta(days=later)
    rows = due.due(governed.as_("ann"), at, ahead)
    return [(row.state, row.what, row.ref) for row in rows]


def test_waivers_and_retention_are_told_before_and_after_they_end(governed: Any) -> None:
    ben = governed.person("ben", "approver")
    contract = governed.data_candidate("law", license="LicenseRef-Contract")
    governed.waive(ben, "licence/allowed", contract, days(governed, 60))
    governed.data("law", license="LicenseRef-Contract")
    governed.data("letters", retain_until=days(governed, 40))
    governed.data("free")
    waiver, letters = "waiver of licence/allowed", "data/letters@1"
    assert told(governed) == []
    assert told(governed, later=20) == [("ends", "retention", letters)]
    assert told(governed, ahead=90) == [
        ("ends", "retention", letters),
        ("ends", waiver, "data/law@1"),
    ]
    assert told(governed, later=70, ahead=0) == [
        ("ended", "retention", letters),
        ("ended", waiver, "data/law@1"),
    ]


def test_a_renewed_waiver_is_told_by_its_new_date_and_a_retracted_one_has_ended(
    governed: Any,
) -> None:
    from registry.governance import gate

    ben = governed.person("ben", "approver")
    contract = governed.data_candidate("law", license="LicenseRef-Contract")
    first = governed.waive(ben, "licence/allowed", contract, days(governed, 10))
    governed.data("law", license="LicenseRef-Contract")
    assert len(told(governed)) == 1
    granted = gate.grant(governed.as_("ben"), "licence/allowed", "data/law@1")
    second = approving.waive(
        governed.as_("ben"), granted, ben, until=days(governed, 90), why="renewed"
    )
    assert told(governed) == []
    for event in (first, second):
        approving.retract(governed.as_("ben"), event, ben, "the contract was void")
    assert told(governed) == [("ended", "waiver of licence/allowed", "data/law@1")]


def test_what_was_withdrawn_is_told_no_more(governed: Any) -> None:
    governed.data("letters", retain_until=days(governed, 10))
    assert len(told(governed)) == 1
    contesting.withdraw(governed.as_("ann"), "data/letters@1", "its date came")
    assert told(governed, later=20) == []


def test_a_waiver_that_a_release_rests_on_is_told(governed: Any) -> None:
    """Of gate release; that of gate build, or of what it was made from, is told anyhow."""
    from dataclasses import replace

    from registry.governance import gate
    from registry.governance.policy_files import load
    from registry.records.events import Released

    ben = governed.person("ben", "approver")
    build = governed.story()
    approving.approve(governed.as_("ben"), "build/1", ben)
    policies = [
        one.model_copy(update={"parameters": {**one.parameters, "active_parameters": 1}})
        if one.name == "budget"
        else one
        for one in load(Path(__file__).parents[2] / "policies")
    ]
    members = [governed.as_("ann").get(one.ref) for one in build.facts.members]
    asked = governed.question("release", governed.build_evidence(*members))
    asked = replace(asked, policies=policies)
    assert gate.decide(governed.as_("ann"), asked).outcome == "refused"
    granted = gate.grant(governed.as_("ben"), "budget/active-parameters", "build/1")
    approving.waive(governed.as_("ben"), granted, ben, until=days(governed, 10), why="w")
    assert told(governed) == [], "nothing rests on it yet"
    assert gate.decide(governed.as_("ann"), asked).outcome == "waived"
    governed.as_("ann").event(Released(), "build/1")
    waiver = "waiver of budget/active-parameters"
    assert told(governed) == [("ends", waiver, "build/1")]
    assert told(governed, later=20) == [("ended", waiver, "build/1")]
