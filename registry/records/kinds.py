"""The closed sets of words that rows, events and policies use, and the rule that gives a status.

In:  nothing but words.  Out: enumerations whose members are the words as they are stored.
"""

from collections.abc import Collection
from enum import StrEnum


class Kind(StrEnum):
    """What can be registered."""

    DATA = "data"
    SEED = "seed"
    EXPERT = "expert"
    SNAPSHOT = "snapshot"
    BUILD = "build"
    EVALUATION = "evaluation"
    EXPORT = "export"

    @property
    def plural(self) -> str:
        """The word that `btx list` takes."""
        return "data" if self is Kind.DATA else f"{self}s"

    @property
    def look_up(self) -> str:
        """The command that shows what there is of this kind."""
        if self in (Kind.SNAPSHOT, Kind.EVALUATION):
            return f"btx search kind={self}"
        return f"btx list {self.plural}"


KINDS = frozenset(Kind)


class Status(StrEnum):
    """What a version is good for now."""

    REGISTERED = "registered"
    MIXED = "mixed"
    TUNED = "tuned"
    EVALUATED = "evaluated"
    RELEASED = "released"
    WITHDRAWN = "withdrawn"
    ERASED = "erased"
    TAINTED = "tainted"
    RETIRED = "retired"
    REFUSED = "refused"


# Withdrawn or erased itself, made from what was, or registered by mistake: no gate lets it pass.
UNUSABLE: Collection[Status] = frozenset(
    {Status.WITHDRAWN, Status.ERASED, Status.TAINTED, Status.RETIRED}
)


class Mode(StrEnum):
    """How a branch relates to its seed: shared parameters frozen at the seed's, or trained."""

    ANCHORED = "anchored"
    FULL = "full"


class Gate(StrEnum):
    """Where a policy must be asked."""

    REGISTER = "register"
    BUILD = "build"
    RELEASE = "release"
    EXPORT = "export"


class Outcome(StrEnum):
    """What a gate answered."""

    ALLOWED = "allowed"
    WAIVED = "waived"
    REFUSED = "refused"


class DataUse(StrEnum):
    """What a data version may be used for."""

    TRAINING = "training"
    EVALUATION = "evaluation"


class PersonalData(StrEnum):
    """What a corpus holds of people."""

    NONE = "none"
    REVIEWED = "reviewed"
    PRESENT = "present"


class HeldOutRule(StrEnum):
    """What is held out of a data version that has no folder heldout/."""

    FILES = "files"  # one file in twenty; of a single file its last twentieth
    DOCUMENTS = "documents"  # one document in twenty
    ALL = "all"


class Relation(StrEnum):
    """How one version was made from another."""

    TRAINED_ON = "trained_on"
    BRANCHED_FROM = "branched_from"
    SEED = "seed"
    MEMBER = "member"
    COMPOSED_FROM = "composed_from"
    TUNED_ON = "tuned_on"
    GROWN_FROM = "grown_from"
    EXPORTED_FROM = "exported_from"
    SUPERSEDES = "supersedes"


# What the log can say of a version that goes before all else, the first before the others.
FIRST = (Status.ERASED, Status.WITHDRAWN, Status.TAINTED, Status.RETIRED, Status.RELEASED)
# What a row or a report may say itself; all else rests on an event of its own.
MAKING = frozenset({Status.REGISTERED, Status.MIXED, Status.TUNED, Status.EVALUATED})


def status_of(
    logged: Collection[Status], *, progress: str | None = None, recorded: str | None = None
) -> Status:
    """Decide what a version is good for now.

    Args:
        logged: those of `FIRST` that the log says of it.
        progress: the newest status that the log reports of its making.
        recorded: the status that its own row was written with.

    Returns:
        The first that applies, in the order of `FIRST` and of the arguments; else `registered`.

    Raises:
        ValueError: for a reported or recorded status that is none of `MAKING`.
    """
    for status in FIRST:
        if status in logged:
            return status
    said = progress or recorded or Status.REGISTERED
    if said not in MAKING:
        raise ValueError(f"{said!r} is no status of a version in the making")
    return Status(said)
