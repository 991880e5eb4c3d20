"""Training, rebuilding, mixing and exporting, and the forecasts of them."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from registry.records.answers.answer import Answer


class TuningAnswer(Answer):
    """What a build is tuned on from, and what that takes beside tuning from nothing.

    Attributes:
        from_: a build, or the word `nothing`.
        steps: of the optimiser.
        tokens: read in all steps.
        flops: floating point operations; None: not known yet.
        from_nothing_tokens: of a tuning from nothing by the same recipe.
        from_nothing_flops: of the same; None: not known yet.
    """

    from_: str = Field(alias="from")
    steps: int
    tokens: int
    flops: float | None = None
    from_nothing_tokens: int
    from_nothing_flops: float | None = None


class RebuildAnswer(Answer):
    """What a rebuild did."""

    build: str | None
    status: str
    ran: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    bytes_written: int = 0
    bytes_linked: int = 0
    seconds: Mapping[str, int | float] = Field(default_factory=dict)
    tuning: TuningAnswer | None = None  # None: nothing was built


class MemberChange(Answer):
    """What becomes of one expert against the line's newest build."""

    ref: str
    slot: int | None
    change: Literal["added", "kept", "replaced", "removed"]
    before: str | None


class PlannedFile(Answer):
    """One weight file that a rebuild would write or link."""

    file: str
    bytes: int
    action: Literal["write", "link"]


class PlannedStage(Answer):
    """Where a stage would run.

    Attributes:
        threads: of each process; None where it computes on GPUs, or takes every core.
        needed_bytes: of memory, for each process, by the sizes of the model; None: not known.
        available_bytes: what each process has there; None: not known from here.
    """

    stage: str
    executor: str
    nodes: int
    processes: int
    gpus: int
    threads: int | None
    needed_bytes: int | None = None
    available_bytes: int | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the memory is enough; None where that is not known."""
        if self.needed_bytes is None or self.available_bytes is None:
            return None
        return self.needed_bytes <= self.available_bytes


class PlannedBranch(Answer):
    """A branch, and whether it would be trained or is there already: `train` or `reuse`."""

    expert: str
    seed: str
    data: str
    action: str


class TrainForecastAnswer(Answer):
    """What a training would do."""

    branches: tuple[PlannedBranch, ...]
    place: PlannedStage


class Price(Answer):
    """What some branches, their registered files and a rebuild take.

    Attributes:
        tokens: read in training and tuning.
        flops: floating point operations; None: not known yet.
        seconds: of training and rebuilding, one after the other; None: not known yet.
        bytes: that are written: registered files and the build's weights.
    """

    tokens: int
    flops: float | None = None
    seconds: float | None = None
    bytes: int


class PriceOfOneMore(Answer):
    """What one more expert like those of a build would cost.

    Attributes:
        experts: how many there would be with it.
        grown: whether the rebuild would go on from the build before.
        measured_on: the build whose times and cost were scaled.
        one_more: one branch and a rebuild.
        from_nothing: every branch, and a build that shares nothing with an earlier one.
    """

    experts: int
    grown: bool
    measured_on: str
    one_more: Price
    from_nothing: Price


class ForecastAnswer(RebuildAnswer):
    """What a rebuild would do."""

    stages: tuple[PlannedStage, ...] = ()
    line: str | None = None
    changes: tuple[MemberChange, ...] = ()
    weights: tuple[PlannedFile, ...] = ()
    free_bytes: int | None = None  # on the disk of the workspace
    cost: Mapping[str, int | float] = Field(default_factory=dict)
    chosen: Mapping[str, int | float] = Field(default_factory=dict)  # what tuning left open: "auto"
    measured_on: str | None = None  # the build whose times and cost were scaled
    refused_by: tuple[str, ...] = ()  # rules of gate build that would refuse it, and why
    price: PriceOfOneMore | None = None  # of another expert like the members


class MixAnswer(Answer):
    """A mixture was written."""

    folder: str
    members: tuple[str, ...]
    bytes_written: int
    bytes_linked: int


class ExportAnswer(Answer):
    """A build was written out."""

    ref: str
    folder: str
    target: str
    fused: bool
    verdict: str
    bytes_written: int
    transformers: str | None = None  # the least release that loads it
    verify: str | None = None  # the command that checks the signature
    public_key: str | None = None
    license: str | None = None  # under which it goes out; None where counsel has to be asked
    open: tuple[str, ...] = ()  # what of licences nobody has answered
    next: str | None = None  # how the program that it was exported for takes it
