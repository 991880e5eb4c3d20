"""The public form of everything names nobody, no waiver and no contract."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from registry.formats import FORMATS, PAGES, Dossier, collect, public, render
from registry.governance import approving, contesting, erasure, stating
from registry.records.events import ErasedFile, ErasedPart, Exported, Released
from registry.records.facts import Sketch
from registry.records.kinds import Kind
from registry.records.own_facts import FactDefinition, FactSchema

SECRETS = ("ann", "ben", "4711", "Acme Holding", "marriage", "secret cellar")
REFS = ["data/law@1", "seed/base@1", "expert/law@1", "build/1"]


def texts_of(governed: Any, ref: str, *, outside: bool) -> dict[str, str]:
    dossier = collect(governed.as_("ann"), ref)
    shown: Dossier = public(dossier) if outside else dossier
    forms = [form for form in FORMATS if form != "croissant" or shown.kind == Kind.DATA]
    if shown.kind != Kind.BUILD:
        forms = [form for form in forms if form not in PAGES]
    if outside:
        # A verdict is nothing for everybody.
        forms.remove("vsa")
    return {form: render(shown, form) for form in forms}


@pytest.fixture
def company(governed: Any) -> Any:
    """A company with a contract, a waiver, an approval, a release, an export and a withdrawal.

    Ben contests the withdrawal, and confirms that a document is erased.
    """
    governed.seed()
    ben = governed.person("ben", "approver")
    private = {
        "license": "LicenseRef-Contract-4711",
        "holder": "Acme Holding",
        "source": "contract 4711, secret cellar",
        "purpose": "marriage plans",
    }
    until = (governed.at + timedelta(days=10)).date().isoformat()
    governed.waive(
        ben, "licence/allowed", governed.data_candidate(**private), until, "contract 4711"
    )
    governed.build(governed.expert(governed.data(**private)))
    approving.approve(governed.as_("ben"), "build/1", ben)
    catalog = governed.as_("ann")
    catalog.event(Released(), "build/1")
    catalog.event(Exported(folder="/home/ann/secret cellar", target="vllm"), "build/1")
    catalog.withdraw("data/law@1", "contract 4711 ended")
    contesting.contest(governed.as_("ben"), "data/law@1", "0" * 64)
    data = catalog.get("data/law@1")
    gone = tuple(ErasedFile(path=one.path, sha256=one.sha256, bytes=6) for one in data.files)
    part = ErasedPart(ref="data/law@1", digest=data.digest, files=gone, documents=("0" * 64,))
    asked = erasure.ask(catalog, [part], Sketch(bits=0, hashes=()), "0" * 64)
    erasure.confirm(governed.as_("ben"), asked, [part])
    return governed


@pytest.mark.parametrize("ref", REFS)
def test_no_public_form_holds_a_name_a_waiver_or_a_contract(company: Any, ref: str) -> None:
    inside = "\n".join(texts_of(company, ref, outside=False).values())
    assert any(secret in inside for secret in SECRETS), "or this test cannot fail"
    for form, text in texts_of(company, ref, outside=True).items():
        for secret in SECRETS:
            assert not re.search(rf"\b{secret}\b", text), (form, secret)


def test_the_public_form_still_says_what_users_must_know(company: Any) -> None:
    text = render(public(collect(company.as_("ann"), "build/1")), "md")
    for said in (
        "Not to be used: it is tainted.",
        "was withdrawn",
        "Contested by the provider",
        "1 document of data/law@1 was erased",
        "Nobody has said under which",
    ):
        assert said in text
    assert "Waivers" not in text
    assert "Gates" not in text


@pytest.mark.parametrize("form", ["md", "model-card", "annex-xi", "training-summary"])
def test_what_is_stated_and_stays_in_the_company_is_never_called_not_stated(
    company: Any, form: str
) -> None:
    text = render(public(collect(company.as_("ann"), "build/1")), form)
    for option in ("--holder", "--purpose", "--source"):
        assert f"btx data add NAME PATH {option}" not in text
    if form == "md":
        row = next(line for line in text.splitlines() if line.startswith("| data/law@1 | "))
        assert row.count("not public") == 3, row


def test_an_own_fact_that_is_stated_and_not_public_is_not_asked_for_again(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    asked = {"data/law@1": "data_selection", "build/1": "design_rationale"}

    def shown() -> str:
        return render(public(public(collect(catalog, "build/1"))), "annex-xi")

    for ref, key in asked.items():
        assert f"btx fact set {ref} {key}=VALUE" in shown()
        kinds = (Kind(ref.partition("/")[0]),)
        stating.declare(catalog, FactSchema(facts={key: FactDefinition(kinds=kinds)}))
        stating.amend(catalog, ref, {key: "secret cellar"}, "as the law asks")
        assert f"btx fact set {ref} {key}=VALUE" not in shown()
    assert "secret cellar" not in shown()


def test_what_nobody_stated_is_missing_in_the_public_form_too(governed: Any) -> None:
    governed.seed()
    governed.build(governed.expert(governed.data(purpose=None)))
    text = render(public(collect(governed.as_("ann"), "build/1")), "annex-xi")
    assert "the purpose of data/law@1: btx data add NAME PATH --purpose TEXT, anew" in text


def test_a_public_data_set_says_what_is_not_public_in_every_standard(company: Any) -> None:
    dossier = public(collect(company.as_("ann"), "data/law@1"))
    for form in ("croissant", "cyclonedx", "spdx"):
        text = render(dossier, form)
        assert "not public" in text, form
        assert "source not stated" not in text, form
    assert "Purpose: not public." in render(dossier, "croissant")


def test_no_public_form_says_that_nothing_was_said(company: Any) -> None:
    """The reason of a withdrawal and the provider's name are known, and stay in the company."""
    catalog = company.as_("ann")
    kinds = ("organisation",)
    stating.declare(catalog, FactSchema(facts={"provider": FactDefinition(kinds=kinds)}))
    stating.amend(catalog, "organisation", {"provider": "Acme Holding"}, "first")
    dossier = public(collect(catalog, "build/1"))
    assert "no reason given" not in render(dossier, "md")
    assert "btx:why" not in render(dossier, "prov")
    suppliers = json.loads(render(dossier, "cyclonedx"))["metadata"]["component"]["supplier"]
    assert suppliers == {"name": "not public"}
    assert "provider not public" in render(dossier, "training-summary")
    assert "Acme Holding" in render(collect(catalog, "build/1"), "cyclonedx")
