"""The demonstration's corpora: on any Python, little of what is held out is trained on."""

from pathlib import Path

import pytest

from btx_core.measuring.overlap import contamination
from pipelines.story import corpora

MODULE = "".join(
    f"def number_{{0}}_{n}():\n    return {n} * {{0}} + {n} % 7\n\n\n" for n in range(40)
)


def library(folder: Path, names: list[str]) -> Path:
    """Write modules of which every other one repeats most of the one before."""
    folder.mkdir()
    for number, name in enumerate(names):
        twin = MODULE.format(number // 2)
        (folder / name).write_text(f"# The module {name}.\n{twin}")
    return folder


def modules(selected: bool, count: int) -> list[str]:
    names = (f"module_{n}.py" for n in range(1000))
    return [name for name in names if corpora._is_for_prose(name) is selected][:count]


def test_a_library_of_twins_is_split_between_the_twins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = library(tmp_path / "library", modules(selected=False, count=40))
    monkeypatch.setattr(corpora, "_library", lambda: root)
    out = tmp_path / "code"
    corpora.code(out, size=40_000, heldout=8_000)
    held, train = (len(list(folder.glob("*.txt"))) for folder in (out / "heldout", out))
    assert held > 2
    assert train > 10
    assert contamination([out]) == 0
    # The alarm: without the choice twins stand on both sides.
    monkeypatch.setattr(corpora, "without_copies", lambda train, *_: train)
    corpora.code(tmp_path / "all", size=40_000, heldout=8_000)
    assert contamination([tmp_path / "all"]) > 0.05


def test_a_text_is_a_copy_by_the_shorter_of_the_two() -> None:
    held = "".join(f"line {n} of a table\n" for n in range(20))
    longer = held + "".join(f"and {n} more of something else\n" for n in range(200))
    shorter = "".join(f"line {n} of a table\n" for n in range(11))
    other = "".join(f"verse {n} of a song\n" for n in range(20))
    related = other + "".join(f"line {n} of a table\n" for n in range(5))
    kept = corpora.without_copies([longer, other, shorter, related], [held], str)
    assert list(kept) == [other, related]
