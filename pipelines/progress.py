"""Progress on stderr: a bar with rate and time left on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[int, int, str], None]
Show = Callable[[str], AbstractContextManager[Report]]


@contextmanager
def bar(label: str) -> Iterator[Report]:
    """Yield report(done, total, text); the bar goes when the step ends."""
    if not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None, rate="")

        def report(done: int, total: int, text: str) -> None:
            speed = progress.tasks[0].speed
            progress.update(
                task, completed=done, total=total, description=f"{label} {text}".strip(), rate=f"{speed:.1f}/s" if speed else ""
            )

        yield report
