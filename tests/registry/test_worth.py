"""What builds gained and cost: hours of devices, money, and the estimate of one more expert."""

from dataclasses import asdict
from typing import Any

import pytest

from btx_core.training.recipes import TuneRecipe, growing
from registry.catalogue.catalog import Catalog
from registry.governance import worth
from registry.records.facts import BuildFacts, BuildRecipe, ExpertFacts, Member, Spent
from registry.records.pages import GpuPrice
from registry.records.results import Result

PRICE = GpuPrice(gpu_hour=2.0, currency="EUR")


def expert(catalog: Catalog, name: str, hours: float | None, processes: int | None = None) -> str:
    train: dict[str, Any] | None = None
    if hours is not None:
        train = {"tokens": 100, "flops": 1e9, "wall_s": hours * 3600, "processes": processes}
    data = (f"data/{name}@1",)
    facts = ExpertFacts(data=data, train=train) if train else ExpertFacts(data=data)
    return str(catalog.register(name, facts).ref)


def build(
    catalog: Catalog,
    *experts: str,
    tuned_hours: float | None,
    seed: str = "seed/base@1",
    recipe: TuneRecipe | None = None,
    **gains: float,
) -> str:
    members = tuple(Member(ref=ref, slot=slot) for slot, ref in enumerate(experts, 1))
    results = tuple(
        Result(data=f"data/{name}@1", domain=name, bits_per_byte=2 - gain, seed_bits_per_byte=2.0)
        for name, gain in gains.items()
    )
    tune = {"tokens": 50, "wall_s": tuned_hours * 3600} if tuned_hours else {}
    facts = BuildFacts(seed=seed, members=members, results=results, cost={"tune": tune})
    if recipe:
        facts = facts.model_copy(update={"recipe": BuildRecipe(tune=asdict(recipe))})
    return str(catalog.register("", facts).ref)


def test_an_hour_of_four_devices_is_four() -> None:
    spent = [Spent(wall_s=3600, processes=4), Spent(wall_s=1800), Spent()]
    assert worth.hours(spent) == 4.5
    assert worth.money(spent, PRICE) == 9.0
    assert worth.money(spent, None) is None


def test_one_more_expert_takes_what_the_median_one_took_and_a_tuning(lite: Catalog) -> None:
    first, second = expert(lite, "law", 1.0), expert(lite, "code", 3.0, processes=2)
    build(lite, first, tuned_hours=0.5, law=0.4)
    build(lite, first, second, tuned_hours=1.0, law=0.3, code=0.9)
    third = expert(lite, "math", None)
    build(lite, second, third, tuned_hours=None, code=0.8, math=0.1)
    builds = lite.versions(BuildFacts)
    experts = worth.joined(lite, builds, 0)
    assert [(one.ref, one.build, one.gain) for one in experts] == [
        (first, "build/1", pytest.approx(0.4)),
        (second, "build/2", pytest.approx(0.9)),
        (third, "build/3", pytest.approx(0.1)),
    ]
    estimate = worth.next_expert(lite, builds, experts, PRICE)
    assert estimate
    # Two trainings were reported, of 1 and 3 hours; build/2 is the newest that was tuned.
    assert (estimate.trained, estimate.tuned_as) == (2, "build/2")
    assert estimate.takes.wall_s == 3 * 3600
    assert estimate.takes.tokens == 150
    assert (estimate.least_gain, estimate.median_gain, estimate.most_gain) == (
        pytest.approx(0.1),
        pytest.approx(0.4),
        pytest.approx(0.9),
    )
    assert estimate.money == pytest.approx(2 * estimate.hours)


def test_one_more_expert_is_tuned_as_the_recipe_says_of_one_that_joins(lite: Catalog) -> None:
    whole = TuneRecipe(steps=10, batch=5, sequence=1)
    grown = TuneRecipe(steps=10, batch=5, sequence=1, grow=0.25, grow_batch=1.5)
    ahead = growing(grown, joins=True)
    assert (ahead.steps, ahead.batch) == (3, 8)
    law = expert(lite, "law", 1.0)
    # The newest build was tuned from nothing, though its recipe lets the next one grow.
    for recipe, tokens in ((whole, 50), (grown, ahead.steps * ahead.batch)):
        build(lite, law, tuned_hours=1.0, recipe=recipe)
        builds = lite.versions(BuildFacts)
        estimate = worth.next_expert(lite, builds, worth.joined(lite, builds, 0), PRICE)
        assert estimate
        assert estimate.takes.tokens == 100 + tokens
        assert estimate.hours == pytest.approx(1.0 + tokens / 50)


def test_without_a_reported_training_there_is_no_estimate(lite: Catalog) -> None:
    build(lite, expert(lite, "law", None), tuned_hours=1.0, law=0.4)
    builds = lite.versions(BuildFacts)
    assert worth.next_expert(lite, builds, worth.joined(lite, builds, 0), PRICE) is None


def test_a_build_is_charged_only_for_the_experts_that_are_new_in_it(lite: Catalog) -> None:
    first, second = expert(lite, "law", 1.0), expert(lite, "code", 3.0)
    build(lite, first, tuned_hours=0.5)
    build(lite, first, second, tuned_hours=1.0)
    own = worth.of_build(lite, lite.get("build/2", BuildFacts), PRICE)
    assert own.hours == pytest.approx(4.0)
    assert own.money == pytest.approx(8.0)
    assert [one.ref for one in own.joined] == [second]
    earlier = worth.of_build(lite, lite.get("build/1", BuildFacts), PRICE)
    assert earlier.next_expert
    assert earlier.next_expert.trained == 1


def test_what_one_more_expert_brings_is_told_by_those_of_its_own_seed(lite: Catalog) -> None:
    build(lite, expert(lite, "law", 1.0), tuned_hours=0.5, law=0.4)
    build(lite, expert(lite, "math", 9.0), tuned_hours=5.0, seed="seed/other@1", math=7.0)
    build(lite, "expert/law@1", expert(lite, "code", 1.0), tuned_hours=0.5, code=0.2)
    builds = lite.versions(BuildFacts)
    estimate = worth.next_expert(lite, builds, worth.joined(lite, builds, 0), PRICE)
    assert estimate
    gains = (estimate.least_gain, estimate.median_gain, estimate.most_gain)
    assert gains == pytest.approx((0.2, 0.3, 0.4))
    assert (estimate.trained, estimate.takes.wall_s) == (2, 1.5 * 3600)
