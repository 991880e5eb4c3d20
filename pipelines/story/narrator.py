"""What the demonstration prints.

In:  chapters, commands, sentences and tables.  Out: the same on a stream, laid out for a terminal.
"""

from collections.abc import Iterable, Sequence
from typing import TextIO

from pipelines.workspace.terminal import console, table_of


class Narrator:
    """Print what the demonstration does: the command of each step, and what came of it."""

    def __init__(self, stream: TextIO) -> None:
        """Print to this stream, in colour where it is a terminal.

        Args:
            stream: stdout; stderr where stdout is kept free for JSON.
        """
        self.console = console(stream)

    def chapter(self, title: str) -> None:
        """Print the title of the next part of the demonstration."""
        self.console.print(f"\n[bold]{title}[/bold]")

    def command(self, command: str) -> None:
        """Print the command that does the next step."""
        self.console.print(f"[cyan]$ {command}[/cyan]", soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one indented line of text."""
        self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> None:
        """Print a table.

        Args:
            columns: the headings.
            rows: a cell for every column; None is printed as a dash.
        """
        self.console.print(table_of(columns, rows))
