"""How commands behave on other terminals than ours: narrow, not Unicode, quiet, interrupted."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipelines.cli.look import _difference, _print_nested
from pipelines.cli.output import print_table_to
from pipelines.jobs.people_list import retract
from pipelines.workspace.workspace import Workspace, create
from registry.catalogue.catalog import Catalog
from registry.errors import NotFound
from registry.governance import approving, changes, keys, remarks
from registry.records.answers.shown import Change, DiffAnswer, FileChanges
from registry.records.facts import DataFacts, ExpertFacts, SeedFacts
from registry.records.kinds import Kind
from registry.web.comparing import comparison

Run = Callable[..., subprocess.CompletedProcess[str]]
WIDTHS = (60, 80, 120, 200)
TABLES = Path(__file__).parent / "tables"
EXPERTS = [
    {
        "ref": f"expert/{name}@{version}",
        "seed": "seed/base@1",
        "mode": "anchored",
        "data": [f"data/{name}@{version}"],
        "licenses": ["CC-BY-4.0"],
        "status": "registered",
        "digest": f"{version}f2bfc04c434",
        "registered_at": "2026-11-26T12:00:41.893024Z",
    }
    for name, version in (("law", 1), ("customer-support", 12))
]
DUE = [
    {
        "state": "ends",
        "until": "2026-12-31",
        "what": "waiver of licence/allowed",
        "of": "data/law@1",
        "next": "renew it with btx waive, or withdraw what it let in",
    }
]


def printed(rows: list[dict[str, Any]], width: int) -> str:
    out = StringIO()
    console = Console(file=out, width=width, highlight=False)
    print_table_to(console, list(rows[0]), [list(row.values()) for row in rows])
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_its_terminal_and_breaks_no_reference(width: int) -> None:
    text = printed(EXPERTS, width) + printed(DUE, width)
    assert text == (TABLES / f"{width}.txt").read_text()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for row in EXPERTS:
        assert row["ref"] in text
    for word in DUE[0]["next"].split():
        assert word in text


@pytest.mark.parametrize("width", [40, 60])
def test_a_table_cuts_no_word_off_where_the_needed_columns_do_not_fit(width: int) -> None:
    rows = [
        {"ref": "build/3", "gate": gate, "now": "refused", "match": "a/" + "long-word-" * 4 + "end"}
        for gate in ("release", "export")
    ]
    text = printed(rows, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    last_column = "".join(line.split()[-1] for line in text.strip().splitlines()[2:])
    assert last_column == 2 * rows[0]["match"]


def test_a_table_says_which_columns_had_no_room() -> None:
    assert "no room for" not in printed(EXPERTS, 200)
    assert "no room for seed, mode, digest, registered_at: --json has all" in printed(EXPERTS, 80)


def test_a_table_without_rows_says_that_there_are_none() -> None:
    out = StringIO()
    print_table_to(Console(file=out, width=80), ["ref", "status"], [])
    assert out.getvalue() == "none\n"


@pytest.mark.parametrize(
    ("what", "left", "right", "said"),
    [
        ("evaluation.law.bits_per_byte", 2.0, 1.5, "-25 % better"),
        ("evaluation.law.bits_per_byte", 2.0, 2.5, "+25 % worse"),
        ("cost.total.tokens", 1000, 1500, "+50 %"),
        ("recipe.tune.grow", False, True, ""),
        ("cost.total.tokens", None, 1500, ""),
        ("cost.total.tokens", 0, 1500, ""),
        ("tuned_on", ["data/law@1"], [], ""),
    ],
)
def test_a_difference_says_by_how_much_and_of_bits_whether_that_is_better(
    what: str, left: object, right: object, said: str
) -> None:
    assert _difference(Change(what=what, left=left, right=right)) == said


@pytest.fixture
def dashes(tmp_path: Path) -> Path:
    """A workspace with data whose holder is not ASCII."""
    root = create(tmp_path / "w").root
    catalog = Catalog(f"sqlite:///{root}/.btx/registry.db", actor="eve")
    catalog.register("x", DataFacts(domain="x", license="MIT", source="s", holder="Zoë 数 😀"))
    catalog.close()
    return root


def test_show_leaves_out_blocks_and_no_figures_of_data_that_is_called_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {"bits_per_byte": 2.5, "block_bits": [7.25], "sample": {"block_bytes": [17]}}
    _print_nested(
        {
            "evaluation": {"sample": figures, "results": figures, "curve": figures},
            "results": [{"data": "data/nobody@1"}],
            "own": {"sample": "a jar"},
        }
    )
    text = capsys.readouterr().out
    assert text.count("2.5") == 3
    assert "a jar" in text
    assert not {"7.25", "17", "data/nobody@1"} & {*text.split()}


def test_a_difference_leaves_out_what_only_programs_compare() -> None:
    figures = ["evaluation.math.bits_per_byte", "evaluation.sample.bits_per_byte"]
    compared = [*figures, "members.expert/law@1.slot", "tuned_on"]
    others = [
        "evaluation.math.block_bits",
        "evaluation.math.sample",
        "evaluation.math.sample.block_bytes",
        "evaluation.math.sample.documents",
        "members.expert/law@1.digest",
    ]
    changes = [Change(what=what, left=1, right=2) for what in (*others, *compared)]
    assert [one.what for one in changes if not one.for_programs] == compared
    answer = DiffAnswer(
        left="build/1", right="build/2", changes=tuple(changes), files=FileChanges(), notes=()
    )
    page = comparison(answer)
    assert [f"evaluation.{one.domain}.bits_per_byte" for one in page.figures] == figures
    assert {part.title: [one.name for one in part.facts] for part in page.parts} == {
        "Members": ["expert/law@1.slot"],
        "Tuned on": ["tuned on"],
    }


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_without_unicode_gets_what_it_can_show(
    dashes: Path, btx: Run, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    for command in (["list", "data"], ["show", "data/x"], ["list", "cats"], ["show", "data/ü"]):
        shown = subprocess.run([*PROGRAM, *command], cwd=dashes, capture_output=True)
        assert b"Traceback" not in shown.stderr
        (shown.stdout + shown.stderr).decode(encoding)
    answer = subprocess.run([*PROGRAM, "list", "data", "--json"], cwd=dashes, capture_output=True)
    assert json.loads(answer.stdout.decode(encoding))[0]["holder"] == "Zoë 数 😀"


PROGRAM = [sys.executable, "-m", "pipelines.cli"]


@pytest.mark.parametrize(
    "closed",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("<&-", ">&-", "2>&-")),
        "<&- >&- 2>&-",
    ],
)
def test_a_stream_that_is_closed_ends_no_command(dashes: Path, closed: str) -> None:
    for words in ("list data", "audit data/x", "key new --no-passphrase -o key.pem"):
        (dashes / "key.pem").unlink(missing_ok=True)
        command = f"{' '.join(PROGRAM)} {words} {closed}"
        done = subprocess.run(["bash", "-c", command], cwd=dashes, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 4), words


def test_quiet_and_verbose_may_follow_any_command(
    dashes: Path, btx: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BTX_LOG", raising=False)
    answer = btx(dashes, "list", "data", "--json")
    loud = btx(dashes, "list", "data", "--json", "--verbose")
    assert loud.stdout == answer.stdout
    assert "INFO pipelines.cli.app: " in loud.stderr
    assert btx(dashes, "--verbose", "list", "data", "--json", "--quiet").stdout == answer.stdout


def test_a_command_that_waits_says_so_unless_it_is_to_be_quiet(dashes: Path) -> None:
    def said(*options: str) -> str:
        with (dashes / ".btx/lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            command = [*PROGRAM, "registry", "gc", "--dry-run", *options]
            waiting = subprocess.Popen(command, cwd=dashes, stderr=subprocess.PIPE, text=True)
            # It waits, whether or not it says so, until the lock is free.
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(3)
        return waiting.communicate()[1]

    assert said().startswith("waiting: ")
    assert said("--quiet") == ""


def test_what_a_gate_warns_of_is_said_when_it_is_asked(tmp_path: Path, btx: Run) -> None:
    root = create(tmp_path / "w").root
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Sentence {n} of a text.\n" for n in range(400)))
    command = f"data add laws {text} --license MIT --source test --pii none".split()
    held = btx(root, *command, "--holder", "us", "--purpose", "tests")
    assert (held.returncode, held.stderr) == (0, "")
    vague = btx(root, *command[:2], "vague", *command[3:], "--json")
    assert vague.returncode == 0
    assert json.loads(vague.stdout)["status"] == "registered"
    assert "warning: data/vague@1 at gate register: provenance-complete/" in vague.stderr
    assert "  next: " in vague.stderr
    assert btx(root, *command[:2], "still", *command[3:], "--quiet").stderr == ""


def test_the_shell_completes_commands_and_references(dashes: Path) -> None:
    def completed(words: str) -> list[str]:
        environment = {**os.environ, "_BTX_COMPLETE": "complete_bash", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split()) - 1)
        done = subprocess.run(
            PROGRAM, cwd=dashes, env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert completed("btx reb") == ["rebuild"]
    assert completed("btx show da") == ["data/x@1"]
    assert completed("btx show expert/") == []
    assert subprocess.run([*PROGRAM, "alias", "set", "best", "data/x"], cwd=dashes).returncode == 0
    assert completed("btx fact list be") == ["best"]
    assert completed("btx list experts --data be") == ["best"]


def test_an_alias_is_taken_wherever_a_reference_is(dashes: Path, btx: Run) -> None:
    catalog = Catalog(f"sqlite:///{dashes}/.btx/registry.db", actor="eve")
    seed = catalog.register("base", SeedFacts(license="MIT"))
    made = ExpertFacts(seed=str(seed.ref), data=("data/x@1",), mode="full", licenses=("MIT",))
    expert = catalog.register("x", made)
    for alias, ref in (("best", "data/x"), ("start", "seed/base"), ("x", "expert/x")):
        remarks.move_alias(catalog, alias, ref)
    assert catalog.reference("x", Kind.EXPERT) == expert.ref
    catalog.close()
    assert btx(dashes, "fact", "list", "best").returncode == 0
    # The alias x is an expert's: as data the name x is meant.
    for option, named in (("--data", "best"), ("--data", "x"), ("--seed", "start")):
        listed = json.loads(btx(dashes, "list", "experts", option, named, "--json").stdout)
        assert [row["ref"] for row in listed] == ["expert/x@1"]


def test_what_was_approved_without_a_number_is_retracted_without_one(
    dashes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "ben.pem"))
    ben = keys.new_key("ben")
    workspace = Workspace.find(dashes).acting_as("ben")
    catalog = workspace.catalog
    changes.change_actor(catalog, changes.Change("ben", ("approver",), keys.public_pem(ben)))
    for named in ("data/x", "data/x@1", "best"):
        remarks.move_alias(catalog, "best", "data/x")
        approving.approve(catalog, named, ben)
        assert retract(workspace, named, None, None, "read again").ref == "data/x@1"
    with pytest.raises(NotFound, match="nothing by ben"):
        retract(workspace, "data/x", None, None, "again")


def test_how_far_to_look_ahead_is_a_number_of_days(dashes: Path, btx: Run) -> None:
    for days in ("nan", "inf", "-1", "1e9"):
        done = btx(dashes, "due", "--days", days)
        assert (done.returncode, done.stdout) == (2, ""), days
        assert "expected 0 to 3660" in done.stderr
    assert btx(dashes, "due", "--days", "0.5").returncode == 0


def test_a_misspelled_filter_is_said_as_show_says_it(dashes: Path, btx: Run) -> None:
    shown = btx(dashes, "show", "data/nope")
    listed = btx(dashes, "list", "experts", "--data", "data/nope")
    assert (listed.returncode, listed.stderr) == (shown.returncode, shown.stderr)
    assert listed.returncode == 1


def interrupted(command: list[str], root: Path, after_s: float) -> tuple[int, str]:
    """Start a command, press Ctrl-C after a while; returns its status and its stderr."""
    running = subprocess.Popen(
        [*PROGRAM, *command],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell without job control ignores it for what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(after_s)
    running.send_signal(signal.SIGINT)
    return running.communicate()[1], running.returncode


def test_ctrl_c_ends_a_command_with_a_word_and_status_130(dashes: Path) -> None:
    ended = []
    for after_s in (0.25, 0.4, 0.7, 1.0, 1.5):
        said, status = interrupted(["policy", "test"], dashes, after_s)
        if (said, status) == ("", -signal.SIGINT):
            continue  # Python itself was still starting.
        assert (status in (0, 130), "Traceback" not in said) == (True, True), said
        if status == 130:
            assert "nterrupted" in said
            ended.append(after_s)
    assert ended


LONG_COMMANDS = {
    "train": "train third --data data/math",
    "rebuild": "rebuild --without math",
    "audit": "audit build/1 --recompute",
    "mix": "mix {seed} {seed} -o {out}",
    "register": "register math {checkpoint} --data data/math",
    "export": "export build/1 {out} --draft",
    "data add": "data add more {corpora}/code --license CC0-1.0 --source test --pii none",
    "explain": "explain build/1 --text area",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG_COMMANDS)
def test_ctrl_c_at_any_moment_leaves_no_traceback_and_nothing_half_done(
    own_story: Workspace, story: Any, btx: Run, checkpoint: Path, tmp_path: Path, name: str
) -> None:
    moments = random.Random(name)
    named = {"seed": story.seed, "corpora": story.corpora, "checkpoint": checkpoint}
    longest = 12.0
    ended = 0
    for attempt in range(int(os.environ.get("BTX_MOMENTS", "8"))):
        command = LONG_COMMANDS[name].format(**named, out=tmp_path / f"out{attempt}")
        after_s = moments.uniform(0.3, longest)
        said, status = interrupted(command.split(), own_story.root, after_s)
        assert "Traceback" not in said, (after_s, said)
        if status == 0:
            # It was done before: look earlier.
            longest = max(after_s, 0.5)
            continue
        assert (after_s, status) == (after_s, 130), said
        ended += 1
    assert ended
    done = btx(own_story.root, "audit")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
