"""The commands about people: keys, the list of actors, tokens."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import Json, find_workspace
from pipelines.cli.output import print_answer, print_json, print_line, print_table

app = typer.Typer()
actor_app = typer.Typer(help="People who may sign.", no_args_is_help=True)
key_app = typer.Typer(help="Your own key.", no_args_is_help=True)
token_app = typer.Typer(help="Who may open the pages of btx serve.", no_args_is_help=True)
app.add_typer(actor_app, name="actor")
app.add_typer(key_app, name="key")
app.add_typer(token_app, name="token")


Why = Annotated[str, typer.Option(metavar="TEXT")]
Since = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="what was signed with the old key from then on is void"),
]


@key_app.command("new")
def key_new_command(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="default: your own key file")
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="for a program that acts without a person")
    ] = False,
    json: Json = False,
) -> None:
    """Make your own key pair on your own machine; an auditor registers the public half.

    The private half is encrypted by the passphrase in BTX_KEY_PASSPHRASE, or one that you type.

    Example: btx key new
    """
    from pipelines.jobs.people_list import new_key
    from pipelines.workspace.workspace import actor

    _require_passphrase(no_passphrase)
    answer = new_key(actor(), out)
    text = f"{answer.actor}   key {answer.key}\n  give this to an auditor: {answer.public_key}"
    print_answer(answer, json, text)


def _require_passphrase(no_passphrase: bool) -> None:
    """Take the passphrase of a new key from the terminal, unless there is one or none is wanted."""
    if no_passphrase or os.environ.get("BTX_KEY_PASSPHRASE"):
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "no passphrase: set BTX_KEY_PASSPHRASE, or say --no-passphrase",
            param_hint="--no-passphrase",
        )
    os.environ["BTX_KEY_PASSPHRASE"] = typer.prompt(
        "passphrase for the new key", hide_input=True, confirmation_prompt=True, err=True
    )


@actor_app.command("add")
def actor_add_command(
    name: str,
    role: Annotated[
        list[str], typer.Option(metavar="registrar|approver|auditor", help="may be repeated")
    ],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM; default: what btx key new wrote here for NAME"),
    ] = None,
    why: Annotated[
        str, typer.Option(metavar="TEXT", help="the reason, of a change of somebody on the list")
    ] = "",
    json: Json = False,
) -> None:
    """Put a person on the list of actors; once it names an auditor, an auditor must sign.

    Example: btx actor add dora --role approver --public-key dora.pub
    """
    from pipelines.jobs.people_list import add

    answer = add(find_workspace(), name, tuple(role), public_key, why)
    text = f"{name}   {', '.join(role)}"
    if answer.key:
        text += f"   key {answer.key}"
    print_answer(answer, json, text)


@actor_app.command("list")
def actor_list_command(json: Json = False) -> None:
    """List the people who may act; of those without a role, the list says that they left.

    Example: btx actor list
    """
    from pipelines.jobs.people_list import listed

    rows = listed(find_workspace())
    if json:
        print_json(rows)
        return
    lines = [[row.actor, ", ".join(row.roles) or "left", row.key_id, row.changed] for row in rows]
    print_table(("name", "roles", "key", "changed"), lines)
    if not rows or rows[0].list == "open":
        print_line("the list is open: names and approvals prove nobody until an auditor keeps it")


@actor_app.command("remove")
def actor_remove_command(name: str, why: Why, since: Since = None, json: Json = False) -> None:
    """Take a person off the list. What they signed before stays valid, unless --since says else.

    Example: btx actor remove dora --why "left the company"
    """
    from pipelines.jobs.people_list import remove

    answer = remove(find_workspace(), name, since, why)
    print_answer(answer, json, f"{name}   off the list")


@actor_app.command("rotate")
def actor_rotate_command(
    name: str,
    public_key: Annotated[Path, typer.Option(metavar="FILE", help="PEM of the new key")],
    why: Why,
    since: Since = None,
    json: Json = False,
) -> None:
    """Give a person another key, with the same roles.

    Example: btx actor rotate dora --public-key dora.pub --why "laptop stolen" --since 2026-03-01
    """
    from pipelines.jobs.people_list import rotate

    answer = rotate(find_workspace(), name, public_key, since, why)
    print_answer(answer, json, f"{name}   new key")


@token_app.command("add")
def token_add_command(
    name: str,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="viewer|registrar|approver|auditor", help="may be repeated"),
    ] = None,
    days: Annotated[float, typer.Option(help="until it ends")] = 30,
    json: Json = False,
) -> None:
    """Make a token for a person. The secret is shown this once; what is kept is its SHA-256.

    Example: btx token add dora --role approver
    """
    from pipelines.jobs.access_tokens import issue_token
    from registry.records.answers.people_and_tokens import TokenAnswer

    secret, token = issue_token(find_workspace(), name, role or ("viewer",), days)
    answer = TokenAnswer(
        id=token.id, name=name, roles=token.roles, expires=token.expires, token=secret
    )
    roles = ", ".join(token.roles)
    text = f"{secret}\n  {token.id}   {name}   {roles}   until {token.expires}"
    print_answer(answer, json, text)


@token_app.command("list")
def token_list_command(json: Json = False) -> None:
    """List the tokens, without their secrets.

    Example: btx token list
    """
    from pipelines.jobs.access_tokens import tokens
    from registry.records.answers.people_and_tokens import TokenRow

    rows = [
        TokenRow(
            id=token.id,
            name=token.name,
            roles=token.roles,
            issued=token.issued,
            expires=token.expires,
            revoked=token.revoked,
        )
        for token in tokens(find_workspace()).all()
    ]
    if json:
        print_json(rows)
        return
    lines = [[row.id, row.name, row.roles, row.issued, row.expires, row.revoked] for row in rows]
    print_table(("id", "name", "roles", "issued", "expires", "revoked"), lines)


@token_app.command("revoke")
def token_revoke_command(id: str, json: Json = False) -> None:
    """End a token and its sessions at once.

    Example: btx token revoke 1f0c9a3e
    """
    from pipelines.jobs.access_tokens import tokens
    from registry.records.answers.people_and_tokens import RevokedAnswer

    token = tokens(find_workspace()).revoke(id)
    answer = RevokedAnswer(id=token.id, revoked=token.revoked)
    print_answer(answer, json, f"{token.id}   revoked {token.revoked}")
