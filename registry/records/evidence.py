"""What the gates are asked about: one record for each kind of candidate.

In:  facts that a job measured or the catalogue holds.  Out: the plain JSON that policies read, and
that is kept by digest with every verdict. Judging it is governance's.
What a policy may name is derived from these records (`shapes`): every key is always there, null
when it is unknown. The keys marked as older are kept for policies that were written before results
were a list; each says the same as `results`.
"""

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import Field, model_validator

from registry.records import older
from registry.records.base import Record
from registry.records.facts import DataStatement, Spent, Weights
from registry.records.kinds import Kind
from registry.records.results import Result, labels, ratio_interval, worst_of

# A shape as policies' documents write it: "text", "number", "truth", "any", [shape], {key: shape}.
Shape = str | list[Any] | dict[str, Any]
# A company's own facts by name, each in its own type; null where its schema has one that is not
# stated.
OwnEvidence = Mapping[str, Any]


class Evidence(Record):
    """What every gate is told. Governance adds the last two: no job can speak for them."""

    of: ClassVar[Kind]

    kind: str
    ref: str | None = None
    content: str | None = None  # digest of what is judged: files, or a build's members and recipe
    own: OwnEvidence = Field(default_factory=dict)
    # Own facts of the company itself; governance adds them.
    organisation: OwnEvidence = Field(default_factory=dict)
    waivers: tuple["WaiverLine", ...] = ()
    actor: "Asker | None" = None

    def to_json(self) -> dict[str, Any]:
        """Return every key, null where it is unknown; governance's keys only once they are set."""
        told = {"waivers", "actor"} - self.model_fields_set
        return self._dumped(exclude=told)


class WaiverLine(Record):
    """A waiver that let in the candidate, or something that it was made from."""

    rule: str | None = None
    subject: str | None = None
    until: str | None = None  # None: none that still holds
    actor: str | None = None


class Asker(Record):
    """Who asks. The list of people is open (anyone acts) or closed (an auditor keeps it)."""

    name: str
    roles: tuple[str, ...] = ()
    roll: str = "open"
    key: str | None = None  # closed: whether the person's own key is "held" or "not held"


class SeenBefore(Record):
    """A registered version that holds a part of the candidate, or of which it holds a part.

    The share is the larger of the two: of the candidate that stands there, or of that version that
    stands in the candidate.
    """

    ref: str
    by: str  # files | tensors: equal digests; text | weights: nearly the same
    share: float
    status: str | None = None
    license: str | None = None
    same_license: bool | None = None  # whether it means what the candidate's does
    holder: str | None = None


class DataLine(Record):
    """A data version that the candidate was made from."""

    ref: str
    license: str | None = None
    holder: str | None = None
    source: str | None = None
    purpose: str | None = None
    language: str | None = None
    pii: str | None = None
    retain_until: str | None = None
    use: str | None = None
    registered_at: str | None = None
    status: str | None = None
    # Governance adds this and the next.
    own: OwnEvidence = Field(default_factory=dict)
    gate: str | None = None  # what its gate said when it was registered


class ResultLine(Record):
    """The figures of one data version.

    `low` and `high` are the ends of the 95 % interval of the bits per byte; the factors those of
    their ratio to the seed's and to the last release's on the same text, block by block. They are
    null where the text was not measured in blocks.
    """

    data: str
    domain: str
    data_registered_at: str | None = None
    bits_per_byte: float | None = None
    seed_bits_per_byte: float | None = None
    specialist_bits_per_byte: float | None = None  # of the best member trained on it
    previous_bits_per_byte: float | None = None  # of the last release, on this very data version
    accuracy: float | None = None
    seed_accuracy: float | None = None
    new_to_seed: bool | None = None
    general: bool | None = None  # shows what the seed could do: its own data, or for evaluation
    sample: str | None = None  # digest of the text that was measured
    tokens: int | None = None  # of it
    low: float | None = None
    high: float | None = None
    seed_factor_low: float | None = None
    seed_factor_high: float | None = None
    previous_factor_low: float | None = None
    previous_factor_high: float | None = None


