"""What lies already where a workspace is to be made: a DVC project, a git repository around it.

In:  a folder.  Out: nothing, or an error where its dvc.yaml lacks the stages of btx; and the git
repository that tracks the folder. Making the workspace is left to `workspace`.
"""

from pathlib import Path

import yaml

from pipelines.workspace.git import git
from registry.errors import Conflict


def require_stages(dvc_yaml: Path, shipped: Path) -> None:
    """Check that a dvc.yaml that is there already has the stages that btx runs.

    Args:
        dvc_yaml: the folder's; it need not exist.
        shipped: the one that btx lays down.

    Raises:
        Conflict: naming the stages that it lacks.
    """
    if not dvc_yaml.exists():
        return
    stages, variables = _stages(shipped)
    try:
        own_stages, own_variables = _stages(dvc_yaml)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise Conflict(
            str(dvc_yaml),
            found=f"a file that DVC cannot read: {error}"[:160],
            expected="stages of DVC",
            next="fix or remove it, and run btx init again",
        ) from None
    missing = sorted(stages - own_stages)
    if missing or variables - own_variables:
        own = ", ".join(sorted(own_stages)) or "no stages"
        raise Conflict(
            str(dvc_yaml),
            found=f"a DVC project of its own: {own}",
            expected=f"the stages {', '.join(sorted(stages))} of btx, and vars: [branches.yaml]",
            next=f"btx init a folder below, such as {dvc_yaml.parent / 'models'}, or copy vars and "
            f"stages from {shipped} into it, and run btx init again",
        )


def _stages(dvc_yaml: Path) -> tuple[set[str], set[str]]:
    content = yaml.safe_load(dvc_yaml.read_text(encoding="utf-8")) or {}
    stages = content.get("stages") or {}
    variables = content.get("vars") or []
    return set(map(str, stages.keys())), {one for one in variables if isinstance(one, str)}


def enclosing_repository(root: Path) -> Path | None:
    """Return the git repository that a folder lies in and is tracked by.

    Args:
        root: the folder.

    Returns:
        The repository's top folder; None where there is none, where it is the folder itself, and
        where it ignores the folder, which then needs a repository of its own.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top) == root:
        return None
    ignored = _git(root, "check-ignore", "--quiet", str(root))
    return None if ignored is not None else Path(top)


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git answers; None where it fails."""
    done = git(root, *arguments)
    return done.stdout.strip() if done.returncode == 0 else None
