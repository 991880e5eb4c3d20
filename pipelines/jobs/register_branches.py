"""Register branches that were trained together: one that is refused keeps no other out.

In:  branches by expert.  Out: the registered versions.
Training is `train`'s, judging and taking in is `register`'s.
"""

from collections.abc import Mapping, Sequence

from pipelines.jobs.register import register
from pipelines.jobs.train import Branch
from pipelines.workspace.bars import Show
from pipelines.workspace.workspace import Workspace
from registry.errors import Refused
from registry.records.facts import ExpertFacts
from registry.records.version import Version


def register_branches(
    workspace: Workspace, branches: Mapping[str, Branch], show: Show
) -> list[Version[ExpertFacts]]:
    """Register each branch that the gate lets in as an expert.

    Args:
        workspace: where they were trained.
        branches: by expert.
        show: opens a progress bar for a label.

    Returns:
        The registered versions, in the order of the branches.

    Raises:
        Refused: where the gate says no to one of them; it names those that are registered.
    """
    versions, refused = [], []
    for name, branch in branches.items():
        try:
            version = register(
                workspace,
                name,
                branch.folder,
                data=[str(branch.data.ref)],
                seed=str(branch.seed.ref),
                show=show,
            )
        except Refused as error:
            refused.append(error)
        else:
            versions.append(version)
    if len(branches) == len(refused) == 1:
        raise refused[0]
    if refused:
        raise _with_registered(refused, versions)
    return versions


def _with_registered(
    refused: Sequence[Refused], versions: Sequence[Version[ExpertFacts]]
) -> Refused:
    """Return one refusal for several branches, that says too which of them are registered."""
    registered = [f"{version.ref} is registered" for version in versions]
    rules = [rule for error in refused for rule in error.rules]
    # Such as facts that were not adopted, or data that was withdrawn meanwhile.
    plain = [error for error in refused if not error.rules]
    subject = "; ".join(error.subject for error in refused)
    if not rules:
        return Refused(
            subject,
            found="; ".join(dict.fromkeys([*(error.found for error in plain), *registered])),
            expected="; ".join(dict.fromkeys(error.expected for error in plain)),
            next=_steps(plain),
        )
    also = [f"{error.subject}: {error.found}, expected {error.expected}" for error in plain]
    also += [f"{error.subject}: {text}" for error in refused for text in error.besides]
    return Refused.by(
        subject,
        rules,
        otherwise=_steps(refused),
        besides=[*also, *registered],
        advice=_steps(plain),
    )


def _steps(refused: Sequence[Refused]) -> str:
    return "; ".join(dict.fromkeys(error.next for error in refused))
