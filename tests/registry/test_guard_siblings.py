"""One rule in all the places that it holds: what a gate asks, what an audit judges again."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.jobs import collect_evidence
from pipelines.jobs.rebuild import _last_verdict
from registry.catalogue import checks
from registry.catalogue.store import Store
from registry.governance import (
    adoption,
    approving,
    contesting,
    erasure,
    gate,
    remarks,
    seen_before,
)
from registry.governance.policies import Candidate, Match, Policy, Validation, judge
from registry.governance.policy_files import load
from registry.records.events import ErasedFile, ErasedPart
from registry.records.facts import SeedFacts, Sketch
from registry.records.version import FileFact

POLICIES = Path(__file__).parents[2] / "policies"


def findings(governed: Any, folder: Path, subject: str | None = None) -> list[str]:
    catalog = governed.as_("ann")
    around = checks.AuditContext(
        store=Store(folder / "store"),
        stored=frozenset(),
        judge=lambda event: gate.judge_again(catalog, event).outcome,
    )
    return [
        f"{one.subject}: {one.found}" for one in checks.audit(catalog, subject, around).findings
    ]


def test_a_refusal_of_what_is_out_of_use_judges_the_same_again(
    governed: Any, tmp_path: Path
) -> None:
    adoption.adopt(governed.as_("ann"), load(POLICIES))
    governed.person("bob", "approver")
    governed.story()
    approving.approve(governed.as_("bob"), "build/1", governed.signer("bob"))
    remarks.retire(governed.as_("ann"), "build/1", "mistake")
    member = governed.as_("ann").get("expert/law@1")
    verdict = governed.decide("release", governed.build_evidence(member), at=datetime.now(UTC))
    assert "gate/in-use" in [rule.name for rule in verdict.refusals()]
    assert findings(governed, tmp_path) == []


def test_an_expert_is_not_blamed_for_a_shard_that_all_branches_have_from_their_seed(
    governed: Any, tmp_path: Path
) -> None:
    catalog = governed.as_("ann")
    shard = FileFact("model-00002-of-00002.safetensors", 9, "a" * 64)
    facts = SeedFacts(model_type="llama", parameters=9, license="Apache-2.0", finite=True)
    catalog.register("base", facts, files=[shard])
    for name, own in (("law", "b"), ("math", "e"), ("copy", "b")):
        data = governed.data(name)
        files = [FileFact("model-00001-of-00002.safetensors", 9, own * 64), shard]
        parents = [("seed/base@1", "branched_from"), (data.ref, "trained_on")]
        expert = governed.expert_facts(data, domain=name)
        catalog.register(name, expert, files=files, parents=parents)
    contesting.withdraw(catalog, "data/law@1", "gone")
    blamed = {
        subject: any("holds files of" in one for one in findings(governed, tmp_path, subject))
        for subject in ("expert/math@1", "seed/base@1", "expert/copy@1")
    }
    assert blamed == {"expert/math@1": False, "seed/base@1": False, "expert/copy@1": True}


def sketch(word: str) -> Sketch:
    hashed = (hashlib.sha256(f"{word} {number}".encode()).hexdigest()[:16] for number in range(60))
    return Sketch(bits=0, hashes=tuple(hashed))


def part(version: Any, files: Iterable[FileFact], *, whole: bool) -> ErasedPart:
    gone = [ErasedFile(path=one.path, bytes=6, sha256=one.sha256, md5=None) for one in files]
    return ErasedPart(
        ref=str(version.ref), digest=version.digest, files=tuple(gone), documents=(), whole=whole
    )


def test_text_that_was_erased_is_known_after_other_text_of_its_version_was_erased_too(
    governed: Any,
) -> None:
    catalog = governed.as_("ann")
    files = [governed.file_of(name) for name in ("a", "b")]
    files = [FileFact(f"{number}.txt", 6, one.sha256) for number, one in enumerate(files)]
    version = catalog.register("law", governed.data_facts(domain="law"), files=files)
    for file, word in zip(files, "ab", strict=True):
        parts = [part(version, [file], whole=False)]
        event = erasure.ask(catalog, parts, sketch(word), "0" * 64)
        erasure.confirm(governed.as_("bob"), event, parts)
    for word in "ab":
        found = seen_before.of_data(catalog, [FileFact("n.txt", 5, "9" * 64)], sketch(word))
        assert [(one.ref, one.share) for one in found] == [("data/law@1", 1.0)]


def test_an_erasure_that_was_stopped_between_two_versions_is_finished(
    governed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, confirming = governed.as_("ann"), governed.as_("bob")
    versions = [governed.data("law"), governed.data("twin")]
    parts = [part(one, one.files, whole=True) for one in versions]
    event = erasure.ask(catalog, parts, sketch("a"), "0" * 64)
    real, calls = confirming.event, list[int]()

    def stopped(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(confirming, "event", stopped)
        with pytest.raises(KeyboardInterrupt):
            erasure.confirm(confirming, event, parts)
    assert erasure.waiting(catalog) == [event]
    logged = erasure.confirm(confirming, event, parts)
    assert [one.subject for one in logged] == ["data/law@1", "data/twin@1"]
    assert erasure.waiting(catalog) == []
    assert {str(catalog.status(one.ref)) for one in versions} == {"erased"}


def test_a_policy_of_a_domain_is_asked_about_text_behind_the_seed_too(governed: Any) -> None:
    governed.seed()
    expert = governed.expert(governed.data())
    governed.data("legal-eu")
    rule = Validation(rule="never", expression="false", message="no", remedy="none")
    match = Match(gates=("build",), kinds=("build",), domains=("legal-*",))
    policy = Policy(name="legal", why="w", match=match, validations=(rule,))
    evidence = collect_evidence.of_candidate(
        governed.as_("ann"), "build/1", "seed/base@1", [expert], tuned_on=["data/legal-eu@1"]
    )
    candidate = Candidate("build", "build", evidence.to_json(), "build/1")
    assert judge([policy], candidate, at=datetime.now(UTC)).outcome == "refused"
    # As verdicts of before judge again.
    older = judge([policy], candidate, at=datetime.now(UTC), seed_data=False)
    assert "legal/never" not in [one.name for one in older.rules]


def test_a_build_asks_again_where_another_workspace_was_refused_under_its_number(
    governed: Any,
) -> None:
    catalog = governed.as_("ann")
    adoption.adopt(catalog, load(POLICIES))
    governed.seed()
    expert = governed.expert(governed.data())

    def ask(members: list[Any]) -> str:
        asked = collect_evidence.of_candidate(catalog, "build/1", "seed/base@1", members)
        return str(governed.decide("build", asked).outcome)

    assert ask([expert]) == "allowed"
    verdict = _last_verdict(SimpleNamespace(catalog=catalog), "build/1")
    assert ask([]) == "refused"
    assert _last_verdict(SimpleNamespace(catalog=catalog), "build/1") != verdict
