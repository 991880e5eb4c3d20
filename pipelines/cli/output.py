"""Print answers to stdout: a line, a table, or one JSON document.

What only one command prints stands beside that command. Errors, progress and log messages go to
stderr and never pass through here.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.workspace.terminal import console, table_of

# A job's answer: the document that `--json` prints.
Answer = Mapping[str, Any]


def print_json(document: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_line(text: str = "") -> None:
    """Print one line, or several that are separated by line breaks."""
    print(text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a plain table whose numbers stand right.

    A narrow terminal folds the cells. Without a terminal there is no colour and no limit of width.
    """
    console(sys.stdout).print(table_of(columns, rows))


def print_answer(answer: Answer, as_json: bool, text: str) -> None:
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
