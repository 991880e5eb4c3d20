"""Own facts by command: checked before any work, kept with the row, judged by the gates."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.options import given_facts
from pipelines.jobs import archive, policy, state_facts
from pipelines.jobs.add_data import add_data
from pipelines.jobs.audit import audit
from pipelines.jobs.export import ExportRequest, export
from pipelines.workspace.given_facts import GivenFacts
from pipelines.workspace.workspace import SHIPPED_FACTS, Workspace, create
from registry.errors import Conflict, Invalid, NotFound, Refused
from registry.governance import changes, keys
from registry.governance.gate import readable_verdicts
from registry.governance.stating import own_facts_of, own_values, read_schema, valid_schema
from registry.records.events import Judged
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    DataStatement,
    ExportFacts,
    SeedFacts,
)
from registry.records.kinds import Kind
from registry.records.own_facts import Attachment

STATED = DataStatement(
    license="CC0-1.0", source="the test", holder="the state", purpose="tests", pii="none"
)
SCHEMA = """\
residency: {kinds: [data], required: true, values: [EU, US]}
reviewed_on: {kinds: [data], type: date}
dpia: {kinds: [data], type: file}
provider: {kinds: [organisation]}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "workspace")
    made.facts.write_text(SCHEMA)
    return made


def added(workspace: Workspace, corpora: Path, *pairs: str, **attached: Path) -> str:
    given = GivenFacts(pairs, None, tuple(f"{key}={path}" for key, path in attached.items()))
    return str(add_data(workspace.stating(given), "prose", corpora / "prose", STATED).ref)


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ((), "residency not stated"),
        (("residency=Mars",), "expected one of EU, US"),
        (("residency=EU", "residence=EU"), "no such fact of data"),
        (("residency=EU", "provider=Acme"), "no such fact of data"),
        (("residency=EU", "reviewed_on=yesterday"), "an ISO date"),
        (("residency=EU", "residency=US"), "two values"),
        (("residency=EU", "dpia=paper"), "--attach dpia=FILE"),
    ],
)
def test_what_the_schema_does_not_have_is_refused_before_any_work(
    workspace: Workspace, tmp_path: Path, pairs: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(Invalid, match=problem):
        added(workspace, tmp_path / "nothing", *pairs)
    assert workspace.catalog.events() == []


def test_a_file_that_is_not_there_and_a_schema_that_nobody_adopted_are_refused(
    workspace: Workspace, tiny_corpora: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="attachment dpia"):
        added(workspace, tiny_corpora, "residency=EU", dpia=tmp_path / "none.pdf")
    added(workspace, tiny_corpora, "residency=EU")
    workspace.facts.write_text(SCHEMA.replace("[EU, US]", "[EU, US, Mars]"))
    with pytest.raises(Refused, match="differ from those that were adopted"):
        added(workspace, tiny_corpora, "residency=Mars")
    assert policy.adopt(workspace).facts == "adopted"
    state_facts.amend(workspace, "data/prose", GivenFacts(("residency=Mars",)), "moved")
    assert own_values(own_facts_of(workspace.catalog, "data/prose")) == {"residency": "Mars"}


def test_facts_and_files_stay_with_the_version_in_gates_audits_collections_and_dumps(
    workspace: Workspace, tiny_corpora: Path, tmp_path: Path
) -> None:
    paper = tmp_path / "dpia.pdf"
    paper.write_text("assessed")
    ref = added(workspace, tiny_corpora, "residency=EU", dpia=paper)
    catalog = workspace.catalog
    sha256 = own_facts_of(catalog, ref)["dpia"].value.sha256
    (event,) = readable_verdicts(catalog, ref)
    judged = catalog.document(event.read(Judged).evidence)["own"]
    assert judged == {
        "residency": "EU",
        "dpia": {"name": "dpia.pdf", "sha256": sha256, "bytes": 8},
        "reviewed_on": None,
    }
    assert added(workspace, tiny_corpora, "residency=EU") == ref
    with pytest.raises(Conflict, match="btx fact set"):
        added(workspace, tiny_corpora, "residency=US")
    assert archive.collect(workspace, grace_s=0).deleted == ()
    assert audit(workspace, ref).findings == ()
    archive.dump(workspace, tmp_path / "dump")
    assert (tmp_path / "dump/objects" / sha256[:2] / sha256).is_file()
    workspace.store.path(sha256).unlink()
    assert [finding.check for finding in audit(workspace, ref).findings] == ["attachments"]


def test_a_value_may_end_in_an_equals_sign(workspace: Workspace) -> None:
    def state(pair: str) -> dict[str, Any]:
        state_facts.amend(workspace, "organisation", GivenFacts((pair,)), "first")
        return dict(own_values(own_facts_of(workspace.catalog, "organisation")))

    for value in ("QWNtZQ==", "https://acme.example/?q="):
        assert state(f"provider={value}") == {"provider": value}
    assert state("provider =") == {}


def test_facts_that_are_refused_leave_no_attached_file_and_no_adopted_schema(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper, catalog = tmp_path / "dpia.pdf", workspace.catalog
    paper.write_text("assessed")
    catalog.register("law", DataFacts(license="MIT"))
    odd = tmp_path / "\udcff.pdf"
    odd.write_text("assessed")
    with pytest.raises(Invalid, match="whole characters"):
        state_facts.amend(workspace, "data/law", GivenFacts(attached=(f"dpia={odd}",)), "reviewed")
    given = GivenFacts(attached=(f"dpia={paper}",))

    def state(why: str, problem: str) -> None:
        head = catalog.head()
        with pytest.raises((Invalid, Refused), match=problem):
            state_facts.amend(workspace, "data/law", given, why)
        assert catalog.head() == head
        assert list(workspace.store.objects()) == []

    state(" ", "no reason")
    policy.adopt(workspace)
    key = tmp_path / "key.pem"
    pem = keys.public_pem(keys.new_key(catalog.actor, key))
    changes.change_actor(catalog, changes.Change(catalog.actor, ("auditor",), pem))
    other = tmp_path / "other.pem"
    keys.new_key(catalog.actor, other)
    monkeypatch.setenv("BTX_KEY_FILE", str(other))
    state("reviewed", "expected .*, as on the list of people")
    monkeypatch.setenv("BTX_KEY_FILE", str(key))
    state_facts.amend(workspace, "data/law", given, "reviewed")
    assert len(list(workspace.store.objects())) == 1


def test_a_command_that_ends_before_its_gate_adopts_no_schema(
    workspace: Workspace, tmp_path: Path
) -> None:
    stating_eu = workspace.stating(GivenFacts(pairs=("residency=EU",)))
    head = workspace.catalog.head()
    with pytest.raises(NotFound):
        add_data(stating_eu, "law", tmp_path / "nowhere", STATED)
    assert workspace.catalog.head() == head
    (tmp_path / "law").mkdir()
    (tmp_path / "law/a.txt").write_text("".join(f"Section {n} of the law.\n" for n in range(400)))
    version = add_data(stating_eu, "law", tmp_path / "law", STATED)
    assert version.facts.own["residency"] == "EU"
    assert valid_schema(workspace.catalog)


def test_the_command_lists_shows_and_amends_what_is_stated(
    workspace: Workspace, tiny_corpora: Path, tmp_path: Path, btx: Any
) -> None:
    facts = tmp_path / "prose.yaml"
    (tmp_path / "paper.pdf").write_text("assessed")
    facts.write_text("residency: EU\nreviewed_on: 2026-02-01\ndpia: paper.pdf\n")
    stated = [f"--{key}={value}" for key, value in STATED.stated().items() if value]
    done = btx(
        workspace.root,
        "data",
        "add",
        "prose",
        str(tiny_corpora / "prose"),
        *stated,
        "--facts",
        str(facts),
    )
    assert done.returncode == 0, done.stderr
    btx(workspace.root, "fact", "set", "data/prose", "residency=US", "--why", "sold")
    btx(workspace.root, "fact", "set", "organisation", "provider=Acme", "--why", "first")
    rows = json.loads(btx(workspace.root, "fact", "list", "data/prose", "--json").stdout)
    assert [(row["key"], row["why"]) for row in rows if row["value"]] == [
        ("dpia", ""),
        ("residency", "sold"),
        ("reviewed_on", ""),
    ]
    shown = json.loads(btx(workspace.root, "show", "data/prose", "--json").stdout)
    assert {key: fact["value"] for key, fact in shown["own"].items() if key != "dpia"} == {
        "residency": "US",
        "reviewed_on": "2026-02-01",
    }
    assert "Acme" in btx(workspace.root, "fact", "list", "organisation").stdout


def test_the_text_of_a_licence_is_kept_and_found_for_what_goes_out(
    tmp_path: Path, tiny_corpora: Path
) -> None:
    made = create(tmp_path / "licensed")
    paper = tmp_path / "acme.txt"
    paper.write_text("You may.\n")
    workspace = made.stating(given_facts(None, None, None, paper))
    ref = add_data(workspace, "prose", tiny_corpora / "prose", STATED).ref
    fact = own_facts_of(workspace.catalog, ref)["licence_text"]
    assert isinstance(fact.value, Attachment)
    assert fact.public
    assert workspace.store.path(fact.value.sha256).read_text() == "You may.\n"


@pytest.mark.parametrize("name", ["licence", "license", "draft"])
def test_a_fact_that_an_export_states_itself_is_stated_of_no_export(
    tmp_path: Path, name: str
) -> None:
    made = create(tmp_path / "workspace")
    made.facts.write_text(f"{name}: {{kinds: [build, export]}}\nrecipient: {{kinds: [export]}}\n")
    given = GivenFacts((f"{name}=MIT",))
    with pytest.raises(Invalid, match=f"the export states its {name} itself"):
        state_facts.stated(made.stating(given), Kind.EXPORT)
    made.catalog.register("build-1", ExportFacts())
    with pytest.raises(Invalid, match=f"the export states its {name} itself"):
        state_facts.amend(made, "export/build-1@1", given, "another licence")
    for stated in ("recipient=Acme", f"{name}="):
        state_facts.amend(made, "export/build-1@1", GivenFacts((stated,)), "as it was")
    assert state_facts.stated(made.stating(given), Kind.BUILD).values == {name: "MIT"}
    assert name not in read_schema(SHIPPED_FACTS).of_kind("export")


def test_what_an_export_states_itself_counts_as_stated_where_it_is_required(
    tmp_path: Path,
) -> None:
    made = create(tmp_path / "workspace")
    required = ", required: true}\n"
    names = ("licence", "target", "public_key", "recipient")
    made.facts.write_text("".join(f"{name}: {{kinds: [export]{required}" for name in names))
    made.catalog.register("base", SeedFacts(license="MIT"))
    made.catalog.register("", BuildFacts(line="main", seed="seed/base@1", content="0" * 64))
    given = made.stating(GivenFacts(("recipient=Acme",)))

    def exported(workspace: Workspace, *, sign: bool) -> None:
        export(workspace, "build/1", tmp_path / "out", ExportRequest(sign=sign))

    with pytest.raises(Invalid, match=r"public_key not stated(?s:.*) next: --sign"):
        exported(given, sign=False)
    with pytest.raises(Invalid, match=r"recipient not stated(?s:.*) next: --fact recipient"):
        exported(made, sign=True)
    with pytest.raises(Invalid, match="found no folder"):
        exported(given, sign=True)
    made.catalog.register("bare", SeedFacts())
    made.catalog.register("", BuildFacts(line="main", seed="seed/bare@1", content="1" * 64))
    with pytest.raises(Invalid, match="no licence is stated for seed/bare@1"):
        export(given, "build/2", tmp_path / "out", ExportRequest(sign=True))
    made.catalog.register("build-1", ExportFacts(license="MIT", target="vllm"))
    listed = {row.key: row.value for row in state_facts.rows(made, "export/build-1")}
    nothing = {"public_key": None, "recipient": None}
    assert listed == {"licence": "MIT", "target": "vllm", **nothing}
