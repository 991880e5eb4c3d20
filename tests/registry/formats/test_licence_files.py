"""What a build is passed on with: its licence, credit to all it was made from, others' terms."""

import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import yaml

from registry.formats import Dossier, collect, model_card, public, render
from registry.formats.licence_files import LicenceFiles, licence_files
from registry.governance import stating
from registry.records.facts import SeedFacts
from registry.records.own_facts import Attachment, FactSchema

SCHEMA = FactSchema.model_validate(
    {
        "facts": {
            "licence_text": {"kinds": ["data", "seed"], "type": "file", "public": True},
            "contract": {"kinds": ["data"], "type": "file"},
            "model_name": {"kinds": ["build"], "public": True},
            "licence": {"kinds": ["build"], "public": True},
            "hub_id": {"kinds": ["data", "seed"], "public": True},
            "source_class": {"kinds": ["data"], "public": True},
            "provider": {"kinds": ["organisation"], "public": True},
        }
    }
)
TEXT = Attachment(name="licence.txt", sha256="e" * 64, bytes=9)


def story(governed: Any, seed: str = "Apache-2.0", **data: Any) -> Any:
    """Register build/1 of one expert from a seed under this licence, on data with these facts."""
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    if seed == "Apache-2.0":
        governed.seed()
    else:
        catalog.register("base", SeedFacts(license=seed, data=()))
    governed.build(governed.expert(governed.data(**data)))
    return catalog


def files(dossier: Dossier, text: str | None = "You may.\n") -> LicenceFiles:
    return licence_files(public(dossier), lambda attached: text, dossier)


def test_a_single_licence_goes_out_as_its_text_and_everything_is_credited(governed: Any) -> None:
    catalog = story(governed, license="CC0-1.0", holder="the state", source="the archive")
    written = files(collect(catalog, "build/1"))
    assert set(written.texts) == {
        "LICENSE",
        "NOTICE",
        "LICENSES/Apache-2.0.txt",
        "LICENSES/CC0-1.0.txt",
    }
    assert written.texts["LICENSE"] == written.texts["LICENSES/Apache-2.0.txt"]
    assert "Apache License" in written.texts["LICENSE"]
    notice = written.texts["NOTICE"]
    for said in (
        "Licence: Apache-2.0 (computed)",
        "data/law@1",
        "Rights held by the state",
        "seed",
    ):
        assert said in notice
    assert "Source: the archive" in notice
    assert not written.open


def test_several_licences_go_out_as_a_statement_with_all_texts(governed: Any) -> None:
    written = files(collect(story(governed, license="CC-BY-4.0"), "build/1"))
    assert "under: Apache-2.0 AND CC-BY-4.0" in written.texts["LICENSE"]
    assert "Attribution 4.0" in written.texts["LICENSES/CC-BY-4.0.txt"]


def test_licences_that_documents_state_go_out_too(governed: Any) -> None:
    catalog = story(governed, license="CC0-1.0", document_licenses=["CC-BY-4.0", "GPL-3.0-only"])
    written = files(collect(catalog, "build/1"))
    assert "under: Apache-2.0 AND CC-BY-4.0 AND GPL-3.0-only" in written.texts["LICENSE"]
    assert {"LICENSES/CC-BY-4.0.txt", "LICENSES/GPL-3.0-only.txt"} <= written.texts.keys()
    assert "Documents in it are under CC-BY-4.0, GPL-3.0-only." in written.texts["NOTICE"]


@pytest.mark.parametrize(
    ("use", "done"), [("evaluation", "measure"), ("training", "train"), (None, "train")]
)
def test_data_is_credited_with_what_it_was_used_for(
    governed: Any, use: str | None, done: str
) -> None:
    written = files(collect(story(governed, license="CC0-1.0", use=use), "build/1"))
    assert f"Used to {done} the model" in written.texts["NOTICE"]


@pytest.mark.parametrize(
    "stated", ["(c) Jane Doe, all rights reserved", "LicenseRef-Contract-4711"]
)
def test_what_documents_say_that_is_no_licence_is_asked_and_passed_on_to_nobody(
    governed: Any, stated: str
) -> None:
    dossier = collect(story(governed, document_licenses=[stated]), "build/1")
    assert dossier.licence is not None
    assert dossier.licence.expression is None
    written = files(dossier)
    assert any("documents of data/law@1" in one or "nobody" in one for one in written.open)
    for text in (*written.texts.values(), render(public(dossier), "model-card")):
        assert "Jane" not in text
        assert "4711" not in text


def test_what_nobody_answered_is_said_in_the_license_and_to_whom_exports(governed: Any) -> None:
    written = files(collect(story(governed, license="LicenseRef-Contract-4711"), "build/1"))
    assert "Nobody has said under which licence" in written.texts["LICENSE"]
    assert any("LicenseRef-Contract-4711" in line for line in written.open)
    assert any("--attach licence_text=FILE" in line for line in written.open)
    for text in written.texts.values():
        assert "4711" not in text, "the number of a contract"


