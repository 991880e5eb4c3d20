"""Policies by command: adopted by the first act, refused when edited, tried before they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import gates, policy, state_facts
from pipelines.jobs.add_data import add_data
from pipelines.jobs.audit import audit
from pipelines.jobs.export import ExportRequest, export
from pipelines.jobs.release import build_evidence, drafted
from pipelines.workspace.given_facts import GivenFacts
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Refused
from registry.governance import acts, adoption, changes, keys
from registry.records.answers.deciding import VerdictAnswer
from registry.records.events import Act, Acted, Judged
from registry.records.facts import BuildFacts, DataStatement, SeedFacts
from registry.records.kinds import Gate, Kind

STATED = DataStatement(
    license="CC0-1.0", source="the test", holder="the state", purpose="tests", pii="none"
)
FORGED = Judged(gate="register", kind="data", outcome="allowed", at="2026-01-01T00:00:00Z")


@pytest.fixture
def workspace(tiny_corpora: Path, tmp_path: Path) -> Workspace:
    made = create(tmp_path / "workspace")
    add_data(made, "prose", tiny_corpora / "prose", STATED)
    return made


def _close(made: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever runs the tests keep the list of actors."""
    name, key = made.catalog.actor, folder / "key.pem"
    pem = keys.public_pem(keys.new_key(name, key))
    monkeypatch.setenv("BTX_KEY_FILE", str(key))
    changes.change_actor(made.catalog, changes.Change(name, ("auditor", "registrar"), pem))


def test_the_first_act_of_a_new_workspace_adopts_the_policies_that_lie_there(
    workspace: Workspace,
) -> None:
    event = workspace.catalog.events()[0]
    assert (event.kind, event.read(Acted).act.why) == ("adopted", "the set of a new workspace")
    assert policy.adopt(workspace).status == "unchanged"


def test_edited_policies_let_nothing_in_and_an_audit_names_them_until_they_are_adopted(
    workspace: Workspace, tiny_corpora: Path, btx: Any
) -> None:
    licence = workspace.policies / "licence.yaml"
    whole = licence.read_text()
    licence.write_text(whole.replace("    - 0BSD\n", "    - 0BSD\n    - CC-BY-NC-4.0\n"))
    stolen = STATED.model_copy(update={"license": "CC-BY-NC-4.0"})
    with pytest.raises(Refused, match="gate/adopted"):
        add_data(workspace, "math", tiny_corpora / "math", stolen)
    (finding,) = audit(workspace, "data/prose@1").findings
    assert (finding.check, "differs in licence" in finding.found) == ("policies", True)
    shown = btx(workspace.root, "policy", "adopt", "--dry-run")
    assert '+   "CC-BY-NC-4.0",' in shown.stdout
    done = btx(workspace.root, "policy", "adopt", "--why", "counsel agreed", "--json")
    assert json.loads(done.stdout)["status"] == "adopted"
    assert add_data(workspace, "math", tiny_corpora / "math", stolen).created
    licence.write_text(whole)
    found = {finding.check for finding in audit(workspace, "data/math@1").findings}
    assert found == {"policies"}, "put back: the adopted set is still the other one"


@pytest.mark.parametrize("forged", ["refused", "verdict", "adopted"])
def test_no_event_that_nobody_signed_lets_a_closed_list_judge_by_any_policies(
    tiny_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forged: str
) -> None:
    made = create(tmp_path / "workspace")
    _close(made, tmp_path, monkeypatch)
    act = Act(act="adopted", subject="policies", digest="0" * 64, actor="ida", at=acts.now())
    body = Acted(act=act) if forged == "adopted" else FORGED
    made.catalog.event(body, "policies", kind=forged)
    for path in made.policies.glob("*.yaml"):
        if path.name != "people.yaml":
            path.unlink()
    unlicensed = STATED.model_copy(update={"license": None})
    with pytest.raises(Refused, match="gate/adopted: no policies were adopted"):
        add_data(made, "prose", tiny_corpora / "prose", unlicensed)
    assert policy.adopt(made).status == "adopted"
    assert add_data(made, "prose", tiny_corpora / "prose", unlicensed).created


