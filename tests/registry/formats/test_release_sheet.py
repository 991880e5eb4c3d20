"""The release sheet: one page that another tool reads, saying what the report says."""

import io
from typing import Any

import pytest
from pypdf import PdfReader
from pypdf.errors import PdfReadError

from registry.formats import collect, public
from registry.formats.release_sheet import MOST_ROWS, pdf
from registry.governance import worth
from registry.records.facts import BuildFacts
from registry.records.pages import GpuPrice

PRICE = GpuPrice(gpu_hour=2.5, currency="EUR")


def sheet(governed: Any, price: GpuPrice | None = PRICE, *, outside: bool = False) -> bytes:
    catalog = governed.as_("ann")
    dossier = collect(catalog, "build/1")
    own = worth.of_build(catalog, catalog.get("build/1", BuildFacts), price)
    return pdf(public(dossier) if outside else dossier, own)


def text_of(content: bytes) -> str:
    pages = PdfReader(io.BytesIO(content), strict=True).pages
    assert len(pages) == 1
    return " ".join(pages[0].extract_text().split())


def test_it_is_one_page_with_members_figures_cost_and_what_to_know(governed: Any) -> None:
    governed.story()
    content = sheet(governed)
    text = text_of(content)
    build = governed.as_("ann").get("build/1", BuildFacts)
    for said in ("build/1", build.digest, *(member.ref for member in build.facts.members)):
        assert said in text
    assert "An hour of a device costs 2.5 EUR" in text
    assert "What to know before signing" in text
    assert "No price is set" in text_of(sheet(governed, None))
    with pytest.raises(PdfReadError):
        PdfReader(io.BytesIO(content[: len(content) // 2]), strict=True)


def test_a_build_of_many_members_is_still_one_page_that_counts_the_rest(governed: Any) -> None:
    governed.seed()
    names = [f"d{number}" for number in range(MOST_ROWS + 7)]
    experts = [governed.expert(governed.data(name), name) for name in names]
    governed.build(*experts)
    assert "and 7 more" in text_of(sheet(governed))


def test_words_of_people_stay_words(governed: Any) -> None:
    governed.story()
    governed.as_("ann").withdraw("data/law@1", "<b>bold</b> & <para> no markup")
    assert "<b>bold</b> & <para>" in text_of(sheet(governed))
