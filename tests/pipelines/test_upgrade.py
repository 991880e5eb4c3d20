"""An older workspace is led to what a new one has, and nothing of it is changed on the way."""

import shutil
from pathlib import Path

import pytest

from pipelines.jobs.add_data import add_data
from pipelines.jobs.audit import audit
from pipelines.jobs.upgrade import upgrade
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Refused
from registry.governance import adoption, changes, keys, people
from registry.governance.policy_files import load
from registry.governance.policy_tests import run
from registry.records.facts import DataStatement

PEOPLE = {"ida": "auditor", "rob": "registrar"}
LACKING = ("seen-before", "seen-rights", "export-released")
STATED = DataStatement(
    license="CC0-1.0", source="the test", holder="the state", purpose="tests", pii="none"
)


@pytest.fixture
def older(tiny_corpora: Path, tmp_path: Path) -> Workspace:
    """A workspace of before: policies that came later, their cases, facts and ledger are not there.

    One of its policies says something else than it would say today.
    """
    workspace = create(tmp_path / "workspace")
    add_data(workspace, "math", tiny_corpora / "math", STATED)
    for name in LACKING:
        (workspace.policies / f"{name}.yaml").unlink()
    for path in (workspace.policies / "tests").iterdir():
        path.unlink()
    licence = workspace.policies / "licence.yaml"
    licence.write_text(licence.read_text().replace("    - Zlib\n", ""))
    workspace.facts.unlink()
    shutil.rmtree(workspace.ledger)
    return workspace


def texts(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_plan_comes_first_and_what_is_there_stays_as_it_is(older: Workspace) -> None:
    before, head = texts(older.policies), older.catalog.head()
    plan = upgrade(older)
    assert (texts(older.policies), older.catalog.head()) == (before, head), "nothing is done yet"
    assert [step.done for step in plan] == [False] * 6
    assert plan[0].what == "policies export-released, seen-before, seen-rights"
    steps = upgrade(older, apply=True)
    assert [step.done for step in steps] == [True] * 4 + [False] * 2
    after = texts(older.policies)
    assert {path: after[path] for path in before} == before
    assert adoption.adopted(older.catalog).digest == adoption.set_digest(load(older.policies))
    left = [step.what for step in upgrade(older)]
    assert left == ["an auditor who keeps the list of actors", "a look at policies licence"]


def test_policies_come_with_cases_that_test_them_alone(older: Workspace) -> None:
    upgrade(older, apply=True)
    for name in LACKING:
        results = run(older.policies, name)
        assert [result for result in results if not result.ok] == []
        assert any(name in result.expected for result in results)


def test_an_audit_finds_after_it_what_it_found_before(older: Workspace) -> None:
    upgrade(older, apply=True)
    (older.root / "data/math/1/more.txt").write_text("no part of it")
    found = audit(older, "data/math@1").findings
    assert [(one.check, one.found) for one in found] == [("files", "a file that is not registered")]


def test_on_a_closed_list_nobody_but_an_auditor_lays_down_what_shuts_the_gates(
    older: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acting(name: str) -> Workspace:
        monkeypatch.setenv("BTX_ACTOR", name)
        monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / f"{name}.pem"))
        return Workspace.find(older.root)

    public = {who: keys.public_pem(keys.new_key(who, tmp_path / f"{who}.pem")) for who in PEOPLE}
    for who, role in PEOPLE.items():
        ida = acting("ida")
        by = keys.signer("ida") if people.is_closed(ida.catalog) else None
        changes.change_actor(ida.catalog, changes.Change(who, (role,), public[who]), by)
    before, registrar = texts(older.policies), acting("rob")
    assert not upgrade(registrar)[0].done, "anybody may look"
    with pytest.raises(Refused, match="would adopt policies"):
        upgrade(registrar, apply=True)
    assert texts(older.policies) == before
    assert [step.done for step in upgrade(acting("ida"), apply=True)] == [True] * 4 + [False]
