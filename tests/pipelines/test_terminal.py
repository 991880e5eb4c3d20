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
HOSTILE = {
    "a title": "\x1b]0;owned\x07",
    "the clipboard": "\x9d52;c;aGk=\x9c",
    "a cleared screen": "\x1b[2J\x1b[H",
    "a line of its own": "x\ndata/other@9  registered",
    "the other direction": "gpj.\u202etxt",
    "isolated text": "\u2066a\u2069",
    "half a pair": "\ud83d",
    "markup": "[link=http://198.51.100.7]here[/link] [/]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_command_lets_a_terminal_obey_what_is_registered(
    tmp_path: Path, btx: Run, name: str
) -> None:
    text = HOSTILE[name]
    root = create(tmp_path / "w").root
    storable = text.encode(errors="replace").decode()
    facts = DataFacts(domain="x", license="MIT", source=storable, holder=storable)
    catalog = Catalog(f"sqlite:///{root}/.btx/registry.db", actor="eve")
    catalog.register("x", facts, files=[FileFact("a " + storable.replace("/", ""), 3, "0" * 64)])
    catalog.close()
    for arguments in (["list", "data"], ["show", "data/x"], ["lineage", "data/x"]):
        for more in ([], ["--json"]):
            shown = btx(root, *arguments, *more)
            assert shown.returncode == 0, shown.stderr
            assert not UNSEEN.search(shown.stdout)
            assert not shown.stdout.count("\ndata/other@9")
            if more and arguments[0] == "show":
                assert json.loads(shown.stdout)["source"] == storable
    refused = btx(root, "show", f"data/{text}".replace("\ud83d", "é"))
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
