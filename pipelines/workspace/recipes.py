"""A recipe from plain settings: btx.toml's tables, or what a build recorded of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from registry.errors import Invalid

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
    max_tokens: int = 20_000  # of held-out text, per domain
    sequence: int = 256  # tokens a row
    batch_tokens: int = 4096  # tokens in one forward pass
    # Task files of the lm-evaluation-harness, relative to the workspace; in a build's recipe each with the SHA-256 of every file it reads.
    tasks: list[str] | dict[str, dict[str, str]] = field(default_factory=list)

    @property
    def text(self) -> dict[str, int]:
        """What measuring held-out text takes."""
        return {
            "max_tokens": self.max_tokens,
            "sequence": self.sequence,
            "batch_tokens": self.batch_tokens,
        }


def recipe(kind: type[T], settings: Mapping[str, Any]) -> T:
    """Raises Invalid, naming the key, for an unknown one or a value that it does not take; no number of a recipe is negative."""
    table, hints = kind.__name__.removesuffix("Recipe").lower(), get_type_hints(kind)
    defaults = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    chosen: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in hints:
            raise Invalid(
                f"[recipe.{table}] {key}",
                found="no such key",
                expected=", ".join(hints),
                next="mend or remove the key",
            )
        try:
            # Canonical JSON writes 1.0 as 1: a recipe that comes back from the registry must be the same to the byte.
            taken = (
                float(value) if isinstance(defaults[key], float) and type(value) is int else value
            )
            chosen[key] = TypeAdapter(hints[key], config=ConfigDict(strict=True)).validate_python(
                taken
            )
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise Invalid(
                f"[recipe.{table}] {key}",
                found=repr(value)[:80],
                expected=message,
                next="mend the value",
            ) from error
        least = 1 if key in AT_LEAST_ONE else 0
        if isinstance(value, int | float) and not value >= least:  # NaN too
            raise Invalid(
                f"[recipe.{table}] {key}",
                found=str(value),
                expected=f"at least {least}",
                next="mend the value",
            )
    return kind(**chosen)
