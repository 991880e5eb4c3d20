"""The commands about people: actor add; token add, token list, token revoke."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Json, find_workspace
from pipelines.cli.output import print_answer, print_json, print_table

if TYPE_CHECKING:
    from registry.catalogue.catalog import Catalog
    from registry.governance.people import Signer

app = typer.Typer()
actor_app = typer.Typer(help="People who may sign.", no_args_is_help=True)
token_app = typer.Typer(help="Who may open the pages of btx serve.", no_args_is_help=True)
app.add_typer(actor_app, name="actor")
app.add_typer(token_app, name="token")


@actor_app.command("add")
def actor_add_command(
    name: str,
    role: Annotated[
        list[str], typer.Option(metavar="registrar|approver|auditor", help="may be repeated")
    ],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM; default: make a key pair for NAME here"),
    ] = None,
    json: Json = False,
) -> None:
    """Put a person on the list of actors; once it names an auditor, an auditor must sign.

    Example: btx actor add dora --role approver
    """
    from registry.governance import people
    from registry.records.answers import ActorAnswer

    # Checked first: a refused role must not leave a new key behind.
    people.check_roles(role)
    workspace = find_workspace()
    with workspace.writing(f"actor add {name}"):
        auditor = _auditor(workspace.catalog)
        pem = public_key.read_text() if public_key else people.public_pem(people.new_key(name))
        people.add_actor(workspace.catalog, name, tuple(role), pem, auditor)
    made_key = None if public_key else str(people.key_file(name))
    text = f"{name}   {', '.join(role)}"
    if made_key:
        text += f"   key {made_key}"
    print_answer(ActorAnswer(actor=name, roles=tuple(role), key=made_key), json, text)


def _auditor(catalog: "Catalog") -> "Signer | None":
    """Return who signs a change of the list: nobody, until the list names an auditor."""
    from registry.governance import people

    roll = people.roll(catalog).values()
    if any("auditor" in person.roles for person in roll):
        return people.signer(catalog.actor)
    return None


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
    from pipelines.jobs.serve import tokens
    from registry.records.answers import TokenAnswer

    secret, token = tokens(find_workspace()).issue(name, role or ("viewer",), days)
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
    from pipelines.jobs.serve import tokens
    from registry.records.answers import TokenRow

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
    from pipelines.jobs.serve import tokens
    from registry.records.answers import RevokedAnswer

    token = tokens(find_workspace()).revoke(id)
    answer = RevokedAnswer(id=token.id, revoked=token.revoked)
    print_answer(answer, json, f"{token.id}   revoked {token.revoked}")
