"""What DVC's stages write about themselves, beside the files that they make.

In:  the JSON that a stage wrote.  Out: typed reports.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.errors import Damaged, Invalid
from registry.records.base import JsonObject, Record, read_object
from registry.records.facts import Spent, StoredFile, TextParted, TextsApart, TrainingReport
from registry.records.results import Figures

TRAINED = "btx-train.json"
MIXED = "btx-mix.json"
TUNED = "btx-tune.json"
EVALUATED = "evaluation.json"

# A stage wrote the file, so a stage can write it again.
AGAIN = "remove the file and run the command again"


class MixReport(Record):
    """What the mix did: its recipe with every key, and the files that it wrote."""

    recipe: JsonObject
    files: tuple[StoredFile, ...]
    wall_s: float


class TuneReport(Spent):
    """What tuning did: its recipe with every key, and what it took."""

    recipe: JsonObject


class MeasuredReport(Record):
    """What was measured of a build.

    Attributes:
        domains: data version to figures.
        seed: data version to the seed's figures on the same text.
        routing: data version to the share of every expert, layer by layer.
        dead: experts that no text uses.
        dominant: experts that take nearly every text.
        texts_apart: how far apart the texts of every two data versions of members are.
        texts_parted: data versions of members that have two parts, and how much these teach each
            other.
        tasks: task to metric to figure, where the recipe names tasks.
    """

    domains: Mapping[str, Figures]
    seed: Mapping[str, Figures] = {}
    routing: Mapping[str, tuple[tuple[float, ...], ...]] | None = None
    dead: tuple[str, ...] = ()
    dominant: tuple[str, ...] = ()
    texts_apart: tuple[TextsApart, ...] = ()
    texts_parted: tuple[TextParted, ...] = ()
    tokens_per_s: float | None = None
    active_parameters: int | None = None
    total_parameters: int | None = None
    tasks: Mapping[str, Mapping[str, float | None]] | None = None
    wall_s: float | None = None


def mix_report(folder: Path) -> MixReport:
    """Return what the mix wrote about itself."""
    return MixReport.from_json(_read(folder / MIXED), str(folder / MIXED), AGAIN)


def tune_report(folder: Path) -> TuneReport:
    """Return what tuning wrote about itself."""
    return TuneReport.from_json(_read(folder / TUNED), str(folder / TUNED), AGAIN)


def measured_report(work: Path) -> MeasuredReport:
    """Return what was measured of the build in the work folder."""
    return MeasuredReport.from_json(_read(work / EVALUATED), str(work / EVALUATED), AGAIN)


def training_report(folder: Path) -> TrainingReport | None:
    """Return what a branch's training wrote about itself, where it was trained here.

    Raises:
        Invalid: for a file that says something else; it may come from whoever trained the branch.
    """
    path = folder / TRAINED
    if not path.is_file():
        return None
    try:
        return TrainingReport.from_json(_read(path), TRAINED)
    except Damaged as error:
        raise Invalid(
            error.subject,
            found=error.found,
            expected=error.expected,
            next=f"fix what the training reports of itself, or remove {TRAINED}",
        ) from None


def _read(path: Path) -> dict[str, Any]:
    return read_object(path.read_bytes(), str(path))
