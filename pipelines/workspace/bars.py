"""Progress on stderr: bars with rate and time left on a terminal, nothing elsewhere.

In:  how far a step has come.  Out: a bar; or a note that another process reads.
A stage leaves notes in work/progress/NAME.json. One that an executor started shows no bar of its
own: the executor shows a bar for each branch, wherever it runs.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

from btx_core import progress
from btx_core.files import any_json, replace_text
from pipelines.workspace.diagnostics import is_quiet

# Told how far a step has come. Total 0: nobody knows of how much.
Report = progress.Progress
# Opens a bar for a label.
Show = Callable[[str], AbstractContextManager[Report]]
# Set in a stage's environment where its notes are read.
WATCHED = "BTX_WATCHED"


@contextmanager
def bar(label: str) -> Iterator[Report]:
    """Open a bar that goes when the context ends, and yield the function that moves it."""
    with bars([label]) as show:
        yield lambda done, total, text: show(label, Note(done, total, text))


@dataclass(frozen=True)
class Note:
    """How far a process has come; of a total of 0 nobody knows how much there is."""

    done: int
    total: int
    text: str
    process: int = 0

    @classmethod
    def read(cls, path: Path) -> "Note | None":
        """Return the note in the file; None where there is none yet."""
        try:
            return cls(**any_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Leave the note in the file, whole, in place of an older one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(asdict(self)))


def note_of(root: Path, name: str) -> Path:
    """Return the file of the notes on a branch."""
    return root / "work" / "progress" / f"{name}.json"


def notes(root: Path) -> list[Path]:
    """Return the files of all notes."""
    found = (root / "work" / "progress").glob("*.json")
    # Opening a pipe would wait for ever.
    return sorted(path for path in found if path.is_file())


def forget_unfinished(path: Path) -> None:
    """Remove the note on a run that ended early, so that nobody takes it for one that runs."""
    note = Note.read(path)
    if note is not None and note.done < note.total:
        path.unlink(missing_ok=True)


def is_first_process() -> bool:
    """Whether this process speaks for all that compute a stage together, or is alone."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def bar_or_notes(label: str, path: Path) -> Iterator[Report]:
    """Leave notes in `path`, and open a bar unless another process shows one.

    Of several processes that compute a stage together only the first does either.
    """
    if not is_first_process():
        yield lambda done, total, text: None
        return
    path.unlink(missing_ok=True)
    shown = nullcontext(_show_nothing) if WATCHED in os.environ else bar(label)
    with shown as show:

        def report(done: int, total: int, text: str) -> None:
            Note(done, total, text, os.getpid()).write(path)
            show(done, total, text)

        try:
            yield report
        finally:
            forget_unfinished(path)


def _show_nothing(done: int, total: int, text: str) -> None:
    """Take what a bar would show."""


@contextmanager
def bars(labels: Sequence[str]) -> Iterator[Callable[[str, Note], None]]:
    """Open a bar for each label, side by side, and yield the function that moves one of them.

    They go when the context ends. Without a terminal nothing is shown.
    """
    if is_quiet() or not sys.stderr.isatty():
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
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks = {label: shown.add_task(label, total=None, rate="") for label in labels}

        def show(label: str, note: Note) -> None:
            speed = shown.tasks[labels.index(label)].speed
            shown.update(
                tasks[label],
                completed=note.done,
                total=note.total or None,
                description=f"{label} {note.text}".strip(),
                rate=f"{speed:.1f}/s" if speed else "",
            )

        yield show
