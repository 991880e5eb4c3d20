"""Read how trainings and tunings come on: what they are from their notes, curves from metrics.

In:  a workspace, whose stages write work/metrics and work/progress.
Out: records for pages. Nothing is written, and a line that is half written is left out.
"""

import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from pydantic import field_validator

from pipelines.workspace.bars import Note, note_of
from pipelines.workspace.metrics import metrics_file
from pipelines.workspace.workspace import Workspace
from registry.errors import Damaged, NotFound
from registry.records.base import Record
from registry.records.pages import RunPoint, RunsPage, TrainingRun

# What a picture of a curve can show.
MOST_POINTS = 400
# What is read of a file for the list of runs: its last lines.
TAIL_BYTES = 4096
_NAME = re.compile(r"(train@)?[a-z0-9][a-z0-9._-]{0,63}")


class _Step(Record):
    """One line of metrics, as far as pages show it."""

    step: int
    time: float
    loss: float | None = None
    heldout_loss: float | None = None
    tokens_per_s: float | None = None

    @field_validator("loss", "heldout_loss", "tokens_per_s")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        """Leave out what no picture can show: the loss of a run that has diverged."""
        return value if value is not None and isfinite(value) else None


def training_runs(workspace: Workspace) -> RunsPage:
    """Return every training and tuning that left metrics, the newest first, without their curves.

    Args:
        workspace: where they run, or ran.
    """
    runs = []
    writer = workspace.writer()
    for path in sorted((workspace.work / "metrics").glob("*.jsonl")):
        steps = _steps(_tail(path))
        if steps:
            runs.append(_run(workspace, path.stem, steps, writer))
    newest_first = sorted(runs, key=lambda run: run.updated_at, reverse=True)
    return RunsPage(writer=writer, runs=tuple(newest_first))


def training_run(workspace: Workspace, name: str) -> TrainingRun:
    """Return one training or tuning with its curve.

    Args:
        workspace: where it runs, or ran.
        name: an expert's, or `tune`; train@NAME of an expert that is called as a stage.

    Raises:
        NotFound: where nothing of that name left metrics.
    """
    path = metrics_file(workspace.root, name)
    known = _NAME.fullmatch(name) and path.is_file()
    steps = _steps(_shown(path.read_text(encoding="utf-8").splitlines())) if known else []
    if not steps:
        raise NotFound(
            f"run {name}",
            found="no metrics",
            expected="a training or tuning of this workspace",
            next="btx train, or btx rebuild",
        )
    run = _run(workspace, name, steps, workspace.writer())
    points = tuple(
        RunPoint(step=step.step, loss=step.loss, heldout_loss=step.heldout_loss) for step in steps
    )
    return run.model_copy(update={"points": points})


def _run(
    workspace: Workspace, name: str, steps: Sequence[_Step], writer: str | None
) -> TrainingRun:
    note = Note.read(note_of(workspace.root, name))
    last = steps[-1]
    looks = [step.heldout_loss for step in steps if step.heldout_loss is not None]
    total = note.total or None if note else None
    return TrainingRun(
        name=name,
        running=bool(writer and total and last.step < total),
        steps=last.step,
        total=total,
        loss=last.loss,
        heldout_loss=looks[-1] if looks else None,
        tokens_per_s=last.tokens_per_s,
        updated_at=datetime.fromtimestamp(last.time, UTC).isoformat(timespec="seconds"),
    )


def _shown(lines: Sequence[str]) -> list[str]:
    """Return evenly spaced lines, the last one, and every one that looked at held-out text."""
    every = max(1, -(-len(lines) // MOST_POINTS))
    shown = []
    for number, line in enumerate(lines):
        if number % every == 0 or number == len(lines) - 1 or '"heldout_loss"' in line:
            shown.append(line)
    return shown


def _steps(lines: Iterable[str]) -> list[_Step]:
    """Read lines of metrics; one that is being written, or is damaged, is left out."""
    steps = []
    for line in lines:
        try:
            steps.append(_Step.from_text(line, "metrics"))
        except Damaged:
            continue
    return steps


def _tail(path: Path) -> list[str]:
    """Return the last whole lines of a file."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return lines if end <= TAIL_BYTES else lines[1:]
