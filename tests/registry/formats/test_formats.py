"""Every format is accepted by its own outside tool, and by none when it is damaged."""

import json
import re
from typing import Any

import in_toto_attestation.predicates.provenance.v1.provenance_pb2 as slsa
import in_toto_attestation.v1.statement_pb2 as in_toto_pb
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from outside import (
    CHECKS,
    DAMAGE,
    by_croissant,
    by_cyclonedx,
    by_hub,
    by_openlineage,
    by_prov,
    by_spdx,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from registry.errors import Invalid
from registry.formats import FORMATS, Dossier, collect, in_toto, render
from registry.governance import attestations, people
from registry.records.events import Released
from registry.records.facts import DataFacts

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HOSTILE = (
    '<script>alert(1)</script> | "quoted" \\ & [x](javascript:y) `z` '
    "\n\n# heading\n---\n\x1b[31m ü 漢 \u202e"
)


@pytest.fixture
def build(governed: Any) -> Dossier:
    """build/1 with an approval, collected."""
    governed.story()
    people.approve(governed.as_("ben"), "build/1", governed.person("ben", "approver"))
    return collect(governed.as_("ann"), "build/1")


@pytest.fixture
def data(governed: Any) -> Dossier:
    governed.data()
    return collect(governed.as_("ann"), "data/law@1")


@pytest.mark.parametrize("form", [form for form in CHECKS if form != "croissant"])
def test_the_formats_own_tool_accepts_it_and_refuses_it_with_one_byte_changed(
    build: Dossier, form: str
) -> None:
    text = render(build, form)
    CHECKS[form](text)
    before, after = DAMAGE[form]
    assert before in text
    with pytest.raises(Exception):  # noqa: B017, PT011  each tool has errors of its own
        CHECKS[form](text.replace(before, after, 1))


@pytest.mark.parametrize("form", ["cyclonedx", "spdx", "openlineage", "prov", "in-toto"])
def test_an_envelope_around_a_format_refuses_every_flipped_byte(build: Dossier, form: str) -> None:
    public = KEY.public_key()
    keys = [SSlibKey.from_crypto(public, keyid=attestations.key_id(public))]
    envelope = attestations.sign(
        {"form": form, "text": render(build, form)}, KEY, "application/vnd.btx.report+json"
    )
    good = Envelope.from_dict(envelope)
    good.verify(keys, 1)
    for place in range(0, len(good.payload), 37):
        changed = bytearray(good.payload)
        changed[place] ^= 0xFF
        with pytest.raises(VerificationError):
            Envelope(bytes(changed), good.payload_type, good.signatures).verify(keys, 1)


def test_croissant_is_accepted_for_data_and_only_for_data(data: Dossier, governed: Any) -> None:
    text = render(data, "croissant")
    by_croissant(text)
    for before, after in (
        ('"sha256"', '"sha255"'),
        ('"sc:Dataset"', '"sc:Datasex"'),
        ('"contentUrl"', '"contentUrm"'),
    ):
        assert before in text
        with pytest.raises(Exception):  # noqa: B017, PT011  each tool has errors of its own
            by_croissant(text.replace(before, after))
    agreed = collect(
        governed.as_("ann"), str(governed.data("own", license="LicenseRef-Contract").ref)
    )
    assert json.loads(render(agreed, "croissant"))["license"] == "LicenseRef-Contract", (
        "SPDX has no page for it"
    )
    by_croissant(render(agreed, "croissant"))
    governed.seed()
    with pytest.raises(Invalid, match="a data version"):
        render(collect(governed.as_("ann"), "seed/base@1"), "croissant")


@pytest.mark.parametrize("ref", ["data/law@1", "seed/base@1", "expert/law@1", "build/1"])
def test_every_kind_has_every_format_that_has_words_for_it(governed: Any, ref: str) -> None:
    governed.story()
    dossier = collect(governed.as_("ann"), ref)
    for form in FORMATS:
        if form != "croissant" or ref.startswith("data"):
            assert render(dossier, form).strip()
    by_cyclonedx(render(dossier, "cyclonedx"))
    by_prov(render(dossier, "prov"))
    by_openlineage(render(dossier, "openlineage"))


@pytest.mark.parametrize("ref", ["data/law@1", "build/1"])
def test_words_that_people_wrote_stay_words_in_every_format(governed: Any, ref: str) -> None:
    governed.seed()
    data = governed.data(source=HOSTILE, holder=HOSTILE, purpose=HOSTILE)
    governed.build(governed.expert(data))
    governed.as_("ann").withdraw(data.ref, HOSTILE)
    dossier = collect(governed.as_("ann"), ref)
    assert "<script" not in render(dossier, "html")
    assert "<script" not in render(dossier, "md")
    assert not re.search(r"(?<!\\)\]\(javascript", render(dossier, "md"))
    for form in ("html", "md", "model-card"):
        assert "\u202e" not in render(dossier, form)
    by_cyclonedx(render(dossier, "cyclonedx"))
    by_prov(render(dossier, "prov"))
    by_openlineage(render(dossier, "openlineage"))
    if ref == "build/1":
        by_spdx(render(dossier, "spdx"))
        by_hub(render(dossier, "model-card"))
    else:
        by_croissant(render(dossier, "croissant"))


def test_the_same_dossier_gives_the_same_text(build: Dossier) -> None:
    for form in FORMATS:
        if form != "croissant":
            assert render(build, form) == render(build, form)


def test_provenance_names_files_materials_recipe_and_who(build: Dossier, governed: Any) -> None:
    governed.as_("ann").event(Released(), "build/1")
    statement = in_toto.statement(collect(governed.as_("ann"), "build/1"))
    assert {"name": "build/1/config.json", "digest": {"sha256": "c" * 64}} in statement["subject"]
    dependencies = {
        item["uri"] for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert {"urn:btx:data/law@1", "urn:btx:seed/base@1", "urn:btx:expert/law@1"} <= dependencies
    assert (
        statement["predicate"]["buildDefinition"]["externalParameters"]["recipe"]["mix"]["top_k"]
        == 2
    )
    assert any(
        item["name"] == "approval by ben"
        for item in statement["predicate"]["runDetails"]["byproducts"]
    )


@pytest.mark.parametrize(
    ("ref", "act"),
    [
        ("data/law@1", "registered"),
        ("expert/law@1", "registered"),
        ("build/1", "registered"),
        ("build/1", "released"),
    ],
)
def test_an_attestation_of_each_kind_is_checked_by_outside_tools_alone(
    governed: Any, ref: str, act: str
) -> None:
    governed.story()
    if act == "released":
        governed.as_("ann").event(Released(), ref)
    text = in_toto.envelope(render(collect(governed.as_("ann"), ref), "in-toto"), KEY)
    found = Envelope.from_dict(json.loads(text))
    public = KEY.public_key()
    found.verify([SSlibKey.from_crypto(public, keyid=attestations.key_id(public))], 1)
    whole = json.loads(found.payload)
    Statement.copy_from_pb(json_format.ParseDict(whole, in_toto_pb.Statement())).validate()
    assert json_format.ParseDict(
        whole["predicate"], slsa.Provenance()
    ).build_definition.build_type.endswith(f"{act}:v1")


def test_a_verdict_has_a_verification_summary(build: Dossier) -> None:
    summary = json.loads(render(build, "vsa"))
    assert summary["predicate"]["verificationResult"] == "PASSED"
    Statement.copy_from_pb(json_format.ParseDict(summary, in_toto_pb.Statement())).validate()
    assert summary["predicate"]["policy"]["uri"] == "urn:btx:gate:build"


def test_a_refusal_has_a_summary_too_and_what_no_gate_saw_has_none(governed: Any) -> None:
    governed.data(license="CC-BY-NC-4.0")
    assert (
        json.loads(render(collect(governed.as_("ann"), "data/law@1"), "vsa"))["predicate"][
            "verificationResult"
        ]
        == "FAILED"
    )
    governed.as_("ann").register("smuggled", DataFacts(license="MIT"))
    with pytest.raises(Invalid, match="no verdict"):
        render(collect(governed.as_("ann"), "data/smuggled"), "vsa")


def test_a_bill_of_materials_names_status_licences_and_dependencies(build: Dossier) -> None:
    bom = json.loads(render(build, "cyclonedx"))
    assert {item["bom-ref"]: item["type"] for item in bom["components"]} == {
        "data/law@1": "data",
        "seed/base@1": "machine-learning-model",
        "expert/law@1": "machine-learning-model",
    }
    depends = {item["ref"]: item["dependsOn"] for item in bom["dependencies"]}
    assert depends["build/1"] == ["expert/law@1", "seed/base@1"]
    assert depends["expert/law@1"] == ["data/law@1", "seed/base@1"]


def test_an_unknown_format_is_named_with_those_there_are(build: Dossier) -> None:
    with pytest.raises(Invalid, match="cyclonedx"):
        render(build, "pdf")
