"""Show and change who may act: the list of people, their keys, what they take back."""

from contextlib import suppress
from pathlib import Path

from pipelines.workspace.workspace import Workspace
from registry.errors import NotFound
from registry.governance import acts, approving, changes, keys, people
from registry.governance.changes import Change
from registry.records.answers.deciding import RetractedAnswer
from registry.records.answers.people_and_tokens import ActorAnswer, ActorRow, KeyAnswer
from registry.records.events import Acted
from registry.web.officer import people_rows


def new_key(name: str, out: Path | None = None) -> KeyAnswer:
    """Make a person's own key pair on this machine; nothing is logged.

    Args:
        name: the person.
        out: the file of the private key; its usual place unless it is given.

    Returns:
        Where both halves are.
    """
    path = out or keys.key_file(name)
    signer = keys.new_key(name, path)
    public = path.with_suffix(".pub")
    return KeyAnswer(
        actor=name, key=str(path), public_key=str(public), key_id=keys.key_id(signer)[:16]
    )


def listed(workspace: Workspace) -> list[ActorRow]:
    """Return everybody who is on the list of people, or was, by name."""
    return people_rows(workspace.catalog)


def add(
    workspace: Workspace,
    name: str,
    roles: tuple[str, ...],
    public_key: Path | None,
    why: str = "",
) -> ActorAnswer:
    """Put a person on the list.

    Args:
        workspace: whose list it is.
        name: the person.
        roles: what they may do.
        public_key: PEM. Unless it is given, what `btx key new` wrote here for this person; for the
            person who acts, a key is made where there is none.
        why: the reason, of a change of somebody who is on the list.

    Raises:
        NotFound: for somebody else of whom there is no public key here.
    """
    # Checked first: a refused role must not leave a new key behind.
    people.check_roles(roles)
    catalog, made = workspace.catalog, None
    key, own = keys.key_file(name), keys.key_file(name).with_suffix(".pub")
    if public_key is None and not own.is_file() and name == catalog.actor and not key.is_file():
        made = new_key(name).key
    file = public_key or own
    if not file.is_file():
        raise NotFound(
            f"public key of {name}",
            found=f"no {file}",
            expected=f"the public half of a key that {name} made",
            next=f"let {name} run btx key new, and add it here with --public-key FILE",
        )
    change = Change(name, roles, file.read_text(encoding="utf-8"), why=why)
    changes.change_actor(catalog, change, acts.signer_if_closed(catalog))
    return ActorAnswer(actor=name, roles=roles, key=made)


def remove(workspace: Workspace, name: str, since: str | None, why: str) -> ActorAnswer:
    """Take a person off the list; with `since`, what they signed from then on is void."""
    return _changed(workspace, name, None, (), since, why)


def rotate(
    workspace: Workspace, name: str, public_key: Path, since: str | None, why: str
) -> ActorAnswer:
    """Give a person another key; with `since`, what the old one signed from then on is void."""
    return _changed(workspace, name, public_key, None, since, why)


def retract(
    workspace: Workspace, reference: str, rule: str | None, of: str | None, why: str
) -> RetractedAnswer:
    """Take an approval, or the waiver of a rule, back.

    Args:
        workspace: where it was signed.
        reference: what it is for; without a number, the newest version.
        rule: POLICY/RULE of a waiver; an approval unless it is given.
        of: who signed it; the person who acts unless it is given.
        why: the reason.

    Raises:
        NotFound: where no such act counts.
    """
    catalog = workspace.catalog
    # What was refused is not registered, and may be waived all the same.
    with suppress(NotFound):
        reference = str(catalog.get(reference).ref)
    signer_of = of or catalog.actor
    kind = "waived" if rule else "approved"
    found = [
        event
        for event in approving.standing_acts(catalog, kind, reference)
        if event.actor == signer_of and event.read(Acted).act.rule == rule
    ]
    if not found:
        raise NotFound(
            f"{rule or 'approval'} of {reference}",
            found=f"nothing by {signer_of} that counts",
            expected="an approval or a waiver",
            next=f"btx show {reference}, or name who signed it with --of",
        )
    signer = keys.signer(catalog.actor)
    for event in found:
        approving.retract(catalog, event, signer, why)
    what = f"waiver of {rule}" if rule else "approval"
    return RetractedAnswer(ref=reference, what=what, of=signer_of, retracted_by=catalog.actor)


def _changed(
    workspace: Workspace,
    name: str,
    public_key: Path | None,
    roles: tuple[str, ...] | None,
    since: str | None,
    why: str,
) -> ActorAnswer:
    catalog = workspace.catalog
    person = people.roll(catalog).get(name)
    if person is None:
        raise NotFound(
            f"actor {name}", found="nobody", expected="a person on the list", next="btx actor list"
        )
    pem = public_key.read_text(encoding="utf-8") if public_key else person.public_key
    kept = person.roles if roles is None else roles
    change = Change(name, kept, pem, since, why)
    changes.require_reason(catalog, change)
    changes.change_actor(catalog, change, acts.signer_if_closed(catalog))
    return ActorAnswer(actor=name, roles=kept)
