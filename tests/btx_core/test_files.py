"""Putting files in place.

A file is there whole or not at all, and a link costs no bytes where it can be made.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from btx_core import files
from btx_core.files import link_or_copy, replace_text, whole_file, whole_folder
from btx_core.problems import WrongUsage


def failing(code: int) -> Callable[..., Any]:
    def fail(*arguments: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(b"weights")
    (tmp_path / "source").chmod(0o444)
    return tmp_path / "source"


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with whole_folder(out) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text("text")
        assert not out.exists()
    assert (out / "sub" / "file").read_text() == "text"
    assert list(out.parent.iterdir()) == [out]


def test_a_folder_that_failed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"), whole_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_new_folder_replaces_nothing(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make = {"file": out.touch, "folder": out.mkdir, "dangling link": lambda: out.symlink_to("no")}
    make[kind]()
    with pytest.raises(WrongUsage, match="something there already"), whole_folder(out):
        pass
    assert os.path.lexists(out)


def test_a_file_is_replaced_whole_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    replace_text(path, "old")
    replace_text(path, "new ä")
    assert path.read_text(encoding="utf-8") == "new ä"
    monkeypatch.setattr(files, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "newest")
    assert path.read_text(encoding="utf-8") == "new ä"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(FileExistsError), whole_file(path) as temporary:
        temporary.write_text("yours")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_shares_the_bytes_and_follows_links(source: Path, tmp_path: Path) -> None:
    (tmp_path / "symbolic").symlink_to(source)
    assert link_or_copy(tmp_path / "symbolic", tmp_path / "target")
    assert (tmp_path / "target").samefile(source)
    assert not (tmp_path / "target").is_symlink()


def test_where_no_link_can_be_made_a_whole_copy_has_the_same_bytes_and_mode(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EXDEV))
    link_or_copy(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"weights"
    assert not (tmp_path / "target").samefile(source)
    assert (tmp_path / "target").stat().st_mode == source.stat().st_mode
    (tmp_path / "target").unlink()
    monkeypatch.setattr(files, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        link_or_copy(source, tmp_path / "target")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("code", [0, errno.EXDEV])
def test_a_link_or_copy_replaces_nothing(
    code: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    if code:
        monkeypatch.setattr(os, "link", failing(code))
    with pytest.raises(FileExistsError):
        link_or_copy(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_another_fault_of_linking_is_no_reason_to_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        link_or_copy(source, tmp_path / "target")
    assert list(tmp_path.iterdir()) == [source]
