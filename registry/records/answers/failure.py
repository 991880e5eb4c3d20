"""What a command or the pages answer where something fails or is refused."""

from btx_core.problems import BtxError
from registry.errors import Refused
from registry.records.answers.answer import Answer


class ErrorAnswer(Answer):
    """A failure: what was looked at, what was there, what should have been, what to do now."""

    kind: str  # Refused, NotFound, Invalid, ...: what a caller does differently
    subject: str
    found: str
    expected: str
    next: str


class RefusingRule(Answer):
    """A rule that refuses, by its name POLICY/RULE, and what a person can do."""

    rule: str
    message: str
    remedy: str


class FailureAnswer(Answer):
    """What a command prints with `--json` where it fails or is refused."""

    error: ErrorAnswer
    rules: tuple[RefusingRule, ...] = ()  # where a gate refused


def failure_of(problem: BtxError) -> FailureAnswer:
    """Return the answer that a failure is, with its rules where a gate refused."""
    error = ErrorAnswer(
        kind=type(problem).__name__,
        subject=problem.subject,
        found=problem.found,
        expected=problem.expected,
        next=problem.next,
    )
    broken = problem.rules if isinstance(problem, Refused) else ()
    return FailureAnswer(error=error, rules=tuple(RefusingRule(**vars(rule)) for rule in broken))
