"""Release a build: ask the gate with all that is known of it now, log the release."""

from pipelines.jobs import collect_evidence, gates
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.catalogue import pins
from registry.governance import acts, gate
from registry.governance.as_of import AsOf
from registry.records.answers.deciding import ReleaseAnswer, VerdictAnswer
from registry.records.events import Act, Released
from registry.records.evidence import BuildEvidence
from registry.records.facts import BuildFacts
from registry.records.kinds import Gate
from registry.records.version import Version


def build_evidence(workspace: Workspace, build: Version[BuildFacts]) -> BuildEvidence:
    """Return what the gates release and export are asked about.

    That is the recorded build, and its members and approvals as they are today.
    """
    catalog = workspace.catalog
    return collect_evidence.of_build(catalog, build, AsOf(catalog).last_release(build))


def drafted(workspace: Workspace, reference: str) -> tuple[Act, ...]:
    """Return what the acting person signs for a release: the verdict, and the release itself.

    Raises:
        Refused: naming the rule, where the gate says no.
    """
    catalog = workspace.catalog
    build = catalog.get(reference, BuildFacts)
    subject, sent = str(build.ref), acts.Sent(drafting=True)
    evidence = build_evidence(workspace, build)
    question = gates.question(workspace, Gate.RELEASE, subject, evidence, sent)
    gates.require_passed(gates.check(catalog, question))
    judged = gate.evidence_digest(catalog, question)
    return (
        acts.drafted_for(catalog, "verdict", subject, judged),
        acts.drafted_for(catalog, Released.logged_as, subject, build.digest),
    )


def release(workspace: Workspace, reference: str, sent: acts.Sent | None = None) -> ReleaseAnswer:
    """Release the build.

    Args:
        workspace: where it is registered.
        reference: the build.
        sent: what the acting person signed elsewhere.

    Raises:
        Damaged: for a file of the build that is not what was registered.
        Refused: naming the rule, for withdrawn members or what the policies demand besides.
    """
    catalog = workspace.catalog
    build = catalog.get(reference, BuildFacts)
    folders.verify_here(workspace, build)
    asked = build_evidence(workspace, build)
    subject = str(build.ref)
    if sent is not None:
        # Before the verdict is logged: a release without its signature leaves nothing behind.
        acts.vouched(catalog, Released.logged_as, subject, build.digest, sent=sent)
    verdict = gates.ask(workspace, Gate.RELEASE, subject, asked, sent)
    envelope = acts.vouched(catalog, Released.logged_as, subject, build.digest, sent=sent)
    body = Released(verdict=verdict.outcome)
    catalog.event(body.with_envelope(envelope), build.ref)
    pins.pin(catalog)
    status = workspace.catalog.status(build.ref)
    said = VerdictAnswer.from_json(verdict.to_json(), str(build.ref))
    return ReleaseAnswer(ref=str(build.ref), status=status, verdict=said)
