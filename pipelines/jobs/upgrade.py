"""Lead a workspace that an older version made to what a new one has: policies, adoption, keys.

In:  a workspace.  Out: a plan; with consent, the steps that need nobody else.
Files that are there stay as they are: only policies that the workspace lacks are copied.
"""

import shutil
from pathlib import Path

from pipelines.jobs import policy
from pipelines.workspace.workspace import SHIPPED_FACTS, Workspace, make_ledger, template
from registry.governance import adoption, people
from registry.governance.policies import load
from registry.records.answers import UpgradeRow


def upgrade(workspace: Workspace, *, apply: bool = False) -> list[UpgradeRow]:
    """Return what an older workspace lacks; nothing where it lacks nothing.

    Args:
        workspace: what is looked at.
        apply: copy the policies that it lacks, and adopt the set that then lies there.

    Returns:
        The steps, `done` where this call took them.

    Raises:
        Refused: for a set that only an auditor may adopt.
    """
    steps = [
        *_policies(workspace, apply),
        *_facts(workspace, apply),
        *_adoption(workspace, apply),
        *_ledger(workspace, apply),
    ]
    if not people.is_closed(workspace.catalog):
        steps.append(
            UpgradeRow(
                what="an auditor who keeps the list of actors",
                why="on an open list names and approvals prove nobody",
                command="btx key new, then btx actor add NAME --role auditor",
            )
        )
    return steps


def _policies(workspace: Workspace, apply: bool) -> list[UpgradeRow]:
    lacking = _lacking(template() / "policies", workspace.policies)
    if not lacking:
        return []
    if apply:
        for name in lacking:
            shutil.copyfile(template() / "policies" / name, workspace.policies / name)
    return [
        UpgradeRow(
            what=f"policies {', '.join(Path(name).stem for name in lacking)}",
            why="new workspaces have them; yours are not changed",
            command="btx upgrade --apply",
            done=apply,
        )
    ]


def _facts(workspace: Workspace, apply: bool) -> list[UpgradeRow]:
    if workspace.facts.exists():
        return []
    if apply:
        shutil.copyfile(SHIPPED_FACTS, workspace.facts)
    return [
        UpgradeRow(
            what=f"{workspace.facts.name}, the facts that a company states of its own",
            why="reports and policies ask for them; none is required as it comes",
            command="btx upgrade --apply",
            done=apply,
        )
    ]


def _ledger(workspace: Workspace, apply: bool) -> list[UpgradeRow]:
    if workspace.own_registry is None or workspace.ledger.is_dir():
        return []
    if apply:
        make_ledger(workspace)
        workspace.write_ledger(workspace.catalog)
    return [
        UpgradeRow(
            what=f"{workspace.ledger.name}/, rows and log as text files for git",
            why="a clone makes its registry from them; whoever reads the repository reads them",
            command="btx upgrade --apply",
            done=apply,
        )
    ]


def _lacking(shipped: Path, own: Path) -> list[str]:
    return [path.name for path in sorted(shipped.glob("*.yaml")) if not (own / path.name).exists()]


def _adoption(workspace: Workspace, apply: bool) -> list[UpgradeRow]:
    valid = adoption.adopted(workspace.catalog)
    if valid and valid.digest == adoption.set_digest(load(workspace.policies)):
        return []
    if apply:
        policy.adopt(workspace, "upgrade of an older workspace")
    return [
        UpgradeRow(
            what="the adoption of the policies that lie in policies/",
            why="gates then refuse under any other set, and the audit finds what went past them",
            command="btx policy adopt --dry-run, then btx upgrade --apply",
            done=apply,
        )
    ]
