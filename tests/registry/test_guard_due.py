"""What ends is told ahead of time, and what has ended is told as long as it is in use."""

from datetime import timedelta
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
