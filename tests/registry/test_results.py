"""Figures per data version: one rule for the gain that is kept, labels that tell results apart."""

from typing import Any

import pytest

from registry.records.evidence import result_lines, worst
from registry.records.facts import BuildFacts, SeedFacts
from registry.records.results import (
    Figures,
    Result,
    Sample,
    Specialist,
    beside_seed,
    by_data,
    labels,
    same_text,
    share_of_gain,
)


def result(**figures: Any) -> Result:
    return Result(**{"data": "data/law@1", "domain": "law"} | figures)


def specialists(*bits: float | None) -> tuple[Specialist, ...]:
    return tuple(
        Specialist(ref=f"expert/e@{number}", bits_per_byte=one)
        for number, one in enumerate(bits, start=1)
    )


@pytest.mark.parametrize(
    ("own", "seed", "specialist", "share"),
    [
        (1.0, 2.0, 1.0, 1.0),
        (1.5, 2.0, 1.0, 0.5),
        (0.5, 2.0, 1.0, 1.5),
        (2.0, 2.0, 1.0, 0.0),
        (2.5, 2.0, 1.0, -0.5),
        (0.0, 2.0, 0.0, 1.0),
        # A specialist that gains nothing has nothing to keep.
        (1.0, 2.0, 2.0, None),
        (1.0, 2.0, 2.5, None),
        (0.0, 0.0, 0.0, None),
        (None, 2.0, 1.0, None),
        (1.0, None, 1.0, None),
        (1.0, 2.0, None, None),
    ],
)
def test_the_share_of_a_gain_is_none_where_there_is_no_gain_or_no_measure(
    own: float | None, seed: float | None, specialist: float | None, share: float | None
) -> None:
    assert share_of_gain(own, seed, specialist) == share
    measured = result(
        bits_per_byte=own, seed_bits_per_byte=seed, specialists=specialists(specialist)
    )
    assert measured.gain_kept == share


def test_the_gain_is_compared_with_that_of_the_best_specialist() -> None:
    measured = result(bits_per_byte=1.5, seed_bits_per_byte=2.0)
    assert measured.gain_kept is None
    several = measured.model_copy(update={"specialists": specialists(1.9, 1.0, None)})
    assert several.specialist == Specialist(ref="expert/e@2", bits_per_byte=1.0)
    assert several.gain_kept == 0.5
    assert result(specialists=specialists(0.9, 0.0)).specialist == Specialist(
        ref="expert/e@2", bits_per_byte=0.0
    )
    assert result(specialists=specialists(None)).specialist is None


def test_a_change_against_the_seed_is_a_share_and_worse_above_zero() -> None:
    assert result(seed_bits_per_byte=2.0, bits_per_byte=2.5).change == 0.25
    assert result(seed_bits_per_byte=2.0, bits_per_byte=1.5).change == -0.25
    assert result(seed_bits_per_byte=0.0, bits_per_byte=1.5).change is None
    assert result(bits_per_byte=1.5).change is None


def test_a_domain_that_occurs_twice_is_labelled_by_its_data_version() -> None:
    law_1, law_2 = result(data="data/law@1"), result(data="data/law@2")
    code = result(data="data/code@1", domain="code")
    assert labels([]) == {}
    assert labels([law_1, law_2, code]) == {
        "data/law@1": "law@1",
        "data/law@2": "law@2",
        "data/code@1": "code",
    }
    assert labels([law_2, code]) == {"data/law@2": "law", "data/code@1": "code"}
    assert labels([law_1, law_1]) == {"data/law@1": "law"}
    # Two data names can be registered under one domain.
    assert labels([law_1, result(data="data/acts@3")]) == {
        "data/law@1": "law@1",
        "data/acts@3": "acts@3",
    }


def test_results_on_the_same_text_have_the_data_version_and_its_tokens_in_common() -> None:
    assert same_text(result(tokens=5), result(tokens=5, bits_per_byte=1.0))
    assert not same_text(result(tokens=5), result(tokens=6))
    assert not same_text(result(tokens=5), result(data="data/law@2", tokens=5))
    assert by_data([result(tokens=5)]) == {"data/law@1": result(tokens=5)}


def test_a_seed_stands_beside_a_model_only_where_both_were_measured_on_the_same_text() -> None:
    own = result(bits_per_byte=1.0, sample=Sample(digest="a"))
    same = Figures(bits_per_byte=2.0, sample=Sample(digest="a"), block_bits=(4.0,))
    assert beside_seed(own, same)["seed_block_bits"] == (4.0,)
    for other in (None, Figures(bits_per_byte=2.0, sample=Sample(digest="b")), Figures(tokens=5)):
        assert beside_seed(own, other) == {}


def test_nothing_is_called_new_to_a_seed_whose_own_data_nobody_recorded() -> None:
    known = SeedFacts(data=("data/prose@1",))
    assert [known.is_new(data) for data in ("data/prose@1", "data/law@1")] == [False, True]
    assert SeedFacts().is_new("data/law@1") is None
    (line,) = result_lines([result(new_to_seed=SeedFacts().is_new("data/law@1"))])
    assert line.new_to_seed is None


def test_the_worst_data_version_stands_for_an_expert_in_older_rules() -> None:
    good = result(data="data/a@1", domain="a", bits_per_byte=0.5, seed_bits_per_byte=1.0)
    bad = result(data="data/b@1", domain="b", bits_per_byte=1.2, seed_bits_per_byte=1.0)
    unknown = result(data="data/c@1", domain="c", bits_per_byte=0.1)
    for some, expected in (((good, bad), bad), ((bad, good), bad), ((good, bad, unknown), unknown)):
        figures = worst(result_lines(some))
        assert figures is not None
        assert figures.bits_per_byte == expected.bits_per_byte
        assert set(figures.domains) == {one.domain for one in some}
    assert worst(()) is None


def test_a_line_of_results_compares_with_the_last_release_on_the_same_data_version() -> None:
    two = [result(data="data/law@1", bits_per_byte=0.5), result(data="data/law@2")]
    before = [result(data="data/law@1", bits_per_byte=0.6), result(data="data/gone@1")]
    lines = result_lines(two, by_data(before))
    assert [line.previous_bits_per_byte for line in lines] == [0.6, None]
    assert [line.bits_per_byte for line in lines] == [0.5, None]


def test_a_build_of_older_code_names_the_data_version_that_a_member_was_trained_on(
    governed: Any,
) -> None:
    governed.seed()
    first, second = governed.data("law"), governed.data("law", bytes=7)
    expert = governed.expert(first)
    older = BuildFacts.from_json(
        {
            "seed": "seed/base@1",
            "members": [{"ref": str(expert.ref), "slot": 1, "digest": expert.digest}],
            "tuned_on": [str(first.ref), str(second.ref)],
            "evaluation": {"law": {"bits_per_byte": 0.9}},
        },
        "test",
    )
    catalog = governed.as_("ann")
    build = catalog.register("", older, parents=[(expert.ref, "member")])
    assert [result.data for result in build.facts.results] == ["data/law"]
    assert [result.data for result in catalog.results(build)] == [str(first.ref)]
