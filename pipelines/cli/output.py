"""Print answers to stdout: a line, a table, or one JSON document.

What only one command prints stands beside that command. Errors, progress and log messages go to
stderr and never pass through here.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from pipelines.workspace.terminal import UNSEEN, console, fitted_table, visible, writes_unicode
from registry.units import size

if TYPE_CHECKING:
    from rich.console import Console

    from registry.records.answers.answer import Answer
    from registry.records.answers.building import PlannedStage

    Document = Answer | Sequence[Answer]


def print_json(document: "Document") -> None:
    """Print one JSON document: an answer, or an array of answers."""
    # What a terminal would obey stands in strings alone, where JSON has the same escape for it.
    ascii_only = not writes_unicode(sys.stdout)
    text = json.dumps(document, indent=2, ensure_ascii=ascii_only, default=_json_of)
    print(UNSEEN.sub(lambda match: json.dumps(match[0])[1:-1], text))


def _json_of(answer: "Answer") -> dict[str, Any]:
    return answer.to_json()


def print_line(text: str = "") -> None:
    """Print one line, or several that are separated by line breaks."""
    print(visible(text))


def print_document(text: str) -> None:
    """Print a document for other programs: to a file or a pipe as it is."""
    print(visible(text) if sys.stdout.isatty() else text)


# What stands in the place of a table without rows.
NONE = "none"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a plain table whose numbers stand right.

    A narrow terminal goes without the columns that are needed least, and is told which. Without a
    terminal there is no colour and no limit of width.
    """
    print_table_to(console(sys.stdout), columns, rows)


def print_table_to(out: "Console", columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table that fits a console; of no rows, that there are none."""
    lines = [*rows]
    if not lines:
        out.print(Text(NONE))
        return
    fitted = fitted_table(columns, lines, out.width)
    out.print(fitted.table)
    if fitted.hidden:
        out.print(Text(f"no room for {', '.join(fitted.hidden)}: --json has all"))


def place_text(place: "PlannedStage") -> str:
    """Return where a stage would run, as people read it."""
    counts = [(place.nodes, "node"), (place.processes, "process"), (place.gpus, "GPU")]
    if place.threads is not None:
        counts.append((place.threads, "thread"))
    plural = {"process": "processes"}
    words = [f"{n} {name if n == 1 else plural.get(name, name + 's')}" for n, name in counts if n]
    return f"{place.executor}: {', '.join(words)}{_memory_text(place)}"


def _memory_text(place: "PlannedStage") -> str:
    if place.needed_bytes is None:
        return ""
    each = "" if place.processes == 1 else " a process"
    needs = f"; needs about {size(place.needed_bytes)}{each}"
    if place.available_bytes is None:
        return needs
    verdict = "" if place.fits else ": DOES NOT FIT"
    return f"{needs} of {size(place.available_bytes)}{verdict}"


def print_answer(answer: "Document", as_json: bool, text: str) -> None:
    """Print an answer that fits a line or two, as JSON or as text.

    Args:
        answer: the document for `--json`.
        as_json: whether the user asked for JSON.
        text: the same answer for people.
    """
    if as_json:
        print_json(answer)
    else:
        print_line(text)
