"""Progress on stderr: bars with rate and time left on a terminal, nothing elsewhere; and notes that one process leaves for another.

A stage that an executor started shows no bar of its own: it leaves notes (work/progress/NAME.json), and the executor shows one bar
a branch, wherever the branch runs.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[int, int, str], None]
Show = Callable[[str], AbstractContextManager[Report]]
WATCHED = "BTX_WATCHED"  # set in a stage's environment: its notes are read


@contextmanager
def bar(label: str) -> Iterator[Report]:
    """Yield report(done, total, text); the bar goes when the step ends."""
    with bars([label]) as show:
        yield lambda done, total, text: show(label, Note(done, total, text))


@dataclass(frozen=True)
class Note:
    """How far a process has come; total 0: nobody knows of how much."""

    done: int
    total: int
    text: str
    process: int = 0

    @classmethod
    def read(cls, path: Path) -> "Note | None":
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):  # not there yet
            return None

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(path)


def note_of(root: Path, name: str) -> Path:
    return root / "work" / "progress" / f"{name}.json"


@contextmanager
def bar_or_notes(label: str, path: Path) -> Iterator[Report]:
    """Notes in `path` where somebody watches, else a bar."""
    if WATCHED in os.environ:
        yield lambda done, total, text: Note(done, total, text, os.getpid()).write(path)
    else:
        with bar(label) as report:
            yield report


@contextmanager
def bars(labels: Sequence[str]) -> Iterator[Callable[[str, Note], None]]:
    """Yield show(label, note), a bar for each label, side by side; they go at the end."""
    if not sys.stderr.isatty():
        yield lambda label, note: None
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
        tasks = {label: progress.add_task(label, total=None, rate="") for label in labels}

        def show(label: str, note: Note) -> None:
            speed = progress.tasks[labels.index(label)].speed
            progress.update(
                tasks[label],
                completed=note.done,
                total=note.total or None,
                description=f"{label} {note.text}".strip(),
                rate=f"{speed:.1f}/s" if speed else "",
            )

        yield show