def test_asking_ahead_says_what_a_gate_says_that_waits_for_an_auditor_to_adopt_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(tmp_path / "workspace")
    catalog = made.catalog
    catalog.register("base", SeedFacts(license="MIT"))
    facts = BuildFacts(line="main", seed="seed/base@1", members=(), content="0" * 64)
    build = catalog.register("", facts)
    _close(made, tmp_path, monkeypatch)
    head = catalog.head()
    asked = gates.question(made, Gate.RELEASE, "build/1", build_evidence(made, build))
    with pytest.raises(Refused) as refused:
        gates.ask(made, Gate.RELEASE, "build/1", asked.evidence)
    (said,) = refused.value.rules
    assert said.rule == "gate/adopted"
    with pytest.raises(Refused, match=said.message):
        drafted(made, "build/1")
    verdicts = policy.check(made, "build/1").verdicts
    assert list(verdicts) == ["build", "release", "export"]
    ahead = VerdictAnswer.from_json(gates.check(catalog, asked).to_json(), "verdict")
    for verdict in (ahead, *verdicts.values()):
        (rule,) = verdict.rules
        assert (f"{rule.policy}/{rule.rule}", rule.message) == (said.rule, said.message)
    own = made.stating(GivenFacts(("hub_id=a/b",)))
    with pytest.raises(Refused, match="a schema that no auditor adopted"):
        state_facts.stated(own, Kind.DATA)
    assert catalog.head() == head
    assert any("gates refuse until an auditor" in note for note in audit(made, None).notes)
    policy.adopt(made)
    assert state_facts.stated(own, Kind.DATA).values == {"hub_id": "a/b"}
    names = [rule.name for rule in gates.check(catalog, asked).rules]
    assert names
    assert "gate/adopted" not in names


def test_a_workspace_that_judged_before_its_list_was_closed_stays_as_it_is(
    tiny_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(tmp_path / "workspace")
    made.catalog.event(FORGED, "data/law@1", kind="refused")
    _close(made, tmp_path, monkeypatch)
    assert add_data(made, "prose", tiny_corpora / "prose", STATED).created
    assert adoption.adopted(made.catalog) is None


def test_a_proposed_set_says_what_it_would_refuse_and_logs_nothing(
    workspace: Workspace, tmp_path: Path, btx: Any
) -> None:
    assert policy.try_out(workspace) == []
    proposed = tmp_path / "proposed"
    proposed.mkdir()
    for path in workspace.policies.glob("*.yaml"):
        (proposed / path.name).write_text(path.read_text().replace("    - CC0-1.0\n", ""))
    head = workspace.catalog.head()
    done = btx(workspace.root, "policy", "try", str(proposed), "--json")
    assert (done.returncode, workspace.catalog.head()) == (3, head)
    (row,) = json.loads(done.stdout)
    assert row == {
        "ref": "data/prose@1",
        "gate": "register",
        "logged": "allowed",
        "now": "refused",
        "rules": ["licence/allowed"],
    }


def test_trying_policies_judges_a_draft_export_as_a_draft(
    own_story: Workspace, tmp_path: Path, btx: Any
) -> None:
    ref = "build/1"
    (row,) = [row for row in policy.try_out(own_story) if row.gate == "export"]
    assert (row.ref, row.logged, row.now) == (ref, None, "refused")
    export(own_story, ref, tmp_path / "draft", ExportRequest(draft=True))
    assert [row for row in policy.try_out(own_story) if row.gate == "export"] == []
    assert btx(own_story.root, "policy", "try").returncode == 0


def test_a_company_policy_says_whom_it_would_refuse_by_the_facts_that_are_stated(
    workspace: Workspace, tmp_path: Path, btx: Any
) -> None:
    paper = tmp_path / "dpia.pdf"
    paper.write_text("assessed")
    examples = workspace.policies / "examples"
    stated = ("residency=EU", "data_subjects=customers")
    btx(workspace.root, "fact", "set", "data/prose@1", *stated, "--why", "as the contract says")
    (row,) = policy.try_out(workspace, examples)
    assert (row.ref, row.now, row.rules) == ("data/prose@1", "refused", ("eu-customers/dpia",))
    attached = ("--attach", f"dpia={paper}", "--why", "assessed")
    done = btx(workspace.root, "fact", "set", "data/prose@1", *attached)
    assert done.returncode == 0, done.stderr
    assert policy.try_out(workspace, examples) == []


@pytest.mark.parametrize(
    ("left_out", "rule"),
    [("pii", "privacy/classified"), ("license", "licence/stated"), ("source", "provenance/source")],
)
@pytest.mark.parametrize("value", [None, ""])
def test_what_nobody_stated_no_default_states(
    workspace: Workspace, tiny_corpora: Path, left_out: str, rule: str, value: str | None
) -> None:
    said = STATED.model_copy(update={left_out: value})
    with pytest.raises(Refused, match=rule):
        add_data(workspace, "math", tiny_corpora / "math", said)
    assert workspace.catalog.next_version(Kind.DATA, "math") == 1


@pytest.mark.parametrize("said", ["None", "nobody asked", "reviewed ", "PRESENT"])
def test_a_class_of_personal_data_that_there_is_not_is_none(
    workspace: Workspace, tiny_corpora: Path, said: str
) -> None:
    with pytest.raises(Refused, match="privacy/classified"):
        add_data(workspace, "math", tiny_corpora / "math", STATED.model_copy(update={"pii": said}))
