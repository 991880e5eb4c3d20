"""How a command ends when it fails: the message for people, and one JSON document for programs.

In:  what was raised, and whether the command was asked for JSON.
Out: the exit status; the message is on stderr, and with `--json` the failure on stdout.
"""

import logging
import sys
from traceback import format_exception_only
from typing import TYPE_CHECKING

import typer

from btx_core.problems import BtxError, Interrupted, WrongUsage
from pipelines.cli.output import print_json
from pipelines.workspace.failures import known_error
from pipelines.workspace.terminal import visible

if TYPE_CHECKING:
    from registry.records.answers.failure import FailureAnswer

logger = logging.getLogger(__name__)


INTERRUPTED = Interrupted.exit_status


class Unanswered(BtxError):
    """A question to the user got no answer."""


class Unexpected(BtxError):
    """A fault of this program."""


def end(error: Exception, *, command: str, as_json: bool) -> int:
    """Say why a command failed.

    Args:
        error: what ended it.
        command: what the user called, for an error that does not say it itself.
        as_json: whether one JSON document is wanted on stdout.

    Returns:
        The exit status.

    Raises:
        Exception: the error itself where no user can have caused it; with `as_json` it is printed
            first.
    """
    if isinstance(error, typer.TyperException):
        error.show()  # type: ignore[attr-defined]  # each kind that is raised has it
        problem: BtxError | None = _wrong_usage(error, command)
    elif isinstance(error, typer.Abort):
        problem = _aborted(command)
        _print_to_stderr(problem)
    else:
        logger.debug("the error that ends the command", exc_info=error)
        problem = known_error(error)
        if problem is not None:
            _print_to_stderr(problem)
    if as_json:
        print_json(_answer(problem or _unknown(error, command)))
    if problem is None:
        raise error
    return problem.exit_status


def end_interrupted(*, command: str, as_json: bool) -> int:
    """Say that the user stopped the command; returns the exit status."""
    problem = Interrupted(command)
    _print_to_stderr(problem)
    if as_json:
        print_json(_answer(problem))
    return problem.exit_status


def _answer(problem: BtxError) -> "FailureAnswer":
    from registry.records.answers.failure import failure_of

    return failure_of(problem)


def _wrong_usage(error: typer.TyperException, command: str) -> BtxError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else command
    # Called without arguments: the message is the help, which is on stderr.
    message = error.format_message().splitlines()[:1]
    return WrongUsage(
        path,
        found="".join(message),
        expected="arguments as its help says",
        next=f"{path} --help",
    )


def _aborted(command: str) -> BtxError:
    return Unanswered(command, found="no answer to its question", next="run it in a terminal")


def _unknown(error: Exception, command: str) -> BtxError:
    return Unexpected(
        command,
        found="".join(format_exception_only(error)).strip(),
        expected="an answer",
        next="report it with the traceback on stderr",
    )


def _print_to_stderr(problem: BtxError) -> None:
    print(visible(str(problem)), file=sys.stderr)
