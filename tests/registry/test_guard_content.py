"""Waivers and verdicts are bound to content: other content under the name needs another act."""

from datetime import timedelta
from typing import Any

import pytest

from pipelines.jobs import collect_evidence
from registry.errors import NotFound
from registry.governance import (
    approving,
    attestations,
    contesting,
    gaps,
    gate,
    people,
    remarks,
    seen_before,
)
from registry.records.events import Act, Acted, Envelope, Judged
from registry.records.kinds import Outcome
from registry.records.own_facts import Attachment
from registry.records.results import Result
from registry.records.version import FileFact

NC, ND = "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0"


def until(governed: Any) -> str:
    return (governed.at + timedelta(days=10)).date().isoformat()


def outcome(governed: Any, **change: Any) -> tuple[str, list[str]]:
    verdict = governed.decide("register", governed.data_candidate("novels", **change))
    return verdict.outcome, [rule.name for rule in verdict.refusals()]


def test_a_waiver_is_for_the_content_and_the_facts_that_were_refused(governed: Any) -> None:
    ben = governed.person("ben", "approver")
    refused = governed.data_candidate("novels", "manuals of Acme", license=NC)
    governed.waive(ben, "licence/allowed", refused, until(governed))
    assert outcome(governed, text="manuals of Acme", license=NC) == ("waived", [])
    for swapped in (
        {"text": "a stolen corpus", "license": NC},
        {"text": "manuals of Acme", "license": ND},
        {"text": "a stolen corpus", "license": ND},
    ):
        assert outcome(governed, **swapped) == ("refused", ["licence/allowed"])
    messages = governed.decide(
        "register", governed.data_candidate("novels", "a stolen corpus", license=NC)
    ).refusals()
    assert "the waiver by ben is for other content" in messages[0].message


def test_a_waiver_of_a_private_licence_is_for_the_text_that_was_attached(governed: Any) -> None:
    """Another text under the same name is another licence."""
    ben = governed.person("ben", "approver")

    def stated(sha256: str, licence: str = "LicenseRef-Acme") -> dict[str, Any]:
        attached = Attachment(name="acme.txt", sha256=sha256, bytes=9)
        return {"license": licence, "own": {"licence_text": attached.to_json()}}

    refused = governed.data_candidate("novels", **stated("a" * 64))
    governed.waive(ben, "licence/allowed", refused, until(governed))
    assert outcome(governed, **stated("a" * 64)) == ("waived", [])
    for other in (stated("b" * 64), {"license": "LicenseRef-Acme"}, stated("a" * 64, NC)):
        assert outcome(governed, **other) == ("refused", ["licence/allowed"])


def test_a_waiver_for_poor_figures_does_not_pass_on_to_other_weights(governed: Any) -> None:
    governed.seed()
    data, ben = governed.data(), governed.person("ben", "approver")
    catalog = governed.as_("ann")

    def candidate(weights: str, bits_per_byte: float) -> Any:
        result = Result(
            data="data/law@1", domain="law", bits_per_byte=bits_per_byte, seed_bits_per_byte=1.0
        )
        facts = governed.expert_facts(data, results=(result,))
        files = [FileFact("model.safetensors", 9, weights * 64)]
        return collect_evidence.of_expert(catalog, "expert/law@1", facts, files)

    governed.waive(ben, "quality/beats-seed", candidate("b", 2.0), until(governed))
    assert governed.decide("register", candidate("b", 2.0)).outcome == "waived"
    assert governed.decide("register", candidate("c", 2.0)).outcome == "refused"
    assert governed.decide("register", candidate("b", 9.0)).outcome == "refused"


