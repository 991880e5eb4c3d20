"""Everything that is recorded of one version, and what differs between two."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from registry.records.answers.answer import Answer, AsStored, WithoutNulls
from registry.records.answers.figures import DomainFigures, ExpertEvaluation, RoutingShares
from registry.records.answers.registering import NoteAnswer
from registry.records.base import JsonObject
from registry.records.events import Judged
from registry.records.facts import (
    Architecture,
    BuildFacts,
    Cost,
    DataStatement,
    DvcFolder,
    Environment,
    Member,
    SourceFile,
    StoredFile,
    TrainingReport,
    Weights,
)
from registry.records.kinds import Kind
from registry.records.own_facts import OwnFact
from registry.records.results import Result


class FileLine(Answer):
    """One file of a version."""

    path: str
    bytes: int
    sha256: str
    linked: bool = False
    md5: str | None = None


# How the name of a change ends that nobody compares by eye: digests, and figures of single blocks.
FOR_PROGRAMS = (
    ".block_bits",
    ".seed_block_bits",
    ".digest",
    ".sample",
    ".sample.block_bytes",
    ".sample.documents",
    ".sample.tokens_in_all",
)


class Change(Answer):
    """One fact that differs between two versions."""

    what: str
    left: Any = None  # a fact of any type
    right: Any = None

    @property
    def for_programs(self) -> bool:
        """Whether nobody compares it by eye."""
        return self.what.endswith(FOR_PROGRAMS)


class FileChanges(Answer):
    """Paths of files, by what became of them."""

    same: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    only_left: tuple[str, ...] = ()
    only_right: tuple[str, ...] = ()


class DiffAnswer(AsStored):
    """What differs between two versions of one kind."""

    left: str
    right: str
    changes: tuple[Change, ...] = ()
    files: FileChanges
    notes: tuple[str, ...] = ()  # what cannot be compared, and why


class ContestLine(WithoutNulls):
    """Who contests a withdrawal, and when; why, where the words are kept on this machine."""

    by: str
    at: str
    why: str | None = None


class Shown(AsStored):
    """Everything that is recorded of one version."""

    printed_last = ("own", "files", "gates")

    ref: str
    status: str
    digest: str
    registered_at: str
    actor: str
    contested: tuple[ContestLine, ...] = ()  # of a withdrawn version
    own: Mapping[str, OwnFact] = Field(default_factory=dict)  # as they are stated now
    files: tuple[FileLine, ...] = ()
    gates: tuple[Judged, ...] = ()
    aliases: tuple[str, ...] = ()
    notes: tuple[NoteAnswer, ...] = ()


class ShownDataAnswer(DataStatement, Shown):
    """A data version."""

    domain: str | None = None
    bytes: int | None = None
    url: str | None = None
    dvc: DvcFolder | None = None


class ShownSeedAnswer(Shown):
    """A seed."""

    model_type: str | None = None
    family: str | None = None
    parameters: int | None = None
    license: str | None = None
    data: tuple[str, ...] = ()
    converted_from: SourceFile | None = None
    finite: bool | None = None
    train: TrainingReport | None = None
    environment: Environment | None = None
    left_out: tuple[str, ...] = ()
    dvc: DvcFolder | None = None


class ShownExpertAnswer(Shown):
    """An expert."""

    domain: str | None = None
    seed: str | None = None
    data: tuple[str, ...] = ()
    licenses: tuple[str | None, ...] = ()
    mode: str | None = None
    preflight: Weights | None = None
    evaluation: ExpertEvaluation | None = None
    results: tuple[Result, ...] = ()
    contamination: float | None = None
    train: TrainingReport | None = None
    environment: Environment | None = None
    adapter: str | None = None
    merged_by: str | None = None
    left_out: tuple[str, ...] = ()
    dvc: DvcFolder | None = None


class ShownSnapshotAnswer(Shown):
    """A snapshot."""

    seed: str | None = None
    mode: str | None = None
    members: tuple[Member, ...] = ()


class ShownBuildAnswer(Shown):
    """A build. `recipe` holds the settings as given, and under `resolved` every key of them."""

    line: str = "main"
    snapshot: str | None = None
    seed: str | None = None
    members: tuple[Member, ...] = ()
    content: str | None = None
    recipe: JsonObject = Field(default_factory=dict)
    architecture: Architecture | None = None
    folder: str | None = None
    evaluation: Mapping[str, DomainFigures] = {}
    results: tuple[Result, ...] = ()
    previous: Mapping[str, DomainFigures] | None = None  # `evaluation` of the line's build before
    tasks: JsonObject | None = None
    routing: RoutingShares | None = None
    cost: Cost = Cost()
    mixed: tuple[StoredFile, ...] = ()
    tuned_on: tuple[str, ...] = ()
    registrar: str | None = None
    environment: Environment | None = None
    dvc: DvcFolder | None = None


class ShownExportAnswer(Shown):
    """An export."""

    folder: str | None = None
    target: str | None = None
    fused: bool | None = None
    verdict: str | None = None
    transformers: str | None = None
    public_key: str | None = None


SHOWN: Mapping[Kind, type[Shown]] = {
    Kind.DATA: ShownDataAnswer,
    Kind.SEED: ShownSeedAnswer,
    Kind.EXPERT: ShownExpertAnswer,
    Kind.SNAPSHOT: ShownSnapshotAnswer,
    Kind.BUILD: ShownBuildAnswer,
    Kind.EXPORT: ShownExportAnswer,
}


def recipe_of(facts: BuildFacts) -> JsonObject:
    """Return a build's settings as they were given, and under `resolved` with every key."""
    if facts.given_recipe is None:
        return facts.recipe.to_json()
    return {**facts.given_recipe.to_json(), "resolved": facts.recipe.to_json()}
