"""The commands about facts of the company's own: fact set, fact list."""

from typing import Annotated

import typer

from pipelines.cli.options import (
    Attached,
    FactsFile,
    Json,
    find_workspace,
    given_facts,
    registered,
)
from pipelines.cli.output import print_answer, print_json, print_table

app = typer.Typer()
fact_app = typer.Typer(help="Facts of your own, as facts.yaml has them.", no_args_is_help=True)
app.add_typer(fact_app, name="fact")

Subject = Annotated[
    str,
    typer.Argument(
        metavar="REF|organisation",
        help="kind/name@version, an alias, or the organisation",
        autocompletion=registered,
    ),
]


@fact_app.command("set")
def fact_set_command(
    ref: Subject,
    why: Annotated[str, typer.Option(metavar="TEXT")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="KEY= takes a fact back"),
    ] = None,
    facts: FactsFile = None,
    attach: Attached = None,
    json: Json = False,
) -> None:
    """State facts of something that is registered. What was stated before stays in the log.

    Example: btx fact set data/legal@1 residency=EU --why "moved to Frankfurt"

    Example: btx fact set data/legal@1 --attach dpia=dpia.pdf --why "approved by counsel"
    """
    from pipelines.jobs.state_facts import amend

    answer = amend(find_workspace(), ref, given_facts(pairs, facts, attach), why)
    print_answer(answer, json, f"{answer.ref}   stated: {', '.join(answer.stated)}")


@fact_app.command("list")
def fact_list_command(ref: Subject, json: Json = False) -> None:
    """List the facts of REF: what is stated now, and what facts.yaml has beside it.

    Example: btx fact list data/legal@1
    """
    from pipelines.jobs.state_facts import rows
    from registry.records.own_facts import value_text

    answer = rows(find_workspace(), ref)
    if json:
        print_json(answer)
        return
    lines = []
    for row in answer:
        value = "not stated" if row.value is None else value_text(row.value)
        shown = "public" if row.public else "internal"
        lines.append([row.key, value, row.type, shown, row.by, (row.at or "")[:10], row.why])
    print_table(("fact", "value", "type", "for", "by", "on", "why"), lines)
