"""Facts of a company's own: what it may state of what is registered, and what it has stated.

In:  a schema as `facts.yaml` writes it; values.  Out: typed definitions; values checked by them.
Who stated a fact, and whether that counts, is governance's.
"""

import re
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)

from registry.errors import Invalid
from registry.records.base import Record

# The own fact that holds the text of a licence.
LICENCE_TEXT = "licence_text"
ORGANISATION = "organisation"
FactKind = Literal["data", "seed", "expert", "build", "export", "organisation"]
KINDS_STATED: tuple[FactKind, ...] = get_args(FactKind)
FactRole = Literal["registrar", "approver", "auditor"]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TRUTH: Mapping[str, bool] = {"true": True, "yes": True, "false": False, "no": False}


class FactType(StrEnum):
    """What the value of a fact is."""

    TEXT = "text"
    TEXTS = "texts"
    NUMBER = "number"
    TRUTH = "truth"
    DATE = "date"
    FILE = "file"


class Attachment(Record):
    """A file that is kept in the store beside what it speaks of: a contract, a licence's text."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int


OwnValue = Annotated[
    StrictBool | StrictInt | StrictFloat | str | tuple[str, ...] | Attachment,
    Field(union_mode="left_to_right"),
]
OwnValues = Mapping[str, OwnValue]


class FactDefinition(BaseModel):
    """One fact that a company states.

    Attributes:
        type: what its values are.
        kinds: what it is stated of.
        required: whether nothing of these kinds is registered without it.
        set_by: the roles that may state it, on a closed list of actors.
        public: whether it may leave the company, in reports for everybody.
        title: what people read in place of its name.
        values: those that it may have; any where none is named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: FactType = FactType.TEXT
    kinds: tuple[FactKind, ...] = Field(min_length=1)
    required: bool = False
    set_by: tuple[FactRole, ...] = Field(default=("registrar", "approver", "auditor"), min_length=1)
    public: bool = False
    title: str = ""
    values: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _can_be_stated(self) -> "FactDefinition":
        if self.values and self.type not in (FactType.TEXT, FactType.TEXTS):
            raise ValueError("values for a type text or texts alone")
        registered = set(self.kinds) - {ORGANISATION}
        if self.required and registered and "registrar" not in self.set_by:
            raise ValueError("a registrar among set_by, for what a registration requires")
        return self


class FactSchema(BaseModel):
    """Every fact that a company states, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: dict[str, FactDefinition] = {}

    @model_validator(mode="after")
    def _named(self) -> "FactSchema":
        for name in self.facts:
            if not _NAME.fullmatch(name):
                raise ValueError(f"names of a-z, 0-9 and _, not {name!r}")
        return self

    def of_kind(self, kind: str) -> dict[str, FactDefinition]:
        """Return the facts that are stated of one kind."""
        return {name: one for name, one in self.facts.items() if kind in one.kinds}

    def to_json(self) -> dict[str, Any]:
        """Return the schema as it is kept, with all defaults written out."""
        return self.model_dump(mode="json")


class OwnFact(Record):
    """One fact as it is stated now.

    Attributes:
        key: its name in the schema.
        value: what was stated.
        type: what its values are.
        title: what people read in place of its name.
        public: whether it may leave the company.
        at: when it was stated.
        actor: who stated it.
        why: the reason of an amendment; empty for what was stated with the registration.
    """

    key: str
    value: OwnValue
    type: FactType = FactType.TEXT
    title: str = ""
    public: bool = False
    at: str = ""
    actor: str = ""
    why: str = ""

    @property
    def label(self) -> str:
        """What people read as its name."""
        return self.title or self.key.replace("_", " ")

    @property
    def text(self) -> str:
        """The value as people read it."""
        return value_text(self.value)


def attachment(value: object) -> Attachment | None:
    """Return an attached file from plain JSON; None for anything else."""
    try:
        return Attachment.model_validate(value)
    except ValidationError:
        return None


def plain(values: OwnValues) -> dict[str, Any]:
    """Return values as plain JSON, as gates are shown them."""
    return {
        key: value.to_json() if isinstance(value, Attachment) else value
        for key, value in values.items()
    }


def value_text(value: OwnValue) -> str:
    """Return a value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, Attachment):
        return f"{value.name} (sha256 {value.sha256})"
    return str(value)


def checked(name: str, definition: FactDefinition, value: object) -> OwnValue:
    """Return a value as the schema types it.

    Args:
        name: the fact's name, for the error message.
        definition: what the schema says of it.
        value: text as typed, or what YAML holds; an Attachment for a file.

    Raises:
        Invalid: for a value of another type, or none of those that the fact may have.
    """
    typed = _typed(definition.type, value)
    if typed is None:
        raise Invalid(
            f"fact {name}",
            found=repr(value)[:80],
            expected=_EXPECTED[definition.type].format(name=name),
            next="facts.yaml says of which type each fact is",
        )
    if not _is_whole(value_text(typed)):
        raise Invalid(
            f"fact {name}",
            found=repr(value_text(typed))[:80],
            expected="text of whole characters, also in the name of a file",
            next="write it in UTF-8",
        )
    stated = typed if isinstance(typed, tuple) else (typed,)
    if definition.values and not set(stated) <= set(definition.values):
        raise Invalid(
            f"fact {name}",
            found=value_text(typed),
            expected=f"one of {', '.join(definition.values)}",
            next="facts.yaml names the values of each fact",
        )
    return typed


_EXPECTED: Mapping[FactType, str] = {
    FactType.TEXT: "a text that is not empty",
    FactType.TEXTS: "texts, with a comma between them",
    FactType.NUMBER: "a number",
    FactType.TRUTH: "true or false",
    FactType.DATE: "an ISO date, such as 2030-12-31",
    FactType.FILE: "a file: --attach {name}=FILE",
}


def _typed(kind: FactType, value: object) -> OwnValue | None:
    """Return the value in its type; None for a value of another."""
    match kind:
        case FactType.TEXT:
            return (value.strip() or None) if isinstance(value, str) else None
        case FactType.TEXTS:
            return _texts(value)
        case FactType.NUMBER:
            return _number(value)
        case FactType.TRUTH:
            return _truth(value)
        case FactType.DATE:
            return _date(value)
        case FactType.FILE:
            return value if isinstance(value, Attachment) else None


def _truth(value: object) -> bool | None:
    if isinstance(value, str):
        return _TRUTH.get(value.lower())
    return value if isinstance(value, bool) else None


def _texts(value: object) -> tuple[str, ...] | None:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return None
    return tuple(part.strip() for part in parts if part.strip()) or None


def _number(value: object) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if _is_finite(value) else None
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not _is_finite(number):
        return None
    return int(value) if value.strip().lstrip("+-").isdecimal() else number


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_finite(number: float) -> bool:
    return number - number == 0


def _date(value: object) -> str | None:
    text = value.isoformat() if isinstance(value, date) else value
    try:
        right = isinstance(text, str) and date.fromisoformat(text).isoformat() == text
    except ValueError:
        right = False
    return text if right and isinstance(text, str) else None
