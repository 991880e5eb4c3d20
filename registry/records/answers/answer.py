"""What every answer is: how a record prints its keys as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from registry.digest import canonical_json
from registry.records.base import Record


class Answer(Record):
    """An answer prints every key, null where there is nothing to say.

    A record inside it is printed in the way of its own class.
    """

    printed_last: ClassVar[tuple[str, ...]] = ()  # fields that a reader looks for at the end

    @classmethod
    def fields(cls) -> list[str]:
        """Return the names of the fields in the order in which they are printed."""
        first = [name for name in cls.model_fields if name not in cls.printed_last]
        return [*first, *cls.printed_last]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object with every key."""
        printed = {}
        for name in self.fields():
            key = type(self).model_fields[name].alias or name
            printed[key] = _json(getattr(self, name))
        unknown = {key: _json(value) for key, value in (self.model_extra or {}).items()}
        return {**printed, **unknown}


class AsStored(Answer):
    """An answer about what is recorded: numbers are printed as rows hold them, 1 and never 1.0."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object with every key."""
        return {key: json.loads(canonical_json(value)) for key, value in super().to_json().items()}


class WithoutNulls(Answer):
    """An answer that prints only the keys that apply."""

    def to_json(self) -> dict[str, Any]:
        """Return the keys that are not null."""
        return {key: value for key, value in super().to_json().items() if value is not None}


def _json(value: Any) -> Any:  # a field's value, of any type that a record may hold
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, str):
        # A word of a closed set is printed as plain text.
        return str(value)
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [_json(inner) for inner in value]
    return value
