"""The kinds of error that the registry raises, one for each thing that a caller does differently.

All of them are `BtxError`: they carry the subject, what was found and expected, and the next step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class BrokenRule:
    """A rule that refuses: its name, POLICY/RULE, what it says, and what a person can do."""

    rule: str
    message: str
    remedy: str = ""


class Refused(BtxError):
    """A rule says no.

    Attributes:
        rules: of a gate, the rules that refuse.
        besides: what else is to be known.
    """

    exit_status = 3
    rules: tuple[BrokenRule, ...] = ()
    besides: tuple[str, ...] = ()
    _advice: str = ""

    @classmethod
    def by(
        cls,
        subject: str,
        rules: Sequence[BrokenRule],
        *,
        otherwise: str,
        besides: Sequence[str] = (),
        advice: str = "",
    ) -> "Refused":
        """Return the refusal of a gate.

        Args:
            subject: the candidate, and the gate that was asked.
            rules: those that refuse.
            otherwise: the next step where no rule has a remedy.
            besides: what else is to be known.
            advice: what else can be done.
        """
        found = "; ".join([f"{rule.rule}: {rule.message}" for rule in rules])
        if besides:
            found += f" ({'; '.join(besides)})"
        remedies = dict.fromkeys(rule.remedy for rule in rules if rule.remedy)
        steps = [*remedies, *([advice] if advice else [])]
        refusal = cls(
            subject,
            found=found,
            expected="every rule of the gate satisfied or waived",
            next="; ".join(steps) or otherwise,
        )
        refusal.rules, refusal.besides = tuple(rules), tuple(besides)
        refusal._advice = advice if steps else otherwise
        return refusal

    def __str__(self) -> str:
        if not self.rules:
            return super().__str__()
        lines = [f"{type(self).__name__}: {self.subject}", f"  expected {self.expected}"]
        for number, rule in enumerate(self.rules, 1):
            lines.append(f"  {rule.rule}: {rule.message}")
            # What several rules advise is said once, below the last of them.
            if rule.remedy and rule.remedy not in [later.remedy for later in self.rules[number:]]:
                lines.append(f"    next: {rule.remedy}")
        lines += [f"  {text}" for text in self.besides]
        if self._advice:
            lines.append(f"  next: {self._advice}")
        return "\n".join(lines)
