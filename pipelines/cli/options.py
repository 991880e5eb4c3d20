"""Options and arguments that several commands share, and how a command finds its workspace.

Declarations and checks of what was typed; printing is left to `output`.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from btx_core.problems import BtxError

if TYPE_CHECKING:
    from pipelines.workspace.given_facts import GivenFacts
    from pipelines.workspace.placement import ExecutorName
    from pipelines.workspace.workspace import Workspace


def registered(incomplete: str) -> list[str]:
    """Return the references and aliases that complete what the user has typed, for the shell."""
    from pipelines.jobs.show import LISTED, listed

    found: list[str] = []
    # A shell that completes shows no errors.
    with suppress(BtxError, OSError):
        workspace = find_workspace()
        found += workspace.catalog.aliases()
        for plural, facts in LISTED.items():
            start = f"{facts.kind}/"
            if start.startswith(incomplete) or incomplete.startswith(start):
                found += [row.ref for row in listed(workspace, plural, {})]
    return [ref for ref in found if ref.startswith(incomplete)]


def behind_alias(text: str) -> str:
    """Return the reference that an alias stands for; any other text as it is."""
    if "/" not in text:
        # Without a workspace the command itself says so.
        with suppress(BtxError):
            return find_workspace().catalog.aliases().get(text, text)
    return text


Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")
]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="kind/name@version, build/N, or an alias",
        autocompletion=registered,
        callback=behind_alias,
    ),
]
Build = Annotated[
    str, typer.Argument(metavar="BUILD", autocompletion=registered, callback=behind_alias)
]


Executor = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="local|ray|slurm",
        help="where the stages run; default: [machine] executor in btx.toml",
    ),
]


Facts = Annotated[
    list[str] | None,
    typer.Option("--fact", metavar="KEY=VALUE", help="a fact of facts.yaml; may be repeated"),
]
FactsFile = Annotated[
    Path | None, typer.Option("--facts", metavar="FILE", help="facts in YAML, KEY: VALUE")
]
Attached = Annotated[
    list[str] | None,
    typer.Option(
        "--attach", metavar="KEY=FILE", help="a file that is kept beside it; may be repeated"
    ),
]


LicenceText = Annotated[
    Path | None,
    typer.Option(
        "--license-text",
        metavar="FILE",
        help="the text of a LicenseRef; kept, and passed on with every export",
    ),
]


def given_facts(
    pairs: Sequence[str] | None,
    file: Path | None,
    attached: Sequence[str] | None,
    licence_text: Path | None = None,
) -> "GivenFacts":
    """Return the own facts that the options of a command state."""
    from pipelines.workspace.given_facts import GivenFacts

    if licence_text is not None:
        attached = [*(attached or ()), f"licence_text={licence_text}"]
    return GivenFacts(tuple(pairs or ()), file, tuple(attached or ()))


def find_workspace() -> "Workspace":
    """Return the workspace of the current folder, or the one that BTX_WORKSPACE names.

    Raises:
        NotFound: if no workspace is there.
    """
    # Imported here so that `--help` starts without a database.
    from pipelines.workspace.workspace import Workspace

    return Workspace.find()


def executor_named(value: str | None) -> "ExecutorName | None":
    """Return the executor that `--executor` names; None where the option was left out.

    Raises:
        typer.BadParameter: if there is no such executor.
    """
    from pipelines.workspace.placement import EXECUTOR_NAMES

    require_choice("--executor", value, EXECUTOR_NAMES)
    return next((name for name in EXECUTOR_NAMES if name == value), None)


def require_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    """Check the value of an option that takes one of a few words.

    Args:
        option: the option's name as the user types it.
        value: what the user gave; None where the option was left out.
        choices: the words that are allowed.

    Raises:
        typer.BadParameter: if the value is none of them.
    """
    if value is not None and value not in choices:
        raise typer.BadParameter(f"found {value}, expected {', '.join(choices)}", param_hint=option)
