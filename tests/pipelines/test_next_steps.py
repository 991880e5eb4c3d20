"""Every command that a message tells people to run exists, with the options that it names."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from btx_core.columns import Unreadable
from btx_core.corpus_files import Reading, documents
from pipelines.cli.app import app
from pipelines.jobs import export
from pipelines.jobs.find import SearchRequest, search
from pipelines.jobs.show import LISTED, listed
from pipelines.workspace import folders, trust
from pipelines.workspace.workspace import create
from registry.catalogue import ledger
from registry.catalogue.reading import FIRST
from registry.errors import Invalid, NotFound, Refused
from registry.records.kinds import Kind

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "registry", "btx_core")
# What follows `btx` where it is the name of the program, and no command.
PROSE = ("and its libraries", "registry", "made", "event chain'", "{}", "%s", "X")


def texts_of(module: Path) -> Iterator[str]:
    """Yield every text in a module but its documentation, with {} for what is filled in."""
    tree = ast.parse(module.read_text())
    left_out = set[int]()
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and node.body and isinstance(node.body[0], ast.Expr):
            left_out.add(id(node.body[0].value))
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
            parts = [getattr(part, "value", "") for part in node.values]
            yield "".join(part if isinstance(part, str) else "{}" for part in parts)
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in left_out:
            yield text


def remedies() -> Iterator[str]:
    for path in sorted((ROOT / "policies").glob("*.yaml")):
        for rule in yaml.safe_load(path.read_text())["validations"]:
            yield rule["remedy"]


def unknown_in(text: str) -> list[str]:
    """Return the commands in a text that are none, and the options that their command has not."""
    unknown = []
    for match in re.finditer(r"\bbtx ([^,;:()]+)", text):
        said = match[1].rstrip(". \n")
        if said in PROSE or said.startswith(PROSE[0]):
            continue
        command: Any = typer.main.get_command(app)
        words = said.split()
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        named = {word for word in words if re.fullmatch(r"--[a-z-]+", word)}
        incomplete = hasattr(command, "commands") and named != {"--help"}
        if incomplete or named - options - {"--help"}:
            unknown.append(said)
    return unknown


@pytest.mark.parametrize(
    "text", ["btx polish", "btx policy", "next: btx rebuild --forever", "btx policy chek build/1"]
)
def test_a_step_that_leads_nowhere_is_found(text: str) -> None:
    assert unknown_in(text)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_command_in_a_message_exists(package: str) -> None:
    found = {}
    for module in sorted((ROOT / package).rglob("*.py")):
        for text in texts_of(module):
            if unknown := unknown_in(text):
                found[f"{module.relative_to(ROOT)}: {text[:60]}"] = unknown
    assert found == {}


@pytest.mark.parametrize("kind", Kind)
def test_the_command_that_shows_a_kind_works(kind: Kind, tmp_path: Path) -> None:
    workspace = create(tmp_path / "workspace")
    command, words = kind.look_up.removeprefix("btx ").split()
    if command == "search":
        assert search(workspace, SearchRequest(words=(words,))) == []
    else:
        assert listed(workspace, words, {}) == []
    for word in (kind, kind.plural):
        if word not in LISTED:
            with pytest.raises(Invalid) as refusal:
                listed(workspace, word, {})
            assert refusal.value.next == kind.look_up
    assert not unknown_in(FIRST[kind])


def test_every_command_in_a_remedy_exists() -> None:
    assert [text for text in remedies() if unknown_in(text)] == []


def test_a_path_with_a_space_is_one_word_of_a_command_that_a_message_names(tmp_path: Path) -> None:
    root = tmp_path / "our models"
    with pytest.raises(Refused) as untrusted:
        trust.require(root, ["btx.toml, [registry] url: postgresql://db"])
    assert str(root) in shlex.split(untrusted.value.next)
    with pytest.raises(NotFound) as elsewhere:
        folders.require_here(root / "data/law/1", "data/law@1")
    assert f"{root}/data/law/1.dvc" in shlex.split(elsewhere.value.next)
    damaged = ledger._not_written(root / "ledger/000/7.json", "nothing")
    assert f"{root}/ledger/000/7.json," in shlex.split(damaged.next)
    checked = shlex.split(export._verify(root / "out", tmp_path / "my key.pem"))
    assert {str(root / "out"), str(root / "out/model.sig"), str(tmp_path / "my key.pub")} < {
        *checked
    }
    root.mkdir()
    (root / "the text.txt").write_bytes("ü".encode("utf-16"))
    with pytest.raises(Unreadable) as utf_16:
        list(documents(root / "the text.txt", Reading()))
    assert {"the text.txt", "the text.txt.txt,"} < {*shlex.split(utf_16.value.next)}
