"""Policies are adopted: a gate under another set refuses, and a verdict under one is found."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from registry.errors import Refused
from registry.governance import acts, adoption, gaps, gate, keys
from registry.governance.policies import Policy, to_document
from registry.governance.policy_files import load
from registry.records.events import Act, Acted, Judged
from registry.records.kinds import Outcome

POLICIES = Path(__file__).parents[2] / "policies"
NC = "CC-BY-NC-4.0"


@pytest.fixture
def adopted(governed: Any) -> Any:
    """A registry whose auditor ida adopted the shipped policies; ann registers, ben approves."""
    governed.person("ida", "auditor")
    governed.person("ann", "registrar", by="ida")
    governed.person("ben", "approver", by="ida")
    ida = keys.signer("ida", governed.keys / "ida.pem")
    adoption.adopt(governed.as_("ida"), load(POLICIES), ida)
    return governed


@pytest.fixture
def loosened(tmp_path: Path) -> list[Policy]:
    """The shipped policies with a licence more."""
    folder = Path(shutil.copytree(POLICIES, tmp_path / "policies"))
    licence = folder / "licence.yaml"
    licence.write_text(licence.read_text().replace("    - 0BSD\n", f"    - 0BSD\n    - {NC}\n"))
    return load(folder)


def asked(governed: Any, policies: list[Policy], **facts: Any) -> Any:
    about = governed.data_candidate("novels", **facts)
    question = governed.question("register", about)
    return gate.Question(**{**vars(question), "policies": policies})


@pytest.mark.parametrize("change", ["edited", "removed", "added", "weakened"])
def test_a_gate_refuses_under_a_set_that_was_not_adopted(
    adopted: Any, loosened: list[Policy], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTX_KEY_FILE", str(adopted.keys / "ann.pem"))
    shipped = load(POLICIES)
    first = shipped[0]
    policies = {
        "edited": loosened,
        "removed": [policy for policy in shipped if policy.name not in ("people", "release")],
        "added": [*shipped, first.model_copy(update={"name": "another"})],
        "weakened": [first.model_copy(update={"enforcement": "audit"}), *shipped[1:]],
    }[change]
    question = asked(adopted, policies)
    verdict = gate.decide(adopted.as_("ann"), question)
    assert [rule.name for rule in verdict.refusals()] == ["gate/adopted"]
    assert "adopted by ida" in verdict.rules[0].message
    assert gate.decide(adopted.as_("ann"), asked(adopted, shipped[::-1])).outcome == "allowed"


def test_only_an_auditors_signature_makes_a_set_valid_once_the_list_of_actors_is_closed(
    adopted: Any, loosened: list[Policy]
) -> None:
    before = adoption.adopted(adopted.as_("ann"))
    with pytest.raises(Refused, match="no auditor's signature"):
        adoption.adopt(adopted.as_("ann"), loosened)
    ben = keys.signer("ben", adopted.keys / "ben.pem")
    with pytest.raises(Refused, match="roles approver"):
        adoption.adopt(adopted.as_("ben"), loosened, ben)
    # Past the functions: an event that nobody signed, and one whose digest is of another set.
    digest = adoption.set_digest(loosened)
    act = Act(act="adopted", subject="policies", digest=digest, actor="ida", at=acts.now())
    document = {"policies": [policy.to_json() for policy in loosened]}
    adopted.as_("ida").event(Acted(act=act), "policies", kind="adopted", documents=[document])
    assert adoption.adopted(adopted.as_("ann")) == before
    ida = keys.signer("ida", adopted.keys / "ida.pem")
    good = act.model_copy(update={"digest": before.digest if before else ""})
    acts.sign(adopted.as_("ida"), good, ida, documents=[document])
    assert adoption.adopted(adopted.as_("ann")) == before, "the words of one set, another kept"


def test_edit_act_and_put_back_is_found(adopted: Any, loosened: list[Policy]) -> None:
    """The verdict agrees with the policies kept with it, but those were never adopted."""
    catalog = adopted.as_("ann")
    question = asked(adopted, loosened, license=NC)
    evidence = question.evidence.to_json() | {
        "waivers": [],
        "actor": acts.asker(catalog, "ann").to_json(),
    }
    refused = gate.decide(catalog, question)
    assert refused.outcome == "refused"
    logged = gate.verdicts(catalog, "data/novels@1")[-1].read(Judged)
    rules = {"licence/stated": "allowed", "licence/allowed": "allowed"}
    forged = logged.model_copy(update={"outcome": Outcome.ALLOWED, "rules": rules, "reasons": ()})
    event = catalog.event(forged, "data/novels@1", documents=[to_document(loosened), evidence])
    gap = gaps.disagreement(catalog, event)
    assert gap is not None
    assert "gate/adopted" in gap.found


def test_a_verdict_stays_good_after_another_set_was_adopted(
    adopted: Any, loosened: list[Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTX_KEY_FILE", str(adopted.keys / "ann.pem"))
    adopted.data("law")
    catalog = adopted.as_("ann")
    assert gaps.ungated(catalog, "data/law@1") == []
    ida = keys.signer("ida", adopted.keys / "ida.pem")
    adoption.adopt(adopted.as_("ida"), loosened, ida, why="counsel agreed")
    assert gaps.ungated(catalog, "data/law@1") == []
    assert gate.decide(catalog, asked(adopted, loosened, license=NC)).outcome == "allowed"
    assert gate.decide(catalog, asked(adopted, load(POLICIES))).outcome == "refused"


def test_a_registry_without_an_adopted_set_judges_as_it_did(
    governed: Any, loosened: list[Policy]
) -> None:
    governed.data("law")
    assert gate.decide(governed.as_("ann"), asked(governed, loosened)).outcome == "allowed"
    assert gaps.ungated(governed.as_("ann"), "data/law@1") == []


def test_the_digest_of_a_set_is_that_of_its_rules_and_not_of_their_order() -> None:
    shipped = load(POLICIES)
    assert adoption.set_digest(shipped) == adoption.set_digest(shipped[::-1])
    digests = {adoption.set_digest(shipped)}
    for policy in shipped:
        other = policy.model_copy(update={"waivable": not policy.waivable})
        digests.add(adoption.set_digest([other if one is policy else one for one in shipped]))
    assert len(digests) == len(shipped) + 1


def test_the_difference_is_shown_before_it_is_adopted(loosened: list[Policy]) -> None:
    lines = adoption.changes(load(POLICIES), loosened)
    assert [line for line in lines if line.startswith(("+ ", "- "))] == [f'+   "{NC}",']
