"""Register a checkpoint as an expert: collect evidence, ask the gate, take it in, write the row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.contents import ADAPTER_CONFIG, contents_of
from btx_core.checkpoints.token_meaning import read_tokenizer
from btx_core.measuring.evaluation import as_all_take, evaluate_model
from btx_core.measuring.overlap import contamination
from btx_core.measuring.samples import Limits
from btx_core.mixing.preflight import preflight
from btx_core.routed import RoutedModel
from btx_core.texts import TextFolder
from pipelines.jobs import collect_evidence, gates, state_facts
from pipelines.stages import dvc_runs
from pipelines.workspace import folders, orders
from pipelines.workspace.bars import Show
from pipelines.workspace.environment import environment
from pipelines.workspace.general import general_data, refuse_evaluation_data
from pipelines.workspace.recipe_reader import EvaluateRecipe, recipe
from pipelines.workspace.reports import training_report
from pipelines.workspace.workspace import Workspace, check_expert_name
from registry.errors import BrokenRule, Refused
from registry.governance import seen_before
from registry.records.evidence import ExpertEvidence, ResultLine, worst
from registry.records.facts import Ancestry, DataFacts, ExpertFacts, SeedFacts, Weights
from registry.records.kinds import UNUSABLE, Gate, Kind, Mode, Relation
from registry.records.references import parse
from registry.records.results import Figures, Result, beside_seed
from registry.records.version import Version, content_digest


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that asks to be registered, and what it is compared with.

    Attributes:
        name: the expert's name.
        seed: the seed that it was branched from.
        seed_folder: the seed's folder, proven to hold its registered bytes.
        corpora: what it was trained on.
        general: what else shows what the seed could do.
        texts: each of these data versions to its text, proven as well.
        trained_here: whether this workspace trained it, of this seed and data.
    """

    name: str
    seed: Version[SeedFacts]
    seed_folder: Path
    corpora: Sequence[Version[DataFacts]]
    general: Sequence[Version[DataFacts]]
    texts: Mapping[str, TextFolder]
    trained_here: bool = False

    @property
    def data(self) -> tuple[str, ...]:
        """The data versions, in the order that the caller named them."""
        return tuple(str(corpus.ref) for corpus in self.corpora)

    @property
    def own_texts(self) -> list[TextFolder]:
        """What it was trained on, as text."""
        return [self.texts[data] for data in self.data]


def register(
    workspace: Workspace, name: str, source: Path, *, data: Sequence[str], seed: str, show: Show
) -> Version[ExpertFacts]:
    """Register a checkpoint as the next version of `expert/NAME`.

    Measured here: the weights against the seed's; for every data version the bits per byte of
    expert and seed on held-out text; and how much of that text stands in training text.

    Args:
        workspace: where it is registered.
        name: the expert's name.
        source: full weights, or a LoRA adapter.
        data: the data versions that it was trained on.
        seed: the seed version that it was branched from.
        show: opens a progress bar for a label.

    Returns:
        The version; the newest one where it is in use and holds the same files, seed and data.

    Raises:
        Refused: when a policy says no; then no byte stays.
    """
    check_expert_name(name)
    own = state_facts.stated(workspace, Kind.EXPERT)
    catalog = workspace.catalog
    with (
        workspace.writing(f"register {name}"),
        workspace.numbering(Kind.EXPERT, name) as number,
    ):
        candidate = _candidate(workspace, name, data, seed)
        ref = f"expert/{name}@{number}"
        target = workspace.folder(ref)
        candidate = replace(candidate, trained_here=_trained_here(workspace, candidate, source))
        contents = contents_of(source) if source.exists() else None
        taken = contents.taken if contents else None
        if contents:
            # Where it lies first: a refusal names the caller's path, and comes before the copy.
            _check(candidate.seed_folder, source)
        with folders.incoming(source, target, taken=taken) as incoming:
            merge = _merged(candidate.seed_folder, incoming, source)
            files = folders.manifest(incoming)
            newest = catalog.newest_in_use(ExpertFacts, name)
            if newest and _same(newest, candidate, content_digest(files)):
                own.require_same(workspace, newest)
                return replace(newest, created=False)
            facts = _facts(workspace, candidate, incoming, show)
            facts = own.on(facts.model_copy(update=merge))
            if contents and contents.left_out:
                facts = facts.model_copy(update={"left_out": contents.left_out})
            seen = seen_before.of_weights(catalog, facts.tensors, _similarity(facts))
            asked = collect_evidence.of_expert(catalog, ref, facts, files, seen)
            best = _at_best(asked) if not facts.results else None
            _require_settings_of_seed(workspace, ref, best or asked)
            gates.ask(workspace, Gate.REGISTER, ref, asked, at_best=best)
            parents = [(candidate.seed.ref, Relation.BRANCHED_FROM)]
            parents += [(corpus.ref, Relation.TRAINED_ON) for corpus in candidate.corpora]
            with folders.placed(workspace.root, incoming, target, files) as held:
                for file in files:
                    workspace.store.put(target / file.path, file.sha256)
                own.keep(workspace)
                return catalog.register(
                    name,
                    facts.model_copy(update={"dvc": held}),
                    files=files,
                    version=number,
                    parents=parents,
                )


