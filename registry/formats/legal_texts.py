"""What laws and official templates ask of a model's provider, read from files beside this module.

In: texts/*.yaml. Out: a LegalText each, read once. Which recorded facts answer a point is decided
by the function in legal_answers.py that the point names; what people state, by the own facts.
"""

from datetime import date
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict


class Source(BaseModel):
    """Where a text is published.

    Attributes:
        document: its full name.
        date: of the document.
        url: where it can be read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    document: str
    date: date
    url: str


class OwnFactsAsked(BaseModel):
    """Own facts that answer a point, by what they are stated of; the organisation's hold for all.

    Attributes:
        organisation: of the company itself.
        build: of a build.
        data: of every data version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    organisation: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


class Point(BaseModel):
    """One point of a legal text.

    Attributes:
        number: as the text counts it: "2(a)", "3.1".
        title: the point's heading.
        needs: what the text asks for, in short.
        answer: the function in legal_answers.py that reads what is recorded of one version.
        recorded: sentences that hold for every version in a registry.
        missing: what a registry of models cannot know.
        facts: own facts that answer it, by what they are stated of.
        only_if: an own fact that is false where the point does not apply.
        of_class: the point is about data of these source classes alone.
        readers: whom the text marks the point for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: str
    title: str
    needs: str
    answer: str | None = None
    recorded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    facts: OwnFactsAsked = OwnFactsAsked()
    only_if: str | None = None
    of_class: tuple[str, ...] = ()
    readers: tuple[Literal["AIO", "NCA", "DP"], ...] = ()

    @property
    def heading(self) -> str:
        """Number and title; a whole number has a full stop."""
        stop = "." if self.number.isdigit() else ""
        return f"{self.number}{stop} {self.title}"

    @property
    def asks(self) -> str:
        """What is asked, and for whom."""
        return f"{self.needs} For {', '.join(self.readers)}." if self.readers else self.needs


class LegalText(BaseModel):
    """A law or official template, as a list of points.

    Attributes:
        title: the heading of its chapter in a report.
        short_name: what a sentence calls it: "Annex IV".
        about: the sentence under the heading, with the text's full name.
        source: where it is published.
        points: in the order of the text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    short_name: str
    about: str
    source: Source
    points: tuple[Point, ...]


class ComputeThresholds(BaseModel):
    """When somebody who modifies a model becomes its provider, by floating point operations.

    Attributes:
        source: the document that says so.
        date: of that document.
        share: of the computation that trained the original model.
        general: what makes a model a general-purpose one.
        systemic: what makes it one with systemic risk.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    date: date
    share: float
    general: float
    systemic: float


def _text(name: str) -> str:
    return resources.files("registry.formats").joinpath("texts", name).read_text(encoding="utf-8")


def _read(name: str) -> LegalText:
    return LegalText.model_validate(yaml.safe_load(_text(name)))


ANNEX_IV = _read("annex-iv.yaml")
ANNEX_XI = _read("annex-xi.yaml")
ANNEX_XII = _read("annex-xii.yaml")
MODEL_DOCUMENTATION = _read("cop-model-documentation.yaml")
TRAINING_SUMMARY = _read("training-summary.yaml")
THRESHOLDS = ComputeThresholds.model_validate(yaml.safe_load(_text("compute-thresholds.yaml")))
