"""A workspace.

It is made from the project's own files, found from below, and refused when its settings are wrong.
"""

import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.jobs.add_data import add_data
from pipelines.jobs.annotate import retire
from pipelines.jobs.audit import audit
from pipelines.workspace.existing_project import require_stages
from pipelines.workspace.failures import error_text
from pipelines.workspace.general import general_data
from pipelines.workspace.settings_file import read_settings
from pipelines.workspace.workspace import Workspace, create, template
from registry.catalogue import pins
from registry.errors import Conflict, Invalid, NotFound
from registry.governance import keys
from registry.records.facts import DataStatement, SeedFacts


def test_init_lays_down_the_projects_own_stages_and_policies(tmp_path: Path) -> None:
    workspace = create(tmp_path / "new")
    assert (workspace.root / "dvc.yaml").read_bytes() == (template() / "dvc.yaml").read_bytes()
    laid = {path.name for path in workspace.policies.glob("*.yaml")}
    assert laid == {path.name for path in (template() / "policies").glob("*.yaml")} != set()
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=workspace.root, capture_output=True, text=True
    )
    assert status.returncode == 0, status.stderr


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    workspace = create(tmp_path)
    (tmp_path / "btx.toml").write_text("# mine\n")
    head = workspace.catalog.head()
    assert create(tmp_path).catalog.head() == head
    assert (tmp_path / "btx.toml").read_text() == "# mine\n"


def test_a_workspace_is_found_from_a_folder_below(tmp_path: Path) -> None:
    create(tmp_path)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert Workspace.find(below).root == tmp_path.resolve()


def test_outside_a_workspace_the_next_step_is_init(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="btx init"):
        Workspace.find(tmp_path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[registry]\nurll = 'x'\n", "registry.urll"),
        (b"[recipes]\n", "recipes"),
        (b"[registry\n", "btx.toml"),
        (b"[recipe]\ntune = 3\n", "recipe.tune"),
        (b"\x80", "btx.toml"),
        (b"a = " + b"[" * 100_000, "btx.toml"),
        (b"a = " + b"9" * 6000, "btx.toml"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "btx.toml"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=named):
        read_settings(path)


def test_the_environment_chooses_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = create(tmp_path / "w")
    assert workspace.registry_url == f"sqlite:///{workspace.root}/.btx/registry.db"
    monkeypatch.setenv("BTX_REGISTRY_URL", f"sqlite:///{tmp_path}/other.db")
    assert workspace.registry_url == f"sqlite:///{tmp_path}/other.db"


def test_an_account_without_name_and_home_acts_under_a_name_that_it_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container that runs under a number."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    root = create(tmp_path / "w").root
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "BTX_ACTOR", "BTX_HEADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(Invalid, match="export BTX_ACTOR=NAME"):
        Workspace.find(root).catalog.head()
    monkeypatch.setenv("BTX_ACTOR", "ada")
    catalog = Workspace.find(root).catalog
    assert (pins.pin(catalog), pins.pinned(catalog)) == (None, [])
    assert audit(Workspace.find(root), None).findings == ()
    with pytest.raises(RuntimeError) as homeless:
        keys.key_file("ada")
    assert "export HOME=FOLDER" in str(error_text(homeless.value))


def test_a_second_writer_waits_and_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    workspace = create(tmp_path)
    child = (
        "from pathlib import Path; from pipelines.workspace.workspace import Workspace\n"
        "with Workspace.find(Path('.')).writing('second'): print('in')"
    )
    with workspace.writing("rebuild"):
        waiting = subprocess.Popen(
            [sys.executable, "-c", child],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "btx rebuild" in waiting.stderr.readline()
        assert waiting.poll() is None
    assert waiting.communicate(timeout=60)[0] == "in\n"


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "stages:\n  mine:\n    cmd: echo hi\n",
        "vars: [params.yaml]\nstages:\n  train:\n    cmd: echo hi\n",
        "echo x\n",
        "stages: [\n",
        "",
    ],
)
def test_init_in_a_project_with_stages_of_its_own_says_what_to_do(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(Conflict) as refusal:
        create(tmp_path)
    assert str(tmp_path / "dvc.yaml") in refusal.value.subject
    assert "btx init" in refusal.value.next
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.yaml"], "nothing was written"


def test_stages_that_were_copied_into_a_project_are_enough(tmp_path: Path) -> None:
    shipped = (template() / "dvc.yaml").read_text()
    both = shipped.replace("stages:\n", "stages:\n  mine:\n    cmd: echo hi\n", 1)
    (tmp_path / "dvc.yaml").write_text(both)
    require_stages(tmp_path / "dvc.yaml", template() / "dvc.yaml")


@pytest.mark.parametrize("project", [False, True])
def test_a_workspace_below_a_git_repository_is_a_part_of_it(tmp_path: Path, project: bool) -> None:
    """Also where that repository is a DVC project itself."""
    run(tmp_path, "git", "init", "--quiet")
    if project:
        run(tmp_path, sys.executable, "-m", "dvc", "init", "--quiet")
    workspace = create(tmp_path / "team" / "models")
    assert not (workspace.root / ".git").exists()
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "one"}\n{"text": "two"}\n')
    statement = DataStatement(license="CC0-1.0", source="x", holder="x", purpose="x", pii="none")
    version = add_data(workspace, "words", corpus, statement)
    assert (workspace.root / "data/words/1.dvc").is_file()
    shown = run(tmp_path, "git", "status", "--short", "--untracked-files=all")
    assert "team/models/data/words/1.dvc" in shown
    assert "corpus.jsonl" not in shown.replace("?? corpus.jsonl\n", ""), "its bytes are DVC's"
    assert version.created


def test_a_workspace_in_a_folder_that_git_ignores_has_a_repository_of_its_own(
    tmp_path: Path,
) -> None:
    run(tmp_path, "git", "init", "--quiet")
    (tmp_path / ".gitignore").write_text("/demo/\n")
    assert (create(tmp_path / "demo").root / ".git").is_dir()


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("[registri]\n", "registry, machine"),
        ("[registry]\nurll = 1\n", "one of url"),
        ("[machine]\ngpu = 1\n", "gpus"),
        ("[line.support]\nexpert = []\n", "the key experts"),
        ("[line.support]\nexperts = []\nexpert = []\n", "a key that is known there"),
    ],
)
def test_a_key_that_is_no_setting_is_refused_with_those_that_are(
    tmp_path: Path, text: str, known: str
) -> None:
    (tmp_path / "btx.toml").write_text(text)
    with pytest.raises(Invalid, match=known):
        read_settings(tmp_path / "btx.toml")


def test_where_the_newest_evaluation_data_was_a_mistake_the_version_before_measures(
    tmp_path: Path,
) -> None:
    workspace = create(tmp_path / "w")
    said = DataStatement(license="MIT", source="s", holder="h", pii="none", use="evaluation")
    for number, purpose in enumerate(("news of May", "news of June")):
        (tmp_path / "news.txt").write_text(f"{purpose} " * 90)
        stated = said.model_copy(update={"purpose": purpose})
        version = add_data(workspace, "news", tmp_path / "news.txt", stated)
        assert version.ref.version == number + 1
    seed = workspace.catalog.register("base", SeedFacts(license="MIT"))
    assert [str(one.ref) for one in general_data(workspace, seed)] == ["data/news@2"]
    retire(workspace, "data/news@2", "the news of June are those of May")
    assert [str(one.ref) for one in general_data(workspace, seed)] == ["data/news@1"]
