"""What laws and official templates ask of a model's provider, read from files beside this module.

In: texts/*.yaml. Out: a LegalText each, read once. Which recorded facts answer a point is decided
by the function in answers.py that the point names.
"""

from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict


class Point(BaseModel):
    """One point of a legal text.

    Attributes:
        number: as the text counts it: "2(a)", "3.1".
        title: the point's heading.
        needs: what the text asks for, in short.
        answer: the function in answers.py that reads what is recorded of one version.
        recorded: sentences that hold for every version in a registry.
        missing: what a registry of models cannot know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: str
    title: str
    needs: str
    answer: str | None = None
    recorded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Number and title; a whole number has a full stop."""
        stop = "." if self.number.isdigit() else ""
        return f"{self.number}{stop} {self.title}"


class LegalText(BaseModel):
    """A law or official template, as a list of points.

    Attributes:
        title: the heading of its chapter in a report.
        short_name: what a sentence calls it: "Annex IV".
        about: the sentence under the heading, with the text's full name.
        points: in the order of the text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    short_name: str
    about: str
    points: tuple[Point, ...]


def _read(name: str) -> LegalText:
    text = resources.files("registry.formats").joinpath("texts", name).read_text(encoding="utf-8")
    return LegalText.model_validate(yaml.safe_load(text))


ANNEX_IV = _read("annex-iv.yaml")
TRAINING_SUMMARY = _read("training-summary.yaml")
