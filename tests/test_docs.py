"""What the pages for contributors say of the code is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "docs/ARCHITECTURE.md").read_text()
FIND_YOUR_WAY = (ROOT / "docs/contributing/find-your-way.md").read_text()
PACKAGES = ("btx_core", "registry", "pipelines")


def questions() -> list[tuple[str, str]]:
    """Return file and what to look at, for each question."""
    rows = [line.split(" | ") for line in FIND_YOUR_WAY.splitlines() if line.startswith("| W")]
    rows += [line.split(" | ") for line in FIND_YOUR_WAY.splitlines() if line.startswith("| H")]
    return [(row[1].strip("` "), row[2].rstrip(" |")) for row in rows]


def mapped() -> set[str]:
    """Return every module that the map names, as a path."""
    paths = set()
    for package, part in re.findall(r"### (\w+): .*?\n(.*?)(?=\n### |\n## )", ARCHITECTURE, re.S):
        for row in re.findall(r"^\| (.*?) \|", part, re.M):
            room = ""
            for name in re.findall(r"`([\w/]+\.py|[\w/]+/)`", row):
                room = name.rpartition("/")[0] if "/" in name else room
                whole = name if "/" in name else f"{room}/{name}".lstrip("/")
                paths.add(f"{package}/{whole}")
    return paths


@pytest.mark.parametrize(("path", "look_at"), questions())
def test_a_question_leads_to_one_file_that_holds_the_answer(path: str, look_at: str) -> None:
    text = (ROOT / path).read_text()
    for name in re.findall(r"`([\w.]+)`", look_at):
        assert name.rpartition(".")[2] in text, name


def test_every_file_of_the_questions_is_on_the_map_or_in_a_room_that_is() -> None:
    rooms = set(re.findall(r"\*\*(\w+)/\*\*", ARCHITECTURE)) | {"policies"}
    for path, _ in questions():
        assert path in mapped() or rooms & set(Path(path).parts), path


def test_every_module_on_the_map_is_there() -> None:
    assert mapped(), "the map names no module: has its form changed?"
    missing = [path for path in mapped() if not (ROOT / path).exists()]
    assert missing == []


def test_no_two_modules_have_one_name() -> None:
    names = [path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    own = [name for name in names if not name.startswith("__")]
    assert sorted({name for name in own if own.count(name) > 1}) == []
