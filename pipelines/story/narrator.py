"""The demonstration's voice: the command that does a step, and what came of it."""

from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from pipelines.workspace.terminal import console, table_of


class Narrator:
    """The demo's voice: what is done, as the command that does it, and what came of it."""

    def __init__(self, stream: TextIO) -> None:
        self.console = console(stream)

    def chapter(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]")

    def command(self, text: str) -> None:
        self.console.print(f"[cyan]$ {text}[/cyan]", soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.console.print(table_of(columns, rows))
