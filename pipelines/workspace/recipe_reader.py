"""A recipe from plain settings: btx.toml's tables, or what a build recorded of itself."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from btx_core.training.fitting import AUTO, OPEN
from registry.errors import Invalid
from registry.records.base import JsonObject

T = TypeVar("T")
AT_LEAST_ONE = (
    "batch",
    "sequence",
    "accumulate",
    "save_every",
    "top_k",
    "split",
    "max_tokens",
    "batch_tokens",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateRecipe:
    """How held-out text is measured.

    Attributes:
        max_tokens: of held-out text that are read, for each data version.
        sequence: tokens in a row.
        batch_tokens: tokens in one forward pass.
        tasks: task files of the lm-evaluation-harness, relative to the workspace; in a build's
            recipe each with the SHA-256 of every file that it reads.
    """

    max_tokens: int = 20_000
    sequence: int = 256
    batch_tokens: int = 4096
    tasks: list[str] | dict[str, dict[str, str]] = field(default_factory=list)

    @property
    def text(self) -> dict[str, int]:
        """The keys that concern held-out text, as `evaluate` takes them."""
        return {
            "max_tokens": self.max_tokens,
            "sequence": self.sequence,
            "batch_tokens": self.batch_tokens,
        }


def recipe(kind: type[T], settings: JsonObject) -> T:
    """Read a recipe from plain settings; what is not named keeps its default.

    Args:
        kind: a recipe dataclass.
        settings: a table of `btx.toml`, or what a build recorded.

    Raises:
        Invalid: naming the key, for an unknown one or a value that it does not take. No number in
            a recipe is negative.
    """
    table = kind.__name__.removesuffix("Recipe").lower()
    types = get_type_hints(kind)
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    chosen = {}
    for key, value in stated(settings).items():
        name = f"[recipe.{table}] {key}"
        if key not in types:
            raise Invalid(
                name,
                found="no such key",
                expected=", ".join(types),
                next="fix or remove the key",
            )
        # Canonical JSON writes 1.0 as 1: a recipe that comes back from the registry must be the
        # same to the byte.
        whole = isinstance(defaults[key], float) and type(value) is int
        chosen[key] = _of_type(types[key], float(value) if whole else value, name)
        least = 1 if key in AT_LEAST_ONE else 0
        # Written so that NaN is refused too.
        if isinstance(value, int | float) and not least <= value < math.inf:
            raise Invalid(
                name, found=str(value), expected=f"at least {least}", next="fix the value"
            )
    return kind(**chosen)


def complete(settings: JsonObject, chosen: JsonObject | None) -> JsonObject:
    """Return settings with what was chosen where they leave it open."""
    return {**(chosen or {}), **stated(settings)}


def stated(settings: JsonObject) -> JsonObject:
    """Return the settings without those that say "auto" where that may be said."""
    return {key: value for key, value in settings.items() if not (key in OPEN and value == AUTO)}


def _of_type(expected: Any, value: Any, name: str) -> Any:  # of whatever type the key has
    try:
        return TypeAdapter(expected, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        raise Invalid(
            name,
            found=repr(value)[:80],
            expected=error.errors()[0]["msg"].removeprefix("Input should be "),
            next="fix the value",
        ) from error
