"""What a point of a legal text is answered with, and how a fact that is missing is asked for."""

from dataclasses import dataclass

from registry.formats.dossier import Dossier
from registry.formats.tables import Part
from registry.records.facts import Facts
from registry.records.version import Version


@dataclass(frozen=True)
class Answer:
    """What is recorded for one point, and what the point asks and nobody recorded."""

    recorded: tuple[Part, ...] = ()
    missing: tuple[str, ...] = ()


def command(ref: str, fact: str, *, file: bool = False) -> str:
    """Return the command that states an own fact."""
    value = f"--attach {fact}=FILE" if file else f"{fact}=VALUE"
    return f"btx fact set {ref} {value} --why TEXT"


def missing_fact(
    dossier: Dossier, fact: str, title: str, version: Version[Facts] | None = None
) -> str:
    """Return a missing own fact with the command that states it."""
    ref = str((version or dossier.subject).ref)
    return f"{title} of {ref}: {command(ref, fact)}"
