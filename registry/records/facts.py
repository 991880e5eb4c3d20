"""What is recorded of each kind of version: one record a kind.

In:  the JSON of a row, of any age.  Out: typed facts; and their JSON, as it is stored.
A row is never rewritten. What older rows say in another shape is brought into today's by `older`
when it is read, and the row's own text stays what digests are computed over.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from btx_core.files import stays_inside
from registry.records import older
from registry.records.addresses import Address
from registry.records.base import JsonObject, Record
from registry.records.kinds import HeldOutRule, Kind, Mode, Status
from registry.records.own_facts import OwnValues
from registry.records.results import Result


def _require_inside(path: str) -> str:
    if not stays_inside(path):
        raise ValueError("a path inside the workspace")
    return path


# A folder, relative to the workspace.
FolderPath = Annotated[str, AfterValidator(_require_inside)]


class DvcFolder(Record):
    """A folder that DVC holds: its path in the workspace, and the MD5 that DVC addresses it by."""

    path: FolderPath
    md5: Address | None = None


class Spent(Record):
    """What a training took. None where nobody reported it."""

    tokens: int | None = None
    flops: int | float | None = None
    wall_s: int | float | None = None
    processes: int | None = None  # that computed together, each on a device of its own


class Environment(Record):
    """The programs that made a version: their versions, and the git commit of this code."""

    python: str | None = None
    platform: str | None = None
    packages: Mapping[str, str] = {}
    revision: str | None = None
    changed: bool | None = None  # whether files differed from that commit


class TrainingReport(Spent):
    """What a training wrote about itself."""

    curve: Any = None  # [[step, loss], ...], drawn by the pages
    recipe: JsonObject | None = None
    environment: Environment | None = None

    @property
    def spent(self) -> Spent:
        """What it took, as gates are told."""
        return Spent(tokens=self.tokens, flops=self.flops, wall_s=self.wall_s)

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return older.flat_training(value)


class Ancestry(Record):
    """Whether a checkpoint descends from its seed, as its weights show."""

    descends: bool | None = None
    shared_identical: bool | None = None
    distance: Mapping[str, float | None] = {}


class Problem(Record):
    """One thing about a checkpoint that does not fit its seed."""

    subject: str
    found: str
    expected: str


class Weights(Record):
    """What the comparison of a checkpoint with its seed showed."""

    family: str | None = None
    shapes_match: bool | None = None
    dtype_match: bool | None = None
    vocabulary_match: bool | None = None
    tokenizer_match: bool | None = None
    config_match: bool | None = None  # whether its config computes as the seed's does
    finite: bool | None = None
    ancestry: Ancestry | None = None
    divergence_per_layer: tuple[float, ...] | None = None
    similarity: Mapping[str, float] = {}  # cosine of what training moved with other experts'
    recommendation: str | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def config_problems(self) -> list[Problem]:
        """The settings by which it computes otherwise than its seed."""
        return [one for one in self.problems if ", config" in one.subject]


class Facts(Record):
    """The facts of one kind of version."""

    kind: ClassVar[Kind]

    status: Status | None = None  # how far its making had come when the row was written
    # A company's own facts, as they were stated with the registration.
    own: OwnValues = Field(default_factory=dict)


class Held(Facts):
    """A version whose files lie in a folder that DVC holds."""

    dvc: DvcFolder | None = None


class DataStatement(Record):
    """What the person who registers a corpus states about it.

    Every field here is a fact of the data version, and evidence that a policy may ask about.
    """

    license: str | None = None  # SPDX
    license_choice: str | None = None  # the way to comply that was taken, where it offers several
    source: str | None = None  # where it comes from, in words or as a URL
    holder: str | None = None  # who holds the rights
    purpose: str | None = None  # what it may be used for
    language: str | None = None  # that it is written in: a BCP 47 tag, such as en or de-CH
    pii: str | None = None  # personal data: none | reviewed | present
    retain_until: str | None = None  # ISO date after which it must not be used
    use: str | None = None  # evaluation: it is only measured on; None: it is trained on too

    @property
    def applying_license(self) -> str | None:
        """The licence that is kept: the choice that was recorded, else the whole of it."""
        return self.license_choice or self.license

    def stated(self) -> dict[str, Any]:
        """Return the fields of a statement alone, whatever else the record holds."""
        return {name: getattr(self, name) for name in DataStatement.model_fields}


class TextReading(Record):
    """How the files of a corpus are read: by their names, as the manual says.

    Attributes:
        text_field: the column that holds the text of every row; None: one of the known forms.
        whole: whether the columns `system`, `history`, and `tools` as JSON are taken in; None: no
            row has them, or the version is from before they were.
    """

    text_field: str | None = None
    whole: bool | None = None


class DocumentCounts(Record):
    """What the documents of a corpus say of themselves, counted."""

    documents: int
    text_bytes: int
    conversations: int = 0
    with_id: int = 0
    with_author: int = 0
    with_license: int = 0


class DataFacts(Held, DataStatement):
    """A corpus: what was stated of it, and what was measured."""

    kind = Kind.DATA

    domain: str | None = None
    bytes: int | None = None
    url: str | None = None
    held_out: HeldOutRule | None = None  # None in rows from before there was a choice: files
    sketch: str | None = None  # digest of the document with a sample of its text's windows
    # None in rows from before there was a choice: a *.jsonl file holds a document a line, every
    # other file is one text.
    reading: TextReading | None = None
    counts: DocumentCounts | None = None
    document_licenses: tuple[str, ...] = ()  # that documents state themselves, each once

    @property
    def every_license(self) -> tuple[str | None, ...]:
        """The licence of the whole, and those that its documents state."""
        return (self.applying_license, *self.document_licenses)


class Sketch(Record):
    """A sample of the windows of a text, by which texts are compared without being kept.

    A window's hash is in it when its first `bits` bits are zero (FracMinHash,
    doi:10.1101/2022.01.11.475838), so that two samples of different density can be compared.
    """

    bits: int
    hashes: tuple[str, ...]  # 16 hexadecimal digits each, ascending

    @classmethod
    def of(cls, bits: int, hashes: Iterable[int]) -> Self:
        """Return the sample of these hashes, each a number below 2^64, ascending."""
        return cls(bits=bits, hashes=tuple(f"{number:016x}" for number in hashes))

    def thinned(self, bits: int) -> frozenset[str]:
        """Return the hashes that a sample with so many bits would have."""
        # Of one length, they are in the order of their numbers.
        most = f"{(1 << (64 - bits)) - 1:016x}"
        return frozenset(one for one in self.hashes if one <= most)


class SourceFile(Record):
    """A file in another format that a checkpoint was converted from."""

    name: str
    sha256: str
    bytes: int
    format: str  # gguf
    quantisation: str | None = None  # how most of its weights are stored, such as Q4_1


class SeedFacts(Held):
    """The dense model that experts start from."""

    kind = Kind.SEED

    model_type: str | None = None
    family: str | None = None
    parameters: int | None = None
    license: str | None = None
    data: tuple[str, ...] = ()  # data versions that it was trained on, where they are registered
    converted_from: SourceFile | None = None
    finite: bool | None = None
    train: TrainingReport | None = None
    environment: Environment | None = None
    left_out: tuple[str, ...] = ()  # what lay beside the checkpoint and was not taken
    tensors: Mapping[str, str] = {}  # name to SHA-256

    def is_new(self, data: str) -> bool | None:
        """Tell whether the seed was not trained on a data version.

        Returns:
            None where nothing that it was trained on is recorded.
        """
        return data not in self.data if self.data else None


class ExpertFacts(Held):
    """A branch's registered result."""

    kind = Kind.EXPERT

    domain: str | None = None
    seed: str | None = None
    data: tuple[str, ...] = ()
    licenses: tuple[str | None, ...] = ()
    mode: Mode | None = None
    preflight: Weights | None = None
    results: tuple[Result, ...] = ()  # one for each data version, in the order of `data`
    general: tuple[Result, ...] = ()  # on what the seed could do, beside `data`
    contamination: float | None = None  # share of the held-out text that stands in training text
    train: TrainingReport | None = None
    environment: Environment | None = None
    adapter: str | None = None  # digest of the LoRA adapter that it was merged from
    merged_by: str | None = None  # of an adapter: "sum", or PEFT with its version
    left_out: tuple[str, ...] = ()  # what lay beside the checkpoint and was not taken
    tensors: Mapping[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _today(cls, value: Any) -> Any:
        return older.expert(value)


class Member(Record):
    """One expert of a snapshot or build, in its slot."""

    ref: str
    slot: int
    digest: str | None = None
    file: str | None = None  # of a build: the weight file that holds its blocks


class SnapshotFacts(Facts):
    """A frozen, ordered list of one seed version and expert versions."""

    kind = Kind.SNAPSHOT

    seed: str | None = None
    mode: Mode | None = None
    members: tuple[Member, ...] = ()


class Architecture(Record):
    """How the composed model works on a token."""

    top_k: int  # experts that work on each token, at inference
    routing: str  # top-k | soft | switch | sample
    seed_expert: bool  # whether the seed's own blocks are one of the experts
    active_parameters: int | None = None  # that work on each token
    total_parameters: int | None = None
    context_length: int | None = None  # tokens that it reads and writes at most


class RoutedShare(Record):
    """Where the tokens of one data version's held-out text went.

    layers: for each layer, the share of every expert, in the order of the router's outputs.
    """

    data: str
    domain: str
    layers: tuple[tuple[float, ...], ...] = ()


class Routing(Record):
    """Which experts are used, measured on held-out text."""

    shares: tuple[RoutedShare, ...] = ()
    dead: tuple[str, ...] = ()  # experts that no domain uses
    dominant: tuple[str, ...] = ()  # experts that take nearly everything


class TextsApart(Record):
    """How far apart the texts of two data versions are."""

    left: str
    right: str
    distance: float  # Jensen-Shannon divergence of their tokens, 0 to 1 bit
    by_chance: float  # of the same documents, divided into two parts of these sizes at random


class TextPart(Record):
    """Some passages of a data version's text."""

    passages: int
    words: tuple[str, ...] = ()  # that it uses more than the other part


class TextParted(Record):
    """The two parts of a data version's text that have the least to do with each other."""

    data: str
    taught: float  # the share of what a part's own text teaches of it that the other's teaches
    parts: tuple[TextPart, TextPart]


class StageSeconds(Record):
    """Wall seconds of a build's stages."""

    mix: float | None = None
    tune: float | None = None
    evaluate: float | None = None
    total: float | None = None

    @property
    def overhead(self) -> float:
        """What no stage took: starting them, recording the build."""
        stages = (self.mix, self.tune, self.evaluate)
        return round((self.total or 0.0) - sum(stage or 0.0 for stage in stages), 2)

    def by_part(self) -> dict[str, float]:
        """Return what is known of each part; the total, which is last, is their sum."""
        parts = self.model_dump(exclude_none=True)
        total = parts.pop("total", None)
        return {**parts, "overhead": self.overhead, "total": total} if total is not None else parts


class Cost(Record):
    """What a build took, and what all its members took to train."""

    tune: Spent = Spent()
    total: Spent = Spent()
    unreported: tuple[str, ...] = ()  # members whose training is not in the total: nobody told
    seconds: StageSeconds = StageSeconds()
    tokens_per_s: float | None = None
    active_parameters: int | None = None
    total_parameters: int | None = None


class StoredFile(Record):
    """A file in the content store."""

    path: str
    sha256: str


class BuildRecipe(Record):
    """The settings of a build's steps, every key stated. `btx_core` knows what each means."""

    mix: JsonObject = Field(default_factory=dict)
    tune: JsonObject = Field(default_factory=dict)
    evaluate: JsonObject = Field(default_factory=dict)


class BuildFacts(Held):
    """The composed model of one snapshot and recipe."""

    kind = Kind.BUILD

    line: str = "main"
    snapshot: str | None = None
    seed: str | None = None
    members: tuple[Member, ...] = ()
    content: str | None = None  # digest of seed, members and recipe: same content, same build
    recipe: BuildRecipe = BuildRecipe()
    architecture: Architecture | None = None
    tuned: str | None = None  # what tuning trained: none, router, shared or all
    folder: FolderPath | None = None
    results: tuple[Result, ...] = ()
    tasks: JsonObject | None = None  # figures of the lm-evaluation-harness
    routing: Routing | None = None
    texts_apart: tuple[TextsApart, ...] = ()  # of every two data versions that members trained on
    texts_parted: tuple[
        TextParted, ...
    ] = ()  # of those that members trained on and that have parts
    cost: Cost = Cost()
    mixed: tuple[StoredFile, ...] = ()  # what the mix wrote, before tuning
    tuned_on: tuple[str, ...] = ()
    registrar: str | None = None
    environment: Environment | None = None
    tensors: Mapping[str, str] = {}
    given_recipe: BuildRecipe | None = None  # of rows that also kept the settings as written

    @model_validator(mode="before")
    @classmethod
    def _today(cls, value: Any) -> Any:
        return older.build(value)


class EvaluationFacts(Facts):
    """Reserved: no release of the program has written an evaluation as a version of its own."""

    kind = Kind.EVALUATION


class ExportFacts(Facts):
    """A build written out as a plain checkpoint folder."""

    kind = Kind.EXPORT

    folder: str | None = None
    target: str | None = None
    fused: bool | None = None
    verdict: str | None = None
    transformers: str | None = None  # the least release that loads it
    public_key: str | None = None  # PEM, where the folder is signed
    draft: bool | None = None  # whether it is marked as a draft; only then stated
    license: str | None = None  # under which it went out; None where counsel had to be asked

    @field_validator("verdict", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return str(value) if value is not None else None


FACTS: Mapping[Kind, type[Facts]] = {
    facts.kind: facts
    for facts in (
        DataFacts,
        SeedFacts,
        ExpertFacts,
        SnapshotFacts,
        BuildFacts,
        EvaluationFacts,
        ExportFacts,
    )
}
