"""What goes out of use: withdrawn, contested, retired, shredded, erased."""

from registry.records.answers.answer import Answer, WithoutNulls
from registry.records.events import ErasedPart


class Reached(WithoutNulls):
    """Something that a withdrawal reaches."""

    ref: str
    removal: str | None = None
    why: str | None = None
    folder: str | None = None


class WithdrawAnswer(Answer):
    """What a withdrawal reached, and what cures it."""

    ref: str
    why: str
    reached: tuple[Reached, ...] = ()
    clean: tuple[str, ...] = ()
    next: str | None = None


class ContestedAnswer(Answer):
    """A withdrawal is contested, and stands."""

    ref: str
    withdrawn_by: str
    contested_by: str
    at: str


class ShreddedAnswer(Answer):
    """The words behind an event are gone; their digest stays."""

    number: int
    ref: str
    digest: str


class TrainAgain(WithoutNulls):
    """A seed or an expert that has to be trained again, and what it took before."""

    ref: str
    tokens: int | None = None
    flops: int | float | None = None
    wall_s: int | float | None = None


class ErasureCost(Answer):
    """What an erasure takes away, and what has to be made again for it."""

    versions: tuple[str, ...]  # that lose bytes
    files: int
    bytes: int
    documents: int
    seeds: tuple[TrainAgain, ...] = ()
    experts: tuple[TrainAgain, ...] = ()
    builds: tuple[Reached, ...] = ()
    exports: tuple[Reached, ...] = ()
    beside: tuple[str, ...] = ()  # files here that no version holds, and that lose documents
    unreached: tuple[str, ...] = ()  # where bytes may be that nobody can delete from here


class EraseAnswer(Answer):
    """An erasure that is planned, asked for or done."""

    ref: str
    status: str  # planned | asked | erased
    number: int | None = None  # of the event that asked for it
    parts: tuple[ErasedPart, ...]
    cost: ErasureCost
    why: str | None = None  # where the words are kept on this machine
    left: tuple[str, ...] = ()  # folders with what is left, to be registered as new versions
    notes: tuple[str, ...] = ()
    next: str | None = None


class RetireAnswer(Answer):
    """A version that was registered by mistake was retired."""

    ref: str
    status: str
    why: str
