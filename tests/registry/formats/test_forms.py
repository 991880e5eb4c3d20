"""The law's forms: every item asked, each answered or named with the command that answers it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.errors import Invalid
from registry.formats import collect, forms, public, render
from registry.formats.dossier import compute
from registry.formats.forms import FORMS
from registry.formats.legal_texts import THRESHOLDS
from registry.formats.modification import modification
from registry.formats.sections import Section, State, answered
from registry.governance import stating
from registry.records.events import Released
from registry.records.facts import SeedFacts, TrainingReport
from registry.records.own_facts import FactDefinition, FactType, OwnValue
from registry.units import power

ITEMS = yaml.safe_load((Path(__file__).parent / "legal_items.yaml").read_text())
SCHEMA = stating.read_schema(Path(__file__).parents[3] / "pipelines/workspace/facts.yaml")
# Annex IV asks about the system around a model: no registry of models can fill it.
FILLABLE = [name for name in FORMS if name != "annex-iv"]
VALUES: dict[FactType, OwnValue] = {
    FactType.TEXT: "as stated",
    FactType.TEXTS: ("a.example", "b.example"),
    FactType.NUMBER: 4096,
    FactType.TRUTH: True,
    FactType.DATE: "2026-02-01",
}


def value(definition: FactDefinition) -> OwnValue:
    return definition.values[0] if definition.values else VALUES[definition.type]


def state_all(governed: Any, **change: OwnValue) -> Any:
    """State every fact of facts.yaml, except attached files, and release build/1."""
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    subjects = {
        "organisation": "organisation",
        "data": "data/law@1",
        "seed": "seed/base@1",
        "build": "build/1",
    }
    for kind, ref in subjects.items():
        facts = {
            key: change.get(key, value(one))
            for key, one in SCHEMA.of_kind(kind).items()
            if one.type != FactType.FILE and key != "licence"
        }
        stating.amend(catalog, ref, facts, "as the law asks")
    catalog.event(Released(), "build/1")
    return catalog


def missing(name: str, dossier: Any) -> list[str]:
    return [line for section in answered(FORMS[name], dossier) for line in section.missing]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_asks_every_item_of_its_legal_text_and_nothing_else(name: str) -> None:
    law = FORMS[name]
    assert [point.number for point in law.points] == list(ITEMS[name]["items"])
    assert law.source.url.startswith("https://")
    assert law.source.date.year >= 2024
    named = ITEMS[name]["document"].split(",")[0]
    assert named in law.source.document


@pytest.mark.parametrize("name", FORMS)
def test_every_fact_that_a_form_asks_for_can_be_stated_of_its_kind(name: str) -> None:
    for point in FORMS[name].points:
        for kind, keys in point.facts:
            for key in keys:
                assert kind in SCHEMA.facts[key].kinds, (point.heading, key)
        if point.only_if:
            assert "organisation" in SCHEMA.facts[point.only_if].kinds
        if name == "training-summary":
            for key in (key for _, keys in point.facts for key in keys):
                assert SCHEMA.facts[key].public, key


@pytest.mark.parametrize("source_class", ["public", "crawled", "licensed", "synthetic", "user"])
def test_with_all_facts_stated_nothing_is_missing(governed: Any, source_class: str) -> None:
    governed.story()
    dossier = collect(state_all(governed, source_class=source_class), "build/1")
    for name in FILLABLE:
        shown = public(dossier) if name == "training-summary" else dossier
        assert missing(name, shown) == [], name
        text = render(dossier, name)
        assert "Missing" not in text
        assert "as stated" in text


@pytest.mark.parametrize("name", ["training-summary", "annex-xi"])
def test_no_sum_is_told_as_the_whole_while_a_training_reported_nothing(
    governed: Any, name: str
) -> None:
    governed.story()
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)

    def shown() -> str:
        dossier = collect(catalog, "build/1")
        return render(public(dossier) if name == "training-summary" else dossier, name)

    assert "less than 1 billion tokens" not in shown().replace("the rest: less", "")
    assert "all trainings together:" not in shown()
    assert "btx fact set seed/base@1 training_tokens=VALUE" in shown()
    stating.amend(catalog, "seed/base@1", {"training_tokens": 2e12}, "the maker's card")
    assert "training_tokens=VALUE" not in shown()
    told = "1 billion to 10 trillion" if name == "training-summary" else "all trainings together:"
    assert told in shown()


@pytest.mark.parametrize("name", FILLABLE)
def test_without_facts_each_gap_names_the_fact_and_the_command_that_states_it(
    governed: Any, name: str
) -> None:
    governed.story()
    dossier = collect(governed.as_("ann"), "build/1")
    gaps = missing(name, public(dossier) if name == "training-summary" else dossier)
    assert gaps
    for gap in gaps:
        assert "btx " in gap, gap
    stated = [re.search(r"btx fact set (\S+) (\w+)=VALUE", gap) for gap in gaps]
    for found in filter(None, stated):
        ref, key = found.groups()
        assert stating.subject_kind(ref) in SCHEMA.facts[key].kinds, found.group()


def test_each_command_that_a_gap_names_fills_it(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    name = "annex-xi"
    before = missing(name, collect(catalog, "build/1"))
    for gap in before:
        found = re.search(r"btx fact set (\S+) (\w+)=VALUE", gap)
        if found:
            ref, key = found.groups()
            stating.amend(catalog, ref, {key: value(SCHEMA.facts[key])}, "answered")
            assert gap not in missing(name, collect(catalog, "build/1"))
    # The organisation said that its models have systemic risk: more is asked of them.
    assert any("adversarial testing" in gap for gap in missing(name, collect(catalog, "build/1")))


def test_what_holds_of_everything_is_stated_once_and_a_build_may_say_else(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    stating.declare(catalog, SCHEMA)
    stating.amend(catalog, "organisation", {"acceptable_use": "no weapons"}, "policy")
    assert "no weapons" in render(collect(catalog, "build/1"), "annex-xii")
    stating.amend(catalog, "build/1", {"acceptable_use": "research only"}, "exception")
    text = render(collect(catalog, "build/1"), "annex-xii")
    assert "research only" in text
    assert "no weapons" not in text


def test_a_model_without_systemic_risk_is_not_asked_what_such_a_model_is(governed: Any) -> None:
    governed.story()
    dossier = collect(state_all(governed, systemic_risk=False), "build/1")
    text = render(dossier, "annex-xi")
    assert text.count("Does not apply: model with systemic risk, no.") == 3
    assert "Held-out text of each domain" not in text


def test_no_is_never_said_of_a_kind_of_source_while_one_is_not_stated(governed: Any) -> None:
    governed.story()
    catalog = governed.as_("ann")
    law = FORMS["training-summary"]
    asked = {point.heading for point in law.points if point.of_class}

    def of_class() -> list[Section]:
        sections = answered(law, public(collect(catalog, "build/1")))
        return [one for one in sections if one.title in asked]

    for section in of_class():
        assert section.state == State.MISSING, section.title
        assert section.missing == (
            "source class of data/law@1: btx fact set data/law@1 source_class=VALUE --why TEXT",
        )
    stating.declare(catalog, SCHEMA)
    stating.amend(catalog, "data/law@1", {"source_class": "synthetic"}, "ours")
    said = [section.recorded[0] for section in of_class()]
    assert said.count("Yes. Text: data/law@1.") == 1
    assert said.count("No.") == len(asked) - 1


def test_the_public_summary_is_public_whoever_asks(governed: Any) -> None:
    governed.seed()
    data = governed.data(license="LicenseRef-Contract-4711", source="contract 4711")
    governed.build(governed.expert(data))
    text = render(
        collect(state_all(governed, source_class="licensed"), "build/1"), "training-summary"
    )
    assert "4711" not in text
    assert "data/law@1" in text


@pytest.mark.parametrize(
    ("seed_flops", "own", "exceeded"),
    [
        (9e9, 1e9, False),
        (3e9, 1e9, True),
        (None, 1e9, False),
        (None, THRESHOLDS.general / 2, True),
        (9e9, None, None),
    ],
)
def test_a_third_of_the_seeds_computation_makes_a_provider(
    governed: Any, seed_flops: float | None, own: float | None, exceeded: bool | None
) -> None:
    catalog = governed.as_("ann")
    train = TrainingReport(flops=seed_flops) if seed_flops else None
    catalog.register("base", SeedFacts(license="Apache-2.0", train=train))
    expert = governed.expert_facts(governed.data(), train=TrainingReport(flops=own))
    version = catalog.register("law", expert, parents=[("seed/base@1", "branched_from")])
    test = modification(collect(catalog, str(version.ref)))
    assert test.exceeded is exceeded
    assert test.own == own
    expected = THRESHOLDS.share * (seed_flops or THRESHOLDS.general)
    assert test.threshold == pytest.approx(expected)
    assert str(THRESHOLDS.date) in test.sentence


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_a_page_where_a_page_is_asked_for_and_only_of_builds(
    governed: Any, name: str
) -> None:
    governed.story()
    dossier = collect(governed.as_("ann"), "build/1")
    page = render(dossier, name, as_page=True)
    assert page.startswith("<!doctype html>")
    assert forms.FORMS[name].title in page
    with pytest.raises(Invalid, match="expected a build"):
        render(collect(governed.as_("ann"), "data/law@1"), name)


def test_operations_that_are_stated_are_part_of_every_sum(governed: Any) -> None:
    """Of time nothing can be stated: a sum that lacks a training's says so."""
    governed.seed()
    catalog = governed.as_("ann")
    expert = governed.expert_facts(governed.data(), train=None)
    parents = [("seed/base@1", "branched_from"), ("data/law@1", "trained_on")]
    governed.build(catalog.register("law", expert, parents=parents))
    stating.declare(catalog, SCHEMA)
    assert compute(collect(catalog, "build/1")).flops is None
    stating.amend(catalog, "seed/base@1", {"training_flops": 9e9}, "the maker's card")
    stating.amend(catalog, "expert/law@1", {"training_flops": 1e9}, "our own count")
    dossier = collect(catalog, "build/1")
    assert compute(dossier).flops == 10e9
    test = modification(dossier)
    assert (test.own, test.seed) == (1e9, 9e9)
    assert "expert/law@1" not in test.unreported
    text = render(dossier, "cop-model-documentation")
    assert f"{power(10e9)} floating point operations." in text
    assert f"at least {power(10e9)}" not in text
    assert f"| seed/base@1 | not reported | {power(9e9)} | not reported |" in render(dossier, "md")


def test_a_time_is_not_told_as_the_whole_while_a_training_reported_none(governed: Any) -> None:
    governed.story()
    catalog = state_all(governed)
    text = render(collect(catalog, "build/1"), "cop-model-documentation")
    assert "at least 2.50 s by the clock" in text
