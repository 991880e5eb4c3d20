"""What policies say, and what people decide: verdicts, approvals, waivers, releases."""

from collections.abc import Mapping

from registry.records.answers.answer import Answer
from registry.records.base import JsonObject


class RuleWaiver(Answer):
    """An exception that a rule made; `id` is the digest of the event that signed it."""

    rule: str
    subject: str
    until: str
    actor: str
    why: str
    id: str = ""
    content: str | None = None
    excused: JsonObject | None = None


class RuleAnswer(Answer):
    """What one rule said: allowed, waived or refused; warned or noted where it does not deny."""

    policy: str
    rule: str
    outcome: str
    message: str = ""
    remedy: str = ""
    waiver: RuleWaiver | None = None


class VerdictAnswer(Answer):
    """What a gate said, rule by rule."""

    gate: str
    subject: str
    outcome: str
    at: str
    rules: tuple[RuleAnswer, ...] = ()


class ReleaseAnswer(Answer):
    """A build was released."""

    ref: str
    status: str
    verdict: VerdictAnswer


class PolicyCheckAnswer(Answer):
    """What each gate would say of a version now."""

    ref: str
    verdicts: Mapping[str, VerdictAnswer]


class PolicyAdoptAnswer(Answer):
    """A set of policies was adopted, or would be."""

    status: str  # adopted | unchanged | planned
    digest: str
    before: str | None = None  # digest of the set that was valid until then
    policies: int
    changes: tuple[str, ...] = ()  # a unified diff
    facts: str = "unchanged"  # the schema of own facts: adopted | unchanged | planned


class PolicyTryRow(Answer):
    """What a set of policies would say of one version at one gate, beside what was logged last."""

    ref: str
    gate: str
    logged: str | None = None
    now: str
    rules: tuple[str, ...] = ()  # those that refuse


class FailedCase(Answer):
    """A policy's test case that came out otherwise than expected."""

    suite: str
    case: str
    expected: str
    found: str


class PolicyTestAnswer(Answer):
    """How the policies did in their own tests."""

    policies: int
    rules: int
    cases: int
    failed: tuple[FailedCase, ...] = ()


class RetractedAnswer(Answer):
    """An approval or a waiver was taken back."""

    ref: str
    what: str
    of: str
    retracted_by: str


class ApprovedAnswer(Answer):
    """A build was approved."""

    ref: str
    approved_by: str
    at: str


class WaivedAnswer(Answer):
    """An exception was signed."""

    rule: str
    ref: str
    until: str
    waived_by: str
    content: str | None = None
    excused: JsonObject | None = None
