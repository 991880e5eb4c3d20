"""Rows of lists: seeds, data, experts, builds, exports, and what a search found."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import Field

from registry.records.answers.answer import Answer


class Row(Answer):
    """One version in a list."""

    ref: str
    name: str
    version: int


class RowEnd(Row):
    """What every line of a list ends with."""

    printed_last = ("status", "digest", "registered_at", "aliases")

    status: str
    digest: str
    registered_at: str
    aliases: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the keys of every row; `aliases` only where there is one."""
        printed = super().to_json()
        return printed if self.aliases else {k: v for k, v in printed.items() if k != "aliases"}


class SeedRow(RowEnd):
    """A seed in a list."""

    model_type: str | None = None
    parameters: int | None = None
    license: str | None = None


class DataRow(RowEnd):
    """A data version in a list."""

    license: str | None = None
    source: str | None = None
    holder: str | None = None
    pii: str | None = None
    bytes: int | None = None


class ExpertRow(RowEnd):
    """An expert in a list."""

    seed: str | None = None
    mode: str | None = None
    data: tuple[str, ...] = ()
    licenses: tuple[str | None, ...] = ()


class BuildRow(RowEnd):
    """A build in a list."""

    snapshot: str | None = None
    seed: str | None = None
    members: tuple[str, ...] = ()


class ExportRow(RowEnd):
    """An export in a list."""

    folder: str | None = None
    target: str | None = None


class SearchRow(Answer):
    """A version that was found, with the values of the fields that were asked about."""

    ref: str
    kind: str
    status: str
    registered_at: str
    values: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    def fields_beside(self, columns: Collection[str]) -> list[str]:
        """Return the fields with values, but those that have a column of their own."""
        return [name for name in self.values if name not in columns]
