"""Lead a workspace that an older version made to what a new one has: policies, adoption, keys.

In:  a workspace.  Out: a plan; with consent, the steps that need nobody else.
Files that are there stay as they are: only policies that the workspace lacks are copied, each with
the cases that test it.
"""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

# Any: a test file as it is written, of which only some cases are copied.
from typing import Any

import yaml

from pipelines.jobs import policy
from pipelines.workspace.workspace import SHIPPED_FACTS, Workspace, make_ledger, template
from registry.catalogue.catalog import Catalog
from registry.governance import acts, adoption, keys, people
from registry.governance.policy_files import load
from registry.records.answers.upkeep import UpgradeRow


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
    if apply and (_lacking(workspace) or _adoption(workspace, apply=False)):
        # First of all: policies that nobody may adopt would shut every gate.
        _require_auditor(workspace.catalog)
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
    return [*steps, *_changed(workspace)]


def _changed(workspace: Workspace) -> list[UpgradeRow]:
    """Return which policies differ from a new workspace's: by its people, or by a new version."""
    own, shipped = load(workspace.policies), load(template() / "policies")
    both = {policy.name for policy in own} & {policy.name for policy in shipped}
    differing = [name for name in adoption.differing(own, shipped) if name in both]
    if not differing:
        return []
    return [
        UpgradeRow(
            what=f"a look at policies {', '.join(differing)}",
            why="those of new workspaces say something else; yours are not changed",
            command=f"git diff --no-index policies {shlex.quote(str(template() / 'policies'))}",
        )
    ]


def _policies(workspace: Workspace, apply: bool) -> list[UpgradeRow]:
    lacking = _lacking(workspace)
    if not lacking:
        return []
    if apply:
        for name in lacking:
            shutil.copyfile(template() / "policies" / name, workspace.policies / name)
            _copy_cases(Path(name).stem, workspace.policies / "tests")
    return [
        UpgradeRow(
            what=f"policies {', '.join(Path(name).stem for name in lacking)}",
            why="new workspaces have them; yours are not changed",
            command="btx upgrade --apply",
            done=apply,
        )
    ]


def _copy_cases(name: str, tests: Path) -> None:
    """Write the shipped cases of one policy into files of their own."""
    tests.mkdir(exist_ok=True)
    for path in sorted((template() / "policies/tests").glob("*.yaml")):
        suite: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        cases = list(_cases(name, suite["cases"]))
        copy = tests / f"{name}-{path.name}"
        if cases and not copy.exists():
            about = {**suite, "policies": [name], "cases": cases}
            copy.write_text(yaml.safe_dump(about, sort_keys=False, width=100), encoding="utf-8")


def _cases(name: str, cases: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the cases that break a rule of the policy, with what they expect of it alone."""
    expectations = ("refused", "warned", "waived")
    for case in cases:
        own = {
            key: [rule for rule in case.get(key, ()) if rule.startswith(f"{name}/")]
            for key in expectations
        }
        if any(own.values()):
            said = {key: rules for key, rules in own.items() if rules}
            yield {**{key: case[key] for key in case if key not in expectations}, **said}


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


def _lacking(workspace: Workspace) -> list[str]:
    shipped = sorted((template() / "policies").glob("*.yaml"))
    return [path.name for path in shipped if not (workspace.policies / path.name).exists()]


def _require_auditor(catalog: Catalog) -> None:
    """Refuse whoever cannot adopt policies on a closed list of actors."""
    people.require_role(catalog, catalog.actor, ("auditor",), "adopt policies")
    if people.is_closed(catalog):
        acts.require_listed(catalog, keys.signer(catalog.actor))


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
