"""A folder taken in is fixed.

It is copied whole or not at all, held by DVC, and every later change is seen.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipelines.jobs.add_data import add_data
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace, create, unfinished_mark
from registry.catalogue.catalog import Catalog
from registry.errors import Damaged, Invalid, NotFound
from registry.governance.gaps import ungated
from registry.records.facts import DataFacts, DataStatement
from registry.records.kinds import Kind
from registry.records.version import content_digest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "heldout").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "heldout" / "b.txt").write_text("two")
    return folder


def test_what_was_not_accepted_leaves_nothing(tmp_path: Path, corpus: Path) -> None:
    with folders.incoming(corpus, tmp_path / "data" / "x" / "1") as aside:
        assert (aside / "a.txt").read_text() == "one"
    assert not (tmp_path / "data" / "x").exists()


def test_an_accepted_folder_is_linked_into_dvcs_cache_and_verifies(
    tmp_path: Path, corpus: Path
) -> None:
    workspace = create(tmp_path / "w")
    target = workspace.folder("data/x@1")
    with folders.incoming(corpus, target) as aside:
        files = folders.manifest(aside)
        with folders.placed(workspace.root, aside, target, files) as held:
            assert unfinished_mark(workspace.root, target).exists()
    assert not unfinished_mark(workspace.root, target).exists()
    assert held.path == "data/x/1"
    assert held.md5 is not None
    assert held.md5.endswith(".dir")
    assert (target / "a.txt").stat().st_nlink == 2
    folders.verify(target, files, "data/x@1")


@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_every_later_change_is_named(tmp_path: Path, corpus: Path, change: str) -> None:
    files = folders.manifest(corpus)
    path = corpus / ("new.txt" if change == "add" else "heldout/b.txt")
    if change == "remove":
        path.unlink()
    else:
        path.write_text("tWo")
    with pytest.raises(Damaged, match=path.name):
        folders.verify(corpus, files, "data/x@1")


def test_a_file_may_lie_beside_a_folder_that_has_the_start_of_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "docs").mkdir(parents=True)
    for number, path in enumerate(("docs.txt", "docs/a.txt", "docs-old.txt")):
        (folder / path).write_text(f"document {number} of many words " * 80)
    workspace = create(tmp_path / "w")
    said = DataStatement(license="CC0-1.0", source="s", holder="h", purpose="p", pii="none")
    first = add_data(workspace, "law", folder, said)
    assert not add_data(workspace, "law", folder, said).created
    here = workspace.folder("data/law@1")
    registered = workspace.catalog.get(first.ref).files
    assert content_digest(folders.manifest(here)) == content_digest(registered)
    assert ungated(workspace.catalog, first.ref) == []


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def listed(path: str) -> object:
        if str(path).endswith("heldout"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", listed)
    target = tmp_path / "data" / "x" / "1"
    with pytest.raises(PermissionError, match="heldout"), folders.incoming(corpus, target):
        pass


def test_a_missing_empty_or_escaping_source_is_refused(tmp_path: Path, corpus: Path) -> None:
    target = tmp_path / "data" / "x" / "1"
    with pytest.raises(NotFound, match="nothing there"), folders.incoming(tmp_path / "no", target):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match="no file"), folders.incoming(tmp_path / "empty", target):
        pass
    (tmp_path / "corpus.dvc").write_text("outs:\n- path: corpus\n")
    with (
        pytest.raises(Invalid, match="dvc pull"),
        folders.incoming(tmp_path / "corpus.dvc", target),
    ):
        pass
    (corpus / "out").symlink_to("/etc/hostname")
    with pytest.raises(Invalid, match="a link to /etc/hostname"), folders.incoming(corpus, target):
        pass
    assert not (tmp_path / "data").exists() or not any((tmp_path / "data").rglob("*"))


@pytest.mark.parametrize(
    "secret",
    [pytest.param("token=hunter2", marks=pytest.mark.slow), "X-Amz-Signature=hunter2&id=3"],
)
def test_what_a_url_needs_in_secret_is_used_and_never_kept_or_shown(
    tmp_path: Path, corpus: Path, btx: Run, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    asked: list[str] = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(corpus)))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    root = create(tmp_path / "w").root
    (corpus / "a.txt").write_text("one\n" * 30)
    monkeypatch.setenv("A_WORD", "hunter2")
    said = ("--license", "MIT", "--pii", "none")
    for url in (f"http://{address}/a.txt?{secret}", f"http://{address}/a.txt?key=${{A_WORD}}"):
        added = btx(root, "data", "add", "x", url, *said)
        assert added.returncode == 0, added.stderr
    missing = btx(root, "data", "add", "x", f"http://{address}/no.txt?{secret}", *said)
    assert missing.returncode == 1
    server.shutdown()
    assert all("hunter2" in path for path in asked)
    shown = btx(root, "show", "data/x", "--json")
    assert f"http://{address}/a.txt" in shown.stdout
    kept = b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert b"hunter2" not in kept + f"{missing.stderr}{shown.stdout}".encode()


def test_a_url_is_fetched_and_one_that_is_not_there_is_named(tmp_path: Path, corpus: Path) -> None:
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(corpus)))
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    with folders.incoming(f"{url}/a.txt", tmp_path / "data" / "x" / "1") as aside:
        assert [
            (file.path, (aside / file.path).read_text()) for file in folders.manifest(aside)
        ] == [("a.txt", "one")]
    with (
        pytest.raises(NotFound, match=r"no\.txt"),
        folders.incoming(f"{url}/no.txt", tmp_path / "data" / "x" / "1"),
    ):
        pass
    server.shutdown()
    assert not (tmp_path / "data" / "x").exists()


def git(folder: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)


def dvc(folder: Path) -> None:
    (folder / "sub/.dvc").mkdir(parents=True)
    (folder / "sub/.dvc/config").write_text("[core]\n    no_scm = True\n")
    (folder / "sub/inside.txt").write_text("kept")


def broken_pipeline(folder: Path) -> None:
    (folder / "dvc.yaml").write_text("stages: [")
    (folder / "dvc.lock").write_text("{")


def pipeline(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/dvc.yaml").write_text("stages:\n  x:\n    cmd: echo\n")
    (folder / "raw.csv.dvc").write_text("outs:\n- path: raw.csv\n")


def ignore(folder: Path) -> None:
    (folder / ".dvcignore").write_text("*.txt\n")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def linked_folder(folder: Path) -> None:
    (folder / "again").symlink_to(folder / "heldout")


def submodule(folder: Path) -> None:
    (folder / "sub/.hg").mkdir(parents=True)
    (folder / "sub/.hg/store").write_text("x")
    (folder / "sub/.git").write_text("gitdir: ../../.git/modules/sub")


UNUSUAL = (git, dvc, broken_pipeline, pipeline, ignore, pipe, linked_folder, submodule)


def everything(folder: Path) -> None:
    for make in (git, broken_pipeline, ignore, pipe, linked_folder, submodule):
        make(folder)


@pytest.mark.parametrize(
    "make",
    [everything, *(pytest.param(make, marks=pytest.mark.slow) for make in UNUSUAL)],
    ids=lambda make: make.__name__,
)
def test_what_is_taken_in_is_exactly_what_another_machine_gets(
    tmp_path: Path, corpus: Path, btx: Run, make: Callable[[Path], None]
) -> None:
    root = create(tmp_path / "w").root
    (corpus / "a.txt").write_text("one\n" * 30)
    make(corpus)
    added = btx(
        root, "data", "add", "x", str(corpus), "--license", "MIT", "--source", "s", "--pii", "none"
    )
    assert added.returncode == 0, added.stderr
    assert "left out of" in added.stderr
    version = Workspace.find(root).catalog.get("data/x", DataFacts)
    kept = {"a.txt", "heldout/b.txt"} | ({"sub/inside.txt"} if make is dvc else set())
    assert {file.path for file in version.files} == kept
    shutil.rmtree(root / "data/x/1")
    checkout = [sys.executable, "-m", "dvc", "checkout", "--quiet"]
    subprocess.run(checkout, cwd=root, check=True)
    folders.verify(root / "data/x/1", version.files, "data/x@1")


def bad_name(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("x")


def dangling(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/link").symlink_to(folder / "nothing.txt")


def folder_outside(folder: Path) -> None:
    (folder / "etc").symlink_to("/etc")


@pytest.mark.parametrize("make", [bad_name, dangling, folder_outside], ids=lambda one: one.__name__)
def test_what_cannot_be_taken_in_is_refused_before_a_byte_is_copied(
    tmp_path: Path, corpus: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(corpus)
    monkeypatch.setattr(shutil, "copyfile", lambda *paths: pytest.fail("copied"))
    target = tmp_path / "data/x/1"
    with pytest.raises(Invalid), folders.incoming(corpus, target):
        pass
    assert not target.parent.exists()


@pytest.mark.parametrize("culprit", ["DVC", "the row"])
def test_a_refusal_at_the_end_leaves_nothing(
    tmp_path: Path, corpus: Path, culprit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = create(tmp_path / "w")
    statement = DataStatement(license="MIT", source="s", pii="none")
    (corpus / "a.txt").write_text("one\n" * 30)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    def state() -> set[str]:
        kinds = ("data", ".btx/unfinished")
        return {str(path) for kind in kinds for path in (workspace.root / kind).rglob("*")}

    add_data(workspace, "x", corpus, statement)
    before = state()
    owner = folders.Repo if culprit == "DVC" else workspace.catalog
    for name in ("x", "y"):
        (corpus / "a.txt").write_text("two\n" * 30)
        with monkeypatch.context() as patched:
            patched.setattr(owner, "checkout" if culprit == "DVC" else "register", refuse)
            with pytest.raises((Invalid, RuntimeError)):
                add_data(workspace, name, corpus, statement)
        assert state() == before
    assert add_data(workspace, "x", corpus, statement).ref.version == 2


def test_a_snapshot_in_the_cache_of_hugging_face_is_taken_with_its_blobs(
    tmp_path: Path, corpus: Path
) -> None:
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs/aa").write_text("weights")
    (cache / "snapshots/rev").mkdir(parents=True)
    (cache / "snapshots/rev/model.bin").symlink_to("../../blobs/aa")
    with folders.incoming(cache / "snapshots/rev", tmp_path / "seeds/x/1") as copy:
        assert (copy / "model.bin").read_text() == "weights"
    (cache / "snapshots/rev/out").symlink_to("../../../corpus/a.txt")
    with (
        pytest.raises(Invalid, match="a link to"),
        folders.incoming(cache / "snapshots/rev", tmp_path / "seeds/x/1"),
    ):
        pass


@pytest.mark.parametrize(
    "name",
    [
        "a?b#c&d=e%20f",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("${item.seed}%s", "a?b", "100%20c", "${HOME}")
        ),
    ],
)
def test_a_workspace_lies_wherever_a_file_system_lets_it(
    tmp_path: Path, corpus: Path, btx: Run, name: str
) -> None:
    root = tmp_path / name
    (corpus / "a.txt").write_text("one\n" * 30)
    said = ("--license", "MIT", "--source", "s", "--pii", "none")
    assert btx(tmp_path, "init", name).returncode == 0
    added = btx(root, "data", "add", "x", str(corpus), *said)
    assert added.returncode == 0, added.stderr
    assert btx(root, "audit", "data/x").returncode == 0
    assert (root / ".btx/registry.db").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()].count("a") == 0


def test_a_number_that_lies_here_is_not_given_again(tmp_path: Path, corpus: Path) -> None:
    workspace = create(tmp_path / "w")
    assert workspace.next_number(Kind.DATA, "x") == 1
    for name in ("data/x/3", "data/y/9"):
        (workspace.root / name).mkdir(parents=True)
    (workspace.root / "data/x/5.dvc").write_text("outs: []\n")
    (workspace.root / "builds").mkdir(exist_ok=True)
    (workspace.root / "builds/2.dvc").write_text("outs: []\n")
    assert workspace.next_number(Kind.DATA, "x") == 6
    assert workspace.next_number(Kind.BUILD, "") == 3
    mark = unfinished_mark(workspace.root, workspace.root / "data/x/5")
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert workspace.next_number(Kind.DATA, "x") == 4, "what a killed command left is replaced"


def test_two_clones_that_register_one_name_at_once_both_end_with_their_own_version(
    tmp_path: Path, btx: Run
) -> None:
    url = f"sqlite:///{tmp_path}/shared/registry.db"
    program = (
        "import sys; from pathlib import Path\n"
        "from pipelines.workspace.workspace import Workspace\n"
        "from pipelines.jobs.add_data import add_data\n"
        "from registry.records.facts import DataStatement\n"
        "root, corpora = map(Path, sys.argv[1:])\n"
        "for corpus in sorted(corpora.iterdir()):\n"
        "    said = DataStatement(license='MIT', source='s', pii='none')\n"
        "    add_data(Workspace.find(root), 'shared', corpus, said)\n"
    )
    environment = {**os.environ, "BTX_REGISTRY_URL": url}
    running = []
    for clone in "ab":
        create(tmp_path / clone)
        for number in range(3):
            (tmp_path / f"corpora-{clone}/{number}").mkdir(parents=True)
            (tmp_path / f"corpora-{clone}/{number}/t.txt").write_text(f"{clone}{number}\n" * 30)
    Catalog(url, actor="ada").close()
    for clone in "ab":
        command = [sys.executable, "-c", program, tmp_path / clone, tmp_path / f"corpora-{clone}"]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in running:
        assert process.wait() == 0, process.stderr and process.stderr.read()
    catalog = Catalog(url, actor="ada")
    versions = catalog.versions(DataFacts)
    assert [version.ref.version for version in versions] == [1, 2, 3, 4, 5, 6]
    for version in versions:
        assert ungated(catalog, str(version.ref)) == []
        holders = [
            c for c in "ab" if (tmp_path / c / f"data/shared/{version.ref.version}").is_dir()
        ]
        assert len(holders) == 1
        held = tmp_path / holders[0] / f"data/shared/{version.ref.version}"
        folders.verify(held, version.files, str(version.ref))
