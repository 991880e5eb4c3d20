"""What a stranger wrote is shown on a terminal, and nothing in it is obeyed."""

import json
import subprocess
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from pipelines.workspace.terminal import UNSEEN, cell, write_what_it_can
from pipelines.workspace.workspace import create
from registry.catalogue.catalog import Catalog
from registry.records.facts import DataFacts
from registry.records.version import FileFact

Run = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = (
    "\x1b]0;owned\x07",  # a title
    "\x9d52;c;aGk=\x9c",  # the clipboard
    "\x1b[2J\x1b[H",  # a cleared screen
    "x\ndata/other@9  registered",  # a line of its own
    "gpj.\u202etxt",  # the other direction
    "\u2066a\u2069",  # isolated text
    "\ud83d",  # half a pair
    "[link=http://198.51.100.7]here[/link] [/]",  # markup
)


@pytest.mark.slow
def test_no_command_lets_a_terminal_obey_what_is_registered(tmp_path: Path, btx: Run) -> None:
    root = create(tmp_path / "w").root
    catalog = Catalog(f"sqlite:///{root}/.btx/registry.db", actor="eve")
    storable = {f"x{n}": text.encode(errors="replace").decode() for n, text in enumerate(HOSTILE)}
    for name, text in storable.items():
        facts = DataFacts(domain=name, license="MIT", source=text, holder=text)
        files = [FileFact("a " + text.replace("/", ""), 3, "0" * 64)]
        catalog.register(name, facts, files=files)
    catalog.close()

    def shown(*arguments: str) -> str:
        done = btx(root, *arguments)
        assert done.returncode == 0, done.stderr
        assert not UNSEEN.search(done.stdout), arguments
        assert "\ndata/other@9" not in done.stdout, arguments
        return done.stdout

    shown("list", "data")
    shown("list", "data", "--json")
    for name, text in storable.items():
        shown("show", f"data/{name}")
        assert json.loads(shown("show", f"data/{name}", "--json"))["source"] == text
        shown("lineage", f"data/{name}")
    for text in HOSTILE[:2]:
        refused = btx(root, "show", f"data/{text}")
        assert refused.returncode == 2
        assert not UNSEEN.search(refused.stderr)


def test_a_cell_is_one_line_and_holds_what_was_written() -> None:
    assert cell("a\nb\tc") == "a\\nb\\tc"
    assert cell("\x1b[31m") == "\\x1b[31m"
    assert cell("\ud800") == "\\ud800"
    assert cell("naïve – 数") == "naïve – 数"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("6.88 × 10¹¹ FLOPs", "6.88 x 10^11 FLOPs"),
        ("2 × 10⁻³", "2 x 10^-3"),
        ("10⁴ and 10⁵", "10^4 and 10^5"),
    ],
)
def test_a_power_of_ten_keeps_its_exponent_without_unicode(written: str, shown: str) -> None:
    kept = BytesIO()
    stream = TextIOWrapper(kept, encoding="ascii", write_through=True)
    write_what_it_can(stream)
    stream.write(written)
    assert kept.getvalue().decode() == shown
