"""A folder taken in is fixed.

It is copied whole or not at all, held by DVC, and every later change is seen.
"""

import subprocess
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipelines.workspace import folders
from pipelines.workspace.workspace import create
from registry.errors import Damaged, Invalid, NotFound

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
    target = workspace.folder("data", "x", 1)
    with folders.incoming(corpus, target) as aside:
        files = folders.manifest(aside)
        folders.accept(aside, target)
    held = folders.track(workspace.root, target)
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


def test_a_missing_empty_or_escaping_source_is_refused(tmp_path: Path, corpus: Path) -> None:
    target = tmp_path / "data" / "x" / "1"
    with pytest.raises(NotFound, match="nothing there"), folders.incoming(tmp_path / "no", target):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match="no file"), folders.incoming(tmp_path / "empty", target):
        pass
    (corpus / "out").symlink_to("/etc/hostname")
    with pytest.raises(Invalid, match="a link to /etc/hostname"), folders.incoming(corpus, target):
        pass
    assert not (tmp_path / "data").exists() or not any((tmp_path / "data").rglob("*"))


@pytest.mark.parametrize("secret", ["token=hunter2", "X-Amz-Signature=hunter2&id=3"])
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
    said = ("--license", "MIT", "--verbose")[:2]
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
