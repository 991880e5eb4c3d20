"""Gates, people, reports and exports as commands.

What is refused, with which status and by which rule, and what outside tools make of the output.
"""

import getpass
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from outside import CHECKS, DAMAGE, by_dsse
from securesystemslib.exceptions import VerificationError

from pipelines.jobs import collect_evidence, gates
from pipelines.jobs.audit import audit
from pipelines.jobs.export import ExportRequest, export
from pipelines.workspace.workspace import Workspace
from registry.catalogue import insert_only
from registry.digest import sha256_file
from registry.errors import Refused
from registry.governance import acts
from registry.records.facts import BuildFacts, ExpertFacts, ExportFacts
from registry.records.kinds import Gate

BTX = "from pipelines.cli.app import main; main()"
LATER = """
import sys
from datetime import datetime, timedelta
import pipelines.jobs.gates as gates
days = int(sys.argv.pop(1))
class Clock(datetime):
    @classmethod
    def now(cls, tz=None): return datetime.now(tz) + timedelta(days=days)
gates.datetime = Clock
"""
SOON = (datetime.now(UTC) + timedelta(days=10)).date().isoformat()
DONE, FAILED, WRONG, REFUSED, FINDINGS = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Company:
    """A workspace of one's own, and people who act in it by the command."""

    workspace: Workspace
    home: Path

    def btx(
        self, *arguments: str, as_: str | None = None, days_later: int = 0
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.home),
            "BTX_ACTOR": as_ or getpass.getuser(),
        }
        clock, moved = (LATER, [str(days_later)]) if days_later else ("", [])
        command = [sys.executable, "-c", clock + BTX, *moved, *arguments]
        return subprocess.run(
            command, cwd=self.workspace.root, env=environment, capture_output=True, text=True
        )

    def does(self, *arguments: str, as_: str | None = None) -> str:
        done = self.btx(*arguments, as_=as_)
        assert done.returncode == DONE, (arguments, done.stderr)
        return done.stdout

    def add_person(self, name: str, role: str, as_: str | None = None) -> None:
        """The person makes a key; whoever keeps the list registers its public half."""
        self.does("key", "new", "--no-passphrase", as_=name)
        self.does("actor", "add", name, "--role", role, as_=as_)

    def key(self, name: str) -> Ed25519PublicKey:
        key = load_pem_private_key(
            (self.home / ".config/btx/keys" / f"{name}.pem").read_bytes(), None
        ).public_key()
        assert isinstance(key, Ed25519PublicKey)
        return key

    def waive_the_tiny_models_faults(self) -> None:
        """ben waives every rule that is broken but the one about the second person.

        A model of toy size cannot help breaking some, such as the one against losing to its seed.
        """
        assert self.btx("release", "build/1").returncode == REFUSED
        answer = json.loads(self.btx("policy", "check", "build/1", "--json").stdout)
        broken = [
            f"{rule['policy']}/{rule['rule']}"
            for rule in answer["verdicts"]["release"]["rules"]
            if rule["outcome"] == "refused"
        ]
        for rule in set(broken) - {"release/second-person"}:
            self.does("waive", rule, "build/1", "--until", SOON, "--why", "a toy", as_="ben")


@pytest.fixture
def company(own_story: Workspace, tmp_path: Path) -> Company:
    """ben may approve; whoever runs the tests registered everything."""
    made = Company(own_story, tmp_path / "home")
    made.add_person("ben", "approver")
    return made


def test_a_release_needs_a_second_person_who_approves(company: Company) -> None:
    company.waive_the_tiny_models_faults()
    alone = company.btx("release", "build/1")
    assert (alone.returncode, "release/second-person" in alone.stderr) == (REFUSED, True)
    company.does("actor", "add", getpass.getuser(), "--role", "approver")
    own = company.btx("approve", "build/1")
    assert (own.returncode, "a second person" in own.stderr) == (REFUSED, True)
    company.does("approve", "build/1", "--why", "figures reviewed", as_="ben")
    company.does("release", "build/1")
    assert json.loads(company.does("show", "build/1", "--json"))["status"] == "released"
    assert "approved" in company.does("report", "build/1")
    assert json.loads(company.does("audit", "build/1", "--json"))["findings"] == []


