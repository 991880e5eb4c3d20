"""Make and find the tokens that open the pages of a workspace.

Apart from `serve`, because what ends soon is told without the packages that serving wants.
"""

from collections.abc import Sequence

from pipelines.workspace.workspace import Workspace
from registry.errors import Refused
from registry.governance import acts, people
from registry.records.events import TokenIssued
from registry.web.access import Token, Tokens


def tokens(workspace: Workspace) -> Tokens:
    """Return the tokens that open the pages of a workspace."""
    return Tokens(workspace.root / ".btx" / "tokens.json")


def issue_token(
    workspace: Workspace, name: str, roles: Sequence[str], days: float
) -> tuple[str, Token]:
    """Make a token, and log who made it for whom.

    Where the list of actors is closed, an auditor makes it, signs for it, and gives no role that
    the list does not give.

    Raises:
        Refused: otherwise.
    """
    catalog = workspace.catalog
    people.require_role(catalog, catalog.actor, ("auditor",), f"make a token for {name}")
    if people.is_closed(catalog):
        person = people.roll(catalog).get(name)
        held = person.roles if person else ()
        more = sorted(set(roles) - {"viewer", *held})
        if more:
            raise Refused(
                f"token for {name}",
                found=f"role {', '.join(more)}",
                expected=f"viewer{''.join(f', {role}' for role in held)}, as on the list of actors",
                next="btx actor add",
            )
    store = tokens(workspace)
    # It is written down last: one that was refused must open nothing.
    secret, token = store.issue(name, roles, days, keep=False)
    subject = f"token/{token.id}"
    envelope = acts.vouched(catalog, TokenIssued.logged_as, subject, token.sha256)
    body = TokenIssued(name=name, roles=token.roles, expires=token.expires)
    with store.keeping(token):
        catalog.event(body.with_envelope(envelope), subject)
    return secret, token
