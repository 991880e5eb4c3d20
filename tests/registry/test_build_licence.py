"""A build has a licence that its inputs allow, or a question for counsel: never a guess."""

from itertools import combinations, permutations
from pathlib import Path

import pytest
import yaml

from registry import licence_terms
from registry.governance.build_licence import (
    BuildLicence,
    LicenceAnswer,
    LicensedInput,
    PairTable,
    licence_of,
    pair_table,
)
from registry.governance.policy_files import load

TABLE = pair_table(load(Path(__file__).parents[2] / "policies"))
MATRIX = yaml.safe_load((Path(__file__).parent / "licence_matrix.yaml").read_text())


def of(*licences: str | None, stated: str | None = None) -> BuildLicence:
    inputs = [LicensedInput(f"data/d{n}@1", licence) for n, licence in enumerate(licences)]
    return licence_of(inputs, TABLE, stated)


@pytest.mark.parametrize(
    ("inputs", "expression"),
    [
        (("CC0-1.0",), "CC0-1.0"),
        (("Apache-2.0", "CC0-1.0"), "Apache-2.0"),
        (("Apache-2.0", "CC-BY-4.0", "MIT"), "Apache-2.0 AND CC-BY-4.0 AND MIT"),
        (("MIT", "GPL-3.0-only"), "GPL-3.0-only AND MIT"),
        # The FSF's list: Apache-2.0 goes with version 3 alone.
        (("Apache-2.0", "GPL-2.0-or-later"), "GPL-3.0-or-later AND Apache-2.0"),
        # Creative Commons: one way.
        (("CC-BY-SA-4.0", "GPL-3.0-only"), "GPL-3.0-only"),
        (("CC-BY-SA-3.0", "CC-BY-SA-4.0"), "CC-BY-SA-4.0"),
        # MPL-2.0, section 3.3: secondary licences.
        (("MPL-2.0", "GPL-2.0-only"), "GPL-2.0-only"),
        (("LGPL-2.1-or-later", "LGPL-3.0-only"), "LGPL-3.0-only"),
        (("CC-BY-NC-4.0", "CC-BY-4.0"), "CC-BY-4.0 AND CC-BY-NC-4.0"),
    ],
)
def test_the_licence_of_a_build_follows_from_its_inputs_in_any_order(
    inputs: tuple[str, ...], expression: str
) -> None:
    for order in permutations(inputs):
        licence = of(*order)
        assert licence.answer == LicenceAnswer.COMPUTED
        assert set((licence.expression or "").split(" AND ")) == set(expression.split(" AND "))
        assert not licence.questions
        for one in inputs:
            assert any(one in reason for reason in licence.reasons)


@pytest.mark.parametrize(
    ("inputs", "question"),
    [
        ((), "nothing is recorded"),
        (("MIT", None), "no licence is stated for data/d1@1"),
        (("MIT OR GPL-2.0-only",), "none is recorded"),
        (("CC-BY-ND-4.0",), "forbids derived works"),
        (("LicenseRef-Acme",), "nobody described what LicenseRef-Acme asks"),
        (("LicenseRef-Acme", "MIT"), "nobody said that LicenseRef-Acme and MIT"),
        (("GPL-2.0-only", "Apache-2.0"), "nobody said that Apache-2.0 and GPL-2.0-only"),
        (("LicenseRef-Llama-3.1", "MIT"), "nobody said that LicenseRef-Llama-3.1 and MIT"),
    ],
)
def test_what_nobody_has_answered_is_a_question_for_counsel(
    inputs: tuple[str | None, ...], question: str
) -> None:
    licence = of(*inputs)
    assert licence.answer == LicenceAnswer.COUNSEL
    assert licence.expression is None
    assert licence.described == "ask counsel"
    assert any(question in one for one in licence.questions)


def test_no_pair_that_the_matrix_forbids_gets_a_licence_whatever_the_company_states() -> None:
    forbidden = {
        frozenset({licence, other})
        for entry in MATRIX
        for licence in entry["licences"]
        for other in entry.get("must_not", ())
    }
    assert len(forbidden) > 20
    for pair in forbidden:
        for stated in (None, *pair, "MIT"):
            assert of(*pair, stated=stated).expression is None, (pair, stated)


def test_each_pair_gets_one_answer_both_ways_and_a_whole_that_the_table_allows() -> None:
    for left, right in combinations(sorted(licence_terms.described()), 2):
        licence = of(left, right)
        assert licence.expression == of(right, left).expression
        assert (licence.expression is None) == bool(licence.questions)
        if not TABLE.allows(left, right):
            assert licence.expression is None


def test_counsel_answers_by_the_companys_table() -> None:
    asked = of("LicenseRef-Acme", "MIT")
    assert asked.answer == LicenceAnswer.COUNSEL
    table = PairTable(attribution=("LicenseRef-Acme", "MIT"))
    inputs = [LicensedInput("data/a@1", "LicenseRef-Acme"), LicensedInput("data/b@1", "MIT")]
    assert licence_of(inputs, table).expression == "LicenseRef-Acme AND MIT"


@pytest.mark.parametrize(
    ("inputs", "stated", "question"),
    [
        (("MIT", "CC0-1.0"), "Apache-2.0", None),
        (("MIT", "GPL-3.0-only"), "GPL-3.0-only", None),
        (("MIT", "GPL-3.0-only"), "MIT", "has to be passed on under GPL-3.0-only"),
        (("MIT",), "LicenseRef-Acme-commercial", "nobody said"),
        (("MIT",), "MIT OR Apache-2.0", "which is a choice"),
        (("CC-BY-NC-4.0", "CC-BY-4.0"), "CC-BY-4.0", "forbids commercial use"),
    ],
)
def test_a_stated_licence_stands_where_nothing_speaks_against_it(
    inputs: tuple[str, ...], stated: str, question: str | None
) -> None:
    licence = of(*inputs, stated=stated)
    if question is None:
        assert (licence.answer, licence.expression) == (LicenceAnswer.STATED, stated)
    else:
        assert licence.expression is None
        assert question in licence.questions[0]


def test_every_licence_of_the_companys_table_is_described_with_its_text() -> None:
    named = {*TABLE.attribution, *TABLE.copyleft, *TABLE.beside}
    assert named <= set(licence_terms.described())
    for licence in licence_terms.described():
        assert len(licence_terms.text_of(licence) or "") > 500
    assert licence_terms.text_of("LicenseRef-Acme") is None


def test_community_licences_are_known_by_every_spelling_and_have_source_and_date() -> None:
    for spelling in (
        "LicenseRef-Llama-3.1",
        "LicenseRef-llama3.1",
        "LicenseRef-Llama-31-Community",
    ):
        licence = licence_terms.community(spelling)
        assert licence is not None
        assert licence.hub == "llama3.1"
    assert licence_terms.community("LicenseRef-Acme") is None
    assert licence_terms.community("MIT") is None
    names = [name for one in licence_terms.community_licences() for name in one.names]
    assert len(names) == len(set(names))
    for one in licence_terms.community_licences():
        assert one.source.startswith("https://")
        assert one.date.year >= 2023
        assert one.pass_on
