"""The report for people: what the law asks, what is held, what is missing."""

import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from registry.formats import collect, render
from registry.formats.sections import annex_iv, attention, overview, training_summary
from registry.governance import people


class Page(HTMLParser):
    """Every tag and attribute of a page, and its open tags at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [
            value
            for key, value in attrs
            if key in ("src", "href") and value and not value.startswith("#")
        ]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_itself_and_is_well_formed(governed: Any) -> None:
    governed.story()
    page = Page(render(collect(governed.as_("ann"), "build/1"), "html"))
    assert page.open == []
    assert page.outside == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)


def test_all_nine_points_of_annex_iv_and_the_whole_template_are_answered(governed: Any) -> None:
    governed.story()
    dossier = collect(governed.as_("ann"), "build/1")
    assert {section.title[0] for section in annex_iv(dossier)} == set("123456789")
    assert [section.title.split()[0] for section in training_summary(dossier)] == [
        "1.1",
        "1.2",
        "1.3",
        "2.",
        "3.1",
        "3.2",
        "3.3",
    ]
    for section in (*annex_iv(dossier), *training_summary(dossier)):
        assert section.needs
        assert section.recorded or section.missing, f"{section.title} says nothing"


@pytest.mark.parametrize(
    ("key", "words"),
    [("holder", "the holder of data/law@1"), ("purpose", "the purpose of data/law@1")],
)
def test_what_nobody_recorded_is_said_to_be_missing(governed: Any, key: str, words: str) -> None:
    governed.seed()
    governed.build(governed.expert(governed.data(**{key: None})))
    dossier = collect(governed.as_("ann"), "build/1")
    missing = [line for section in training_summary(dossier) for line in section.missing]
    assert words in missing
    for form in ("html", "md"):
        assert words in render(dossier, form)


def test_a_waiver_is_shown_with_rule_subject_end_signer_and_reason(governed: Any) -> None:
    governed.seed()
    ben = governed.person("ben", "approver")
    until = (governed.at + timedelta(days=10)).date().isoformat()
    people.waive(
        governed.as_("ben"), "licence/allowed", "data/law@1", ben, until=until, why="contract 4711"
    )
    governed.build(governed.expert(governed.data(license="LicenseRef-Contract")))
    text = render(collect(governed.as_("ann"), "build/1"), "md")
    assert re.search(
        rf"\| licence/allowed \| data/law@1 \| register \| {until} \| ben \| contract 4711 \|", text
    )


def test_what_to_know_before_signing_stands_first(governed: Any) -> None:
    """Status, refusals, waivers, warnings, losers and gaps; each said on the page before the first part."""
    governed.seed()
    ben = governed.person("ben", "approver")
    until = (governed.at + timedelta(days=10)).date().isoformat()
    people.waive(
        governed.as_("ben"), "licence/allowed", "data/law@1", ben, until=until, why="contract 4711"
    )
    build = governed.build(
        governed.expert(governed.data(license="LicenseRef-Contract", purpose=None))
    )
    governed.decide(
        "release",
        governed.build_evidence(governed.as_("ann").get("expert/law@1"), ref=str(build.ref)),
    )
    governed.as_("ann").withdraw("data/law@1", "consent ended")
    dossier = collect(governed.as_("ann"), "build/1")
    top = render(dossier, "html").split('id="part-1"')[0]
    for said in (
        "Not to be used: it is tainted.",
        "data/law@1 was withdrawn",
        "Refused at gate release",
        "release/second-person",
        "Not released; approved by nobody.",
        f"Waived: licence/allowed for data/law@1 until {until}, signed by ben.",
        "Warned by provenance-complete/purpose: data/law@1.",
        "Of 15 points of Annex IV, 4 have no answer here",
    ):
        assert said in top, said
    assert "Not to be used" not in " ".join(attention(collect(governed.as_("ann"), "seed/base@1")))


@pytest.mark.parametrize(
    ("changed", "told"),
    [(False, "Code revision abc123."), (True, "the code revision that made expert/x@1")],
)
def test_programs_and_revision_are_told_and_a_revision_that_was_changed_is_none(
    governed: Any, changed: bool, told: str
) -> None:
    made = {
        "python": "3.11.7",
        "platform": "Linux",
        "packages": {"torch": "2.13.0"},
        "revision": "abc123",
        "changed": changed,
    }
    governed.as_("ann").register(
        "expert",
        "x",
        {"seed": "seed/base@1", "data": [], "licenses": [], "mode": "full", "environment": made},
    )
    text = render(collect(governed.as_("ann"), "expert/x"), "md")
    assert "Made with Python 3.11.7 on Linux: torch 2.13.0." in text
    assert told in text
    assert (
        "gitCommit" in render(collect(governed.as_("ann"), "expert/x"), "in-toto")
    ) is not changed


def test_a_data_versions_report_names_what_it_reached_and_the_class_of_removal(
    governed: Any,
) -> None:
    governed.story()
    text = render(collect(governed.as_("ann"), "data/law@1"), "md")
    assert "| expert/law@1 | registered |" in text
    assert re.search(r"\| build/1 \| evaluated \| rebuild \| ", text)


def test_an_export_is_shown_with_day_person_and_target(governed: Any) -> None:
    governed.story()
    governed.as_("ann").event("exported", "build/1", {"folder": "/out", "target": "vllm"})
    assert re.search(
        r"\| exported \| \d{4}-\d\d-\d\d by ann, for vllm \|",
        render(collect(governed.as_("ann"), "build/1"), "md"),
    )


def test_a_long_list_before_signing_names_six_and_counts_the_rest(governed: Any) -> None:
    figures = {"bits_per_byte": 1.1, "seed_bits_per_byte": 1.0, "specialist_bits_per_byte": 0.9}
    governed.as_("ann").register(
        "build",
        "",
        {"seed": "seed/base@1", "members": [], "evaluation": {f"d{n}": figures for n in range(9)}},
    )
    dossier = collect(governed.as_("ann"), "build/1")
    assert "Worse than the untouched seed on: d0, d1, d2, d3, d4, d5 and 3 more." in attention(
        dossier
    )
    assert "| d0 | 1.000 | 0.900 | 1.100 | +10 % worse | none |" in render(dossier, "md")


def test_a_cell_of_a_few_words_stays_on_one_line_and_a_long_one_may_wrap(governed: Any) -> None:
    governed.data(source="x" * 500)
    text = render(collect(governed.as_("ann"), "data/law@1"), "html")
    assert re.search(r'<td class="firm" data-label="licence">CC0-1.0</td>', text)
    assert re.search(rf'<td data-label="source">{"x" * 500}</td>', text)


def test_a_withdrawal_and_a_release_are_shown(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    catalog.event("released", "build/1")
    catalog.withdraw("data/law@1", "consent ended")
    for form in ("html", "md"):
        text = render(collect(catalog, "build/1"), form)
        assert "data/law@1 was withdrawn" in text
        assert "consent ended" in text
        assert "tainted" in text


def test_quality_is_told_per_domain_beside_seed_and_specialist(governed: Any) -> None:
    governed.story()
    text = render(collect(governed.as_("ann"), "build/1"), "md")
    assert "| law (new to the seed) | 1.400 | 0.900 | 0.950 | −32 % | 90 % |" in text


def test_compute_of_all_versions_is_summed_and_what_was_not_reported_is_not_zero(
    governed: Any,
) -> None:
    governed.story()
    text = render(collect(governed.as_("ann"), "build/1"), "md")
    assert "| expert/law@1 | 1,000 | 1.00e+09 | 2 s |" in text
    assert "| seed/base@1 | not reported | not reported | not reported |" in text
    assert "- training cost of seed/base@1\n" in text, (
        "the sum below leaves it out, and the page says so"
    )


def test_the_overview_of_a_bare_data_version_has_no_empty_promises(governed: Any) -> None:
    governed.data()
    titles = [section.title for section in overview(collect(governed.as_("ann"), "data/law@1"))]
    assert not {"Members", "Cost"} & set(titles)
    assert "Annex IV" not in render(collect(governed.as_("ann"), "data/law@1"), "html")
    assert "Quality" not in titles
