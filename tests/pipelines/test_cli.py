"""The command itself: what it must not load, its exit status, its JSON, and its errors."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import documented
import pytest

from pipelines.cli.app import run
from pipelines.cli.commands import ANSWERS, ARRAYS
from pipelines.workspace.terminal import cell
from pipelines.workspace.workspace import Workspace

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "experts"],
        ["show", "build/1"],
        ["lineage", "build/1"],
        ["audit", "build/1"],
    ],
)
def test_light_commands_do_not_import_torch(story: Any, arguments: list[str]) -> None:
    assert heavy_imports(story.root, arguments) == (0, set())


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["train", "again", "--data", "data/math", "--dry-run"], 0),
        (["register", "again", "nowhere", "--data", "data/math"], 1),
        (["train", "again", "--data", "data/nothing"], 1),
    ],
)
def test_a_training_looked_ahead_at_and_what_is_refused_at_once_do_not_import_torch(
    own_story: Workspace, arguments: list[str], status: int
) -> None:
    ended, heavy = heavy_imports(own_story.root, arguments)
    assert (ended, heavy - {"dvc"}) == (status, set())


def heavy_imports(root: Path, arguments: list[str]) -> tuple[int, set[str]]:
    """Run a command; return its exit status and which libraries it loaded that take seconds."""
    program = (
        "import json, sys; from pipelines.cli.app import main; sys.argv = ['btx', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: status = end.code or 0\n"
        "heavy = {'torch', 'transformers', 'dvc'} & set(sys.modules)\n"
        "print(json.dumps([status, sorted(heavy)]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=root, capture_output=True, text=True
    )
    status, heavy = json.loads(done.stderr.splitlines()[-1])
    return status, set(heavy)


def test_every_command_shows_an_example(btx: Run, tmp_path: Path) -> None:
    commands = documented.commands()
    assert len(commands) > 40
    helps = {f"btx {words}": command.help or "" for words, command in commands.items()}
    without = [words for words, said in helps.items() if f"Example: {words}" not in said]
    assert without == []
    assert "Example: btx list" in btx(tmp_path, "list", "--help").stdout


KEYS = {
    ("list", "experts"): "ref name version seed mode data licenses status digest registered_at",
    (
        "show",
        "build/1",
    ): "ref status folder seed members files recipe evaluation routing cost gates",
    ("rebuild",): "build status ran reused bytes_written bytes_linked seconds",
    ("audit", "build/1"): "subject checks findings head",
    ("lineage", "build/1"): "nodes edges",
}


@pytest.mark.parametrize("command", KEYS, ids=" ".join)
def test_json_has_the_promised_keys_and_stands_alone_on_stdout(
    story: Any, btx: Run, command: tuple[str, ...]
) -> None:
    done = btx(story.root, *command, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(KEYS[command].split()) <= set(answer[0] if isinstance(answer, list) else answer)


def test_every_command_with_json_has_its_record_in_one_table() -> None:
    commands = set(documented.commands_with_json())
    assert len(commands) > 20
    # An entry may name an argument or an option too: `list seeds`, `rebuild --dry-run`.
    named = {entry: {c for c in commands if f"{entry} ".startswith(f"{c} ")} for entry in ANSWERS}
    assert [entry for entry, found in named.items() if len(found) != 1] == []
    assert commands == set().union(*named.values())
    assert ANSWERS.keys() >= ARRAYS


SHOWN = {
    "build/1": "ref status digest registered_at actor content cost dvc environment evaluation "
    "folder line members mixed previous recipe registrar routing seed snapshot tuned_on files "
    "gates recipe.mix recipe.tune recipe.evaluate recipe.resolved.mix recipe.resolved.tune "
    "routing.shares.math routing.dead routing.dominant evaluation.math.bits_per_byte "
    "evaluation.math.seed_bits_per_byte evaluation.math.specialist_bits_per_byte "
    "evaluation.math.new_to_seed evaluation.math.tokens",
    "expert/math": "ref status digest registered_at actor adapter contamination data domain dvc "
    "environment evaluation licenses mode preflight seed train files gates "
    "evaluation.bits_per_byte evaluation.seed_bits_per_byte evaluation.tokens "
    "evaluation.seed_tokens evaluation.domains.math.bits_per_byte train.recipe.steps",
    "seed/base": "ref status digest registered_at actor data dvc family finite license "
    "model_type parameters files gates",
    "data/math": "ref status digest registered_at actor bytes domain dvc holder license pii "
    "purpose retain_until source files gates",
    "snapshot/main": "ref status digest registered_at actor seed mode members files gates",
}


@pytest.mark.parametrize("ref", SHOWN)
def test_show_keeps_the_keys_that_scripts_were_built_on(story: Any, btx: Run, ref: str) -> None:
    answer = json.loads(btx(story.root, "show", ref, "--json").stdout)
    for path in SHOWN[ref].split():
        value = answer
        for key in path.split("."):
            assert key in value, path
            value = value[key]


def test_show_names_every_figure_and_leaves_those_of_single_blocks_to_json(
    story: Any, btx: Run
) -> None:
    for ref in ("build/1", "expert/math"):
        answer = json.loads(btx(story.root, "show", ref, "--json").stdout)
        lines = btx(story.root, "show", ref).stdout.splitlines()
        keys = {line.split()[0] for line in lines if line.strip()}
        assert "block_bits" in json.dumps(answer)
        assert not keys & {"block_bits", "seed_block_bits", "block_bytes", "results", "curve"}
        assert {"evaluation", "bits_per_byte", "seed_bits_per_byte"} <= keys
        heads = lines[lines.index("files") + 1].split()
        assert {"bytes", "linked", "path", "sha256"} <= {*heads}
        assert max(map(len, lines)) < 200
        for layer in answer["routing"]["shares"]["math"] if ref == "build/1" else ():
            assert cell(layer) in {line.strip() for line in lines}


def test_show_prints_whole_numbers_as_the_registry_stores_them(story: Any, btx: Run) -> None:
    text = btx(story.root, "show", "expert/math", "--json").stdout
    distance = json.loads(text)["preflight"]["ancestry"]["distance"]["attention"]
    assert (distance, type(distance)) == (0, int)


def files(root: Path) -> set[str]:
    """Every file but the log of what was asked."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {
        path
        for path in found
        if not path.startswith(
            ("ledger/", ".btx/registry.db", ".btx/lock", ".dvc/tmp", ".btx/store/.lock", ".git/")
        )
    }