def test_a_waiver_lets_a_release_through_until_its_day_and_the_report_shows_it(
    company: Company,
) -> None:
    policy = company.workspace.policies / "budget.yaml"
    policy.write_text(
        re.sub(r"active_parameters: \d+", "active_parameters: 10", policy.read_text())
    )
    company.does("policy", "adopt", "--why", "a smaller budget")
    company.waive_the_tiny_models_faults()  # the budget among them
    company.does("approve", "build/1", as_="ben")
    late = company.btx("release", "build/1", days_later=11)
    assert late.returncode == REFUSED
    assert "budget/active-parameters" in late.stderr
    assert f"the waiver by ben ended {SOON}" in late.stderr
    assert json.loads(company.does("show", "build/1", "--json"))["status"] != "released"
    company.does("release", "build/1")
    line = rf"budget/active-parameters \| build/1 \| release \| {SOON} \| ben \| a toy"
    assert re.search(line, company.does("report", "build/1", "--format", "md"))
    page = company.does("report", "build/1", "--format", "html")
    assert f"Waived: budget/active-parameters for build/1 until {SOON}, signed by ben." in page


@pytest.mark.parametrize(
    ("rule", "status", "says"),
    [
        ("release/second-person", REFUSED, "a rule without exceptions"),
        ("licence/alowed", WRONG, "licence/allowed"),
        ("licence/allowed", WRONG, "data/units@N"),
    ],
)
def test_a_waiver_that_could_never_count_is_not_signed(
    shop: Company, rule: str, status: int, says: str
) -> None:
    head = shop.workspace.catalog.head()
    done = shop.btx("waive", rule, "data/units", "--until", SOON, "--why", "please")
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
    assert shop.workspace.catalog.head() == head


def test_a_withdrawn_member_keeps_a_build_from_release_and_export(
    company: Company, tmp_path: Path
) -> None:
    company.waive_the_tiny_models_faults()
    company.does("approve", "build/1", as_="ben")
    company.does("withdraw", "data/code@1", "--why", "the holder withdrew consent")
    for command in (["release", "build/1"], ["export", "build/1", str(tmp_path / "out")]):
        done = company.btx(*command)
        assert (
            done.returncode,
            "standing/members" in done.stderr,
            "expert/code@1" in done.stderr,
        ) == (REFUSED, True, True)
        assert done.stderr.count("btx rebuild --without") == 1, "two rules, one piece of advice"
    assert not (tmp_path / "out").exists()
    assert "Not to be used: it is tainted." in company.does("report", "build/1")


