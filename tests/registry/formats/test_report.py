"""The report for people: what the law asks, what is held, what is missing."""

import dataclasses
import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from huggingface_hub import ModelCard

from registry.formats import Dossier, collect, model_card, render
from registry.formats.legal_texts import ANNEX_IV, ANNEX_XI, TRAINING_SUMMARY
from registry.formats.sections import answered, attention, overview
from registry.records.events import Exported, Released
from registry.records.facts import Architecture, BuildFacts, Environment, ExpertFacts
from registry.records.results import Result, Specialist


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
    assert {section.title[0] for section in answered(ANNEX_IV, dossier)} == set("123456789")
    for section in (*answered(ANNEX_IV, dossier), *answered(TRAINING_SUMMARY, dossier)):
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
    missing = [line for section in answered(ANNEX_XI, dossier) for line in section.missing]
    assert any(line.startswith(f"{words}: btx data add") for line in missing)
    for form in ("html", "md"):
        assert words in render(dossier, form)


def test_a_waiver_is_shown_with_rule_subject_end_signer_and_reason(governed: Any) -> None:
    governed.seed()
    ben = governed.person("ben", "approver")
    until = (governed.at + timedelta(days=10)).date().isoformat()
    contract = governed.data_candidate(license="LicenseRef-Contract")
    governed.waive(ben, "licence/allowed", contract, until, "contract 4711")
    governed.build(governed.expert(governed.data(license="LicenseRef-Contract")))
    text = render(collect(governed.as_("ann"), "build/1"), "md")
    assert re.search(
        rf"\| licence/allowed \| data/law@1 \| register \| {until} \| ben \| contract 4711 \|", text
    )


def test_a_waiver_that_was_for_something_else_is_not_told_as_an_exception(governed: Any) -> None:
    """Another person waived the rule for another text of this name, which was never registered."""
    governed.seed()
    people = {name: governed.person(name, "approver") for name in ("ben", "cy")}
    for name, text, days in (("cy", "another text", 20), ("ben", "", 10)):
        until = (governed.at + timedelta(days=days)).date().isoformat()
        contract = governed.data_candidate(text=text, license="LicenseRef-Contract")
        governed.waive(people[name], "licence/allowed", contract, until, f"by {name}")
    governed.build(governed.expert(governed.data(license="LicenseRef-Contract")))
    dossier = collect(governed.as_("ann"), "build/1")
    assert [used.waiver.actor for used in dossier.waivers()] == ["ben"]
    assert "signed by cy" not in render(dossier, "html")


def test_what_to_know_before_signing_stands_first(governed: Any) -> None:
    """Status, refusals, waivers, warnings, losers and gaps stand before the first part."""
    governed.seed()
    ben = governed.person("ben", "approver")
    until = (governed.at + timedelta(days=10)).date().isoformat()
    contract = governed.data_candidate(license="LicenseRef-Contract", purpose=None)
    governed.waive(ben, "licence/allowed", contract, until, "contract 4711")
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
        "Of 14 points of Annex XI, 6 have no answer here",
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
    programs = Environment(
        python="3.11.7",
        platform="Linux",
        packages={"torch": "2.13.0"},
        revision="abc123",
        changed=changed,
    )
    facts = ExpertFacts(seed="seed/base@1", mode="full", environment=programs)
    governed.as_("ann").register("x", facts)
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
    governed.as_("ann").event(Exported(folder="/out", target="vllm"), "build/1")
    assert re.search(
        r"\| exported \| \d{4}-\d\d-\d\d by ann, for vllm \|",
        render(collect(governed.as_("ann"), "build/1"), "md"),
    )


def test_a_long_list_before_signing_names_six_and_counts_the_rest(governed: Any) -> None:
    results = tuple(
        Result(
            data=f"data/d{number}@1",
            domain=f"d{number}",
            bits_per_byte=1.1,
            seed_bits_per_byte=1.0,
            specialists=(Specialist(bits_per_byte=0.9),),
        )
        for number in range(9)
    )
    governed.as_("ann").register("", BuildFacts(seed="seed/base@1", results=results))
    dossier = collect(governed.as_("ann"), "build/1")
    assert "Worse than the untouched seed on: d0, d1, d2, d3, d4, d5 and 3 more." in attention(
        dossier
    )
    assert "| d0 | 1.00 | 0.900 | 1.10 | +10.0 % worse | none | not recorded |" in render(
        dossier, "md"
    )


def test_a_cell_of_a_few_words_stays_on_one_line_and_a_long_one_may_wrap(governed: Any) -> None:
    governed.data(source="x" * 500)
    text = render(collect(governed.as_("ann"), "data/law@1"), "html")
    assert re.search(r'<td class="firm" data-label="licence">CC0-1.0</td>', text)
    assert re.search(rf'<td data-label="source">{"x" * 500}</td>', text)


