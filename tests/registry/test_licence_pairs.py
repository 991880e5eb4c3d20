"""No two licences stand in one build that the licences' own authors keep apart."""

from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.governance.policies import Candidate, judge
from registry.governance.policy_files import load
from registry.governance.policy_tests import read_suite
from registry.licences import each

POLICIES = Path(__file__).parents[2] / "policies"
BUILD_RULES = [one for one in load(POLICIES) if one.name == "licence-build"]
BUILD = read_suite(POLICIES / "tests" / "build.yaml").evidence
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
# Ways to write that both apply: as two inputs, as one, turned round, said twice.
FORMS = (
    ("{0}", "{1}"),
    ("{0} AND {1}",),
    ("({1}) AND {0}", "{0}"),
    ("({0} AND {0}) OR {1}",),  # as long as nobody recorded which, both count
)


def matrix() -> tuple[set[frozenset[str]], set[frozenset[str]]]:
    """Return the pairs that a document allows, and those that one forbids."""
    may: set[frozenset[str]] = set()
    must_not: set[frozenset[str]] = set()
    for entry in yaml.safe_load((Path(__file__).parent / "licence_matrix.yaml").read_text()):
        for licence in entry["licences"]:
            may |= {frozenset({licence, other}) for other in entry["may"]}
            must_not |= {frozenset({licence, other}) for other in entry.get("must_not", ())}
    return may, must_not


MAY, MUST_NOT = matrix()
LICENCES = sorted({one for pair in MAY | MUST_NOT for one in pair} | {"LicenseRef-Acme"})
# Attribution licences among each other: none asks anything of the rest of a work.
FREE = set(BUILD_RULES[0].parameters["attribution"])


def together(*texts: str) -> bool:
    evidence: dict[str, Any] = {**BUILD, "licenses": list(each(texts))}
    candidate = Candidate("build", "build", evidence)
    return not judge(BUILD_RULES, candidate, at=AT).refusals()


def test_the_matrix_contradicts_itself_nowhere() -> None:
    assert not MAY & MUST_NOT
    assert len(list(combinations(LICENCES, 2))) >= 200


@pytest.mark.parametrize(("left", "right"), list(combinations(LICENCES, 2)))
def test_a_pair_is_answered_as_its_authors_say_however_it_is_written(left: str, right: str) -> None:
    pair = frozenset({left, right})
    expected = pair in MAY or pair <= FREE
    for form in FORMS:
        for first, second in ((left, right), (right, left)):
            texts = [part.format(first, second) for part in form]
            assert together(*texts) == expected, (texts, "forbidden" if pair in MUST_NOT else "")


def test_an_exception_makes_a_licence_of_its_own_which_no_table_names() -> None:
    assert together("GPL-2.0-only", "MIT")
    assert not together("GPL-2.0-only WITH Classpath-exception-2.0", "MIT")


@pytest.mark.parametrize(
    "licence", ["CC-BY-ND-3.0-DE", "CC-BY-NC-ND-3.0-IGO", "CC-BY-ND-2.0+", "cc-by-nc-nd-4.0"]
)
def test_what_forbids_derived_works_is_in_no_build_not_even_alone(licence: str) -> None:
    assert together("CC-BY-NC-4.0")
    assert not together(licence)
    assert not together(f"{licence} OR MIT"), "nobody said which applies"
