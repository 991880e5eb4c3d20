"""The kinds of error that the registry raises, one for each thing that a caller does differently.

All of them are `BtxError`: they carry the subject, what was found and expected, and the next step.
"""

from btx_core.problems import BtxError


class NotFound(BtxError):
    """No such thing is registered."""


class Invalid(BtxError):
    """Text that cannot be read: a reference, a licence, a filter. Wrong usage."""

    exit_status = 2


class Conflict(BtxError):
    """Something else is registered under this name already."""


class Damaged(BtxError):
    """Bytes or rows that are not what was registered."""


class Unavailable(BtxError):
    """The disk is full, or the database cannot be reached or written now; nothing was changed."""


class Refused(BtxError):
    """A rule says no."""

    exit_status = 3
