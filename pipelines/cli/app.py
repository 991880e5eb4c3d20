"""The command `btx`: joins the groups of commands, sets up logging, and turns errors into messages.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 refused by a policy; 4 an audit has findings;
130 interrupted.

A command imports its job inside its function: `--help` starts without a database, and `list`,
`show` and `audit` start without torch.
"""

import logging
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from pipelines.cli import actors, compose, decide, hand_on, look, prove, state, take_in
from pipelines.workspace.diagnostics import show_diagnostics
from pipelines.workspace.failures import error_text
from pipelines.workspace.terminal import visible

logger = logging.getLogger(__name__)

DISTRIBUTION = "btx-registry"

app = typer.Typer(
    name="btx",
    help=(
        "An incremental registry of expert language models: register experts, "
        "rebuild the composed model, audit where it came from."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# In the order of a life: what is taken in is composed, looked at, decided on, proven, handed on.
app.add_typer(take_in.app)
app.add_typer(state.app)
app.add_typer(compose.app)
app.add_typer(look.app)
app.add_typer(decide.app)
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


@app.callback()
def set_up(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Say on stderr what is done; BTX_LOG=debug, info or warning says how much.",
        ),
    ] = False,
) -> None:
    """Set up what every command needs."""
    show_diagnostics(verbose=verbose)
    logger.info("process %d runs: btx %s", os.getpid(), " ".join(sys.argv[1:]))


def main() -> None:
    """Run the command line: the entry point of the installed `btx`."""
    # The bars on the terminal are this project's own.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # For every program that is started from here: none imports from the folder that it runs in.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        app()
    except Exception as error:
        text = error_text(error)
        if text is None:
            raise
        logger.debug("the error that ends the command", exc_info=error)
        print(visible(text), file=sys.stderr)
        sys.exit(getattr(error, "exit_status", 1))


if __name__ == "__main__":
    main()
