"""The code blocks of the documentation, and the `btx` commands in them.

A block without a language holds commands of a shell. The blocks of the tutorial and of the how-to
pages are run in their order, page by page, but for those below a comment that says why not:
`<!-- not run: needs a cluster -->`. Everywhere else, and in those, `btx` lines are parsed by the
command line itself.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?P<mark>^ *<!-- not run: [^\n]+ -->\n)?"
    r"^(?P<indent> *)```(?P<language>[\w.]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.M | re.S,
)
BETWEEN_COMMANDS = {"&&", "||", ";", "|", "&", "(", ")", ">", ">>", "<", ";;"}


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        language: as the fence names it; empty for commands.
        text: without the indentation of its fence.
        runs: whether nothing says that it cannot run here.
    """

    language: str
    text: str
    runs: bool


def pages() -> list[str]:
    """Return every page of the documentation that is written by hand, by its path."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("policies/**/*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def blocks(text: str) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    for match in BLOCK.finditer(text):
        lines = match["text"].splitlines()
        indent = len(match["indent"])
        yield Block(
            match["language"],
            "\n".join(line[indent:] for line in lines) + "\n",
            match["mark"] is None,
        )


def script(page: str) -> str:
    """Return the commands of a page that are run, as one script of bash."""
    held = blocks((ROOT / page).read_text())
    return "".join(block.text for block in held if not block.language and block.runs)


def btx_commands(block: str) -> Iterator[list[str]]:
    """Yield the arguments of every `btx` command in a block of commands."""
    text = re.sub(r"<<'(\w+)'(.*?)^\1$", "", block, flags=re.M | re.S)
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word not in BETWEEN_COMMANDS:
                command.append(word)
                continue
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command.pop(0)
            if command and command[0].rpartition("/")[2] == "btx":
                yield command[1:]
            command = []


@cache
def command_line() -> Any:
    """Return the command line as a command of click, which typer has a copy of."""
    from pipelines.cli.app import app

    return typer.main.get_command(app)


def commands() -> dict[str, Any]:
    """Return every command by its words, in the order of the help; groups are none."""

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield words, command
            return
        for word, inner in command.commands.items():
            yield from walk(f"{words} {word}".strip(), inner)

    return dict(walk("", command_line()))


def commands_with_json() -> list[str]:
    """Return every command, in words, that has an option --json."""
    return [
        words
        for words, command in commands().items()
        if any("--json" in parameter.opts for parameter in command.params)
    ]


def parse(arguments: list[str]) -> None:
    """Parse a command; raises what the command line raises for wrong usage. Nothing is run."""
    command, context = command_line(), None
    rest = arguments
    while True:
        name = command.name or "btx"
        try:
            context = command.make_context(name, list(rest), parent=context)
        except typer.Exit:
            # --version and --help print while they are parsed.
            return
        if not hasattr(command, "commands"):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        _, command, rest = command.resolve_command(context, rest)
