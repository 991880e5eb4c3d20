"""Own facts: typed by a company's schema, amended by events, never edited."""

from pathlib import Path
from typing import Any

import pytest

from registry.errors import Invalid, Refused
from registry.governance import acts, stating
from registry.governance.stating import own_facts_of
from registry.records.facts import DataFacts
from registry.records.own_facts import Attachment, FactSchema, FactType, OwnValue, checked

SCHEMA = FactSchema.model_validate(
    {
        "facts": {
            "residency": {"kinds": ["data"], "values": ["EU", "US"], "public": True},
            "department": {"kinds": ["data", "expert"], "required": True},
            "reviewed": {"type": "truth", "kinds": ["data"], "set_by": ["approver"]},
            "dpia": {"type": "file", "kinds": ["data"]},
            "provider": {"kinds": ["organisation"], "public": True},
        }
    }
)
EU: dict[str, OwnValue] = {"residency": "EU", "department": "sales"}


def registered(governed: Any, **own: OwnValue) -> str:
    facts = governed.data_facts(domain="law", own=own)
    return str(governed.as_("ann").register("law", facts).ref)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (FactType.TEXT, " EU ", "EU"),
        (FactType.TEXTS, "de, en", ("de", "en")),
        (FactType.NUMBER, "12", 12),
        (FactType.NUMBER, "0.5", 0.5),
        (FactType.TRUTH, "yes", True),
        (FactType.DATE, "2026-02-28", "2026-02-28"),
    ],
)
def test_a_value_is_read_as_its_type_and_what_is_none_is_refused(
    kind: FactType, text: str, value: OwnValue
) -> None:
    schema = FactSchema.model_validate({"facts": {"f": {"type": kind, "kinds": ["data"]}}})
    assert checked("f", schema.facts["f"], text) == value
    wrong = {FactType.TEXT: "", FactType.TEXTS: ",", FactType.DATE: "2026-02-30"}
    with pytest.raises(Invalid, match="fact f"):
        checked("f", schema.facts["f"], wrong.get(kind, "perhaps"))


def test_facts_are_stored_as_what_they_were_and_read_back_with_their_types(
    governed: Any,
) -> None:
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    paper = Attachment(name="dpia.pdf", sha256="a" * 64, bytes=3)
    ref = registered(governed, **EU, dpia=paper)
    facts = own_facts_of(catalog, ref)
    assert stating.own_values(facts) == {**EU, "dpia": paper}
    assert {key for key, fact in facts.items() if fact.public} == {"residency"}
    assert catalog.attached() == {"a" * 64: {ref}}


def test_a_row_without_own_facts_has_the_text_and_digest_that_it_always_had(
    governed: Any,
) -> None:
    version = governed.as_("ann").register("law", DataFacts(domain="law"))
    assert version.stored == '{"domain":"law"}'


def test_an_amendment_is_an_event_that_leaves_the_row_as_it_is(governed: Any) -> None:
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    ref = registered(governed, **EU)
    before = catalog.get(ref)
    stating.amend(catalog, ref, {"residency": "US"}, "moved to Ohio")
    facts = own_facts_of(catalog, ref)
    assert (facts["residency"].value, facts["residency"].why) == ("US", "moved to Ohio")
    assert catalog.get(ref) == before
    stating.amend(catalog, ref, {"residency": None}, "not known")
    assert set(own_facts_of(catalog, ref)) == {"department"}
    with pytest.raises(Invalid, match="no reason"):
        stating.amend(catalog, ref, {"residency": "US"}, " ")
    with pytest.raises(Invalid, match="requires it"):
        stating.amend(catalog, ref, {"department": None}, "unknown")
    with pytest.raises(Invalid, match="no such fact of data"):
        stating.amend(catalog, ref, {"provider": "Acme"}, "wrong kind")


def test_the_organisation_states_its_facts_once(governed: Any) -> None:
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    stating.amend(catalog, "organisation", {"provider": "Acme GmbH"}, "first")
    assert own_facts_of(catalog, "organisation")["provider"].value == "Acme GmbH"


def test_on_a_closed_list_only_who_may_states_a_fact_and_signs_it(
    governed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    ref = registered(governed, **EU)
    auditor = governed.person("aud", "auditor")
    governed.person("ann", "registrar", by="aud")
    approver = governed.person("bob", "approver", by="aud")
    with pytest.raises(Refused, match="expected approver"):
        stating.amend(catalog, ref, {"reviewed": True}, "looks fine")
    with pytest.raises(Refused, match="no signature"):
        stating.amend(governed.as_("bob"), ref, {"reviewed": True}, "read it")
    stating.amend(governed.as_("bob"), ref, {"reviewed": True}, "read it", approver)
    fact = own_facts_of(catalog, ref)["reviewed"]
    assert (fact.value, fact.actor) == (True, "bob")
    with pytest.raises(Refused, match=r"adopt facts\.yaml"):
        stating.declare(governed.as_("bob"), SCHEMA, approver)
    stating.declare(governed.as_("aud"), SCHEMA, auditor)


def test_a_fact_that_went_past_the_schema_counts_for_nothing(governed: Any) -> None:
    from registry.records.events import Act, Acted

    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    ref = registered(governed, **EU)
    governed.person("aud", "auditor")
    registrar = governed.person("ann", "registrar", by="aud")
    forged = Act(
        act="fact",
        subject=ref,
        digest=catalog.get(ref).digest,
        actor="ann",
        why="I say so",
        at=acts.now(),
        facts={"reviewed": True, "residency": "Mars"},
    )
    catalog.event(Acted(act=forged), ref, kind="fact")
    acts.sign(catalog, forged, registrar)
    assert stating.own_values(own_facts_of(catalog, ref)) == EU


def test_a_schema_that_is_none_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text("residency: {kinds: [data], typ: text}\n")
    with pytest.raises(Invalid, match=r"residency\.typ"):
        stating.read_schema(path)
    path.write_text("dpia: {kinds: [data], required: true, set_by: [approver]}\n")
    with pytest.raises(Invalid, match="registrar among set_by"):
        stating.read_schema(path)
    path.unlink()
    assert stating.read_schema(path) == FactSchema()
