"""What the code says of its own fields: the descriptions of a class, and tables of them."""

import dataclasses
import html
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import EnumType
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any"}
FIELD = re.compile(r"    (\w+): (.*)")


@dataclasses.dataclass(frozen=True)
class Described:
    """One field: its name, its type in words, its default, what is said of it."""

    name: str
    type: str
    default: str
    text: str


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown. A cell's line ends become spaces."""
    lines = [row_of(head), row_of(["---"] * len(head))]
    lines += [row_of(row) for row in rows]
    return "\n".join(lines) + "\n"


def row_of(cells: Sequence[str]) -> str:
    """Return one row of a table."""
    escaped = [" ".join(cell.split()).replace("|", "&#124;") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def code(text: object) -> str:
    """Return a text as code, inside a sentence or a cell."""
    # Not between backticks: there an entity, which stands for a bar, is shown as it is.
    return f"<code>{html.escape(str(text))}</code>" if str(text) else ""


def fields_of(record: type[Any]) -> list[Described]:
    """Return the fields of a dataclass or a pydantic model, with what its source says of them.

    A description is an entry under `Attributes:` in the class's docstring, or a comment above the
    field, or behind it.
    """
    texts: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base.__module__.split(".")[0] not in ("btx_core", "registry", "pipelines"):
            continue
        for name, text in _written(base):
            texts[name] = text or texts.get(name, "")
        texts |= _attributes(base)
    hints = get_type_hints(record)
    return [
        Described(name, type_text(hints[name]), default, texts.get(name, ""))
        for name, default in _defaults(record)
    ]


def type_text(hint: Any) -> str:
    """Return a type in words, as somebody who writes TOML, JSON or a policy thinks of it."""
    origin, inner = get_origin(hint), [one for one in get_args(hint) if one is not NoneType]
    if origin is Literal:
        return " | ".join(str(word) for word in inner)
    if origin in (Union, UnionType):
        return " or ".join(type_text(one) for one in inner)
    if origin in (tuple, list, Sequence):
        return f"list of {type_text(inner[0])}" if inner else "list"
    if origin in (dict, Mapping):
        return f"mapping to {type_text(inner[1])}"
    if isinstance(hint, EnumType):
        return " | ".join(str(one) for one in list(hint))
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _defaults(record: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield each field's name and its default; empty where it has none."""
    if issubclass(record, BaseModel):
        for name, field in record.model_fields.items():
            yield name, _shown(field.default, PydanticUndefined, field.default_factory)
        return
    for part in dataclasses.fields(record):
        factory = None if part.default_factory is dataclasses.MISSING else part.default_factory
        yield part.name, _shown(part.default, dataclasses.MISSING, factory)


def _shown(default: object, missing: object, factory: Any) -> str:
    """Return a default as a person reads it."""
    if default is missing:
        default = factory() if factory else ""
    if default is None or default == "" or isinstance(default, BaseModel):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _written(base: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield name and comment of every field that a class's own source declares."""
    above: list[str] = []
    for line in inspect.getsource(base).splitlines():
        comment = re.match(r"    # (.*)", line)
        declared = FIELD.match(line)
        if comment:
            above.append(comment[1])
            continue
        if declared:
            behind = declared[2].partition("  # ")[2]
            yield declared[1], " ".join([*above, behind]).strip()
        above = []


def _attributes(base: type[Any]) -> dict[str, str]:
    """Return what stands under `Attributes:` in a class's docstring, by name."""
    part = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"^(?=\w+: )", textwrap.dedent(part), flags=re.M)
    pairs = [entry.partition(": ") for entry in entries if ": " in entry]
    return {name: " ".join(text.split()) for name, _, text in pairs}