WRONG: list[tuple[list[str], int, str]] = [
    (["seed", "add", "x", "nowhere"], 1, "nothing there"),
    (["seed", "add", "x", "{empty}"], 1, "{empty}/config.json"),
    (["bench", "--seeds", "0"], 2, "--seeds"),
    (["show", "expert/nobody"], 1, "one of expert/code"),
    (["show", "nonsense//"], 2, "found"),
    (["list", "cats"], 2, "seeds | data | experts | builds"),
    (["rebuild", "--tune", "everything"], 2, "router"),
    (["register", "p", "{pickle}", "--data", "data/math"], 1, "pytorch_model.bin"),
    (["register", "p", "{other_shape}", "--data", "data/math"], 3, "weights/shapes"),
    (["register", "seed", "{seed}", "--data", "data/math"], 2, "reserved"),
    (["train", "seed", "--data", "data/math"], 2, "reserved"),
    (["train", "a/b", "--data", "data/math"], 2, "a-z"),
    (["train", "math@2", "--data", "data/math"], 2, "a name alone"),
    (["actor", "add", "dora", "--role", "king"], 2, "one of registrar"),
    (["train", "x", "--data", "data/none"], 1, "one of data/"),
    (["data", "add", "x", "{empty}", "--license", "MIT", "--source", "s"], 2, "no file"),
    (["data", "add", "x", "{seed}", "--license", "not a licence", "--source", "s"], 2, "SPDX"),
    (
        [
            "data",
            "add",
            "x",
            "{text}",
            "--license",
            "MIT",
            "--source",
            "s",
            "--retain-until",
            "never",
        ],
        2,
        "an ISO date, such as 2030-12-31",
    ),
    (
        [
            "data",
            "add",
            "x",
            "{text}",
            "--license",
            "MIT",
            "--source",
            "s",
            "--retain-until",
            "20301231",
        ],
        2,
        "found '20301231'",
    ),
    (
        ["data", "add", "x", "{noise}", "--license", "MIT", "--source", "s"],
        1,
        "{noise}/b/noise.bin\n  found byte 5 is no UTF-8",
    ),
    (
        ["data", "add", "x", "{noise}/b/noise.bin", "--license", "MIT", "--source", "s"],
        1,
        "{noise}/b/noise.bin\n  found byte 5 is no UTF-8",
    ),
    (["release", "expert/math"], 2, "a build"),
    (["withdraw", "data/math", "--why", " "], 2, "no reason"),
]


