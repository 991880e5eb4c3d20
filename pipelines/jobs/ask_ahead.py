"""Ask the register gate before the work what it will refuse for whatever training brings.

In:  the seed and the data that a branch is to be trained on.
Out: nothing where the gate would let in a good branch of them; else its refusal. Evidence that only
training can bring is taken at its best, so a rule that says no says no to what is known already.
Nothing is logged: the gate is asked again, of the branch itself, when it is registered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from btx_core.checkpoints.token_meaning import read_tokenizer
from btx_core.columns import Unreadable
from btx_core.measuring.overlap import contamination
from btx_core.texts import TextFolder
from btx_core.tokens import Tokens
from pipelines.jobs import collect_evidence, gates, state_facts
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.records.facts import (
    Ancestry,
    DataFacts,
    ExpertFacts,
    SeedFacts,
    TrainingReport,
    Weights,
)
from registry.records.kinds import Gate, Kind, Mode
from registry.records.results import Result
from registry.records.version import Version


@dataclass(frozen=True)
class Intent:
    """A branch that is to be trained.

    Attributes:
        name: the expert's.
        seed: what it is to be branched from.
        data: what it is to be trained on.
    """

    name: str
    seed: Version[SeedFacts]
    data: Version[DataFacts]


def require_readable(workspace: Workspace, intents: Sequence[Intent], *, keep: bool) -> None:
    """Check that the seed's chat template takes every conversation of the data.

    Args:
        workspace: where they are registered.
        intents: the branches.
        keep: whether the token files that this makes are kept for the training.

    Raises:
        Unreadable: naming the first conversation that it does not take.
    """
    for intent in intents:
        counts = intent.data.facts.counts
        if counts is None or not counts.conversations:
            continue
        text = folders.opened_text(workspace.root, intent.data)
        if not keep:
            text = TextFolder(text.path, text.rule, None, text.reading)
        tokenizer = read_tokenizer(folders.folder_of(workspace.root, intent.seed))
        try:
            Tokens.of(text, tokenizer)
        except Unreadable as error:
            inside = error.subject.removeprefix(f"{text.path}/")
            raise Unreadable(
                f"{intent.data.ref}, {inside} with {intent.seed.ref}",
                found=error.found,
                expected=error.expected,
                next=error.next,
            ) from None


def require_admissible(workspace: Workspace, intents: Sequence[Intent]) -> None:
    """Ask the gate about branches of which all that is not known yet is good.

    Args:
        workspace: where seed and data are registered.
        intents: the branches.

    Raises:
        Refused: naming the rules that say no to the first branch that is refused.
    """
    own = state_facts.stated(workspace, Kind.EXPERT)
    overlaps: dict[str, float] = {}
    for intent in intents:
        data = str(intent.data.ref)
        if data not in overlaps:
            text = folders.opened_text(workspace.root, intent.data)
            overlaps[data] = contamination([text])
        number = workspace.next_number(Kind.EXPERT, intent.name)
        ref = f"expert/{intent.name}@{number}"
        facts = own.on(_at_best(intent, overlaps[data]))
        evidence = collect_evidence.of_expert(workspace.catalog, ref, facts, ())
        question = gates.question(workspace, Gate.REGISTER, ref, evidence)
        verdict = gates.check(workspace.catalog, question)
        if verdict.outcome == "refused":
            raise gates.refusal(
                f"{ref}, before it is trained on {data}",
                verdict.refusals(),
                advice="--anyway trains it all the same, for a waiver afterwards",
            )


def _at_best(intent: Intent, overlap: float) -> ExpertFacts:
    """Return the facts of the best branch that training can bring."""
    data = str(intent.data.ref)
    licenses = dict.fromkeys(intent.data.facts.every_license)
    sound = Weights(
        shapes_match=True,
        dtype_match=True,
        vocabulary_match=True,
        tokenizer_match=True,
        config_match=True,
        finite=True,
        ancestry=Ancestry(descends=True, shared_identical=True),
    )
    best = Result(
        data=data,
        domain=intent.data.ref.name,
        bits_per_byte=0.0,
        seed_bits_per_byte=1.0,
        new_to_seed=intent.seed.facts.is_new(data),
    )
    return ExpertFacts(
        domain=intent.data.ref.name,
        seed=str(intent.seed.ref),
        data=(data,),
        licenses=tuple(licenses),
        mode=Mode.ANCHORED,
        preflight=sound,
        results=(best,),
        contamination=overlap,
        train=TrainingReport(tokens=0, flops=0, wall_s=0),
    )