def _candidate(workspace: Workspace, name: str, data: Sequence[str], seed: str) -> Candidate:
    catalog = workspace.catalog
    base = catalog.get_usable(seed, SeedFacts)
    named = [catalog.get(reference, DataFacts) for reference in data]
    refuse_evaluation_data(named)
    corpora = list({corpus.ref: corpus for corpus in named}.values())
    general = [one for one in general_data(workspace, base) if one not in corpora]
    return Candidate(
        name=name,
        seed=base,
        seed_folder=folders.opened(workspace.root, base),
        corpora=corpora,
        general=general,
        texts={
            str(one.ref): folders.opened_text(workspace.root, one) for one in (*corpora, *general)
        },
    )


def _same(newest: Version[ExpertFacts], candidate: Candidate, content: str) -> bool:
    lineage = (newest.facts.seed, newest.facts.data)
    if lineage != (str(candidate.seed.ref), candidate.data):
        return False
    return content_digest(newest.files) == content


def _facts(workspace: Workspace, candidate: Candidate, folder: Path, show: Show) -> ExpertFacts:
    """Measure the checkpoint in `folder` and put together what is recorded of it."""
    # "full" allows shared parameters to have moved; whether they have is measured, and decides.
    others = _others(workspace, candidate)
    checked = preflight(
        candidate.seed_folder,
        folder,
        "full",
        others=others,
        name=candidate.name,
        trained_here=candidate.trained_here,
    )
    weights = Weights.from_json(checked.to_json(), f"preflight of {candidate.name}")
    identical = bool(weights.ancestry and weights.ancestry.shared_identical)
    results = _results(workspace, candidate, folder, show) if _can_run(weights) else {}
    report = training_report(folder)
    return ExpertFacts(
        domain=candidate.corpora[0].ref.name,
        seed=str(candidate.seed.ref),
        data=candidate.data,
        licenses=_licenses(candidate.corpora),
        mode=Mode.ANCHORED if identical else Mode.FULL,
        preflight=weights,
        results=tuple(results[data] for data in candidate.data if results),
        general=tuple(results[str(one.ref)] for one in candidate.general if results),
        contamination=contamination(candidate.own_texts),
        train=report,
        # A branch that was trained elsewhere was made by programs that nobody told us.
        environment=environment() if report else None,
        adapter=None,
        tensors=folders.tensors(folder),
    )


def _can_run(weights: Weights) -> bool:
    """Whether the checkpoint can be measured on text as its seed is."""
    fits = weights.shapes_match and weights.dtype_match
    reads = weights.vocabulary_match and weights.tokenizer_match and weights.config_match
    return bool(weights.finite and fits and reads)


def _require_settings_of_seed(workspace: Workspace, ref: str, evidence: ExpertEvidence) -> None:
    """Refuse a config that no mixture takes, also where older policies have no rule about it.

    Where the policies refuse the candidate for this or another cause, the gate says so itself.
    """
    weights = evidence.weights
    if weights is None or weights.config_match is not False:
        return
    question = gates.question(workspace, Gate.REGISTER, ref, evidence)
    if gates.check(workspace.catalog, question).outcome == "refused":
        return
    settings = [f"{one.subject} {one.found}, not {one.expected}" for one in weights.config_problems]
    rule = BrokenRule(
        "weights/settings",
        f"{ref} computes otherwise than {evidence.seed} by its config: {'; '.join(settings)}",
        "train with the seed's own config, or register the checkpoint under its own seed",
    )
    raise Refused.by(f"{ref} at gate register", [rule], otherwise=rule.remedy)


def _at_best(evidence: ExpertEvidence) -> ExpertEvidence:
    """Return the evidence with all at its best that could not be measured: figures, ancestry."""
    best = tuple(
        ResultLine(
            data=line.ref,
            domain=parse(line.ref).name,
            bits_per_byte=0.0,
            seed_bits_per_byte=1.0,
        )
        for line in evidence.data
    )
    weights = evidence.weights
    if weights and not (weights.finite and weights.shapes_match and weights.dtype_match):
        # Values that are not finite, or have no counterpart, say nothing of where they come from.
        descends = Ancestry(descends=True, shared_identical=True)
        weights = weights.model_copy(update={"ancestry": descends})
    return evidence.model_copy(
        update={"results": best, "evaluation": worst(best), "weights": weights}
    )


