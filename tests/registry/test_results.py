"""Figures per data version: one rule for the gain that is kept, labels that tell results apart."""

import pytest

from registry.records.results import Result, Specialist, labels, share_of_gain


@pytest.mark.parametrize(
    ("own", "seed", "specialist", "share"),
    [
        (1.0, 2.0, 1.0, 1.0),
        (1.5, 2.0, 1.0, 0.5),
        (0.5, 2.0, 1.0, 1.5),
        (2.0, 2.0, 1.0, 0.0),
        (2.5, 2.0, 1.0, -0.5),
        (1.0, 2.0, 2.0, None),
        (1.0, 2.0, 2.5, None),
        (None, 2.0, 1.0, None),
        (1.0, None, 1.0, None),
        (1.0, 2.0, None, None),
    ],
)
def test_the_share_of_a_gain_is_none_where_there_is_no_gain_or_no_measure(
    own: float | None, seed: float | None, specialist: float | None, share: float | None
) -> None:
    assert share_of_gain(own, seed, specialist) == share
    result = Result(
        data="data/law@1",
        domain="law",
        bits_per_byte=own,
        seed_bits_per_byte=seed,
        specialists=(Specialist(bits_per_byte=specialist),),
    )
    assert result.gain_kept == share


def test_a_domain_that_occurs_twice_is_labelled_by_its_data_version() -> None:
    domains = {"data/law@1": "law", "data/law@2": "law", "data/code@1": "code"}
    results = [Result(data=data, domain=domain) for data, domain in domains.items()]
    assert labels(results) == {"data/law@1": "law@1", "data/law@2": "law@2", "data/code@1": "code"}
    assert labels(results[1:]) == {"data/law@2": "law", "data/code@1": "code"}