@pytest.fixture(scope="module")
def refused(story: Any, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A company whose gate has just refused an expert.

    The expert is the untouched seed, which beats itself nowhere.
    """
    home = tmp_path_factory.mktemp("refused")
    subprocess.run(["cp", "-a", str(story.root), str(home / "workspace")], check=True)
    made = Company(Workspace.find(home / "workspace"), home)
    done = made.btx(
        "register", "lazy", str(made.workspace.root / "seeds/base/1"), "--data", "data/math"
    )
    assert (done.returncode, "quality/beats-seed" in done.stderr) == (REFUSED, True), done.stderr
    return made


def test_a_refused_expert_gets_into_no_build_by_any_command(refused: Company) -> None:
    assert "expert/lazy" not in refused.does("list", "experts")
    assert not (refused.workspace.root / "experts/lazy").exists()
    for command in (
        ["rebuild", "--with", "lazy"],
        ["rebuild", "--with", "expert/lazy@1"],
        ["show", "expert/lazy"],
    ):
        done = refused.btx(*command)
        assert done.returncode == FAILED, (command, done.stderr)
        assert "Traceback" not in done.stderr
    assert json.loads(refused.does("rebuild", "--json"))["status"] == "unchanged"
    assert [line["ref"] for line in json.loads(refused.does("list", "builds", "--json"))] == [
        "build/1"
    ]


def test_an_expert_written_past_the_gate_gets_into_no_build_and_an_audit_names_it(
    refused: Company,
) -> None:
    """By the Python API: the row is as good as any, but no gate let it in."""
    catalog = refused.workspace.catalog
    math = catalog.get("expert/math@1")
    parents = [("seed/base@1", "branched_from"), ("data/math@1", "trained_on")]
    catalog.register("lazy", math.facts, files=math.files, parents=parents)
    done = refused.btx("rebuild")
    assert done.returncode == REFUSED, done.stderr
    assert "standing/gated: no gate let these in: expert/lazy@1" in done.stderr
    assert not (refused.workspace.root / "builds/2").exists()
    done = refused.btx("audit", "expert/lazy", "--json")
    assert done.returncode == FINDINGS
    assert "refused at gate register: quality/beats-seed" in done.stdout


def test_rows_written_by_sql_into_a_build_are_named_by_an_audit(company: Company) -> None:
    assert company.btx("audit", "build/1").returncode == DONE
    with sqlite3.connect(company.workspace.root / ".btx/registry.db") as connection:
        (snapshot,) = connection.execute(
            "SELECT id FROM version WHERE kind = 'snapshot'"
        ).fetchone()
        row = connection.execute("SELECT * FROM version WHERE kind = 'expert'").fetchone()
        connection.execute(
            "INSERT INTO version VALUES (900, 'expert', 'evil', 1, ?, ?, 'ann', ?)",
            (*row[4:6], row[7]),
        )
        connection.execute("INSERT INTO edge VALUES (?, 900, 'member')", (snapshot,))
    done = company.btx("audit", "build/1", "--json")
    assert done.returncode == FINDINGS
    found = {
        (finding["check"], finding["subject"], finding["found"])
        for finding in json.loads(done.stdout)["findings"]
    }
    assert ("gates", "expert/evil@1", "no verdict of gate register") in found
    assert company.btx("rebuild", "--with", "evil").returncode == REFUSED


TABLES = ("version", "file", "edge", "label", "document", "event")
INSTEAD: tuple[object, ...] = (
    None,
    7,
    -0.5,
    "",
    "{}",
    '{"members": 3}',
    b"\xff",
    "expert/nobody@1",
)


@pytest.mark.slow
def test_whatever_stands_in_a_column_the_command_names_it_and_does_not_stumble(
    company: Company,
) -> None:
    """By who owns the file. Drawn from all columns, rows and values; each is put back."""
    path, chance, tried = (
        company.workspace.root / ".btx/registry.db",
        random.Random(os.environ.get("BTX_SEED", "5")),
        0,
    )
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as database,
        closing(sqlite3.connect(":memory:")) as whole,
    ):
        database.backup(whole)
        while tried < int(os.environ.get("BTX_EXAMPLES", "40")):
            table = chance.choice(TABLES)
            rows = database.execute(f"SELECT * FROM {table}").fetchall()
            columns = [column[1] for column in database.execute(f"PRAGMA table_info({table})")]
            row, place, value = (
                chance.choice(rows),
                chance.randrange(len(columns)),
                chance.choice(INSTEAD),
            )
            for name in insert_only.triggers("sqlite"):
                database.execute(f"DROP TRIGGER {name}")
            where = " AND ".join(f"{name} IS ?" for name in columns)
            try:
                database.execute(
                    f"UPDATE {table} SET {columns[place]} = ? WHERE {where}", (value, *row)
                )
            except sqlite3.IntegrityError:
                value = row[place]
            for text in insert_only.triggers("sqlite").values():
                database.execute(text)
            if value != row[place]:
                tried += 1
                found = {finding.check for finding in audit(company.workspace, "build/1").findings}
                assert found & {"rows", "log"}, (table, columns[place], row, value)
            whole.backup(database)
    assert audit(company.workspace, "build/1").findings == ()


@pytest.fixture(scope="module")
def shop(story: Any, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A company whose registrar holds a key.

    For tests that write nothing to the registry but exports.
    """
    home = tmp_path_factory.mktemp("shop")
    subprocess.run(["cp", "-a", str(story.root), str(home / "workspace")], check=True)
    made = Company(Workspace.find(home / "workspace"), home)
    made.does("actor", "add", getpass.getuser(), "--role", "registrar")
    return made


def test_overlap_with_the_test_and_the_programs_that_made_it_are_on_record(shop: Company) -> None:
    expert, build = (
        json.loads(shop.does("show", ref, "--json")) for ref in ("expert/math", "build/1")
    )
    assert 0 <= expert["contamination"] < 0.05
    for facts in (expert, build):
        assert {"torch", "transformers", "safetensors"} <= set(facts["environment"]["packages"])


@pytest.mark.parametrize("form", CHECKS)
def test_what_the_command_reports_is_accepted_by_the_formats_own_tool_and_refused_damaged(
    shop: Company, form: str, tmp_path: Path
) -> None:
    ref = "data/math@1" if form == "croissant" else "build/1"
    shop.does("report", ref, "--format", form, "-o", str(tmp_path / "report"))
    text = (tmp_path / "report").read_text()
    CHECKS[form](text)
    before, after = DAMAGE[form]
    assert before in text
    with pytest.raises(Exception):  # noqa: B017, PT011  each tool has errors of its own
        CHECKS[form](text.replace(before, after, 1))


def test_outside_tools_check_a_signed_statement_and_report_and_refuse_one_flipped_byte(
    shop: Company, tmp_path: Path
) -> None:
    key = shop.key(getpass.getuser())
    shop.does(
        "report", "build/1", "--format", "in-toto", "--sign", "-o", str(tmp_path / "statement.json")
    )
    shop.does(
        "report", "build/1", "--format", "html", "--sign", "-o", str(tmp_path / "report.html")
    )
    CHECKS["in-toto"](by_dsse((tmp_path / "statement.json").read_text(), key).decode())
    claim = json.loads(by_dsse((tmp_path / "report.html.dsse.json").read_text(), key))
    assert claim["subject"] == [
        {"name": "report.html", "digest": {"sha256": sha256_file(tmp_path / "report.html")}}
    ]
    for name in ("statement.json", "report.html.dsse.json"):
        whole = json.loads((tmp_path / name).read_text())
        for field in ("payload", "signature"):
            damaged = json.loads(json.dumps(whole))
            held, slot = (
                (damaged, "payload") if field == "payload" else (damaged["signatures"][0], "sig")
            )
            held[slot] = ("B" if held[slot][0] == "A" else "A") + held[slot][1:]
            with pytest.raises(VerificationError):
                by_dsse(json.dumps(damaged), key)


@pytest.mark.slow
def test_an_exported_folder_holds_its_card_and_is_checked_by_openssfs_tool_alone(
    shop: Company, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    done = shop.btx("export", "build/1", str(out), "--sign", "--draft", "--json")
    answer = json.loads(done.stdout)
    # The key was made by the way, in the home of who signs.
    (made,) = shop.home.rglob("*.model.pem") or ("",)
    assert f"made your model key: {made}" in done.stderr
    again = shop.btx("export", "build/1", str(tmp_path / "again"), "--sign", "--draft")
    assert "made your model key" not in again.stderr
    CHECKS["model-card"]((out / "README.md").read_text())
    assert answer["license"] == "CC0-1.0"
    assert (out / "LICENSE").read_text() == (out / "LICENSES/CC0-1.0.txt").read_text()
    assert "data/math@1" in (out / "NOTICE").read_text()
    assert answer["open"] == []
    tool, *arguments = answer["verify"].split()
    assert tool == "model_signing"

    def verify() -> int:
        return subprocess.run(
            [sys.executable, "-m", tool, *arguments], capture_output=True
        ).returncode

    assert verify() == 0
    for name in ("model-router.safetensors", "README.md"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 0xFF]))
        assert verify() != 0
        (out / name).write_bytes(whole)
    assert verify() == 0
    listed = shop.does("report", "build/1")
    assert "for transformers" in listed


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("llama.cpp", "python llama.cpp/convert_hf_to_gguf.py '{}' --outtype bf16"),
        pytest.param("vllm", "vllm serve '{}'", marks=pytest.mark.slow),
        pytest.param(
            "transformers",
            "AutoModelForCausalLM.from_pretrained('{}')",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_export_says_how_the_program_that_it_is_for_takes_it(
    shop: Company, tmp_path: Path, target: str, command: str
) -> None:
    out = tmp_path / "a model"
    shown = shop.btx("export", "build/1", str(out), "--for", target, "--draft").stdout
    assert f"next: {command.format(out)}" in shown


def test_a_failed_signature_leaves_no_folder_and_no_event(
    shop: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.pem").write_text("no key")
    monkeypatch.setenv("BTX_MODEL_KEY_FILE", str(tmp_path / "bad.pem"))
    before = shop.workspace.catalog.events("build/1", "exported")
    done = shop.btx("export", "build/1", str(tmp_path / "model"), "--sign", "--draft")
    assert (done.returncode, "P-256" in done.stderr) == (WRONG, True)
    assert not list(tmp_path.glob("*model*"))
    assert shop.workspace.catalog.events("build/1", "exported") == before


def test_reports_need_neither_torch_nor_an_old_files_place(shop: Company, tmp_path: Path) -> None:
    program = (
        f"{BTX.removesuffix('main()')}\ntry: main()\nexcept SystemExit: pass\n"
        "import sys; assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "build/1"],
        cwd=shop.workspace.root,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "# build/1" in done.stdout) == (DONE, True), done.stderr
    (tmp_path / "r").write_text("mine")
    for arguments, status in (
        (["-o", str(tmp_path / "r")], FAILED),
        (["-o", str(tmp_path / "no/r")], WRONG),
        (["--format", "pdf"], WRONG),
    ):
        assert shop.btx("report", "build/1", *arguments).returncode == status
    assert (tmp_path / "r").read_text() == "mine"


def test_the_policies_own_tests_run_by_command_and_a_broken_policy_fails_them(
    company: Company,
) -> None:
    assert "none failed" in company.does("policy", "test")
    policy = company.workspace.policies / "licence.yaml"
    policy.write_text(
        policy.read_text().replace("way.all(l, l in\n      parameters.allowed)", "true")
    )
    done = company.btx("policy", "test", "--json")
    assert done.returncode == FAILED
    assert "a licence nobody agreed to" in {
        case["case"] for case in json.loads(done.stdout)["failed"]
    }


def test_a_closed_roll_is_changed_by_an_auditors_command_only(company: Company) -> None:
    company.add_person("ida", "auditor")
    company.does("key", "new", "--no-passphrase", as_="mal")
    assert company.btx("actor", "add", "mal", "--role", "approver").returncode != DONE
    company.does("actor", "add", "mal", "--role", "approver", as_="ida")


def test_an_export_whose_signature_is_refused_at_the_end_leaves_no_row(
    own_story: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the passphrase of the key is mistyped the second time."""
    signed = acts.vouched

    def vouched(catalog: Any, kind: str, *rest: Any, **more: Any) -> Any:
        if kind == "exported":
            raise Refused("key", found="another passphrase", expected="the key's")
        return signed(catalog, kind, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(acts, "vouched", vouched)
        with pytest.raises(Refused, match="another passphrase"):
            export(own_story, "build/1", tmp_path / "draft", ExportRequest(draft=True))
    assert not list(tmp_path.glob("*draft*"))
    assert own_story.catalog.versions(ExportFacts) == []
    export(own_story, "build/1", tmp_path / "draft", ExportRequest(draft=True))
    assert [str(one.ref) for one in own_story.catalog.versions(ExportFacts)] == ["export/build-1@1"]


@pytest.mark.slow
def test_an_approval_is_taken_back_under_the_names_that_it_is_given_under(
    company: Company,
) -> None:
    company.does("alias", "set", "production", "build/1")
    for name in ("build/1", "build", "production"):
        company.does("approve", name, as_="ben")
        answer = json.loads(company.does("retract", name, "--why", "w", "--json", as_="ben"))
        assert answer["ref"] == "build/1"
    company.does("approve", "expert/math", as_="ben")
    company.does("retract", "expert/math", "--why", "w", as_="ben")


POLICY_OF_SIZE = """
name: several
why: A build of few members is not worth its cost.
match: {gates: [build], kinds: [build]}
waivable: true
validations:
  - rule: members
    expression: evidence.members.size() > 9
    message: few members
    remedy: register more experts
"""


@pytest.mark.slow
def test_a_waiver_of_gate_build_counts_wherever_that_gate_is_asked(company: Company) -> None:
    workspace = company.workspace
    (workspace.policies / "several.yaml").write_text(POLICY_OF_SIZE)
    company.does("policy", "adopt")
    build = workspace.catalog.get("build/1", BuildFacts)
    members = [workspace.catalog.get(one.ref, ExpertFacts) for one in build.facts.members]
    asked = collect_evidence.of_candidate(
        workspace.catalog, "build/1", str(build.facts.seed), members, build.facts.content
    )
    with pytest.raises(Refused, match="several/members"):
        gates.ask(workspace, Gate.BUILD, "build/1", asked)
    assert company.btx("policy", "check", "build/1").returncode == REFUSED
    company.does("waive", "several/members", "build/1", "--until", SOON, "--why", "w", as_="ben")
    gates.ask(workspace, Gate.BUILD, "build/1", asked)
    answer = json.loads(company.btx("policy", "check", "build/1", "--json").stdout)
    assert answer["verdicts"]["build"]["outcome"] == "waived"
    assert company.btx("policy", "try").returncode == DONE
