"""Every format is accepted by its own outside tool, and by none when it is damaged."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import in_toto_attestation.predicates.provenance.v1.provenance_pb2 as slsa
import in_toto_attestation.v1.statement_pb2 as in_toto_pb
import mlcroissant
import pandas
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
from registry.formats import FORMATS, PAGES, Dossier, collect, in_toto, render
from registry.governance import approving, attestations, remarks
from registry.records.events import Released
from registry.records.facts import DataFacts
from registry.records.kinds import Kind
from registry.records.version import FileFact

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HOSTILE = (
    '<script>alert(1)</script> | "quoted" \\ & [x](javascript:y) `z` '
    "\n\n# heading\n---\n\x1b[31m ü 漢 \u202e"
)


@pytest.fixture
def build(governed: Any) -> Dossier:
    """build/1 with an approval, collected."""
    governed.story()
    approving.approve(governed.as_("ben"), "build/1", governed.person("ben", "approver"))
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


def test_croissants_own_loader_reads_the_rows_of_every_form(governed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = pandas.DataFrame({"body": ["one", "two"], "id": [1, 2]})
    rows.to_json(folder / "a.jsonl", orient="records", lines=True)
    rows.to_json(folder / "b.jsonl.gz", orient="records", lines=True)
    rows.to_csv(folder / "c.csv", index=False)
    rows.to_csv(folder / "d.tsv", index=False, sep="\t")
    rows.to_parquet(folder / "e.parquet")
    (folder / "f.txt").write_text("one two")
    names = sorted(path.name for path in folder.iterdir())
    files = [
        FileFact(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in (folder / name for name in names)
    ]
    files += [FileFact(name, 9, "f" * 64) for name in ("g.arrow", "h.jsonl.zst")]
    catalog = governed.as_("ann")
    facts = governed.data_facts(domain="rows", reading={"text_field": "body"})
    version = catalog.register("rows", facts, files=files)
    described = json.loads(render(collect(catalog, str(version.ref)), "croissant"))
    forms = {one["name"]: one["encodingFormat"] for one in described["distribution"]}
    assert "text/plain" not in {form for name, form in forms.items() if name != "f.txt"}
    described["distribution"] = [one for one in described["distribution"] if one["name"] in names]
    (folder / "croissant.json").write_text(json.dumps(described))
    loaded = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    for name in names:
        records = list(loaded.records(f"documents/{name}"))
        texts = [record[f"documents/{name}/text"] for record in records]
        assert texts == ([b"one two"] if name == "f.txt" else [b"one", b"two"]), name
    assert len(described["recordSet"]) == len(names)


@pytest.mark.parametrize("ref", ["data/law@1", "seed/base@1", "expert/law@1", "build/1"])
def test_every_kind_has_every_format_that_has_words_for_it(governed: Any, ref: str) -> None:
    governed.story()
    dossier = collect(governed.as_("ann"), ref)
    for form in FORMATS:
        if form in PAGES and not ref.startswith("build"):
            with pytest.raises(Invalid, match="expected a build"):
                render(dossier, form)
        elif form != "croissant" or ref.startswith("data"):
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


def test_a_grown_build_depends_on_nothing_that_its_bill_of_materials_leaves_out(
    governed: Any,
) -> None:
    first = governed.story()
    catalog = governed.as_("ann")
    grown = catalog.register(
        "",
        first.facts.model_copy(update={"folder": "builds/2"}),
        parents=[(first.facts.snapshot, "composed_from"), (first.ref, "grown_from")],
    )
    bom = json.loads(render(collect(catalog, str(grown.ref)), "cyclonedx"))
    described = {one["bom-ref"] for one in (bom["metadata"]["component"], *bom["components"])}
    assert "build/1" in bom["dependencies"][0]["dependsOn"]
    for dependency in bom["dependencies"]:
        assert {dependency["ref"], *dependency["dependsOn"]} <= described
    by_cyclonedx(json.dumps(bom))


def test_earlier_builds_are_those_of_the_same_product_line_in_use(governed: Any) -> None:
    facts = governed.story().facts
    catalog = governed.as_("ann")
    for line in ("support", "main", "main", "support", "main"):
        folder = f"builds/{catalog.next_version(Kind.BUILD, '')}"
        catalog.register("", facts.model_copy(update={"folder": folder, "line": line}))
    remarks.retire(catalog, "build/3", "the wrong recipe")
    assert collect(catalog, "build/6").previous == ("build/1", "build/4")
    assert collect(catalog, "build/5").previous == ("build/2",)


def test_an_unknown_format_is_named_with_those_there_are(build: Dossier) -> None:
    with pytest.raises(Invalid, match="cyclonedx"):
        render(build, "pdf")


def test_the_digest_of_a_version_is_what_sha256sum_gives_for_its_files(
    governed: Any, tmp_path: Path
) -> None:
    texts = {"b.txt": "two", "a/long name.txt": "one", "Z.txt": "three"}
    files = []
    for name, text in texts.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files.append(FileFact(name, len(text), hashlib.sha256(text.encode()).hexdigest()))
    catalog = governed.as_("ann")
    catalog.register("own", DataFacts(license="MIT", holder="us"), files=files)
    dossier = collect(catalog, "data/own")
    command = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    run = subprocess.run(
        command, shell=True, cwd=tmp_path / "data", capture_output=True, text=True, check=True
    )
    digest = run.stdout.split()[0]
    assert json.loads(render(dossier, "cyclonedx"))["metadata"]["component"]["hashes"] == [
        {"alg": "SHA-256", "content": digest}
    ]
    assert json.loads(render(dossier, "in-toto"))["subject"][0]["digest"]["sha256"] == digest
    assert f'"hashValue": "{digest}"' in render(dossier, "spdx")
    assert f"sha256:{digest}" in render(dossier, "croissant")


def test_every_run_starts_and_completes_in_that_order_and_outputs_at_its_end(
    build: Dossier,
) -> None:
    events = [json.loads(line) for line in render(build, "openlineage").splitlines()]
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        runs.setdefault(event["run"]["runId"], []).append(event)
    assert len(runs) == len(build.graph.nodes)
    for first, last in runs.values():
        assert (first["eventType"], last["eventType"]) == ("START", "COMPLETE")
        assert first["eventTime"] <= last["eventTime"]
        assert last["outputs"]
        assert not first["outputs"]
        assert last["job"]["facets"]["ownership"]["owners"]


def test_provenance_is_of_a_platform_and_names_every_file_that_went_in(build: Dossier) -> None:
    predicate = json.loads(render(build, "in-toto"))["predicate"]
    assert predicate["runDetails"]["builder"]["id"] == "urn:btx:platform:btx-registry"
    materials = {one["uri"] for one in predicate["buildDefinition"]["resolvedDependencies"]}
    assert "urn:btx:data/law@1/a.txt" in materials


def test_bills_of_materials_say_the_licence_of_every_model_and_who_holds_the_data(
    build: Dossier,
) -> None:
    component = json.loads(render(build, "cyclonedx"))["metadata"]["component"]
    assert component["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert component["supplier"]["name"] == "not stated"
    graph = json.loads(render(build, "spdx"))["@graph"]
    concluded = [one for one in graph if one.get("relationshipType") == "hasConcludedLicense"]
    assert len(concluded) == 4
    holders = {one["spdxId"]: one["name"] for one in graph if one["type"] == "Organization"}
    (data,) = (one for one in graph if one["type"] == "dataset_DatasetPackage")
    assert holders[data["suppliedBy"]] == "the state"


def test_croissant_says_what_is_stated_responsibly_and_can_be_loaded(
    governed: Any, tmp_path: Path
) -> None:
    import mlcroissant

    text = '{"text": "one"}\n{"text": "two"}\n'
    (tmp_path / "a.jsonl").write_text(text)
    file = FileFact("a.jsonl", len(text), hashlib.sha256(text.encode()).hexdigest())
    catalog = governed.as_("ann")
    own = {"data_bias": "measured", "collected_from": "2026-01-01"}
    catalog.register("own", DataFacts(license="MIT", holder="us", own=own), files=[file])
    described = render(collect(catalog, "data/own"), "croissant")
    document = json.loads(described)
    assert "http://mlcommons.org/croissant/RAI/1.0" in document["conformsTo"]
    assert document["rai:dataBiases"] == "measured"
    assert document["rai:dataCollectionTimeframe"] == "2026-01-01"
    (tmp_path / "croissant.json").write_text(described)
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    assert not dataset.metadata.issues.errors
    records = list(dataset.records("documents/a.jsonl"))
    assert [record["documents/a.jsonl/text"] for record in records] == [b"one", b"two"]


def test_of_a_choice_of_licences_the_chosen_one_applies_and_the_offer_is_declared(
    governed: Any,
) -> None:
    offer = "Apache-2.0 OR MIT"
    governed.data(license=offer, license_choice="MIT")
    dossier = collect(governed.as_("ann"), "data/law@1")
    graph = json.loads(render(dossier, "spdx"))["@graph"]
    said = {one["spdxId"]: one.get("simplelicensing_licenseExpression") for one in graph[1:]}
    told = {
        one["relationshipType"]: [said[target] for target in one["to"]]
        for one in graph
        if one["type"] == "Relationship"
    }
    assert told["hasDeclaredLicense"] == [offer]
    assert told["hasConcludedLicense"] == ["MIT"]
    assert f"| MIT, chosen from {offer} |" in render(dossier, "md")
