"""A verdict is given by what the log and the rows say, and not by what its writer says of them.

Whoever registers can write a verdict by the registry's own functions and sign it with their own
key: the policies are the adopted ones, and judging them again agrees. What it says is a lie.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import collect_evidence
from registry.catalogue import checks
from registry.catalogue.checks import AuditContext
from registry.catalogue.store import Store
from registry.governance import (
    acts,
    adoption,
    approving,
    changes,
    gaps,
    gate,
    keys,
    people,
    stating,
)
from registry.governance.policy_files import load
from registry.records.events import Exported, Released
from registry.records.facts import BuildFacts, ExportFacts
from registry.records.own_facts import FactSchema
from registry.records.version import FileFact

POLICIES = Path(__file__).parents[2] / "policies"
NC = "CC-BY-NC-4.0"
Lie = Callable[[dict[str, Any]], Mapping[str, Any]]


@pytest.fixture
def told(governed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ida audits, ben approves, ann registers under her key."""
    governed.person("ida", "auditor")
    adoption.adopt(governed.as_("ida"), load(POLICIES), governed.signer("ida"))
    governed.person("ann", "registrar", by="ida")
    governed.person("ben", "approver", by="ida")
    monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / "ann.pem"))
    return governed


def lying(told: Any, question: gate.Question, lie: Lie, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log a verdict on evidence that says something else than the log and the rows."""
    completed = gate._completed

    def changed(*args: Any) -> Any:
        evidence, waivers = completed(*args)
        return {**evidence, **lie(evidence)}, waivers

    with monkeypatch.context() as patch:
        patch.setattr(gate, "_completed", changed)
        patch.setattr(gate, "_if_in_use", lambda _, verdict: verdict)
        assert gate.decide(told.as_("ann"), question).outcome in ("allowed", "waived")


def load_without(name: str) -> Any:
    return [policy for policy in load(POLICIES) if not policy.name.startswith(name)]


def release(told: Any, at: datetime | None = None) -> gate.Question:
    catalog = told.as_("ann")
    about = collect_evidence.of_build(catalog, catalog.get("build/1", BuildFacts), None)
    question: gate.Question = told.question("release", about, at)
    return question


def released(told: Any) -> list[str]:
    """Log the release of build/1, signed; return what is found of it."""
    catalog = told.as_("ann")
    envelope = acts.vouched(catalog, "released", "build/1", catalog.get("build/1").digest)
    catalog.event(Released(verdict="allowed", envelope=envelope), "build/1")
    assert gaps.unsigned(catalog)[1] == [], "she signs what she says"
    return [gap.found for gap in gaps.ungated(catalog, "build/1")]


def approved(told: Any) -> Any:
    return approving.approve(told.as_("ben"), "build/1", told.signer("ben"))


def line(event_at: str) -> dict[str, Any]:
    return {"actor": "ben", "at": event_at, "roles": ["approver"]}


def with_data(evidence: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return members whose data is said to be something else."""
    members = [
        {**member, "data": [{**one, **change} for one in member["data"]]}
        for member in evidence["members"]
    ]
    return {"members": members}


def of_members(evidence: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return members of which something else is said."""
    return {"members": [{**member, **change} for member in evidence["members"]]}


def of_results(evidence: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return results of which something else is said."""
    return {"results": [{**result, **change} for result in evidence["results"]]}


def waiver(rule: str, subject: str) -> dict[str, Any]:
    until = "2099-01-01T00:00:00Z"
    return {"rule": rule, "subject": subject, "until": until, "actor": "ben"}


LIES: Mapping[str, tuple[Lie, str]] = {
    "registrar": (lambda e: {"registrar": "zed"}, "registrar 'zed'"),
    "roles of who asks": (
        lambda e: {"actor": {**e["actor"], "roles": ["approver", "registrar"]}},
        "roles",
    ),
    "an open list": (lambda e: {"actor": {**e["actor"], "roll": "open"}}, "roll 'open'"),
    "another who asks": (lambda e: {"actor": {**e["actor"], "name": "ben"}}, "name 'ben'"),
    "another source": (lambda e: with_data(e, source="ours"), "source 'ours'"),
    "another end": (lambda e: with_data(e, retain_until="2099-01-01"), "retain_until '2099"),
    "another holder": (lambda e: with_data(e, holder="us"), "holder 'us'"),
    "a fact of its data": (lambda e: with_data(e, own={"dpia": "passed"}), "own fact dpia"),
    "an own fact": (lambda e: {"own": {"reviewed": "yes"}}, "own fact reviewed"),
    "one of the company": (lambda e: {"organisation": {"dpo": "yes"}}, "own fact dpo"),
    "no licences": (lambda e: {"licenses": []}, "licenses []"),
    "other licences": (lambda e: {"licenses": ["MIT"]}, "licenses ['MIT']"),
    "members without data": (lambda e: of_members(e, data=[]), "data [] of expert/law@1"),
    "another seed's data": (
        lambda e: {"seed_data": e["members"][0]["data"]},
        "data ['data/law@1'] of seed/base@1",
    ),
    "another verdict on a member": (lambda e: of_members(e, gate="waived"), "gate 'waived'"),
    "another verdict on its data": (lambda e: with_data(e, gate="waived"), "gate 'waived'"),
    "another verdict on the seed": (lambda e: {"seed_gate": "waived"}, "gate 'waived'"),
    "a waiver nobody signed": (
        lambda e: {"waivers": [waiver("privacy/reviewed", "data/law@1")]},
        "waiver of privacy/reviewed for data/law@1 until 2099-01-01T00:00:00Z that did not hold",
    ),
    "a newer corpus": (
        lambda e: with_data(e, registered_at="2030-01-01T00:00:00Z"),
        "registered_at '2030",
    ),
    "newer text of figures": (
        lambda e: of_results(e, data_registered_at="2030-01-01T00:00:00Z"),
        "data_registered_at '2030",
    ),
    "a worse release before": (
        lambda e: of_results(e, previous_bits_per_byte=99.0),
        "previous_bits_per_byte 99",
    ),
    "another release before": (
        lambda e: {"compared_with": "build/9"},
        "compared_with 'build/9' of build/1",
    ),
    "an older build": (lambda e: {"registered_at": "2020-01-01T00:00:00Z"}, "registered_at '2020"),
    "an earlier release": (lambda e: {"released_at": "2020-01-01T00:00:00Z"}, "released_at '2020"),
    "an auditor's approval": (
        lambda e: {"approvals": [{**one, "roles": ["auditor"]} for one in e["approvals"]]},
        "roles ['auditor'] of approver ben",
    ),
    "another division": (
        lambda e: {"division": {"could_be_one": [], "unserved": ["data/law@1"]}},
        "division",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_release_by_a_verdict_that_lies_is_found(
    told: Any, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.story()
    approved(told)
    lying(told, release(told), LIES[lie][0], monkeypatch)
    (found,) = released(told)
    assert LIES[lie][1] in found


@pytest.mark.parametrize("withdrawn", ["data/law@1", "seed/base@1", "expert/law@1"])
def test_a_release_of_what_was_out_of_use_by_then_is_found(
    told: Any, withdrawn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the verdict says of the status of its parts."""
    told.story()
    approved(told)
    honest = release(told)
    vouched = acts.vouched(
        told.as_("ann"), "withdrawn", withdrawn, told.as_("ann").get(withdrawn).digest, why="w"
    )
    told.as_("ann").withdraw(withdrawn, "w", envelope=vouched)
    assert gate.check(told.as_("ann"), release(told)).outcome == "refused"
    lying(told, honest, lambda e: {}, monkeypatch)
    (found,) = released(told)
    assert "which was out of use by then" in found


def test_what_is_out_of_use_is_let_out_by_no_policies(told: Any) -> None:
    """Its members may all be in use: it grew from a build that was tuned on other data."""
    told.story()
    approved(told)
    with_none = replace(release(told), policies=load_without("standing"))
    adoption.adopt(told.as_("ida"), with_none.policies, told.signer("ida"), "none asks")
    assert gate.check(told.as_("ann"), with_none).outcome == "allowed"
    told.as_("ann").withdraw("data/law@1", "w")
    (rule,) = gate.check(told.as_("ann"), with_none).refusals()
    assert (rule.name, rule.message) == ("gate/in-use", "build/1 is tainted")


@pytest.mark.parametrize("meanwhile", ["approval", "withdrawal"])
def test_a_release_by_a_verdict_whose_grounds_went_meanwhile_is_found(
    told: Any, meanwhile: str
) -> None:
    """The verdict was honest, and is kept until it is wanted."""
    told.story()
    event = approved(told)
    assert gate.decide(told.as_("ann"), release(told)).outcome == "allowed"
    if meanwhile == "approval":
        approving.retract(told.as_("ben"), event, told.signer("ben"), "found a backdoor")
        said = "judged on an approval by ben that did not stand by then"
    else:
        digest = told.as_("ann").get("data/law@1").digest
        envelope = acts.vouched(told.as_("ann"), "withdrawn", "data/law@1", digest, why="w")
        told.as_("ann").withdraw("data/law@1", "w", envelope=envelope)
        said = "released while it was out of use"
    assert released(told) == [said]


def test_a_release_by_a_waiver_that_was_taken_back_meanwhile_is_found(told: Any) -> None:
    told.story()
    approved(told)
    policies = [
        one.model_copy(update={"parameters": {**one.parameters, "active_parameters": 1}})
        if one.name == "budget"
        else one
        for one in load(POLICIES)
    ]
    adoption.adopt(told.as_("ida"), policies, told.signer("ida"), "a small budget")
    asked = replace(release(told), policies=policies)
    assert gate.decide(told.as_("ann"), asked).outcome == "refused"
    granted = gate.grant(told.as_("ben"), "budget/active-parameters", "build/1")
    until = (told.at + timedelta(days=9)).date().isoformat()
    event = approving.waive(told.as_("ben"), granted, told.signer("ben"), until=until, why="w")
    assert gate.decide(told.as_("ann"), asked).outcome == "waived"
    assert released(told) == []
    approving.retract(told.as_("ben"), event, told.signer("ben"), "too dear after all")
    rule = "budget/active-parameters"
    assert released(told) == [f"judged on a waiver of {rule} for build/1 that did not hold"]


def test_a_release_by_a_verdict_that_was_kept_for_later_is_found(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then a date may be past, and other policies valid."""
    told.story()
    approved(told)
    assert gate.decide(told.as_("ann"), release(told)).outcome == "allowed"
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(told.as_("ann"), "_clock", lambda: later)
    monkeypatch.setattr(acts, "now", lambda: later.isoformat())
    (found,) = released(told)
    assert found.startswith("released on ")


def test_who_registers_in_anothers_name_to_approve_their_own_work_is_found(told: Any) -> None:
    ann, key = told.as_("ann"), keys.public_pem(told.signer("ann"))
    both = changes.Change("ann", ("registrar", "approver"), key)
    changes.change_actor(told.as_("ida"), both, told.signer("ida"))
    told.seed()
    member = told.expert(told.data())
    told.decide("build", collect_evidence.of_candidate(ann, "build/1", "seed/base@1", [member]))
    facts = told.build_facts(member)
    told.as_("ben").register("", facts, parents=[(member.ref, "member")])
    approving.approve(ann, "build/1", told.signer("ann"))
    assert gate.decide(ann, release(told)).outcome == "allowed", "ben seems to have registered it"
    assert released(told) == ["registered by ben, where ann asked the gate"]


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_release_by_an_approval_that_nobody_gave_or_that_was_taken_back_is_found(
    told: Any, taken_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.story()
    at = acts.now()
    if taken_back:
        event = approved(told)
        approving.retract(told.as_("ben"), event, told.signer("ben"), "wrong build")
        at = event.at
    lying(told, release(told), lambda e: {"approvals": [line(at)]}, monkeypatch)
    assert released(told) == ["judged on an approval by ben that did not stand by then"]


def test_an_honest_release_is_found_fault_with_by_nobody_whatever_comes_after_it(
    told: Any,
) -> None:
    schema = {"facts": {"dpia": {"kinds": ["data"]}, "dpo": {"kinds": ["organisation"]}}}
    stating.declare(told.as_("ida"), FactSchema.model_validate(schema), told.signer("ida"))
    told.story()
    stating.amend(told.as_("ann"), "data/law@1", {"dpia": "passed"}, "read", told.signer("ann"))
    stating.amend(told.as_("ann"), "organisation", {"dpo": "yes"}, "new", told.signer("ann"))
    event = approved(told)
    assert gate.decide(told.as_("ann"), release(told)).outcome == "allowed"
    assert released(told) == []
    stating.amend(told.as_("ann"), "data/law@1", {"dpia": "failed"}, "again", told.signer("ann"))
    approving.retract(told.as_("ben"), event, told.signer("ben"), "for the next one")
    told.person("cy", "approver", by="ida")
    assert [gap.found for gap in gaps.ungated(told.as_("ann"), "build/1")] == []


def test_a_corpus_that_was_let_in_by_a_waiver_that_was_taken_back_is_found(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = (datetime.now(UTC) + timedelta(days=10)).date().isoformat()
    about = told.data_candidate("novels", license=NC)
    event = told.waive(told.signer("ben"), "licence/allowed", about, until)
    held = approving.waivers(told.as_("ann"), "data/novels@1", "ann")
    approving.retract(told.as_("ida"), event, told.signer("ida"), "counsel disagreed")
    completed = gate._completed
    with monkeypatch.context() as patch:
        patch.setattr(gate, "_completed", lambda *args: (completed(*args)[0], held))
        assert told.decide("register", about).outcome == "waived"
    catalog = told.as_("ann")
    facts = told.data_facts(domain="novels", license=NC)
    catalog.register("novels", facts, files=[told.file_of("novels")])
    (gap,) = gaps.ungated(catalog, "data/novels@1")
    assert "is no signed act" in gap.found


def test_a_verdict_of_another_time_than_it_was_logged_at_is_found(told: Any) -> None:
    """Data whose end is past asks as of a day before it."""
    facts = {"retain_until": "2020-12-31"}
    about = told.data_candidate("law", **facts)
    assert told.decide("register", about).outcome == "refused"
    back = datetime(2020, 6, 1, tzinfo=UTC)
    assert told.decide("register", about, back).outcome == "allowed"
    catalog = told.as_("ann")
    catalog.register("law", told.data_facts(domain="law", **facts), files=[told.file_of("law")])
    (gap,) = gaps.ungated(catalog, "data/law@1")
    assert "judged as of 2020-06-01" in gap.found


def test_an_act_that_was_signed_long_before_it_was_logged_is_found(told: Any) -> None:
    """Somebody kept an approval that its signer never sent, and logs it at a better time."""
    from registry.governance import attestations
    from registry.records.events import Acted, Envelope

    told.story()
    act = approving.drafted(told.as_("ben"), "build/1", "ben")
    act = act.model_copy(update={"at": "2026-01-01T08:00:00Z"})
    envelope = attestations.sign(act.to_json(), told.signer("ben").key, people.ACT)
    body = Acted(act=act, envelope=Envelope.from_json(envelope, "test"))
    told.as_("ben").event(body, "build/1", kind="approved")
    (gap,) = gaps.unsigned(told.as_("ann"))[1]
    assert "signed at 2026-01-01T08:00:00Z" in gap.found


def corpus(told: Any, name: str, text: str, **stated: Any) -> list[str]:
    """Register a corpus of this text; return what is found of it."""
    catalog = told.as_("ann")
    facts = told.data_facts(**{"domain": name} | stated)
    catalog.register(name, facts, files=[told.file_of(text)])
    return [gap.found for gap in gaps.ungated(catalog, f"data/{name}@1")]


OF_CORPORA: Mapping[str, tuple[Lie, str]] = {
    "nothing was seen before": (lambda e: {"seen_before": []}, "judged without data/law@1"),
    "less of it": (
        lambda e: {"seen_before": [{**one, "share": 0.1} for one in e["seen_before"]]},
        "judged without data/law@1, of which it holds 100%",
    ),
    "under the same licence": (
        lambda e: {"seen_before": [{**one, "same_license": True} for one in e["seen_before"]]},
        "same_license True of data/law@1",
    ),
    "under a licence of its own": (
        lambda e: {
            "seen_before": [
                {**one, "license": "MIT", "same_license": True} for one in e["seen_before"]
            ]
        },
        "license 'MIT' of data/law@1",
    ),
}


@pytest.mark.parametrize("lie", OF_CORPORA)
def test_a_corpus_that_was_let_in_by_a_lie_about_what_it_holds_is_found(
    told: Any, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same text under another licence."""
    from registry.governance import seen_before

    told.data("law")
    files = [told.file_of("law")]
    facts = told.data_facts(domain="taken", license="MIT")
    seen = seen_before.of_data(told.as_("ann"), files, None)
    assert [line.ref for line in seen] == ["data/law@1"]
    about = collect_evidence.of_data("data/taken@1", facts, files, seen)
    assert told.decide("register", about).outcome == "refused"
    lying(told, told.question("register", about), OF_CORPORA[lie][0], monkeypatch)
    (found,) = corpus(told, "taken", "law", license="MIT")
    assert OF_CORPORA[lie][1] in found


@pytest.mark.parametrize(
    "lie", [{"name": "other"}, {"document_licenses": []}], ids=["its domain", "its documents"]
)
def test_a_corpus_that_was_judged_as_another_domain_or_without_its_documents_is_found(
    told: Any, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy may be for one domain alone; documents may be under licences of their own."""
    stated = {"domain": "law", "document_licenses": ["CC-BY-NC-4.0"]}
    about = told.data_candidate("law", **stated)
    change = {"document_licenses": []} | lie
    lying(told, told.question("register", about), lambda e: change, monkeypatch)
    facts = stated if "document_licenses" in lie else {"domain": "law"}
    (found,) = corpus(told, "law", "law", **facts)
    assert found.startswith(f"judged on {next(iter(lie))}")


@pytest.mark.parametrize(
    "lie", [{"name": "other"}, {"cost": {"tokens": 1, "flops": 1, "wall_s": 1}}]
)
def test_an_expert_that_was_judged_as_another_or_as_a_cheaper_one_is_found(
    told: Any, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told.seed()
    data = told.data("law")
    asked: list[gate.Question] = []
    decide = gate.decide
    with monkeypatch.context() as patch:
        patch.setattr(gate, "decide", lambda catalog, question: asked.append(question))
        told.expert(data)
    assert decide(told.as_("ann"), asked[0]).outcome == "allowed"
    assert [gap.found for gap in gaps.ungated(told.as_("ann"), "expert/law@1")] == []
    lying(told, asked[0], lambda e: lie, monkeypatch)
    (found,) = (gap.found for gap in gaps.ungated(told.as_("ann"), "expert/law@1"))
    assert found.startswith(f"judged on {next(iter(lie))}")


@pytest.mark.parametrize("renamed", [False, True])
def test_weights_of_a_tainted_expert_that_a_verdict_left_out_are_found(
    told: Any, renamed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under another name, whole or in another file, said to be trained on other data."""
    told.seed()
    tensors = {"mlp.up": "c" * 64, "mlp.down": "d" * 64}
    tainted, other = told.data("law"), told.data("code", license="MIT")
    held = told.expert_facts
    monkeypatch.setattr(told, "expert_facts", lambda *a, **k: held(*a, tensors=tensors, **k))
    told.expert(tainted)
    catalog = told.as_("ann")
    vouched = acts.vouched(catalog, "withdrawn", "data/law@1", tainted.digest, why="w")
    catalog.withdraw("data/law@1", "w", envelope=vouched)
    file = FileFact("model.safetensors", 9, ("e" if renamed else "b") * 64)
    facts = told.expert_facts(other, domain="fresh")
    asked = collect_evidence.of_expert(catalog, "expert/fresh@1", facts, [file])
    lying(told, told.question("register", asked), lambda e: {}, monkeypatch)
    parents = [("seed/base@1", "branched_from"), (other.ref, "trained_on")]
    catalog.register("fresh", facts, files=[file], parents=parents)
    (found,) = (gap.found for gap in gaps.ungated(catalog, "expert/fresh@1"))
    assert found == "judged without expert/law@1, of whose tensors it holds 100%"
    around = AuditContext(store=Store(tmp_path / "store"), stored=frozenset())
    standing = [
        one.found
        for one in checks.audit(catalog, "expert/fresh@1", around).findings
        if one.check == "standing"
    ]
    assert standing == ([] if renamed else ["holds files of expert/law@1, which is tainted"])


@pytest.mark.parametrize("lie", [{"model_type": "mamba"}, {"name": "other"}])
def test_a_seed_that_was_judged_as_another_is_found(
    told: Any, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        completed = gate._completed
        patch.setattr(
            gate, "_completed", lambda *args: ({**completed(*args)[0], **lie}, completed(*args)[1])
        )
        told.seed()
    (gap,) = gaps.ungated(told.as_("ann"), "seed/base@1")
    assert gap.found.startswith(f"judged on {next(iter(lie))}")


def exported(told: Any, draft: bool | None, logged: bool = True) -> list[str]:
    """Log an export of build/1; return what is found of it."""
    catalog = told.as_("ann")
    if logged:
        about = collect_evidence.of_build(catalog, catalog.get("build/1", BuildFacts), None)
        about = about.model_copy(update={"draft": True})
        assert told.decide("export", about).outcome == "allowed"
    envelope = acts.vouched(catalog, "exported", "build/1", catalog.get("build/1").digest)
    catalog.event(Exported(folder="/out", draft=draft, envelope=envelope), "build/1")
    return [gap.found for gap in gaps.ungated(catalog, "build/1")]


def test_an_export_past_its_gate_or_without_the_mark_of_a_draft_is_found(told: Any) -> None:
    told.story()
    assert exported(told, True) == []
    (found,) = exported(told, None)
    assert "let out as a draft, and exported without the mark" in found
    assert exported(told, True) == [found], "also behind one that is marked"


def test_an_export_that_is_recorded_with_other_facts_than_its_gate_was_told_is_found(
    told: Any,
) -> None:
    told.story()
    ann, build = told.as_("ann"), told.as_("ann").get("build/1")
    about = collect_evidence.of_build(ann, build, None)
    told_of = {"draft": True, "export_own": {"recipient": "Acme"}}
    assert told.decide("export", about.model_copy(update=told_of)).outcome == "allowed"

    def found_with(own: dict[str, Any]) -> list[str]:
        ann.register("build-1", ExportFacts(folder="/out", draft=True, own=own))
        envelope = acts.vouched(ann, "exported", "build/1", build.digest)
        ann.event(Exported(folder="/out", draft=True, envelope=envelope), "build/1")
        return [gap.found for gap in gaps.ungated(ann, "build/1")]

    assert found_with({"recipient": "Acme"}) == []
    (found,) = found_with({"recipient": "Mallory"})
    assert "let out with own facts {'recipient': 'Acme'}" in found
    assert "recorded with {'recipient': 'Mallory'}" in found


def test_an_act_rests_on_what_the_gate_said_to_who_acted_and_to_nobody_else(told: Any) -> None:
    """Two people may ask at once, from two machines, and an export takes a while."""
    told.story()
    ann, build = told.as_("ann"), told.as_("ann").get("build/1")
    about = collect_evidence.of_build(ann, build, None).model_copy(update={"draft": True})
    assert told.decide("export", about).outcome == "allowed"
    assert gate.decide(told.as_("mal"), told.question("export", about)).outcome == "refused"

    def found_after(name: str) -> list[str]:
        envelope = acts.vouched(told.as_(name), "exported", "build/1", build.digest)
        body = Exported(folder="/out", draft=True, envelope=envelope)
        told.as_(name).event(body, "build/1")
        return [gap.found for gap in gaps.ungated(ann, "build/1")]

    assert found_after("ann") == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTX_KEY_FILE", str(told.keys / "ida.pem"))
        assert found_after("ida") == ["no verdict of gate export"]


def test_what_was_let_out_past_its_gate_is_found_behind_later_acts_that_passed_it(
    told: Any,
) -> None:
    told.story()
    assert exported(told, True, logged=False) == ["no verdict of gate export"]
    assert exported(told, True) == ["no verdict of gate export"]
    both = ["no verdict of gate release", "no verdict of gate export"]
    assert released(told) == both
    approved(told)
    assert gate.decide(told.as_("ann"), release(told)).outcome == "allowed"
    assert released(told) == both
