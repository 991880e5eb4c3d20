"""Legal texts are data: complete, typed, and answered by functions that exist."""

import pytest
from pydantic import ValidationError

from registry.formats.forms import FORMS
from registry.formats.legal_answers import ANSWERS
from registry.formats.legal_texts import ANNEX_IV, TRAINING_SUMMARY, LegalText, Point

POINTS = [point for law in FORMS.values() for point in law.points]
SOURCE = {"document": "d", "date": "2026-01-01", "url": "https://example.org"}


def test_every_function_that_a_point_names_exists_and_every_function_answers_a_point() -> None:
    named = {point.answer for point in POINTS if point.answer}
    assert named == set(ANSWERS)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.heading)
def test_every_point_is_answered_or_named_as_missing(point: Point) -> None:
    assert point.needs.endswith(".")
    assert (
        point.answer
        or point.recorded
        or point.missing
        or any(keys for _, keys in point.facts)
        or point.of_class
    )


def test_no_point_stands_twice_and_headings_are_counted_as_in_the_text() -> None:
    for law in FORMS.values():
        headings = [point.heading for point in law.points]
        assert len(set(headings)) == len(headings)
    assert ANNEX_IV.points[0].heading == "1. General description"
    assert ANNEX_IV.points[1].heading.startswith("2(a) ")
    assert TRAINING_SUMMARY.points[1].heading == "1.1 Provider"


def test_a_misspelt_key_in_a_text_is_an_error() -> None:
    point = {"number": "1", "title": "t", "needs": "n."}
    law = {"title": "t", "short_name": "s", "about": "a", "source": SOURCE, "points": [point]}
    assert LegalText.model_validate(law).points[0].missing == ()
    with pytest.raises(ValidationError, match="mising"):
        LegalText.model_validate(law | {"points": [point | {"mising": ["x"]}]})