def test_an_older_waiver_that_names_no_content_lets_nothing_new_in(governed: Any) -> None:
    ben = governed.person("ben", "approver")
    act = Act(
        act="waived",
        subject="data/novels@1",
        digest=None,
        actor="ben",
        rule="licence/allowed",
        why="w",
        until=until(governed) + "T00:00:00Z",
        at=governed.at.isoformat(),
    )
    signed = attestations.sign(act.to_json(), ben.key, people.ACT)
    body = Acted(act=act, envelope=Envelope.from_json(signed, "test"))
    governed.as_("ben").event(body, "data/novels@1", kind="waived")
    assert outcome(governed, license=NC) == ("refused", ["licence/allowed"])
    catalog = governed.as_("ann")
    assert approving.waivers(catalog, "data/novels@1", "ann") == []
    assert len(approving.waivers(catalog, "data/novels@1", "ann", registered=True)) == 1


def test_what_was_never_tried_cannot_be_waived(governed: Any) -> None:
    governed.person("ben", "approver")
    with pytest.raises(NotFound, match="a refused attempt"):
        gate.grant(governed.as_("ben"), "licence/allowed", "data/novels@1")


def test_a_verdict_that_says_a_waiver_was_for_this_content_is_found(governed: Any) -> None:
    ben = governed.person("ben", "approver")
    first = governed.data_candidate("novels", "manuals of Acme", license=NC)
    governed.waive(ben, "licence/allowed", first, until(governed))
    other = governed.data_candidate("novels", "a stolen corpus", license=NC)
    assert governed.decide("register", other).outcome == "refused"
    catalog = governed.as_("ann")
    logged = gate.verdicts(catalog, "data/novels@1")[-1].read(Judged)
    (waiver,) = logged.waivers
    forged = waiver.model_copy(update={"content": other.content})
    rules = {**logged.rules, "licence/allowed": "waived"}
    body = logged.model_copy(
        update={"outcome": Outcome.WAIVED, "rules": rules, "waivers": (forged,)}
    )
    gap = gaps.disagreement(catalog, catalog.event(body, "data/novels@1"))
    assert gap is not None
    assert "is no signed act" in gap.found


@pytest.mark.parametrize("kind", ["data", "expert"])
def test_other_bytes_than_were_judged_are_found_though_every_fact_is_the_same(
    governed: Any, kind: str
) -> None:
    governed.seed()
    catalog, data = governed.as_("ann"), governed.data()
    if kind == "data":
        governed.decide("register", governed.data_candidate("novels", "manuals of Acme"))
        facts = governed.data_facts(domain="novels")
        catalog.register("novels", facts, files=[FileFact("a.txt", 6, "d" * 64)])
    else:
        facts = governed.expert_facts(data, domain="novels")
        good = [FileFact("model.safetensors", 9, "b" * 64)]
        judged = collect_evidence.of_expert(catalog, "expert/novels@1", facts, good)
        assert governed.decide("register", judged).outcome == "allowed"
        parents = [("seed/base@1", "branched_from"), ("data/law@1", "trained_on")]
        stolen = [FileFact("model.safetensors", 9, "d" * 64)]
        catalog.register("novels", facts, files=stolen, parents=parents)
    (gap,) = gaps.ungated(catalog, f"{kind}/novels@1")
    assert gap.found.startswith("judged on content")


def test_what_was_retired_is_tainted_with_what_it_was_made_from(governed: Any) -> None:
    """Else who retires an expert in time brings its weights back under another name."""
    governed.seed()
    data = governed.data()
    expert = governed.expert(data)
    catalog = governed.as_("ann")
    tensors = {"w": "d" * 64}
    facts = expert.facts.model_copy(update={"tensors": tensors})
    twin = catalog.register(
        "twin",
        facts,
        files=[FileFact("model.safetensors", 9, "e" * 64)],
        parents=[("seed/base@1", "branched_from"), (data.ref, "trained_on")],
    )
    remarks.retire(catalog, str(twin.ref), "a typing error")
    assert seen_before.of_weights(catalog, tensors) == ()
    contesting.withdraw(catalog, "data/law@1", "consent ended")
    (line,) = seen_before.of_weights(catalog, tensors)
    assert (line.ref, line.status, line.share) == ("expert/twin@1", "tainted", 1.0)
