"""What a terminal shows: a console for a stream, a table, and a value as the text of a cell."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Controls but line break and tab, marks of direction, line separators, halves of surrogate pairs.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Characters, where there is no terminal: a table takes only what it needs.
NO_WIDTH = 10_000


def visible(text: str) -> str:
    """Return a text that shows what a terminal would obey instead of printing, as an escape.

    Names, statements and file names may be a stranger's. Line breaks and tabs stay.
    """
    return UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def console(stream: TextIO) -> Console:
    """Return a console that prints to the stream, without a width where it is no terminal."""
    return Console(file=stream, width=None if stream.isatty() else NO_WIDTH, highlight=False)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Lay rows of values of any type out as a table; columns of numbers are aligned right."""
    rows = [list(row) for row in rows]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        numeric = bool(rows) and all(
            isinstance(row[position], int | float) or row[position] is None for row in rows
        )
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # As text of its own: rich would read a stranger's `[link=...]` as markup.
        shown.add_row(*(value if isinstance(value, Text) else Text(cell(value)) for value in row))
    return shown


def cell(value: Any) -> str:
    """Return a value of any type as the text of a cell; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return visible(str(value)).replace("\n", "\\n").replace("\t", "\\t")
