"""A recipe from plain settings: btx.toml's tables, or what a build recorded of itself."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from registry.errors import Invalid

T = TypeVar("T")


def recipe(kind: type[T], settings: Mapping[str, Any]) -> T:
    """Raises Invalid for an unknown key or a value that the recipe does not take."""
    # Canonical JSON writes 1.0 as 1: a recipe that comes back from the registry must be the same to the byte.
    floats = {field.name for field in fields(kind) if isinstance(field.default, float)}  # type: ignore[arg-type]
    typed = {key: float(value) if key in floats and isinstance(value, int) else value for key, value in settings.items()}
    for key, hint in get_type_hints(kind).items():
        if get_origin(hint) is Literal and typed.get(key, get_args(hint)[0]) not in get_args(hint):
            found, expected = f"{key} = {typed[key]!r}", f"one of {', '.join(get_args(hint))}"
            raise Invalid(f"btx.toml, {kind.__name__}", found=found, expected=expected, next="mend btx.toml")
    try:
        return kind(**typed)
    except (TypeError, ValueError) as error:
        raise Invalid(
            f"btx.toml, {kind.__name__}", found=str(error), expected="keys and values of this recipe", next="mend btx.toml"
        ) from error
