"""The command `btx`: joins the groups of commands, sets up logging, and turns errors into messages.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 refused by a policy; 4 an audit has findings;
130 interrupted.

A command imports its job inside its function: `--help` starts without a database, and `list`,
`show` and `audit` start without torch.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from itertools import takewhile
from typing import Annotated

import typer
from typer.core import TyperGroup

from pipelines.cli import (
    actors,
    compose,
    decide,
    erasing,
    failing,
    hand_on,
    look,
    prove,
    state,
    take_in,
)
from pipelines.workspace.diagnostics import show_diagnostics
from pipelines.workspace.terminal import open_what_is_closed, write_what_it_can

logger = logging.getLogger(__name__)

PROGRAM = "btx"
VERBOSE = "Say on stderr what is done; BTX_LOG=debug, info, warning or error says how much."
QUIET = "Only the answer, and errors: no bars, no warnings."
DISTRIBUTION = "btx-registry"

app = typer.Typer(
    name="btx",
    help=(
        "An incremental registry of expert language models: register experts, "
        "rebuild the composed model, audit where it came from."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
level_app = typer.Typer(add_completion=False)
# In the order of a life: what is taken in is composed, looked at, decided on, proven, handed on.
app.add_typer(take_in.app)
app.add_typer(state.app)
app.add_typer(compose.app)
app.add_typer(look.app)
app.add_typer(decide.app)
app.add_typer(erasing.app)
app.add_typer(actors.app)
app.add_typer(prove.app)
app.add_typer(hand_on.app)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"btx {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def command_tree() -> TyperGroup:
    """Return all commands; each takes what `btx` itself takes about what is shown on stderr."""
    tree = typer.main.get_command(app)
    assert isinstance(tree, TyperGroup)
    levels = [
        option
        for option in typer.main.get_command(level_app).params
        if option.name in ("verbose", "quiet")
    ]
    groups: list[TyperGroup] = [tree]
    while groups:
        for command in groups.pop().commands.values():
            if isinstance(command, TyperGroup):
                groups.append(command)
            else:
                command.params += levels
    return tree


def _show_more(asked: bool) -> None:
    if asked:
        show_diagnostics(at="info")
        _log_start()


def _show_less(asked: bool) -> None:
    if asked:
        show_diagnostics(at="error")


@level_app.command()
def _with_levels(
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help=VERBOSE, callback=_show_more, expose_value=False),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help=QUIET, callback=_show_less, expose_value=False),
    ] = False,
) -> None:
    """Declare the options that every command takes."""


@app.callback()
def set_up(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help=VERBOSE)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help=QUIET)] = False,
) -> None:
    """Set up what every command needs."""
    show_diagnostics(at="info" if verbose else "error" if quiet else None)
    _log_start()


def _log_start() -> None:
    logger.info("process %d runs: btx %s", os.getpid(), " ".join(sys.argv[1:]))


def main() -> None:
    """Run the command line: the entry point of the installed `btx`."""
    # The bars on the terminal are this project's own.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # For every program that is started from here: none imports from the folder that it runs in.
    os.environ["PYTHONSAFEPATH"] = "1"
    open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        write_what_it_can(stream)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: what follows `btx`.

    Returns:
        The exit status. A failure is on stderr, and with `--json` on stdout too.
    """
    as_json = "--json" in takewhile(lambda word: word != "--", arguments)
    words = takewhile(lambda word: not word.startswith("-"), arguments)
    command = " ".join([PROGRAM, *words])
    try:
        status = command_tree()(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except Exception as error:
        return failing.end(error, command=command, as_json=as_json)
    if status == failing.INTERRUPTED:
        return failing.end_interrupted(command=command, as_json=as_json)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
