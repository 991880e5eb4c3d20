"""What can go wrong in the registry: one kind per thing that a caller would do differently.

Each carries subject, found, expected and the next step, all plain text, and the exit status of a command that ends with it.
"""


class RegistryError(Exception):
    """Something the registry will not or cannot do; `str` is the message a person reads."""

    exit_status: int = 1

    def __init__(self, subject: str, *, found: str = "", expected: str = "", next: str = "") -> None:
        self.subject, self.found, self.expected, self.next = subject, found, expected, next
        super().__init__(subject, found, expected, next)

    def __str__(self) -> str:
        parts = [f"{name} {text}" for name, text in (("found", self.found), ("expected", self.expected)) if text]
        lines = [f"{type(self).__name__}: {self.subject}"] + (["  " + "   ".join(parts)] if parts else [])
        return "\n".join(lines + ([f"  next: {self.next}"] if self.next else []))


class NotFound(RegistryError):
    """No such thing is registered."""


class Invalid(RegistryError):
    """Words that cannot be read: a reference, a licence, a filter. Wrong usage."""

    exit_status = 2


class Conflict(RegistryError):
    """Something else is registered under this name already."""


class Damaged(RegistryError):
    """Bytes or rows that are not what was registered."""


class Unavailable(RegistryError):
    """The disk is full, or the database cannot be reached or written now; nothing was changed."""


class Refused(RegistryError):
    """A rule says no."""

    exit_status = 3
