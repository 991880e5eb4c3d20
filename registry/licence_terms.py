"""What licences ask of those who pass on a work, and their texts: data with source and date.

In:  the files of `licence_data`.  Out: terms by SPDX identifier; the community licences of models;
texts. Which licences may stand in one build is the policies' to say.
"""

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

PREFIX = "LicenseRef-"


class Duty(StrEnum):
    """What a licence may ask."""

    ATTRIBUTION = "attribution"
    NOTICE = "notice"
    CHANGES = "changes"
    SAME_TERMS = "same_terms"
    SOURCE = "source"
    NON_COMMERCIAL = "non_commercial"


class Terms(BaseModel):
    """What one licence asks.

    Attributes:
        asks: its duties; none of a dedication to the public.
        under: licences that a whole may be passed on under instead, the nearest first.
        not_under: licences of a whole that it cannot be part of.
        text: the name of its text, where that is not its identifier.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    asks: tuple[Duty, ...]
    under: tuple[str, ...] = ()
    not_under: tuple[str, ...] = ()
    text: str | None = None


class PassedOn(BaseModel):
    """One duty of a community licence, and its clause."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clause: str
    asks: str


class CommunityLicence(BaseModel):
    """A licence of models that SPDX does not list.

    Attributes:
        title: what it is called.
        names: how people write it after `LicenseRef-`, without capitals and punctuation.
        hub: the identifier of Hugging Face's hub.
        holder: whose models it covers.
        source: where its text is published.
        date: of the text that is described.
        notice: the line that it asks for in a file of notices.
        use_policy: where the rules of use are published that it refers to.
        name_begins: how the name of a model that was made from it must begin.
        display: what must be shown where the model is made available.
        pass_on: what it asks to be passed on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    names: tuple[str, ...]
    hub: str
    holder: str
    source: str
    date: date
    notice: str
    use_policy: str
    name_begins: str | None = None
    display: str | None = None
    pass_on: tuple[PassedOn, ...]


class _TermsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    date: date
    licences: Mapping[str, Terms]


class _CommunityFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    licences: tuple[CommunityLicence, ...]


class _HubFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    date: date
    licences: Mapping[str, str]


def terms_of(licence: str) -> Terms | None:
    """Return what a licence asks; None for one that nobody described."""
    return _terms().licences.get(licence)


def described() -> Mapping[str, Terms]:
    """Return the terms of every licence that is described, by SPDX identifier."""
    return _terms().licences


def source_of_terms() -> str:
    """Return where the terms were read, and when."""
    return f"{_terms().source}, read {_terms().date.isoformat()}"


def community(licence: str) -> CommunityLicence | None:
    """Return the community licence that a LicenseRef names; None for every other."""
    if not licence.startswith(PREFIX):
        return None
    name = "".join(mark for mark in licence.removeprefix(PREFIX).lower() if mark.isalnum())
    return next((one for one in community_licences() if name in one.names), None)


@cache
def community_licences() -> tuple[CommunityLicence, ...]:
    """Return every community licence that is described."""
    return _CommunityFile.model_validate(yaml.safe_load(_read("community.yaml"))).licences


def hub_licence(licence: str) -> str | None:
    """Return what Hugging Face's hub calls a licence; None for one that it does not know."""
    known = community(licence)
    return known.hub if known else _hub().licences.get(licence)


def text_of(licence: str) -> str | None:
    """Return the full text of a licence that SPDX lists; None where it does not come along."""
    terms = terms_of(licence)
    if terms is None:
        return None
    return _read("texts", f"{terms.text or licence}.txt")


@cache
def _terms() -> _TermsFile:
    return _TermsFile.model_validate(yaml.safe_load(_read("terms.yaml")))


@cache
def _hub() -> _HubFile:
    return _HubFile.model_validate(yaml.safe_load(_read("hub.yaml")))


def _read(*path: str) -> str:
    return resources.files("registry").joinpath("licence_data", *path).read_text(encoding="utf-8")
