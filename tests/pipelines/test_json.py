"""`--json`: one document on stdout on success, refusal and error, as its published schema says.

One table names a call of every command; a command without one fails the first test.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import documented
import pytest
from jsonschema import Draft202012Validator

from pipelines.cli.app import run
from pipelines.cli.commands import ANSWERS, ARRAYS
from pipelines.workspace.workspace import Workspace
from registry.records.answers.failure import FailureAnswer
from registry.records.answers.figures import BenchRow, DemoAnswer

# In an order in which each can be done. {new} is a second workspace, {out} an empty folder, {seed}
# a checkpoint, {text} a corpus, {token} a token that was made. Status 3 and 4 come with an answer.
CALLS: Mapping[str, str] = {
    "init": "init {new}",
    "trust": "trust {new}",
    "data add": "data add extra {text} --license CC0-1.0 --source test --pii none",
    "data suggest": "data suggest {corpora} --domains 2",
    "seed add": "seed add second {seed} --license CC0-1.0",
    "train --dry-run": "train third --data data/extra --seed seed/base --dry-run",
    "train": "train third --data data/extra --seed seed/base",
    "register": "register math {checkpoint} --data data/math --seed seed/base",
    "rebuild --dry-run": "rebuild --without math --dry-run",
    "rebuild": "rebuild --to build/1",
    "mix": "mix {seed} {checkpoint} -o {out}/mixed",
    "explain": "explain build/1 --text area",
    "list seeds": "list seeds",
    "list data": "list data",
    "list experts": "list experts",
    "list builds": "list builds",
    "list exports": "list exports",
    "show data": "show data/math",
    "show seed": "show seed/base",
    "show expert": "show expert/math",
    "show snapshot": "show snapshot/main",
    "show build": "show build/1",
    "lineage": "lineage build/1",
    "diff": "diff expert/math expert/code",
    "report": "report build/1",
    "policy check": "policy check build/1",
    "policy test": "policy test",
    "policy adopt": "policy adopt --dry-run",
    "policy try": "policy try",
    "key new": "key new --no-passphrase",
    "actor add": "actor add dora --role approver --public-key {key}.pub",
    "actor list": "actor list",
    "approve": "approve build/1 --why seen",
    "retract": "retract build/1 --why again",
    "waive": "waive licence/allowed data/extra@1 --until {day} --why test",
    "release": "release build/1",
    "export": "export build/1 {out}/export --draft",
    "show export": "show export/build-1",
    "search": "search domain=math",
    "fact set": "fact set data/extra residency=EU --why test",
    "fact list": "fact list data/extra",
    "status": "status",
    "due": "due --days 9",
    "alias set": "alias set production build/1",
    "alias list": "alias list",
    "note": "note production seen",
    "alias remove": "alias remove production",
    "retire": "retire seed/second --why test",
    "actor rotate": "actor rotate dora --public-key {key}.pub --why stolen",
    "actor remove": "actor remove dora --why left",
    "token add": "token add dora",
    "token list": "token list",
    "token revoke": "token revoke {token}",
    "audit": "audit build/1",
    "repair": "repair build/1",
    "upgrade": "upgrade",
    "registry head": "registry head",
    "registry gc": "registry gc --dry-run",
    "registry backup": "registry backup {out}/backup",
    "registry dump": "registry dump {out}/dump",
    "registry restore": "registry restore {out}/backup",
    "registry load": "registry load {out}/dump",
    "erase": "erase data/extra@1 --file text.txt --why test --dry-run",
    "withdraw": "withdraw data/extra --why test",
    "contest": "contest data/extra --why test",
    "registry shred": "registry shred {event}",
    "bench": "bench --dir {out}/bench",
    "demo": "demo --dir {out}/demo",
}

# The others do not need an approver.
BY_DORA = ("key new", "approve", "retract", "waive", "contest")
# Half an hour and more: what they compute has tests of its own, here it is what they print.
BENCH = BenchRow(name="btx", random_seed=0, bits_per_byte={"math": 1.5}, tokens=1, flops=1.0)
DEMO = DemoAnswer(workspace="demo", builds=("build/1",), table={}, minutes=0.1)


Call = Callable[[str], tuple[int, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command with --json; returns its status and the one document on its stdout."""

    def ask(command: str) -> tuple[int, Any]:
        capsys.readouterr()
        status = run([*command.split(), "--json"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, json.loads(said.out)

    return ask


def broken(document: Any, record: type[Any]) -> list[str]:
    """Return what is wrong with a document by the published schema of a record."""
    name = "".join(f"-{letter}" if letter.isupper() else letter for letter in record.__name__)
    path = Path(__file__).parents[2] / f"docs/schemas/answers/{name[1:].lower()}.json"
    problems = Draft202012Validator(json.loads(path.read_text())).iter_errors(document)
    return [f"{problem.json_path}: {problem.message}" for problem in problems]


def test_the_schemas_find_a_document_that_is_not_theirs() -> None:
    assert broken({"error": {"kind": "Refused"}}, FailureAnswer)
    assert broken({"ref": 1}, ANSWERS["release"])


def test_every_answer_is_what_its_published_schema_says(
    own_story: Workspace,
    story: Any,
    call: Call,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(CALLS) == list(dict.fromkeys(CALLS))
    assert CALLS.keys() == ANSWERS.keys()
    new, out, text = tmp_path / "new", tmp_path / "out", tmp_path / "text.txt"
    out.mkdir()
    text.write_text(
        "".join(f"Sentence {n} of a text that is like no other here.\n" for n in range(400))
    )
    named = {"new": new, "out": out, "text": text, "seed": story.seed, "checkpoint": checkpoint}
    named |= {"key": tmp_path / "own", "corpora": story.corpora}
    named["day"] = (datetime.now(UTC) + timedelta(days=9)).date()
    monkeypatch.setenv("BTX_KEY_FILE", f"{named['key']}.pem")
    monkeypatch.setattr("pipelines.story.bench.bench", lambda *given: [BENCH])
    monkeypatch.setattr("pipelines.story.bench.markdown", lambda rows: "")
    monkeypatch.setattr("pipelines.story.bench.picture", lambda rows, path: None)
    monkeypatch.setattr("pipelines.story.demo.demo", lambda *given: DEMO)
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text().replace("steps = 60", "steps = 1"))
    wrong, refused = {}, {}
    for entry, command in CALLS.items():
        inside = new if entry in ("registry restore", "registry load") else own_story.root
        monkeypatch.chdir(inside)
        monkeypatch.setenv("BTX_ACTOR", "dora" if entry in BY_DORA else "ada")
        status, answer = call(command.format(**named))
        if entry == "token add":
            named["token"] = answer["id"]
        if entry == "contest":
            named["event"] = own_story.catalog.events(kind="contested")[-1].seq
        record = ANSWERS[entry]
        if "error" in answer:
            refused[entry], record = status, FailureAnswer
        documents = answer if isinstance(answer, list) else [answer]
        assert isinstance(answer, list) == (entry in ARRAYS and "error" not in answer)
        wrong[entry] = [problem for one in documents for problem in broken(one, record)]
    assert {entry: problems for entry, problems in wrong.items() if problems} == {}
    # One step of training may be too few. The approval was retracted; the second load finds rows.
    refused.pop("train", None)
    assert refused == {"release": 3, "registry load": 1}


def test_every_command_that_is_called_wrongly_says_so_in_its_document(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = documented.commands_with_json()
    assert len(asked) > 40
    for command in asked:
        status, answer = call(f"{command} --no-such-option")
        assert (command, status, broken(answer, FailureAnswer)) == (command, 2, [])
        assert answer["error"]["subject"] == f"btx {command}"
        assert "--no-such-option" in answer["error"]["found"]


# These need no workspace.
ANYWHERE = ("init", "trust", "mix", "data suggest", "bench", "demo", "key new")


def test_every_command_outside_a_workspace_says_so_in_its_document(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for entry, command in CALLS.items():
        if entry in ANYWHERE:
            continue
        status, answer = call(_with_something(command, tmp_path))
        assert (entry, status, broken(answer, FailureAnswer)) == (entry, 1, [])
        assert (entry, answer["error"]["next"]) == (entry, "btx init, or cd into a workspace")


def test_every_command_that_is_refused_says_so_in_its_document(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert call("init here")[0] == 0
    monkeypatch.chdir(tmp_path / "here")
    with Path("btx.toml").open("a") as settings:
        settings.write('[ray]\naddress = "ray://somewhere:10001"\n')
    for entry, command in CALLS.items():
        if entry in ANYWHERE:
            continue
        status, answer = call(_with_something(command, tmp_path))
        assert (entry, status, broken(answer, FailureAnswer)) == (entry, 3, [])
        assert (entry, answer["error"]["kind"]) == (entry, "Refused")


def _with_something(command: str, folder: Path) -> str:
    """Fill in what a call names with a path at which nothing is."""
    names = ("new", "out", "seed", "text", "corpora", "token", "checkpoint", "key", "day")
    return command.format(**dict.fromkeys(names, str(folder / "nothing")), event=1)


def test_a_gates_refusal_has_its_rules_each_with_its_remedy(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("init here")[0] == 0
    monkeypatch.chdir(tmp_path / "here")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Sentence {n} of a text.\n" for n in range(400)))
    status, answer = call(f"data add laws {text} --license CC-BY-NC-4.0 --source test --pii none")
    assert (status, broken(answer, FailureAnswer)) == (3, [])
    (rule,) = [rule for rule in answer["rules"] if rule["rule"] == "licence/allowed"]
    assert rule["message"]
    assert rule["remedy"]


def test_a_fault_of_the_program_is_a_document_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_job(*given: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("pipelines.cli.look.find_workspace", broken_job)
    with pytest.raises(ZeroDivisionError):
        run(["list", "experts", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert broken(answer, FailureAnswer) == []
    assert answer["error"]["found"] == "ZeroDivisionError: by zero"


def test_a_command_that_is_interrupted_says_so_in_its_document(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.cli.look.find_workspace", interrupt)
    status, answer = call("list experts")
    assert (status, broken(answer, FailureAnswer)) == (130, [])
    assert answer["error"]["kind"] == "Interrupted"
