"""Ask the gates without passing them, and adopt the policies that they ask.

What the gates would say of one version now; what a set of policies would say of everything that is
registered; and the act that makes a set the valid one.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from btx_core.problems import BtxError
from pipelines.jobs import collect_evidence, gates, state_facts
from pipelines.jobs.release import build_evidence
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.governance import acts, adoption, gate, seen_before, stating
from registry.governance.policy_files import load
from registry.records.answers.deciding import (
    PolicyAdoptAnswer,
    PolicyCheckAnswer,
    PolicyTryRow,
    VerdictAnswer,
)
from registry.records.events import Judged
from registry.records.evidence import BuildEvidence, Evidence, SeenBefore
from registry.records.facts import FACTS, BuildFacts, DataFacts, ExpertFacts, Facts, SeedFacts
from registry.records.kinds import UNUSABLE, Gate, Kind
from registry.records.version import Version

GATES: Mapping[Kind, Sequence[Gate]] = {
    Kind.DATA: (Gate.REGISTER,),
    Kind.SEED: (Gate.REGISTER,),
    Kind.EXPERT: (Gate.REGISTER,),
    Kind.BUILD: (Gate.BUILD, Gate.RELEASE, Gate.EXPORT),
}


def check(workspace: Workspace, reference: str) -> PolicyCheckAnswer:
    """Return the verdict that each gate of the version's kind would give."""
    version = workspace.catalog.get(reference)
    ref = str(version.ref)
    known = _evidence(workspace, version)
    verdicts = {}
    for name in GATES.get(version.ref.kind, ()):
        question = gates.question(workspace, name, ref, _as_asked_at(name, version, known))
        verdict = gates.check(workspace.catalog, question)
        verdicts[str(name)] = VerdictAnswer.from_json(verdict.to_json(), ref)
    return PolicyCheckAnswer(ref=ref, verdicts=verdicts)


def adopt(workspace: Workspace, why: str = "", *, dry_run: bool = False) -> PolicyAdoptAnswer:
    """Make the policies that lie in the workspace the valid set.

    Args:
        workspace: its folder of policies.
        why: the reason.
        dry_run: only say what would change.

    Raises:
        Refused: without an auditor where the list of actors is closed.
    """
    catalog = workspace.catalog
    found = load(workspace.policies)
    valid = adoption.adopted(catalog)
    before = adoption.policies_of(catalog, valid) if valid else []
    digest = adoption.set_digest(found)
    unchanged = valid is not None and valid.digest == digest
    schema = state_facts.adopt(workspace, why, dry_run=dry_run)
    if not dry_run and not unchanged:
        adoption.adopt(catalog, found, acts.signer_if_closed(catalog), why)
    return PolicyAdoptAnswer(
        status="unchanged" if unchanged else "planned" if dry_run else "adopted",
        digest=digest,
        before=valid.digest if valid else None,
        policies=len(found),
        facts=schema,
        changes=tuple(adoption.changes(before, found)) if valid else (),
    )


def try_out(workspace: Workspace, folder: Path | None = None) -> list[PolicyTryRow]:
    """Judge everything in use by a set of policies, as it is known today; nothing is logged.

    Args:
        workspace: whose versions are judged.
        folder: the proposed policies; those of the workspace unless it is given.

    Returns:
        A row for each gate of each version whose verdict would not simply be allowed, or differs
        from the last one that is logged.
    """
    policies = load(folder or workspace.policies)
    schema = stating.read_schema(workspace.facts)
    catalog = workspace.catalog
    rows = []
    for kind, asked in GATES.items():
        versions = catalog.versions(FACTS[kind])
        statuses = catalog.statuses(versions)
        for version in versions:
            if statuses[version.ref] in UNUSABLE:
                continue
            known = _evidence(workspace, version)
            for name in asked:
                logged = _logged(catalog, name, str(version.ref))
                now = _as_asked_at(name, version, known)
                question = gate.Question(
                    gate=name,
                    subject=str(version.ref),
                    evidence=_as_asked(catalog, now, logged) if logged else now,
                    policies=policies,
                    at=datetime.now(UTC),
                    proposed=True,
                    schema=schema,
                )
                rows += _tried(catalog, question, logged)
    return rows


def _logged(catalog: Catalog, name: Gate, ref: str) -> Judged | None:
    """Return the newest verdict of the gate that can be read."""
    bodies = [event.read(Judged) for event in gate.readable_verdicts(catalog, ref)]
    return next((body for body in reversed(bodies) if body.gate == name), None)


def _as_asked_at(name: Gate, version: Version[Facts], known: Evidence) -> Evidence:
    """Return what a gate is told: gate build judges seed, members and recipe, by their digest."""
    facts = version.facts
    if name != Gate.BUILD or not isinstance(facts, BuildFacts):
        return known
    return known.model_copy(update={"content": facts.content})


def _as_asked(catalog: Catalog, known: Evidence, logged: Judged) -> Evidence:
    """Return what is known today, with what was stated of the export that was judged."""
    if logged.gate != Gate.EXPORT:
        return known
    try:
        asked = BuildEvidence.from_json(catalog.document(logged.evidence), "evidence")
    except (BtxError, IndexError):
        # What is not kept or cannot be read, the audit names.
        return known
    stated = {"draft": bool(asked.draft), "export_own": asked.export_own}
    return known.model_copy(update=stated)


def _tried(catalog: Catalog, question: gate.Question, logged: Judged | None) -> list[PolicyTryRow]:
    name, ref = question.gate, question.subject
    verdict = gate.check(catalog, question)
    before = str(logged.outcome) if logged else None
    refused = verdict.refusals()
    if not refused and before in (None, str(verdict.outcome)):
        return []
    return [
        PolicyTryRow(
            ref=ref,
            gate=str(name),
            logged=before,
            now=str(verdict.outcome),
            rules=tuple(rule.name for rule in refused),
        )
    ]


def _evidence(workspace: Workspace, version: Version[Facts]) -> Evidence:
    ref, facts, catalog = str(version.ref), version.facts, workspace.catalog
    match facts:
        case DataFacts():
            sketch = seen_before.sketch_of(catalog, facts)
            seen = seen_before.of_data(catalog, version.files, sketch)
            return collect_evidence.of_data(ref, facts, version.files, _others(seen, ref))
        case SeedFacts():
            seen = seen_before.of_weights(catalog, facts.tensors)
            return collect_evidence.of_seed(ref, facts, version.files, _others(seen, ref))
        case ExpertFacts():
            seen = seen_before.of_weights(catalog, facts.tensors)
            files = version.files
            return collect_evidence.of_expert(catalog, ref, facts, files, _others(seen, ref))
        case _:
            return build_evidence(workspace, version.of(BuildFacts))


def _others(seen: Sequence[SeenBefore], ref: str) -> list[SeenBefore]:
    return [line for line in seen if line.ref != ref]
