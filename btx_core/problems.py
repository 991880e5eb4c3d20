"""The base of every error that a person can cause or fix, and the kinds that concern weights.

In:  what was looked at, what was found and expected, and the next step, as text.
Out: one exception that carries the four as attributes; its `str()` is the message to print.
The registry derives its own kinds from the same base (`registry.errors`), so one `except BtxError`
catches them all. Printing is left to the command line.
"""

from typing import ClassVar


class BtxError(Exception):
    """A failure that a person can understand and act on.

    Attributes:
        subject: what was looked at: the path or reference that the user gave.
        found: what was there.
        expected: what should have been there.
        next: what to do now.
        exit_status: the exit status of a command that ends with this error.
    """

    exit_status: ClassVar[int] = 1

    def __init__(
        self, subject: object, *, found: object = "", expected: object = "", next: str = ""
    ) -> None:
        self.subject = str(subject)
        self.found = str(found)
        self.expected = str(expected)
        self.next = next
        super().__init__(self.subject, self.found, self.expected, self.next)

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}: {self.subject}"]
        described = {"found": self.found, "expected": self.expected}
        parts = [f"{name} {text}" for name, text in described.items() if text]
        if parts:
            lines.append("  " + "   ".join(parts))
        if self.next:
            lines.append(f"  next: {self.next}")
        return "\n".join(lines)


class Interrupted(BtxError):
    """Ctrl-C: what ended is kept, and nothing half done is visible."""

    exit_status = 130

    def __init__(self, subject: str) -> None:
        super().__init__(
            subject, found="interrupted", next="run the same command again: it goes on where it was"
        )


class WrongUsage(BtxError):
    """Settings that contradict each other or the folders given."""

    exit_status = 2


class Unsafe(BtxError):
    """A file that must not be read, or that does not say what it holds."""


class Unsupported(BtxError):
    """A model family or layout that has no faithful mixture-of-experts form."""


class ShapeMismatch(BtxError):
    """Tensors that should be alike and are not: name, shape, dtype, vocabulary or tokenizer."""


class NotFinite(BtxError):
    """Weights that hold NaN or infinity."""