@pytest.mark.parametrize(
    ("arguments", "status", "message"), WRONG, ids=[" ".join(case[0][:3]) for case in WRONG]
)
def test_wrong_input_gets_one_clear_message_and_leaves_nothing(
    own_story: Workspace,
    story: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    made = {
        "seed": story.seed,
        "empty": tmp_path / "empty",
        "pickle": tmp_path / "pickle",
        "other_shape": tmp_path / "other",
    }
    made |= {"text": story.corpora / "math", "noise": tmp_path / "noise"}
    made["empty"].mkdir()
    (made["noise"] / "b").mkdir(parents=True)
    (made["noise"] / "a.txt").write_text("a text beside it\n")
    (made["noise"] / "b/noise.bin").write_bytes(b"noise" + bytes(range(255, 0, -1)))
    if "{pickle}" in arguments:
        subprocess.run(["cp", "-r", story.seed, made["pickle"]], check=True)
        (made["pickle"] / "model.safetensors").rename(made["pickle"] / "pytorch_model.bin")
    if "{other_shape}" in arguments:
        other_shape(story.seed, made["other_shape"])
    before = files(own_story.root)
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "key.pem"))
    monkeypatch.chdir(own_story.root)
    ended = run([argument.format(**made) for argument in arguments])
    said = capfd.readouterr()
    assert ended == status, said
    assert message.format(**made) in said.err
    assert "Traceback" not in said.err
    assert files(own_story.root) == before
    assert not (tmp_path / "key.pem").exists()


def other_shape(seed: Path, out: Path) -> None:
    """A checkpoint like the seed, one layer shorter."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(seed, num_hidden_layers=1)
    ).save_pretrained(out)
    AutoTokenizer.from_pretrained(seed).save_pretrained(out)


def test_outside_a_workspace_the_message_says_init(btx: Run, tmp_path: Path) -> None:
    done = btx(tmp_path, "list", "experts")
    assert (done.returncode, "btx init" in done.stderr) == (1, True)


def test_files_are_text_in_utf_8_whatever_the_locale(
    btx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, setting in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, setting)
    assert btx(tmp_path, "init", "models").returncode == 0
    root = tmp_path / "models"
    with (root / "btx.toml").open("a", encoding="utf-8") as settings:
        settings.write("# für Bücher\n")
    with (root / "policies/privacy.yaml").open("a", encoding="utf-8") as policy:
        policy.write("# für Bücher\n")
    done = btx(root, "policy", "test")
    assert done.returncode == 0, done.stderr


PACKAGES = [Path(__file__).parents[2] / name for name in ("btx_core", "registry", "pipelines")]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_place_that_opens_text_says_that_it_is_utf_8(package: Path) -> None:
    assert list(without_encoding("file.open('a')\nfile.write_text('')\nopen(file)")) == [1, 2, 3]
    silent = {
        f"{path.relative_to(package)}:{number}"
        for path in package.rglob("*.py")
        for number in without_encoding(path.read_text(encoding="utf-8"))
    }
    assert silent == set()


def without_encoding(source: str) -> Iterator[int]:
    """Yield the line of each call that opens text in the encoding of the locale."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for call in filter(opens_text, calls):
        if all(keyword.arg != "encoding" for keyword in call.keywords):
            yield call.lineno


def opens_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
    if name not in ("open", "fdopen"):
        return name in ("read_text", "write_text")
    words = [one.value for one in call.args if isinstance(one, ast.Constant)]
    modes = [word for word in words if isinstance(word, str) and set(word) <= set("rwxa+b")]
    if modes:
        return "b" not in modes[0]
    # `file.open()` and `open(file)`; another class's own `open` is given what it opens.
    return len(call.args) == isinstance(call.func, ast.Name)


def test_the_version_is_that_of_the_installed_package(btx: Run, tmp_path: Path) -> None:
    done = btx(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"btx {version('btx-registry')}\n")


@pytest.mark.parametrize(("option", "level"), [(["--verbose"], None), ([], "info"), ([], "debug")])
def test_log_messages_go_to_stderr_and_leave_the_answer_as_it_was(
    story: Any,
    btx: Run,
    monkeypatch: pytest.MonkeyPatch,
    option: list[str],
    level: str | None,
) -> None:
    command = ["list", "experts", "--json"]
    monkeypatch.delenv("BTX_LOG", raising=False)
    quiet = btx(story.root, *command)
    assert (quiet.returncode, quiet.stderr) == (0, ""), "silent unless asked"
    if level:
        monkeypatch.setenv("BTX_LOG", level)
    done = btx(story.root, *option, *command)
    assert (done.returncode, done.stdout) == (0, quiet.stdout)
    assert "INFO pipelines.cli.app: " in done.stderr


def test_an_unknown_log_level_is_wrong_usage_that_names_the_levels(
    btx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTX_LOG", "loud")
    done = btx(tmp_path, "init", "models")
    assert (done.returncode, done.stdout) == (2, "")
    assert "BTX_LOG\n  found loud   expected debug, info, warning" in done.stderr
    assert not (tmp_path / "models").exists()
