"""What a terminal shows: a console for a stream, a table, and a value as the text of a cell."""

import codecs
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Controls but line break and tab, marks of direction, line separators, halves of surrogate pairs.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# What stands for a character of this program's own on a terminal that has not got it.
PLAIN = {"–": "-", "—": "-", "…": "...", "×": "x", "→": "->", "─": "-", "’": "'"}
# Raised characters stand on the line, behind one ^ for all that follow each other.
RAISED = dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True))
_PLAIN_ERRORS = "btx_plain"
# Columns that a narrow terminal goes without, the least needed first.
LEAST_NEEDED = (
    "digest",
    "registered_at",
    "issued",
    "changed",
    "key",
    "id",
    "folder",
    "target",
    "source",
    "holder",
    "parameters",
    "bytes",
    "snapshot",
    "mode",
    "model_type",
    "seed",
    "pii",
    "licenses",
    "license",
    "members",
    "data",
    "state",
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# What a sentence in a cell is folded to at most; the characters between two columns, and at the
# ends of a line.
_SENTENCE_WIDTH = 16
_BETWEEN = 3
_AT_THE_ENDS = 2
# Characters, where there is no terminal: a table takes only what it needs.
NO_WIDTH = 10_000


def visible(text: str) -> str:
    """Return a text that shows what a terminal would obey instead of printing, as an escape.

    Names, statements and file names may be a stranger's. Line breaks and tabs stay.
    """
    return UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def writes_unicode(stream: TextIO) -> bool:
    """Say whether a stream can take every character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def open_what_is_closed() -> None:
    """Let a stream that whoever started the program had closed lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def write_what_it_can(stream: TextIO) -> None:
    """Let a stream that has not every character write a plain one, or an escape, instead."""
    if isinstance(stream, TextIOWrapper) and not writes_unicode(stream):
        codecs.register_error(_PLAIN_ERRORS, _in_plain_characters)
        stream.reconfigure(errors=_PLAIN_ERRORS)


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = []
    before = ""
    for character in error.object[error.start : error.end]:
        if character in RAISED:
            sign = "" if before in RAISED else "^"
            plain.append(sign + RAISED[character])
        else:
            escaped = character.encode("ascii", "backslashreplace").decode()
            plain.append(PLAIN.get(character, escaped))
        before = character
    return "".join(plain), error.end


def console(stream: TextIO) -> Console:
    """Return a console that prints to the stream, without a width where it is no terminal."""
    return Console(file=stream, width=None if stream.isatty() else NO_WIDTH, highlight=False)


@dataclass(frozen=True)
class FittedTable:
    """A table, and the columns that the width has no room for."""

    table: Table
    hidden: tuple[str, ...]


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Lay rows of values of any type out as a table; columns of numbers are aligned right."""
    return fitted_table(columns, rows, NO_WIDTH).table


def fitted_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int) -> FittedTable:
    """Lay rows of values of any type out as a table that fits a width.

    Sentences are folded between words. Where that is not enough, columns go, the least needed
    first; where even the needed ones do not fit, long words are folded too. Columns of numbers are
    aligned right.

    Args:
        columns: the headings.
        rows: a value for every column.
        width: characters of a line.
    """
    values = [list(row) for row in rows]
    # As text of its own: rich would read a stranger's `[link=...]` as markup.
    cells = [
        [value if isinstance(value, Text) else Text(_table_cell(value)) for value in row]
        for row in values
    ]
    shown = _columns_that_fit(columns, cells, width)
    words = [
        _longest_word([name, *(row[position].plain for row in cells)])
        for position, name in enumerate(columns)
    ]
    # Where the words do not fit beside each other, rich would cut off what a least width keeps.
    whole = _fit([words[position] for position in shown], width)
    laid_out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position in shown:
        numeric = bool(values) and all(
            isinstance(row[position], int | float) or row[position] is None for row in values
        )
        laid_out.add_column(
            columns[position],
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=words[position] if whole else None,
        )
    for row in cells:
        laid_out.add_row(*(row[position] for position in shown))
    hidden = [name for position, name in enumerate(columns) if position not in shown]
    return FittedTable(laid_out, tuple(hidden))


def _columns_that_fit(
    columns: Sequence[str], cells: Sequence[Sequence[Text]], width: int
) -> list[int]:
    """Return the positions of the columns that a line has room for, in their order."""
    widths = []
    for position, name in enumerate(columns):
        texts = [name, *(row[position].plain for row in cells)]
        sentences = [min(cell_len(text), _SENTENCE_WIDTH) for text in texts]
        widths.append(max([_longest_word(texts), *sentences]))
    needed = [position for position, name in enumerate(columns) if name not in LEAST_NEEDED]
    others = [columns.index(name) for name in reversed(LEAST_NEEDED) if name in columns]
    shown = list(needed)
    for position in others:
        wider = [*shown, position]
        if _fit([widths[column] for column in wider], width):
            shown = wider
    return sorted(shown)


def _fit(widths: Sequence[int], width: int) -> bool:
    """Say whether a line has room for columns of these widths."""
    return sum(each + _BETWEEN for each in widths) <= width + _BETWEEN - _AT_THE_ENDS


def _longest_word(texts: Iterable[str]) -> int:
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _table_cell(value: Any) -> str:
    """Return a value as the text of a table's cell: a moment to the minute, else as `cell` does."""
    text = cell(value)
    return f"{text[:10]} {text[11:16]}" if _MOMENT.fullmatch(text) else text


def cell(value: Any) -> str:
    """Return a value of any type as the text of a cell; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return visible(str(value)).replace("\n", "\\n").replace("\t", "\\t")
