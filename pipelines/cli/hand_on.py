"""The command that hands a build on to others: export."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    Attached,
    Build,
    Facts,
    FactsFile,
    Json,
    find_workspace,
    given_facts,
    require_choice,
)
from pipelines.cli.output import print_answer, print_line
from pipelines.workspace.bars import bar
from registry.units import size

app = typer.Typer()


@app.command("export")
def export_command(
    build: Build,
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    fused: Annotated[
        bool, typer.Option("--fused", help="one weight file, memory-mapped by stock loaders")
    ] = False,
    for_: Annotated[
        str, typer.Option("--for", metavar="transformers|vllm|llama.cpp")
    ] = "transformers",
    sign: Annotated[
        bool,
        typer.Option("--sign", help="OpenSSF model signature in DIR/model.sig, by your model key"),
    ] = False,
    draft: Annotated[
        bool, typer.Option("--draft", help="mark the folder as a draft; it need not be released")
    ] = False,
    fact: Facts = None,
    facts: FactsFile = None,
    attach: Attached = None,
    json: Json = False,
) -> None:
    """Write a released build out as a plain checkpoint folder, if gate export allows.

    Example: btx export build/2 ./release --fused
    """
    from pipelines.jobs.export import ExportRequest, export

    require_choice("--for", for_, ("transformers", "vllm", "llama.cpp"))
    workspace = find_workspace().stating(given_facts(fact, facts, attach))
    request = ExportRequest(fused=fused, target=for_, sign=sign, draft=draft)
    with bar("export") as progress:
        answer = export(workspace, build, directory, request, progress)
    written = size(answer.bytes_written)
    print_answer(answer, json, f"{answer.ref}   {answer.folder}   {written} written")
    if not json:
        print_line(f"loads in transformers {answer.transformers} or newer")
        print_line(f"licence: {answer.license or 'ask counsel'}")
        print_line(f"next: {answer.next}")
        for question in answer.open:
            print_line(f"open: {question}")
    if answer.verify and not json:
        print_line(f"to check it without btx: {answer.verify}")