def test_an_attached_text_of_a_licence_is_kept_under_its_name(governed: Any) -> None:
    catalog = story(governed, license="LicenseRef-Acme")
    stating.amend(catalog, "data/law@1", {"licence_text": TEXT, "contract": TEXT}, "as received")
    written = files(collect(catalog, "build/1"))
    assert written.texts["LICENSES/LicenseRef-Acme.txt"] == "You may.\n"
    assert not any("text of LicenseRef-Acme" in line for line in written.open)
    lost = files(collect(catalog, "build/1"), text=None)
    assert any("text of LicenseRef-Acme" in line for line in lost.open)


@pytest.mark.parametrize(
    ("seed", "notice", "passed_on"),
    [
        (
            "LicenseRef-Llama-3.1",
            "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright ©",
            "Built with Llama",
        ),
        (
            "LicenseRef-Gemma",
            "Gemma is provided under and subject to the Gemma Terms of Use",
            "3.2: use keeps to the law",
        ),
    ],
)
def test_a_community_licences_notice_and_terms_are_passed_on(
    governed: Any, seed: str, notice: str, passed_on: str
) -> None:
    written = files(collect(story(governed, seed), "build/1"))
    assert notice in written.texts["NOTICE"]
    assert passed_on in written.texts["TERMS"]
    assert "https://" in written.texts["TERMS"]
    assert any(f"text of {seed} is not kept" in line for line in written.open)


def test_a_llama_is_asked_for_its_name(governed: Any) -> None:
    catalog = story(governed, "LicenseRef-Llama-3.1")

    def asked() -> bool:
        return any(
            "name begins with Llama" in one for one in files(collect(catalog, "build/1")).open
        )

    assert asked()
    stating.amend(catalog, "build/1", {"model_name": "Acme-7x"}, "marketing")
    assert asked()
    stating.amend(catalog, "build/1", {"model_name": "Llama-Acme-7x"}, "as section 1.b.i asks")
    assert not asked()


def test_the_licence_that_the_company_states_goes_out_where_nothing_speaks_against_it(
    governed: Any,
) -> None:
    catalog = story(governed)
    stating.amend(catalog, "build/1", {"licence": "MIT"}, "counsel")
    stated = collect(catalog, "build/1")
    assert stated.licence is not None
    assert (stated.licence.answer, stated.licence.expression) == ("stated", "MIT")
    assert "MIT License" in files(stated).texts["LICENSE"]
    stating.amend(catalog, "build/1", {"licence": "GPL-2.0-only"}, "mistaken")
    refused = collect(catalog, "build/1").licence
    assert refused is not None
    assert refused.expression is None


def card(dossier: Dossier) -> dict[str, Any]:
    return dict(yaml.safe_load(render(dossier, "model-card").split("---")[1]))


def test_the_card_says_the_licence_as_the_hub_knows_it(governed: Any) -> None:
    dossier = collect(story(governed), "build/1")
    assert card(dossier)["license"] == "apache-2.0"
    assert "Apache-2.0 (computed)" in render(dossier, "model-card")
    assert dossier.licence is not None
    several = replace(dossier, licence=replace(dossier.licence, expression="MIT AND CC-BY-4.0"))
    assert card(several)["license"] == "other"
    assert card(several)["license_name"] == "mit-and-cc-by-4.0"
    assert card(several)["license_link"] == "LICENSE"


@pytest.mark.parametrize(
    "licence",
    ["GPL-2.0-only WITH Classpath-exception-2.0", "MIT OR (ISC AND CC-BY-4.0)", "GPL-2.0+"],
)
def test_the_card_calls_any_licence_as_the_hub_lets_it_be_called(
    governed: Any, licence: str
) -> None:
    dossier = collect(story(governed), "build/1")
    assert dossier.licence is not None
    named = card(replace(dossier, licence=replace(dossier.licence, expression=licence)))
    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", named["license_name"])


@pytest.mark.parametrize(
    "stated",
    [
        "seed/base@1",
        "acme/law--x",
        "acme/law..x",
        "acme/law.git",
        "acmé/law",
        "acme/l/aw",
        "acme/-law",
        "acme/law-",
        "acme/" + "x" * 97,
    ],
)
def test_the_card_names_no_repository_that_the_hub_refuses(governed: Any, stated: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    catalog = story(governed)
    with suppress(HFValidationError):
        validate_repo_id(stated)
        pytest.fail(f"the hub takes {stated!r}")
    stating.amend(catalog, "data/law@1", {"hub_id": stated}, "public")
    assert "datasets" not in card(public(collect(catalog, "build/1")))


def test_the_card_names_only_what_the_hub_can_find(governed: Any) -> None:
    from huggingface_hub.utils import validate_repo_id

    catalog = story(governed, language="de-CH")
    assert not {"base_model", "datasets"} & set(
        model_card.front_matter(collect(catalog, "build/1"))
    )
    stating.amend(catalog, "seed/base@1", {"hub_id": "HuggingFaceTB/SmolLM2-135M"}, "public")
    stating.amend(catalog, "data/law@1", {"hub_id": "acme/law"}, "public")
    front = card(public(collect(catalog, "build/1")))
    assert front["base_model"] == ["HuggingFaceTB/SmolLM2-135M"]
    assert front["datasets"] == ["acme/law"]
    assert front["language"] == ["de"]
    for name in (*front["base_model"], *front["datasets"]):
        validate_repo_id(name)
