"""The command that erases for good: erase."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Json, find_workspace
from pipelines.cli.output import print_json, print_line
from registry.units import counted, power, size

if TYPE_CHECKING:
    from registry.records.answers.withdrawing import EraseAnswer, ErasureCost, TrainAgain

app = typer.Typer()
ELSEWHERE = "clones, backups and dumps that were made before: nobody here knows them"


@app.command("erase")
def erase_command(
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="a data version: data/NAME@VERSION")
    ] = None,
    document: Annotated[
        str | None, typer.Option(metavar="ID", help="one document: its id, or its digest's start")
    ] = None,
    author: Annotated[
        str | None, typer.Option(metavar="NAME", help="every document of this author")
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="PATH", help="one file, by its path in the version")
    ] = None,
    why: Annotated[str, typer.Option(metavar="TEXT", help="kept outside the log")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what it costs, ask for nothing")
    ] = False,
    confirm: Annotated[
        int | None, typer.Option(metavar="N", help="confirm what another person asked for")
    ] = None,
    json: Json = False,
) -> None:
    """Erase a data version, or documents of it, for good: one person asks, another confirms.

    Says first what it costs. Every data version that holds the same text loses it; bytes go from
    folders, DVC's cache and remotes, the store, token files and checkpoints. A signed tombstone
    with digests stays, and what was erased does not come in again.

    Example: btx erase data/letters@1 --author "A. Smith" --why "consent withdrawn" --dry-run

    Example: btx erase --confirm 57
    """
    from pipelines.jobs import erase
    from registry.governance.erasure import Selection

    if (ref is None) == (confirm is None) or sum(
        value is not None for value in (document, author, file)
    ) > 1:
        raise typer.BadParameter(
            "expected REF with at most one of --document, --author and --file; or --confirm N"
        )
    workspace = find_workspace()
    if confirm is not None:
        answer = erase.confirm(workspace, confirm)
    else:
        selection = Selection(ref=ref or "", document=document, author=author, file=file)
        if dry_run:
            answer = erase.look_ahead(workspace, selection)
        else:
            answer = erase.ask(workspace, selection, why)
    if json:
        print_json(answer)
    else:
        _print_answer(answer)


def _print_answer(answer: "EraseAnswer") -> None:
    """Print what goes, what has to be made again, and the next step."""
    number = f", erasure {answer.number}" if answer.number else ""
    print_line(f"{answer.ref}   {answer.status}{number}")
    _print_cost(answer.cost)
    for folder in answer.left:
        print_line(f"  what is left lies in {folder}")
    for note in answer.notes:
        print_line(f"  note: {note}")
    if answer.next:
        print_line(f"next: {answer.next}")


def _print_cost(cost: "ErasureCost") -> None:
    counts = f"{counted(cost.files, 'file')}, {size(cost.bytes)}"
    documents = counted(cost.documents, "document")
    print_line(f"  goes    {counts}, for {documents}, of {', '.join(cost.versions)}")
    for path in cost.beside:
        print_line(f"  goes    what {path} holds of them, which no version is made from")
    for line in (*cost.seeds, *cost.experts):
        print_line(f"  again   {line.ref}   {_took(line)}")
    for build in cost.builds:
        print_line(f"  again   {build.ref}   removal: {build.removal}, {build.why}")
    for export in cost.exports:
        print_line(f"  out of reach   {export.ref} in {export.folder}")
    for place in (*cost.unreached, ELSEWHERE):
        print_line(f"  out of reach   {place}")


def _took(line: "TrainAgain") -> str:
    tokens = f"{line.tokens:,} tokens" if line.tokens is not None else "tokens unknown"
    return f"took {tokens}, {power(line.flops)} FLOPs" if line.flops else f"took {tokens}"