class DocumentLicense(Record):
    """A licence that documents of a corpus state themselves."""

    license: str
    alternatives: tuple[tuple[str, ...], ...] = ()  # each a way to comply; all of it applies


class DataEvidence(Evidence, DataStatement):
    """On a corpus that asks to be registered."""

    of = Kind.DATA

    name: str
    license_alternatives: tuple[
        tuple[str, ...], ...
    ] = ()  # each a way to comply; all of it applies
    files: int | None = None
    bytes: int | None = None
    document_licenses: tuple["DocumentLicense", ...] = ()  # that documents state themselves
    seen_before: tuple[SeenBefore, ...] = ()


class SeedEvidence(Evidence):
    """On a seed that asks to be registered."""

    of = Kind.SEED

    name: str
    license: str | None = None
    finite: bool | None = None
    model_type: str | None = None
    seen_before: tuple[SeenBefore, ...] = ()


class ExpertFigures(Record):
    """Older: the figures of the data version on which the expert does worst against its seed."""

    bits_per_byte: float | None = None
    seed_bits_per_byte: float | None = None
    accuracy: float | None = None
    seed_accuracy: float | None = None
    domains: Mapping[str, Any] = {}


class ExpertEvidence(Evidence):
    """On an expert that asks to be registered."""

    of = Kind.EXPERT

    name: str
    mode: str | None = None
    seed: str | None = None
    seed_gate: str | None = None
    data: tuple[DataLine, ...] = ()
    weights: Weights | None = None
    results: tuple[ResultLine, ...] = ()
    general: tuple[ResultLine, ...] = ()  # on what the seed could do, beside its own data
    evaluation: ExpertFigures | None = None  # older
    contamination: float | None = None
    cost: Spent | None = None
    seen_before: tuple[SeenBefore, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _today(cls, value: Any) -> Any:
        return older.evidence(value)


class ApprovalLine(Record):
    """A person who approved the build, and when."""

    actor: str
    at: str
    roles: tuple[str, ...] = ()  # that the person held when it was signed


class MemberLine(Record):
    """An expert of a build."""

    ref: str
    status: str | None = None
    mode: str | None = None
    registered_at: str | None = None
    registrar: str | None = None
    # Governance adds this and the next two.
    own: OwnEvidence = Field(default_factory=dict)
    approvals: tuple[ApprovalLine, ...] = ()
    gate: str | None = None
    licenses: tuple[str | None, ...] = ()
    data: tuple[DataLine, ...] = ()


class BuildFigures(Record):
    """Older: one domain's figures of a build."""

    bits_per_byte: float | None = None
    seed_bits_per_byte: float | None = None
    specialist_bits_per_byte: float | None = None
    accuracy: float | None = None
    new_to_seed: bool | None = None


class PreviousFigures(Record):
    """Older: one domain's figures of the last release."""

    bits_per_byte: float | None = None


class Outliers(Record):
    """Experts that routing uses too little or too much."""

    dead: tuple[str, ...] | None = None
    dominant: tuple[str, ...] | None = None


class DivisionLine(Record):
    """Where the division of the text into domains is worth a look."""

    could_be_one: tuple[tuple[str, ...], ...] = ()  # data versions that nothing tells apart
    could_be_several: tuple[str, ...] = ()  # data versions whose parts teach each other little
    unserved: tuple[str, ...] = ()  # data versions that no expert serves


class BuildEvidence(Evidence):
    """On a build that asks to be made, released or exported."""

    of = Kind.BUILD

    line: str | None = None  # the product line
    registered_at: str | None = None
    # At gate export: what is stated of the export.
    export_own: OwnEvidence = Field(default_factory=dict)
    seed: str | None = None
    seed_gate: str | None = None
    seed_own: OwnEvidence = Field(default_factory=dict)
    seed_license: str | None = None
    # Of the seed, and of what the build grew from where no member names it.
    seed_data: tuple[DataLine, ...] = ()
    members: tuple[MemberLine, ...] = ()
    licenses: tuple[str, ...] = ()  # of the seed, the members and the data of both, one by one
    results: tuple[ResultLine, ...] | None = None
    # The last release of the same product line, which `previous` names below.
    compared_with: str | None = None
    # Data versions of whose text that release was measured on another amount, or alone.
    no_longer_measured: tuple[str, ...] = ()
    evaluation: Mapping[str, BuildFigures] | None = None  # older
    previous: Mapping[str, PreviousFigures] | None = None  # older: only what is measured again
    routing: Outliers | None = None
    division: DivisionLine | None = None
    active_parameters: int | None = None
    total_parameters: int | None = None
    tokens_per_s: float | None = None
    status: str | None = None
    released_at: str | None = None
    draft: bool | None = None  # of an export: whether it is marked as a draft
    registrar: str | None = None
    approvals: tuple[ApprovalLine, ...] = ()
    removal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _today(cls, value: Any) -> Any:
        return older.evidence(value)


EVIDENCE: Mapping[Kind, type[Evidence]] = {
    evidence.of: evidence
    for evidence in (DataEvidence, SeedEvidence, ExpertEvidence, BuildEvidence)
}


def result_lines(
    results: Sequence[Result], before: Mapping[str, Result] | None = None
) -> tuple[ResultLine, ...]:
    """Return the figures as policies read them.

    Args:
        results: of an expert or a build.
        before: the last release's on the same text, by data version.
    """
    return tuple(_line(result, (before or {}).get(result.data)) for result in results)


def _line(result: Result, previous: Result | None) -> ResultLine:
    best, own, seed = result.specialist, result.interval, result.seed_factor
    fall = ratio_interval(result.block_bits, previous.block_bits) if previous else None
    return ResultLine(
        data=result.data,
        domain=result.domain,
        bits_per_byte=result.bits_per_byte,
        seed_bits_per_byte=result.seed_bits_per_byte,
        specialist_bits_per_byte=best.bits_per_byte if best else None,
        previous_bits_per_byte=previous.bits_per_byte if previous else None,
        accuracy=result.accuracy,
        seed_accuracy=result.seed_accuracy,
        new_to_seed=result.new_to_seed,
        general=result.general,
        sample=result.sample.digest if result.sample else None,
        tokens=result.tokens if result.sample else None,
        low=own.low if own else None,
        high=own.high if own else None,
        seed_factor_low=seed.low if seed else None,
        seed_factor_high=seed.high if seed else None,
        previous_factor_low=fall.low if fall else None,
        previous_factor_high=fall.high if fall else None,
    )


def worst(lines: Sequence[ResultLine]) -> ExpertFigures | None:
    """Return the older form of an expert's figures: those of its worst data version.

    So a rule that looks at one domain alone cannot pass an expert that falls on another, whatever
    the order of its data.
    """
    line = worst_of(lines)
    if line is None:
        return None
    figures = {"bits_per_byte", "seed_bits_per_byte", "accuracy", "seed_accuracy"}
    named = labels(lines)
    domains = {named[one.data]: one.model_dump(include=figures) for one in lines}
    return ExpertFigures(**line.model_dump(include=figures), domains=domains)


def shapes() -> dict[str, Shape]:
    """Return what policies may name, by kind of candidate: the form that verdicts keep."""
    return {str(kind): _shape(evidence) for kind, evidence in EVIDENCE.items()}


def _shape(annotation: Any) -> Shape:
    """Return the shape of one type: a record's is a mapping of its fields' shapes."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        fields = annotation.model_fields.items()
        return {field.alias or name: _shape(field.annotation) for name, field in fields}
    for types, shape in (((str,), "text"), ((bool,), "truth"), ((int, float), "number")):
        if annotation in types:
            return shape
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        known = [argument for argument in arguments if argument is not NoneType]
        return _shape(known[0])
    if origin is tuple:
        return [_shape(arguments[0])]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"*": _shape(arguments[1])}
    return "any"
