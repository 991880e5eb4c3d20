"""Jobs: who may sign, approvals and waivers. The signatures are the registry's; here a command line meets a key."""

from pathlib import Path
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid, Refused
from registry.governance import people
from registry.governance.policies import load


def add_actor(
    workspace: Workspace, name: str, roles: list[str], public_key: Path | None
) -> dict[str, Any]:
    """Put a person on the roll. Without `public_key` a new key is made in that person's key file.

    Once the roll names an auditor, changes must be signed by one: the acting person's own key is used.
    """
    people.check_roles(roles)  # before a key is made
    with workspace.writing(f"actor add {name}"):
        catalog = workspace.catalog
        closed = any("auditor" in person.roles for person in people.roll(catalog).values())
        by = people.signer(catalog.actor) if closed else None
        pem = public_key.read_text() if public_key else people.public_pem(people.new_key(name))
        people.add_actor(catalog, name, tuple(roles), pem, by)
    return {
        "actor": name,
        "roles": roles,
        "key": None if public_key else str(people.key_file(name)),
    }


def approve(workspace: Workspace, reference: str, why: str) -> dict[str, Any]:
    """Sign that this very version may be released."""
    with workspace.writing(f"approve {reference}"):
        catalog = workspace.catalog
        event = people.approve(catalog, reference, people.signer(catalog.actor), why)
    return {"ref": event.subject, "approved_by": event.actor, "at": event.at}


def waive(workspace: Workspace, rule: str, subject: str, *, until: str, why: str) -> dict[str, Any]:
    """Sign an exception to POLICY/RULE for one subject until one date. Raises Invalid for no such rule, Refused where none is possible."""
    _waivable(workspace, rule)
    with workspace.writing(f"waive {rule} {subject}"):
        catalog = workspace.catalog
        event = people.waive(
            catalog, rule, subject, people.signer(catalog.actor), until=until, why=why
        )
    return {"rule": rule, "ref": event.subject, "until": until, "waived_by": event.actor}


def _waivable(workspace: Workspace, rule: str) -> None:
    """A signature that could never count is not asked for."""
    policies = load(workspace.policies)
    rules = {
        f"{policy.name}/{validation.rule}": policy
        for policy in policies
        for validation in policy.validations
    }
    if rule not in rules:
        possible = ", ".join(name for name, policy in rules.items() if policy.waivable)
        raise Invalid(
            f"rule {rule!r}",
            found="no such rule",
            expected=f"POLICY/RULE: {possible}",
            next="btx policy check REF",
        )
    if not rules[rule].waivable:
        raise Refused(
            rule,
            found="a rule without exceptions",
            expected=f"waivable: true in policies/{rules[rule].name}.yaml",
            next="mend what the rule found",
        )
