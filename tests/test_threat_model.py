"""The page on threats is complete: assets, roles, attacks, and the tests that hold each answer."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs/threat-model.md").read_text()
ANSWERS = {"prevented", "noticed", "not covered"}


def table(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    part = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def names_by_file() -> dict[str, set[str]]:
    """Return the names of the tests in every file."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        found[str(path)] = {name for name in names if name.startswith("test_")}
    return found


def faults(text: str) -> list[str]:
    """Say what the page lacks."""
    attacks = table(text, "Attacks")
    known = set[str]().union(*names_by_file().values())
    guards = set[str]().union(
        *(
            names
            for name, names in names_by_file().items()
            if Path(name).name.startswith("test_guard")
        )
    )
    found = []
    named: set[str] = set()
    for by, against, what, answer, how, held in attacks:
        tests = set(re.findall(r"`(test_\w+)`", held))
        named |= tests
        if answer not in ANSWERS or not how:
            found.append(f"{what}: no answer")
        if answer != "not covered" and not tests:
            found.append(f"{what}: no test")
        found += [f"{what}: no test {test}" for test in tests - known]
        if by not in {row[0] for row in table(text, "Roles")}:
            found.append(f"{what}: by {by}")
        if against not in {row[0] for row in table(text, "Assets")}:
            found.append(f"{what}: against {against}")
    for position, heading in enumerate(("Roles", "Assets")):
        for row in table(text, heading):
            if row[0] not in {attack[position] for attack in attacks}:
                found.append(f"no attack: {row[0]}")
    found += [f"not on the page: {test}" for test in sorted(guards - named)]
    return found


def test_every_asset_and_role_has_attacks_and_every_answer_its_test() -> None:
    assert faults(PAGE) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("`test_a_forged_verdict_does_not_judge_again`", ""),
        ("`test_a_forged_verdict_does_not_judge_again`", "`test_that_nobody_wrote`"),
        ("| supplier |", "| stranger |"),
        ("| people | an act", "| persons | an act"),
        ("| noticed |", "| hoped |"),
    ],
)
def test_a_page_with_a_hole_is_noticed(before: str, after: str) -> None:
    assert before in PAGE
    assert faults(PAGE.replace(before, after, 1)) != []
