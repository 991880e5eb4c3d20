"""Take a registered version out of use, and tell all that it reached and what cures it."""

from collections.abc import Collection

from pipelines.workspace.workspace import Workspace
from registry.governance import acts, contesting, cures, private_words, seen_before
from registry.records.answers.withdrawing import ContestedAnswer, Reached, WithdrawAnswer
from registry.records.events import Withdrawn
from registry.records.facts import ExportFacts
from registry.records.references import Reference


def withdraw(
    workspace: Workspace, reference: str, why: str, *, dry_run: bool = False
) -> WithdrawAnswer:
    """Log the withdrawal.

    Nothing is deleted: what was built stays readable, is marked everywhere, and passes no gate any
    more.

    Args:
        workspace: where it is registered.
        reference: what is withdrawn.
        why: for the log.
        dry_run: only say what it would reach.

    Returns:
        What it reached, the builds that it did not reach, and what cures the rest.
    """
    catalog = workspace.catalog
    version = catalog.get(reference)
    acts.require_reason(f"withdrawal of {version.ref}", why)
    if not dry_run:
        # Where it was withdrawn before, the first reason stands.
        why = contesting.withdraw(catalog, str(version.ref), why).read(Withdrawn).why
    impact = catalog.impact(version.ref)
    reached = [Reached(ref=str(ref)) for ref in impact.experts]
    builds = [build for build in impact.builds if build.removal != "none"]
    reached += [Reached(ref=str(one.ref), removal=one.removal, why=one.why) for one in builds]
    reached += seen_before.twins(catalog, impact)
    for ref in impact.exports:
        folder = catalog.get(ref, ExportFacts).facts.folder
        reached.append(Reached(ref=str(ref), folder=folder))
    return WithdrawAnswer(
        ref=str(version.ref),
        why=why,
        reached=tuple(reached),
        clean=tuple(str(build.ref) for build in impact.builds if build.removal == "none"),
        next=_cure(workspace, {str(build.ref) for build in builds}, impact.experts),
    )


def contest(workspace: Workspace, reference: str, why: str) -> ContestedAnswer:
    """Log that the acting person contests a withdrawal, which stands.

    The reason is kept on this machine, its salted digest in the log.

    Raises:
        Invalid: without a reason, and for what was not withdrawn.
    """
    acts.require_reason(f"contest of {reference}", why)
    catalog = workspace.catalog
    contesting.require_withdrawn(catalog, reference)
    with private_words.kept(workspace.private, {"why": why}, catalog) as private:
        event = contesting.contest(catalog, reference, private)
    withdrawal = catalog.events(event.subject, "withdrawn")[0]
    return ContestedAnswer(
        ref=event.subject,
        withdrawn_by=withdrawal.actor,
        contested_by=event.actor,
        at=event.at,
    )


def _cure(
    workspace: Workspace, reached: Collection[str], experts_lost: Collection[Reference]
) -> str | None:
    """Return the commands that rebuild each line whose newest build is reached.

    None where no line's newest build is: an older one is past.
    """
    catalog = workspace.catalog
    lines = cures.reached_lines(catalog, reached)
    if not lines:
        return None
    if not cures.is_expert_left(catalog, {str(ref) for ref in experts_lost}):
        return cures.NO_EXPERT_LEFT
    return " && ".join(map(cures.rebuild_command, lines))
