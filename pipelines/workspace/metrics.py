"""What is measured while a run trains: a file of JSON lines beside the run, and users' trackers.

In:  a step's figures.  Out: work/metrics/RUN.jsonl, one line a step; the same figures to each
tracker that `[log] report_to` names, through accelerate's trackers; and, whenever a run ends, its
losses as tables that DVC draws: work/curves/RUN.tsv and work/curves/held-out/RUN.tsv.
A tracker's address and keys come from its own environment; nothing of it is read or written here.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from btx_core.files import any_json, replace_text
from registry.errors import Invalid

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from btx_core.training.loop import Report

TrackerName = Literal["trackio", "tensorboard", "wandb", "mlflow"]
PROJECT = "btx"


def metrics_file(root: Path, run: str) -> Path:
    """Return where the figures of a run are."""
    return root / "work" / "metrics" / f"{run}.jsonl"


def curve_files(root: Path, run: str) -> dict[str, Path]:
    """Return where DVC finds a run's losses, by what they are called among the figures."""
    folder = root / "work" / "curves"
    return {
        "loss": folder / f"{run}.tsv",
        "heldout_loss": folder / "held-out" / f"{run}.tsv",
    }


@contextmanager
def metrics_log(
    root: Path, run: str, report_to: Sequence[TrackerName], recipe: Mapping[str, object]
) -> Iterator["Report"]:
    """Yield the function that is told each step's figures. It belongs in one process of a run.

    A run that goes on from a checkpoint replaces the lines of the steps that it computes again.

    Args:
        root: of the workspace.
        run: its name, such as an expert's.
        report_to: trackers that are told as well.
        recipe: the run's settings, which trackers show beside the figures.

    Raises:
        Invalid: for a tracker whose package is not installed.
    """
    path, trackers = metrics_file(root, run), _Trackers(root, run, report_to, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = True

    def report(step: int, values: Mapping[str, float]) -> None:
        nonlocal first
        if first:
            replace_text(path, "".join(_before(path, step)))
            first = False
        line = {"step": step, "time": round(time.time(), 3), **values}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        trackers.log(step, values)

    try:
        yield report
    finally:
        trackers.finish()
        if not first:
            _write_curves(root, run)


def _write_curves(root: Path, run: str) -> None:
    """Write a run's losses as tables: DVC draws no JSON lines."""
    lines = [
        json.loads(line)
        for line in metrics_file(root, run).read_text(encoding="utf-8").splitlines()
    ]
    for key, path in curve_files(root, run).items():
        points = [f"{line['step']}\t{line[key]}\n" for line in lines if key in line]
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, "step\tloss\n" + "".join(points))


class _Trackers:
    """The trackers of a run. They start with its first step: only the process that is told does."""

    def __init__(
        self,
        root: Path,
        run: str,
        names: Sequence[TrackerName],
        recipe: Mapping[str, object],
    ) -> None:
        _check_installed(names)
        self._root, self._run, self._names = root, run, names
        self._recipe = {
            key: value
            for key, value in recipe.items()
            if isinstance(value, bool | int | float | str)
        }
        self._started: list[GeneralTracker] | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._started is None:
            self._started = [_tracker(name, self._root, self._run) for name in self._names]
            for tracker in self._started:
                tracker.start()
                tracker.store_init_configuration(dict(self._recipe))
        for tracker in self._started:
            tracker.log(dict(values), step=step)

    def finish(self) -> None:
        for tracker in self._started or ():
            tracker.finish()


def _tracker(name: TrackerName, root: Path, run: str) -> "GeneralTracker":
    """Return one of accelerate's trackers, each of which names project and run differently."""
    from accelerate import PartialState
    from accelerate.tracking import (
        MLflowTracker,
        TensorBoardTracker,
        TrackioTracker,
        WandBTracker,
    )

    # accelerate's trackers ask it which process they are in.
    PartialState()
    if name == "tensorboard":
        return TensorBoardTracker(run, logging_dir=root / "work" / "tensorboard")
    if name == "mlflow":
        return MLflowTracker(experiment_name=PROJECT, run_name=run)
    return {"trackio": TrackioTracker, "wandb": WandBTracker}[name](PROJECT, name=run)


def _check_installed(names: Sequence[TrackerName]) -> None:
    if not names:
        return
    from accelerate.tracking import get_available_trackers

    available = {str(one) for one in get_available_trackers()}
    for name in names:
        if name not in available:
            raise Invalid(
                f"[log] report_to {name}",
                found="no such package here",
                expected=f"the package {name}",
                next=f"pip install {name}",
            )


def _before(path: Path, step: int) -> Iterator[str]:
    """Yield the lines of the steps before this one that an earlier try left."""
    if not path.is_file() or step <= 1:
        return
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            earlier = any_json(line)["step"] < step
        # The process may have died while it wrote the last line.
        except (ValueError, KeyError, TypeError):
            continue
        if earlier:
            yield line