def test_a_withdrawal_and_a_release_are_shown(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    catalog.event(Released(), "build/1")
    catalog.withdraw("data/law@1", "consent ended")
    for form in ("html", "md"):
        text = render(collect(catalog, "build/1"), form)
        assert "data/law@1 was withdrawn" in text
        assert "consent ended" in text
        assert "tainted" in text


def test_quality_is_told_per_domain_beside_seed_and_specialist(governed: Any) -> None:
    governed.story()
    text = render(collect(governed.as_("ann"), "build/1"), "md")
    assert (
        "| law (new to the seed) | 1.40 | 0.900 | 0.950 | −32.1 % | 90.0 % | expert/law@1 |" in text
    )


def test_compute_of_all_versions_is_summed_and_what_was_not_reported_is_not_zero(
    governed: Any,
) -> None:
    governed.story()
    text = render(collect(governed.as_("ann"), "build/1"), "md")
    assert "| expert/law@1 | 1,000 | 1.00 × 10⁹ | 2.50 s |" in text
    assert "| seed/base@1 | not reported | not reported | not reported |" in text
    assert "- computation of the training of seed/base@1: btx fact set seed/base@1" in text, (
        "the sum below leaves it out, and the page says so"
    )


def test_the_overview_of_a_bare_data_version_has_no_empty_promises(governed: Any) -> None:
    governed.data()
    titles = [section.title for section in overview(collect(governed.as_("ann"), "data/law@1"))]
    assert not {"Members", "Cost"} & set(titles)
    assert "Annex IV" not in render(collect(governed.as_("ann"), "data/law@1"), "html")
    assert "Quality" not in titles


def build_of(governed: Any, **facts: Any) -> Dossier:
    """build/1 with these facts beside those of the story."""
    governed.story()
    catalog = governed.as_("ann")
    changed = catalog.get("build/1", BuildFacts).facts.model_copy(update=facts)
    catalog.register("", changed, parents=[("snapshot/main@1", "composed_from")])
    return collect(catalog, "build/2")


@pytest.mark.parametrize(
    ("mixture", "said"),
    [
        (
            {"top_k": 2, "routing": "top-k", "seed_expert": True},
            "1 trained here and the untouched seed; 2 work on each token (top-k routing)",
        ),
        (
            {"top_k": 1, "routing": "switch", "seed_expert": False},
            "1 trained here, without the untouched seed; 1 works on each token (switch routing)",
        ),
    ],
)
def test_a_builds_report_says_how_many_experts_work_and_whether_the_seed_is_one(
    governed: Any, mixture: dict[str, Any], said: str
) -> None:
    dossier = build_of(governed, architecture=Architecture(active_parameters=18, **mixture))
    for form in ("html", "md"):
        text = render(dossier, form)
        assert said in text
        assert "not reported in all, 18 at work on each token" in text
        assert "unless left out" not in text


def test_an_older_row_that_leaves_out_a_default_is_reported_with_its_value(governed: Any) -> None:
    governed.story()
    dossier = collect(governed.as_("ann"), "build/1")
    older = {
        "seed": "seed/base@1",
        "snapshot": "snapshot/main@1",
        "members": [{"ref": "expert/law@1", "slot": 1}],
        "recipe": {"mix": {"mode": "anchored"}, "resolved": {"mix": {}, "tune": {"mode": "none"}}},
        "cost": {"active_parameters": 18, "total_parameters": 27},
    }
    subject = dataclasses.replace(dossier.subject, stored=json.dumps(older))
    text = render(dataclasses.replace(dossier, subject=subject), "md")
    assert "1 trained here and the untouched seed; 2 work on each token (top-k routing)" in text
    assert "Parameters: 27 in all, 18 at work on each token." in text


def result(data: str, domain: str, own: float, *specialists: Specialist) -> Result:
    return Result(
        data=data,
        domain=domain,
        bits_per_byte=own,
        seed_bits_per_byte=2.0,
        specialists=specialists,
        new_to_seed=True,
    )


def test_two_versions_of_one_data_name_stay_apart_in_every_table_and_card(governed: Any) -> None:
    dossier = build_of(
        governed,
        results=(
            result("data/law@1", "law", 1.25, Specialist(ref="expert/law@1", bits_per_byte=1.0)),
            result("data/law@2", "law", 2.5, Specialist(ref="expert/deeds@1", bits_per_byte=0.5)),
            result("data/code@1", "code", 1.5, Specialist(ref="expert/code@1", bits_per_byte=1.5)),
        ),
    )
    text = render(dossier, "md")
    for row in (
        "| law@1 (new to the seed) | 2.00 | 1.00 | 1.25 | −37.5 % | 75.0 % | expert/law@1 |",
        "| law@2 (new to the seed) | 2.00 | 0.500 | 2.50 | +25.0 % worse | none | expert/deeds@1 |",
        "| code (new to the seed) | 2.00 | 1.50 | 1.50 | −25.0 % | 100 % | expert/code@1 |",
    ):
        assert row in text
    assert "Worse than the untouched seed on: law@2." in attention(dossier)
    entries = model_card.front_matter(dossier)["model-index"][0]["results"]
    assert [(entry["dataset"]["name"], entry["dataset"]["type"]) for entry in entries] == [
        ("law@1", "data/law@1"),
        ("law@2", "data/law@2"),
        ("code", "data/code@1"),
    ]
    read_by_the_hub = ModelCard(render(dossier, "model-card")).data.eval_results
    assert read_by_the_hub is not None
    assert [found.metric_value for found in read_by_the_hub] == [1.25, 2.5, 1.5]
    card = json.loads(render(dossier, "cyclonedx"))["metadata"]["component"]["modelCard"]
    slices = [
        metric["slice"]
        for metric in card["quantitativeAnalysis"]["performanceMetrics"]
        if metric["type"] == "bits_per_byte"
    ]
    assert slices == ["law@1", "law@2", "code"]
    assert '"law@2: bits per byte"' in render(dossier, "spdx")


def test_of_two_experts_of_one_domain_the_best_is_the_specialist_and_is_named(
    governed: Any,
) -> None:
    worse, best = (
        Specialist(ref="expert/deeds@1", bits_per_byte=1.8),
        Specialist(ref="expert/law@1", bits_per_byte=1.0),
    )
    dossier = build_of(governed, results=(result("data/law@1", "law", 1.2, worse, best),))
    row = "| law (new to the seed) | 2.00 | 1.00 | 1.20 | −40.0 % | 80.0 % | expert/law@1 |"
    assert row in render(dossier, "md")
    assert dossier.results[0].gain_kept == pytest.approx(0.8)
