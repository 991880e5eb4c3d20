"""The few ways in which work on weights can fail.

In:  what was looked at, found and expected, and the next step, as words.  Out: one exception with the four as attributes.
Rendering for a terminal is the caller's work; nothing here knows a registry or a policy.
"""

from typing import ClassVar


class BtxCoreError(Exception):
    """One failure that a person can mend. `str()` is its whole message."""

    exit_status: ClassVar[int] = 1

    def __init__(self, subject: object, *, found: object, expected: object, next: str) -> None:
        self.subject, self.found, self.expected, self.next = str(subject), str(found), str(expected), next
        super().__init__(self.subject, self.found, self.expected, self.next)

    def __str__(self) -> str:
        kind = type(self).__name__
        return f"{kind}: {self.subject}\n  found {self.found}   expected {self.expected}\n  next: {self.next}"


class WrongUsage(BtxCoreError):
    """Settings that contradict each other or the folders given."""

    exit_status = 2


class Unsafe(BtxCoreError):
    """A file that must not be read, or that does not say what it holds."""


class Unsupported(BtxCoreError):
    """A model family or layout that has no faithful mixture-of-experts form."""


class ShapeMismatch(BtxCoreError):
    """Tensors that should be alike and are not: name, shape, dtype, vocabulary or tokenizer."""


class NotFinite(BtxCoreError):
    """Weights that hold NaN or infinity."""


class NotDescended(BtxCoreError):
    """A checkpoint that was not branched from the seed it is mixed with."""
