"""The default policies.

Each rule with evidence that passes and evidence that is refused, as policies/tests say.
"""

import shutil
from pathlib import Path

import pytest

from registry.errors import Invalid, NotFound
from registry.governance import policy_tests
from registry.governance.policies import Policy
from registry.governance.policy_files import load
from registry.governance.policy_tests import Result, run

POLICIES = Path(__file__).parent.parent / "policies"
EXAMPLES = POLICIES / "examples"


@pytest.fixture
def policies() -> list[Policy]:
    return load(POLICIES)


@pytest.mark.parametrize(
    "result", [*run(POLICIES), *run(EXAMPLES)], ids=lambda result: f"{result.suite}: {result.case}"
)
def test_default_policy_judges_as_its_test_says(result: Result) -> None:
    assert result.found == result.expected


def test_every_refusal_has_a_message_and_a_remedy_a_person_can_act_on(
    policies: list[Policy],
) -> None:
    for policy in policies:
        for validation in policy.validations:
            assert len(validation.message) > 15, validation.rule
            assert len(validation.remedy) > 15, validation.rule


def test_each_rule_has_a_case_that_allows_and_one_that_refuses_in_words_with_every_fact_in_place(
    policies: list[Policy],
) -> None:
    """No filled-in message says that a fact is unknown, or shows an error of the CEL library."""
    plain, passed = set(), set()
    for path in (POLICIES / "tests").glob("*.yaml"):
        suite = policy_tests.read_suite(path)
        for case in suite.cases:
            for rule in policy_tests.verdict_of(policies, suite, case).rules:
                if rule.outcome == "allowed":
                    passed.add(rule.name)
                broken = rule.outcome in ("refused", "warned")
                unclear = {"unknown", "INVALID_ARGUMENT", "?"} & set(rule.message.split(" "))
                if broken and not unclear and "cannot be read:" not in rule.message:
                    plain.add(rule.name)
    every = {
        f"{policy.name}/{validation.rule}"
        for policy in policies
        for validation in policy.validations
    }
    assert every - passed == set()
    assert every - plain == set()


def test_a_rule_turned_off_is_noticed_by_the_policies_own_tests(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES, folder)
    licence = folder / "licence.yaml"
    licence.write_text(
        licence.read_text().replace('evidence.license != null && evidence.license != ""', "1 == 1")
    )
    assert "no licence" in [result.case for result in run(folder) if not result.ok]


def test_a_rule_without_a_case_that_breaks_it_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES, folder)
    (folder / "tests" / "seed.yaml").unlink()
    assert {"seed/finite", "seed/family", "seed-licence/stated"} == {
        result.case for result in run(folder) if not result.ok
    }


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_policy_that_a_company_adds_breaks_no_shipped_case(tmp_path: Path, path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES, folder)
    shutil.copy(path, folder)
    assert f"{path.stem}/" in next(result.case for result in run(folder) if not result.ok)
    shutil.copy(path.parent / "tests" / path.name, folder / "tests")
    assert [result for result in run(folder) if not result.ok] == []


def test_one_policy_is_tested_by_its_own_cases(tmp_path: Path, policies: list[Policy]) -> None:
    for policy in policies:
        results = run(POLICIES, policy.name)
        assert results, policy.name
        assert [result for result in results if not result.ok] == []
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES, folder)
    retention = folder / "retention.yaml"
    retention.write_text(retention.read_text().replace(">= now", "<= now"))
    failed = [result.case for result in run(folder, "retention") if not result.ok]
    assert "a date that is over" in failed
    assert [result for result in run(folder, "licence") if not result.ok] == []
    with pytest.raises(NotFound, match="policy nobody"):
        run(folder, "nobody")


def test_a_test_file_about_a_policy_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES, folder)
    (folder / "licence.yaml").unlink()
    with pytest.raises(Invalid, match="policies: licence"):
        run(folder)


def test_a_misspelt_change_in_a_test_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(POLICIES, folder)
    (folder / "tests" / "seed.yaml").write_text(
        (folder / "tests" / "seed.yaml").read_text().replace("{finite: false}", "{finit.x: false}")
    )
    with pytest.raises(Invalid, match="no such fact"):
        run(folder)
