"""Files that a user named: new, whole, or refused with nothing written."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.workspace.new_files import write_new
from pipelines.workspace.workspace import create
from registry.errors import Conflict, Invalid

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("taken", ["file", "folder", "dangling"])
def test_a_path_that_is_taken_stays_as_it_is_and_nothing_is_written(
    tmp_path: Path, taken: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        write_new({tmp_path / "first": b"one", tmp_path / taken: b"two"})
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder", "dangling"}
    assert (tmp_path / "file").read_text() == "mine"
    write_new({tmp_path / "first": b"one", tmp_path / "second": b"two"})
    assert (tmp_path / "second").read_bytes() == b"two"


def test_a_file_in_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=f"no folder {tmp_path}/lost") as refusal:
        write_new({tmp_path / "first": b"one", tmp_path / "lost/second": b"two"})
    assert refusal.value.next == "make the folder"
    assert [*tmp_path.iterdir()] == []


def test_a_head_is_written_into_a_folder_that_is_there(btx: Run, tmp_path: Path) -> None:
    root = create(tmp_path / "workspace").root
    lost = btx(root, "registry", "head", "-o", "lost/head.json")
    assert (lost.returncode, "next: make the folder" in lost.stderr) == (2, True)
    assert not (root / "lost").exists()
    done = btx(root, "registry", "head", "-o", "head.json")
    assert done.returncode == 0, done.stderr
