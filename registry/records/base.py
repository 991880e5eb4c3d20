"""The base of every record: a typed value that becomes the same JSON again.

In:  JSON, as text or as parsed values.
Out: a frozen record with typed fields, and its JSON object.
A key that this version of the program does not know is kept, so that what an older or newer
version wrote comes out again as it was. A field that was never set is left out of the JSON.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from btx_core.files import any_json
from registry.errors import Damaged, Invalid

# A JSON object whose form belongs to somebody else: a recipe of `btx_core`, an export's document.
JsonObject = Mapping[str, Any]

# What to do where a row or an event is not what was written.
AUDIT = "btx audit names every finding"


class Record(BaseModel):
    """A frozen value with typed fields that keeps the keys it does not know."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        protected_namespaces=(),
        populate_by_name=True,
        # NaN stays NaN, which canonical JSON refuses: it must not be kept as null, "unknown".
        ser_json_inf_nan="constants",
    )

    @classmethod
    def from_json(cls, value: object, subject: str, advice: str = AUDIT) -> Self:
        """Read a parsed JSON object.

        Args:
            value: what `json.loads` returned.
            subject: what the value belongs to, for the error message.
            advice: what to do about a value that is not of its types.

        Returns:
            The record.

        Raises:
            Damaged: naming the first field that is not of its type.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise _damaged(error, subject, advice) from None

    @classmethod
    def from_text(cls, text: str | bytes, subject: str) -> Self:
        """Read a record from JSON text; raises Damaged as `from_json` does."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _damaged(error, subject, AUDIT) from None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object: every field that was set, and every key that was kept.

        Raises:
            Invalid: where a key that was kept holds what is no JSON, such as an object of Python.
        """
        return self._dumped(exclude_unset=True)

    def _dumped(
        self, *, exclude_unset: bool = False, exclude: AbstractSet[str] = frozenset()
    ) -> dict[str, Any]:
        try:
            return self.model_dump(
                mode="json", by_alias=True, exclude_unset=exclude_unset, exclude=set(exclude)
            )
        # Unknown types, too many levels, a circle, bytes that are no text.
        except ValueError as error:
            raise Invalid(
                type(self).__name__, found=str(error)[:120], expected="values of plain JSON"
            ) from None


def read_object(text: str | bytes, subject: str) -> dict[str, Any]:
    """Parse a JSON object whose form its reader decides. Raises Damaged for anything else."""
    try:
        value = any_json(text)
    except (ValueError, TypeError):
        value = None
    if not isinstance(value, dict):
        raise Damaged(
            subject,
            found=f"{text!r:.80}",
            expected="a JSON object",
            next="btx audit names every finding",
        )
    return value


def _damaged(error: ValidationError, subject: str, advice: str) -> Damaged:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return Damaged(
        f"{subject}, {where}" if where else subject,
        found=f"{first['input']!r:.80}",
        expected=first["msg"].removeprefix("Input should be "),
        next=advice,
    )