def _trained_here(workspace: Workspace, candidate: Candidate, source: Path) -> bool:
    """Tell whether a folder is what DVC holds of a training here, of this very seed and data."""
    branch = workspace.work / "branches" / candidate.name
    if source.resolve() != branch.resolve() or not (workspace.root / orders.BRANCHES).is_file():
        return False
    order = orders.read_branches(workspace.root).get(candidate.name)
    if order is None or (order.data.ref,) != candidate.data:
        return False
    seed = (str(candidate.seed.ref), content_digest(candidate.seed.files))
    if (order.seed.ref, order.seed.digest) != seed:
        return False
    return not dvc_runs.stale(workspace.root, [f"train@{candidate.name}"])


def _licenses(corpora: Sequence[Version[DataFacts]]) -> tuple[str | None, ...]:
    """Return every licence once; None where one is not stated, so that a rule can see it."""
    licenses = {license for one in corpora for license in one.facts.every_license}
    return tuple(sorted(licenses, key=lambda license: (license is None, license or "")))


def _others(workspace: Workspace, candidate: Candidate) -> dict[str, Path]:
    """Return the folders of experts of this seed that the candidate is compared with.

    They are the newest version of each other expert, by name, and every expert that was withdrawn
    or is tainted, by reference.
    """
    experts = workspace.catalog.versions(ExpertFacts, seed=str(candidate.seed.ref))
    statuses = workspace.catalog.statuses(experts)
    others = {}
    for version in experts:
        folder = folders.folder_of(workspace.root, version)
        if statuses[version.ref] in UNUSABLE and folder.is_dir():
            others[str(version.ref)] = folder
        elif version.ref.name != candidate.name:
            others[version.ref.name] = folder
    return others


def _similarity(facts: ExpertFacts) -> dict[str, float]:
    """Return the cosines with experts that were withdrawn or are tainted, by reference."""
    measured = facts.preflight.similarity if facts.preflight else {}
    return {ref: cosine for ref, cosine in measured.items() if "@" in ref}


def _check(seed_folder: Path, source: Path) -> None:
    """Check what can be known of a checkpoint or an adapter from its headers."""
    if not (source / ADAPTER_CONFIG).is_file():
        Checkpoint.open(source)
        return
    # Imported here: only adapters need peft.
    from btx_core.training.adapter import Adapter

    Adapter.open(seed_folder, source)


def _merged(base: Path, folder: Path, source: Path) -> dict[str, str]:
    """Replace a LoRA adapter in the folder by the merged checkpoint; return the facts of that."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return {}
    # Imported here: only adapters need peft.
    from btx_core.training import adapter

    digest = content_digest(folders.manifest(folder))
    return {"adapter": digest, "merged_by": adapter.merge_in_place(base, folder, source)}


def _results(
    workspace: Workspace, candidate: Candidate, folder: Path, show: Show
) -> dict[str, Result]:
    """Measure expert and seed on the same held-out text of every data version."""
    limits = Limits(**recipe(EvaluateRecipe, workspace.settings.recipe.evaluate).text)
    limits = as_all_take(limits, [folder, candidate.seed_folder])
    expert = _measured(folder, candidate, limits, show, "evaluate expert")
    seed_label = f"evaluate {candidate.seed.ref}"
    seed = _measured(candidate.seed_folder, candidate, limits, show, seed_label)
    general = {*candidate.seed.facts.data, *(str(one.ref) for one in candidate.general)}
    return {
        data: Result(
            data=data,
            domain=parse(data).name,
            **own.to_json(),
            **beside_seed(own, seed[data]),
            new_to_seed=candidate.seed.facts.is_new(data),
            general=data in general,
        )
        for data, own in expert.items()
    }


def _measured(
    folder: Path, candidate: Candidate, limits: Limits, show: Show, label: str
) -> dict[str, Figures]:
    """Return the figures of one model by data version."""
    # Builds have the seed's too: with another end of text or template it would be other text.
    tokenizer = read_tokenizer(candidate.seed_folder)
    with show(label) as progress:
        model = RoutedModel.load(folder)
        measured = evaluate_model(model, tokenizer, candidate.texts, limits, progress)
    return {
        data: Figures.from_json(figures.to_json(), f"{label}, {data}")
        for data, figures in measured.domains.items()
    }
