"""Several workspaces and one registry.

What lies elsewhere is not here, and neither damaged nor built again; a registry that is missing or
older is said to be, and numbers nothing twice; what others may need is not collected.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.jobs import archive
from pipelines.jobs.add_data import add_data
from pipelines.jobs.audit import audit
from pipelines.jobs.explain import explain
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.upgrade import upgrade
from pipelines.workspace import folders, trust
from pipelines.workspace.workspace import Workspace, create
from registry.catalogue.catalog import Catalog
from registry.errors import Conflict, Damaged, NotFound
from registry.governance import contesting
from registry.records.facts import DataFacts, DataStatement

Run = Callable[..., subprocess.CompletedProcess[str]]
SAID = DataStatement(license="MIT", source="s", pii="none")


def corpus(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(f"{text}\n" * 30)
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "w")
    for number in (1, 2):
        add_data(made, "math", corpus(tmp_path / f"corpus-{number}", f"text {number}"), SAID)
    return made


def clone(workspace: Workspace, folder: Path) -> Path:
    """Copy what git carries."""
    ignore = shutil.ignore_patterns(".btx", "ledger", "cache", "tmp", "1", "2", "3")
    shutil.copytree(workspace.root, folder, ignore=ignore)
    return folder


def test_a_clone_without_its_registry_says_so_and_writes_nothing(
    workspace: Workspace, tmp_path: Path, btx: Run
) -> None:
    root = clone(workspace, tmp_path / "clone")
    before = (root / "data/math/1.dvc").read_bytes()
    other = str(corpus(tmp_path / "other", "other"))
    add = ("data", "add", "math", other, "--license", "MIT", "--source", "s", "--pii", "none")
    for arguments in (("list", "data"), add, ("audit", "data/math"), ("registry", "gc")):
        ended = btx(root, *arguments)
        assert ended.returncode == 1, ended.stdout
        assert "btx registry load" in ended.stderr
    assert "btx registry load" in btx(root, "init", ".").stderr
    empty = btx(root, *add)
    assert empty.returncode == 1
    assert "data/math/1.dvc" in empty.stderr
    assert (root / "data/math/1.dvc").read_bytes() == before
    archive.dump(workspace, tmp_path / "out")
    loaded = btx(root, "registry", "load", str(tmp_path / "out"))
    assert loaded.returncode == 0, loaded.stderr
    assert (root / "data/math/1.dvc").read_bytes() == before
    added = btx(root, *add)
    assert "data/math@3" in added.stdout, added.stderr


@pytest.mark.parametrize("address", ["nowhere/x.db", ".btx/registri.db"])
def test_a_mistyped_address_is_an_error_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    root = create(tmp_path / "w").root
    monkeypatch.setenv("BTX_REGISTRY_URL", f"sqlite:///{address}")
    with pytest.raises(NotFound, match="no registry"):
        assert Workspace.find(root).catalog
    assert not (root / address).exists()
    assert not (root / "nowhere").exists()


def test_a_backup_of_a_registry_in_use_comes_back_beside_newer_folders(
    workspace: Workspace, tmp_path: Path, btx: Run
) -> None:
    with workspace.writing("something long"), workspace.catalog.database.write():
        saved = archive.backup(workspace, tmp_path / "backup")
    assert (saved.objects, saved.missing) == (0, ())
    add_data(workspace, "math", corpus(tmp_path / "corpus-3", "text 3"), SAID)
    shared = tmp_path / "newer"
    shutil.copytree(workspace.root, shared, ignore=shutil.ignore_patterns(".btx", "ledger"))
    newer = (shared / "data/math/3.dvc").read_bytes()
    restored = btx(shared, "registry", "restore", str(tmp_path / "backup"))
    assert restored.returncode == 0, restored.stderr
    assert "newer than the registry: data/math/3" in restored.stdout
    again = Workspace.find(shared)
    assert again.catalog.head() == saved.head
    (finding, *_) = audit(again, "data/math").findings
    assert "not given again" in finding.next
    version = add_data(again, "math", corpus(tmp_path / "corpus-4", "text 4"), SAID)
    assert version.ref.version == 4
    assert (shared / "data/math/3.dvc").read_bytes() == newer
    folders.verify(shared / "data/math/4", version.files, "data/math@4")


def test_what_another_machine_holds_is_not_here_and_not_damaged(
    own_story: Workspace, tmp_path: Path
) -> None:
    root = own_story.root
    for name in ("builds/1", "experts/math/1"):
        shutil.rmtree(root / name)
    assert rebuild(own_story).status == "unchanged"
    with pytest.raises(NotFound, match=r"dvc pull .*builds/1\.dvc"):
        explain(own_story, "build/1", "one")
    with pytest.raises(NotFound, match=r"dvc pull .*experts/math/1\.dvc"):
        folders.opened(root, own_story.catalog.get("expert/math"))
    findings = [one for one in audit(own_story, "build/1").findings if one.check == "files"]
    absent = [one for one in findings if one.found == "not on this disk"]
    assert {one.subject for one in absent} == {"build/1", "expert/math@1"}
    assert findings == absent
    (root / "data/math/1").joinpath("more.txt").write_text("x")
    with pytest.raises(Damaged):
        folders.opened(root, own_story.catalog.get("data/math"))


def test_a_collection_leaves_what_others_may_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    cache = tmp_path / "shared-cache"
    ours, theirs = create(tmp_path / "ours").root, create(tmp_path / "theirs").root
    for root in (ours, theirs):
        command = [sys.executable, "-m", "dvc", "cache", "dir", str(cache)]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        trust.confirm(root, Workspace.unconfirmed(root).statements())
    add_data(Workspace.find(theirs), "mine", corpus(tmp_path / "c", "theirs"), SAID)
    before = {path for path in cache.rglob("*") if path.is_file()}
    answer = archive.collect(Workspace.find(ours), grace_s=0)
    assert "others may need" in answer.skipped[0]
    assert {path for path in cache.rglob("*") if path.is_file()} == before
    shutil.rmtree(theirs / ".btx/store", ignore_errors=True)
    store = tmp_path / "shared-store"
    store.mkdir()
    shutil.rmtree(ours / ".btx/store")
    (ours / ".btx/store").symlink_to(store)
    trust.confirm(ours, Workspace.unconfirmed(ours).statements())
    (tmp_path / "object").write_text("x")
    kept = Workspace.find(ours).store.put(tmp_path / "object")
    answer = archive.collect(Workspace.find(ours), grace_s=0)
    assert (answer.deleted, len(answer.skipped)) == ((), 2)
    assert Workspace.find(ours).store.has(kept)


def test_a_collection_goes_on_where_another_machine_registered_more(
    workspace: Workspace, tmp_path: Path
) -> None:
    facts = workspace.catalog.get("data/math@1", DataFacts)
    dvc = {"path": "data/law/1", "md5": "e" * 32 + ".dir"}
    elsewhere = facts.facts.to_json() | {"domain": "law", "dvc": dvc}
    workspace.catalog.register("law", DataFacts.from_json(elsewhere, "x"), files=facts.files)
    (tmp_path / "stray").write_text("stray")
    stray = workspace.store.put(tmp_path / "stray")
    answer = archive.collect(workspace, grace_s=0)
    assert (answer.deleted, answer.restored, answer.skipped) == ((stray,), (), ())
    shutil.rmtree(workspace.root / ".dvc/cache")
    assert "DVC's cache lacks data/math@1" in archive.collect(workspace).skipped[0]


@pytest.mark.parametrize("revision", ["0002", "0117"])
def test_a_newer_registry_under_an_older_program_is_one_clear_message(
    workspace: Workspace, btx: Run, revision: str
) -> None:
    with sqlite3.connect(workspace.root / ".btx/registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    ended = btx(workspace.root, "list", "data")
    assert ended.returncode == 1
    assert f"schema {revision}" in ended.stderr
    assert "--upgrade" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")
def test_who_may_only_read_reads(workspace: Workspace, tmp_path: Path) -> None:
    workspace.catalog.close()
    database = workspace.root / ".btx/registry.db"
    program = (
        "import os, sys; from registry.catalogue.catalog import Catalog\n"
        "os.setuid(65534)\n"
        "catalog = Catalog('sqlite:///' + sys.argv[1], actor='auditor')\n"
        "print(catalog.head(), len(catalog.events()))\n"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    command = [sys.executable, "-c", program, str(database)]
    writing = Catalog(f"sqlite:///{database}", actor="ada")
    for quiet in (True, False):
        if not quiet:
            writing.withdraw("data/math@2", "now in the log of the database alone")
        read = subprocess.run(command, capture_output=True, text=True)
        said = f"{writing.head()} {len(writing.events())}\n"
        assert read.stdout == said, read.stderr


def git(root: Path, *words: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def committed(root: Path) -> Path:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "registered")
    return root


def cloned(source: Path, folder: Path) -> Path:
    git(source.parent, "clone", "-q", str(source), str(folder))
    return folder


def add(root: Path, name: str, text: str) -> str:
    source = corpus(Path(tempfile.mkdtemp(dir=root.parent)) / "corpus", text)
    return str(add_data(Workspace.find(root), name, source, SAID).ref)


def test_a_clone_makes_its_registry_from_the_ledger(
    own_story: Workspace, tmp_path: Path, btx: Run
) -> None:
    root = cloned(committed(own_story.root), tmp_path / "clone")
    assert "btx registry restore" in btx(root, "list", "builds").stderr
    restored = btx(root, "registry", "restore")
    assert restored.returncode == 0, restored.stderr
    archive.backup(own_story, tmp_path / "here")
    archive.backup(Workspace.find(root), tmp_path / "there")
    for path in (tmp_path / "here").iterdir():
        assert (tmp_path / "there" / path.name).read_bytes() == path.read_bytes()
    again = btx(root, "registry", "restore")
    assert (again.returncode, again.stdout) == (0, restored.stdout)


def test_a_clone_that_is_behind_says_so_and_catches_up(
    workspace: Workspace, tmp_path: Path
) -> None:
    root = cloned(committed(workspace.root), tmp_path / "clone")
    archive.read_ledger(Workspace.find(root))
    assert add(workspace.root, "law", "one") == "data/law@1"
    committed(workspace.root)
    git(root, "pull", "-q")
    with pytest.raises(Conflict, match="btx registry restore reads the others"):
        add(root, "law", "two")
    archive.read_ledger(Workspace.find(root))
    assert Workspace.find(root).catalog.head() == workspace.catalog.head()
    assert add(root, "law", "two") == "data/law@2"


@pytest.mark.parametrize("kept", ["own", pytest.param("other", marks=pytest.mark.slow)])
def test_two_clones_that_both_registered_are_a_fork_that_is_told(
    workspace: Workspace, tmp_path: Path, btx: Run, kept: str
) -> None:
    other = cloned(committed(workspace.root), tmp_path / "clone")
    archive.read_ledger(Workspace.find(other))
    add(workspace.root, "law", "one")
    add(workspace.root, "law", "two")
    contesting.withdraw(Workspace.find(workspace.root).catalog, "data/law@2", "consent ended")
    committed(workspace.root)
    add(other, "code", "three")
    committed(other)
    own_head = Workspace.find(other).catalog.head()
    git(other, "pull", "-q", "--no-rebase", "--no-edit")
    heads = {"own": own_head, "other": workspace.catalog.head()}
    told = btx(other, "list", "data")
    assert told.returncode == 1
    for words in ("a fork", "data/code@1", "data/law@1", *(head[:12] for head in heads.values())):
        assert words in told.stderr
    assert "a fork" in btx(other, "registry", "restore").stderr
    answer = btx(other, "registry", "restore", "--head", heads[kept][:12])
    assert answer.returncode == 0, answer.stderr
    lost = {"own": ["data/law@1", "data/law@2"], "other": ["data/code@1"]}[kept]
    assert [
        line.split()[-1] for line in answer.stdout.splitlines() if "registered again" in line
    ] == lost
    assert ("done again: withdrawn data/law@2, by " in answer.stdout) == (kept == "own")
    there = Workspace.find(other)
    assert there.catalog.head() == heads[kept]
    # What the other side had numbered means that for ever.
    again = add(other, lost[0].split("/")[1].split("@")[0], "four")
    assert again.endswith(f"@{len(lost) + 1}")
    assert not [one for one in audit(there, None).findings if one.check == "ledger"]


def test_an_audit_compares_the_registry_with_its_ledger(workspace: Workspace) -> None:
    def found() -> list[str]:
        findings = audit(Workspace.find(workspace.root), None).findings
        return [f"{one.subject}: {one.found}" for one in findings if one.check == "ledger"]

    assert found() == []
    events = sorted(workspace.ledger.glob("[0-9]*/*.jsonl"))
    written = events[0].read_bytes()
    events[0].write_bytes(written.replace(b'"actor":"', b'"actor":"x'))
    (document, *_) = workspace.ledger.glob("documents/*/*.json")
    document.unlink()
    changed, missing = found()
    assert events[0].name in changed
    assert document.name in missing
    events[0].write_bytes(written)
    archive.read_ledger(Workspace.find(workspace.root))
    add(workspace.root, "law", "one")
    assert [document.name in one for one in found()] == [True]


def test_what_another_clone_registered_in_a_shared_registry_comes_with_the_next_event(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = workspace.root, cloned(committed(workspace.root), tmp_path / "clone")
    own, shared = workspace.root / ".btx/registry.db", tmp_path / "shared.db"
    with sqlite3.connect(own) as registry, sqlite3.connect(shared) as into:
        registry.backup(into)
    monkeypatch.setenv("BTX_REGISTRY_URL", f"sqlite:///{shared}")

    def found(root: Path) -> list[str]:
        findings = audit(Workspace.find(root), None).findings
        return [one.subject for one in findings if one.check == "ledger"]

    add(roots[0], "law", "one")
    assert [found(root) for root in roots] == [[], []]
    # One between those that are there was taken away, by whomever.
    sorted(workspace.ledger.glob("[0-9]*/*.jsonl"))[-2].unlink()
    assert len(found(roots[0])) == 1
    add(roots[1], "code", "two")
    there = Workspace.find(roots[1])
    assert len(list(there.ledger.glob("[0-9]*/*.jsonl"))) == there.catalog.last()
    assert found(roots[1]) == []


def test_a_log_that_was_written_anew_does_not_fit_its_ledger(workspace: Workspace) -> None:
    workspace.catalog.close()
    assert Workspace.find(workspace.root).catalog.last()
    for path in (workspace.root / ".btx").glob("registry.db*"):
        path.unlink()
    anew = Catalog(workspace.registry_url, actor="mallory")
    for number in range(20):
        anew.put_document({"number": number})
    with pytest.raises(Conflict, match="a fork"):
        assert Workspace.find(workspace.root).catalog


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "link", "no document"])
def test_no_row_is_taken_from_a_damaged_ledger(
    workspace: Workspace, tmp_path: Path, damage: str
) -> None:
    root = cloned(committed(workspace.root), tmp_path / "clone")
    event = sorted((root / "ledger").glob("[0-9]*/*.jsonl"))[1]
    if damage == "changed":
        event.write_bytes(event.read_bytes().replace(b"data/math", b"data/moth"))
    elif damage == "cut":
        event.write_bytes(event.read_bytes()[:-40])
    elif damage == "gone":
        event.unlink()
    elif damage == "link":
        event.rename(tmp_path / "elsewhere")
        event.symlink_to(tmp_path / "elsewhere")
    else:
        shutil.rmtree(root / "ledger/documents")
    with pytest.raises((Damaged, Conflict)):
        archive.read_ledger(Workspace.find(root))
    assert Workspace.find(root).catalog_to_fill.last() == 0


def test_a_workspace_without_a_ledger_keeps_none(workspace: Workspace) -> None:
    shutil.rmtree(workspace.ledger)
    add(workspace.root, "law", "one")
    assert not workspace.ledger.exists()
    (step,) = [one for one in upgrade(Workspace.find(workspace.root)) if "ledger/" in one.what]
    assert not step.done
    upgrade(Workspace.find(workspace.root), apply=True)
    there = Workspace.find(workspace.root)
    assert [one for one in audit(there, None).findings if one.check == "ledger"] == []
    assert len(list(there.ledger.glob("[0-9]*/*.jsonl"))) == there.catalog.last()


def test_a_number_that_git_knows_on_any_branch_is_not_given_again(
    workspace: Workspace, tmp_path: Path
) -> None:
    committed(workspace.root)
    add(workspace.root, "math", "three")
    committed(workspace.root)
    git(workspace.root, "checkout", "-q", "-b", "other")
    add(workspace.root, "math", "four")
    committed(workspace.root)
    git(workspace.root, "checkout", "-q", "-")
    git(workspace.root, "rm", "-q", "data/math/3.dvc")
    shutil.rmtree(workspace.root / ".btx")
    shutil.rmtree(workspace.root / "ledger")
    for folder in ("3", "4"):
        shutil.rmtree(workspace.root / "data/math" / folder, ignore_errors=True)
    for path in workspace.root.glob("data/math/*.dvc"):
        path.unlink()
    assert add(create(workspace.root).root, "math", "five") == "data/math@5"


def test_what_each_clone_writes_for_itself_merges_without_a_conflict(
    workspace: Workspace, tmp_path: Path
) -> None:
    def work(root: Path, name: str) -> None:
        with Workspace.find(root).writing("rebuild"):
            for file in ("dvc.lock", "snapshot.json", "work/evaluation.json", "branches.yaml"):
                (root / file).parent.mkdir(exist_ok=True)
                (root / file).write_text(f"# written by {name}\nbranches: {{}}\n")
            (root / "builds").mkdir(exist_ok=True)
            with (root / "builds/.gitignore").open("a") as file:
                file.write(f"/{name}\n")
        git(root, "add", "-A")
        git(root, "commit", "-qm", name)

    work(workspace.root, "0")
    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(workspace.root), str(other))
    work(workspace.root, "1")
    work(other, "2")
    git(other, "pull", "-q", "--no-rebase", "--no-edit")
    assert "by 2" in (other / "snapshot.json").read_text()
    assert "by 2" in (other / "dvc.lock").read_text()
    assert sorted((other / "builds/.gitignore").read_text().split()) == ["/0", "/1", "/2"]
    assert git(other, "status", "--porcelain") == ""


def test_a_clone_gets_its_driver_from_the_first_command_that_writes(workspace: Workspace) -> None:
    driver = ["git", "config", "--get", "merge.btx-own.driver"]
    assert subprocess.check_output(driver, cwd=workspace.root, text=True) == "true\n"
    subprocess.run(
        ["git", "config", "--remove-section", "merge.btx-own"], cwd=workspace.root, check=True
    )
    with workspace.writing("data add"):
        assert subprocess.check_output(driver, cwd=workspace.root, text=True) == "true\n"
