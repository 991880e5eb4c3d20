"""Say what the gates would say of one version now. Nothing is logged."""

from collections.abc import Mapping, Sequence

from pipelines.jobs import collect_evidence, gates
from pipelines.jobs.release import build_evidence
from pipelines.workspace.workspace import Workspace
from registry.governance import gate
from registry.records.answers import PolicyCheckAnswer, VerdictAnswer
from registry.records.evidence import Evidence
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts, SeedFacts
from registry.records.kinds import Gate, Kind
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
        question = gates.question(workspace, name, ref, known)
        verdict = gate.check(workspace.catalog, question)
        verdicts[str(name)] = VerdictAnswer.from_json(verdict.to_json(), ref)
    return PolicyCheckAnswer(ref=ref, verdicts=verdicts)


def _evidence(workspace: Workspace, version: Version[Facts]) -> Evidence:
    ref, facts = str(version.ref), version.facts
    match facts:
        case DataFacts():
            return collect_evidence.of_data(ref, facts, len(version.files))
        case SeedFacts():
            return collect_evidence.of_seed(ref, facts)
        case ExpertFacts():
            return collect_evidence.of_expert(workspace.catalog, ref, facts)
        case _:
            return build_evidence(workspace, version.of(BuildFacts))
