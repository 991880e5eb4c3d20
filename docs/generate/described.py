"""What the code says of its own fields: the descriptions of a class, and tables of them."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

FIELD = re.compile(r"    (\w+): (.*)")


@dataclasses.dataclass(frozen=True)
class Described:
    """One field: its name, its type as written, its default, what is said of it."""

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
    escaped = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def code(text: object) -> str:
    """Return a text as code, inside a sentence or a cell."""
    return f"`{text}`" if str(text) else ""


def fields_of(record: type[Any]) -> list[Described]:
    """Return the fields of a dataclass or a pydantic model, with what its source says of them.

    A description is an entry under `Attributes:` in the class's docstring, or a comment above the
    field, or behind it.
    """
    texts: dict[str, str] = {}
    types: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base.__module__.split(".")[0] not in ("btx_core", "registry", "pipelines"):
            continue
        for name, annotation, text in _written(base):
            types[name] = annotation
            texts[name] = text or texts.get(name, "")
        texts |= _attributes(base)
    words = _words_of(record)
    return [
        Described(name, words.get(name) or types.get(name, ""), default, texts.get(name, ""))
        for name, default in _defaults(record)
    ]


def _words_of(record: type[Any]) -> dict[str, str]:
    """Return the words that a field allows, for the fields that allow only a few."""
    hints = get_type_hints(record).items()
    return {
        name: " | ".join(str(word) for word in get_args(hint))
        for name, hint in hints
        if get_origin(hint) is Literal
    }


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


def _written(base: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, annotation and comment of every field that a class's own source declares."""
    above: list[str] = []
    for line in inspect.getsource(base).splitlines():
        comment = re.match(r"    # (.*)", line)
        declared = FIELD.match(line)
        if comment:
            above.append(comment[1])
            continue
        if declared:
            annotation, _, behind = declared[2].partition("  # ")
            said = " ".join([*above, behind]).strip()
            yield declared[1], annotation.split(" = ")[0].strip('" '), said
        above = []


def _attributes(base: type[Any]) -> dict[str, str]:
    """Return what stands under `Attributes:` in a class's docstring, by name."""
    part = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"^(?=\w+: )", textwrap.dedent(part), flags=re.M)
    pairs = [entry.partition(": ") for entry in entries if ": " in entry]
    return {name: " ".join(text.split()) for name, _, text in pairs}
