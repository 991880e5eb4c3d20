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
    REFUSED = "refused"


# Withdrawn or erased itself, or made from what was: no gate lets it pass.
UNUSABLE: Collection[Status] = frozenset({Status.WITHDRAWN, Status.ERASED, Status.TAINTED})


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


def status_of(
    *,
    erased: bool,
    withdrawn: bool,
    tainted: bool,
    released: bool,
    progress: str | None,
    recorded: str | None,
) -> Status:
    """Decide what a version is good for now.

    Args:
        erased: the log says that bytes of the version were erased.
        withdrawn: the log withdraws the version itself.
        tainted: the log withdraws or erases something that it was made from.
        released: the log releases it.
        progress: the newest status that the log reports of its making.
        recorded: the status that its own row was written with.

    Returns:
        The first that applies, in the order of the arguments; else `registered`.

    Raises:
        ValueError: for a reported or recorded status that is no status.
    """
    if erased:
        return Status.ERASED
    if withdrawn:
        return Status.WITHDRAWN
    if tainted:
        return Status.TAINTED
    if released:
        return Status.RELEASED
    return Status(progress or recorded or Status.REGISTERED)
