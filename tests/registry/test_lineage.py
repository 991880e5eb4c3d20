"""The class of removal of every build agrees with a model that follows bytes, not edges."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.catalogue.catalog import Catalog
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Member,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.kinds import Mode

Draw = st.DrawFn
MODES = ("anchored", "full")


@dataclass
class Bytes:
    """The brute-force model of a build.

    For each group of bytes, everything whose text or weights went into it.
    """

    shared: set[str]
    shards: dict[str, set[str]]
    rows: dict[str, set[str]]

    def groups(self) -> list[set[str]]:
        return [self.shared, *self.shards.values(), *self.rows.values()]


@dataclass
class World:
    """What was made from what, as the model knows it."""

    # Of seed, data and experts: the version itself, and all that went into it.
    inside: dict[str, set[str]] = field(default_factory=dict)
    builds: dict[str, Bytes] = field(default_factory=dict)
    top_k: dict[str, int] = field(default_factory=dict)


@st.composite
def plans(draw: Draw) -> dict[str, object]:
    """Draw a registry in words: data, a seed trained on some of it, experts, builds."""
    data = [f"data/d{number}@1" for number in range(draw(st.integers(1, 4)))]
    some = st.lists(st.sampled_from(data), unique=True, max_size=2)
    experts = draw(st.lists(st.tuples(st.sampled_from(MODES), some), min_size=1, max_size=5))
    members = st.lists(st.integers(0, len(experts) - 1), unique=True, min_size=1, max_size=4)
    build = st.fixed_dictionaries(
        {
            "members": members,
            "tune": st.sampled_from(["none", "router", "shared", "all"]),
            "on": some,
            "grown": st.booleans(),
            "seed_expert": st.booleans(),
            "blend": st.booleans(),
            "top_k": st.integers(1, 3),
        }
    )
    return {
        "data": data,
        "seed_on": draw(some) if draw(st.booleans()) else [],
        "experts": experts,
        "builds": draw(st.lists(build, min_size=1, max_size=4)),
    }


def register(catalog: Catalog, plan: dict[str, object]) -> World:
    world = World()
    for ref in plan["data"]:
        catalog.register(ref[5:-2], DataFacts())
        world.inside[ref] = {ref}
    trained_on = [(ref, "trained_on") for ref in plan["seed_on"]]
    catalog.register("base", SeedFacts(), parents=trained_on)
    world.inside["seed/base@1"] = {"seed/base@1", *plan["seed_on"]}
    modes = {}
    for number, (mode, trained_on) in enumerate(plan["experts"]):
        ref = f"expert/e{number}@1"
        parents = [("seed/base@1", "branched_from"), *((data, "trained_on") for data in trained_on)]
        catalog.register(f"e{number}", ExpertFacts(mode=Mode(mode)), parents=parents)
        world.inside[ref] = {ref, *trained_on} | world.inside["seed/base@1"]
        modes[ref] = mode
    for number, build in enumerate(plan["builds"], start=1):
        add_build(catalog, world, modes, number, build)
    return world


def add_build(
    catalog: Catalog, world: World, modes: dict[str, str], number: int, build: dict[str, object]
) -> None:
    members = [f"expert/e{member}@1" for member in build["members"]]
    mode = "full" if any(modes[ref] == "full" for ref in members) else "anchored"
    lines = [{"ref": ref, "slot": slot} for slot, ref in enumerate(members, start=1)]
    facts = {"mode": mode, "members": lines, "number": number}
    parents = [("seed/base@1", "seed"), *((ref, "member") for ref in members)]
    snapshot = catalog.register("main", SnapshotFacts.from_json(facts, "test"), parents=parents)
    grown = f"build/{number - 1}" if build["grown"] and number > 1 else None
    recipe = {
        "mix": {key: build[key] for key in ("top_k", "seed_expert", "blend")},
        "tune": {"mode": build["tune"]},
    }
    edges = [(snapshot.ref, "composed_from"), *((data, "tuned_on") for data in build["on"])]
    catalog.register(
        "",
        BuildFacts.from_json({"recipe": recipe, "number": number}, "test"),
        parents=edges + ([(grown, "grown_from")] if grown else []),
    )
    world.builds[f"build/{number}"] = model(
        world, members, mode, build, world.builds[grown] if grown else None
    )
    world.top_k[f"build/{number}"] = build["top_k"]


def model(
    world: World, members: list[str], mode: str, build: dict[str, object], grown: Bytes | None
) -> Bytes:
    seed = world.inside["seed/base@1"]
    shards = {ref: set(world.inside[ref]) for ref in members} | (
        {"seed": set(seed)} if build["seed_expert"] else {}
    )
    if build["blend"]:
        # Each expert holds a part of every one of them.
        everything = set[str]().union(*shards.values())
        shards = {f"blend-{number}": set(everything) for number in range(len(shards))}
    shared = set(seed).union(*(world.inside[ref] for ref in members if mode == "full"))
    rows: dict[str, set[str]] = {name: set() for name in shards}
    if grown:
        for row in rows.values():
            row.update(*grown.groups())
    text = set(build["on"])
    joint = text.union(*shards.values())
    if build["tune"] != "none":
        for row in rows.values():
            row |= joint if build["tune"] in ("shared", "all") else text
    if build["tune"] in ("shared", "all"):
        shared |= joint
    if build["tune"] == "all":
        for shard in shards.values():
            shard |= joint
    return Bytes(shared, shards, rows)


def expected(world: World, ref: str, subject: str) -> str:
    """Return the class of removal of one build, as its bytes say.

    Drop the shards and rows of the experts that hold the subject, and look whether any byte that
    stays holds it too.
    """
    made = world.builds[ref]
    if not any(subject in group for group in made.groups()):
        return "none"
    own = {name for name in made.shards if subject in world.inside.get(name, ())}
    stays = [made.shared] + [
        group
        for part in (made.shards, made.rows)
        for name, group in part.items()
        if name not in own
    ]
    enough = len(made.shards) - len(own) >= world.top_k[ref]
    return "exact" if enough and not any(subject in group for group in stays) else "rebuild"


@settings(max_examples=int(os.environ.get("BTX_EXAMPLES", "40")), deadline=None)
@given(plan=plans())
def test_the_class_of_removal_of_every_build_agrees_with_the_model_of_its_bytes(
    empty: Path, plan: dict[str, object]
) -> None:
    with TemporaryDirectory() as folder:
        catalog = Catalog(f"sqlite:///{shutil.copy(empty, folder)}", actor="ada")
        world = register(catalog, plan)
        for subject in world.inside:
            impact = catalog.impact(subject)
            removals = {str(build.ref): build.removal for build in impact.builds}
            assert removals == {ref: expected(world, ref, subject) for ref in world.builds}
            made_from = {
                ref
                for ref, inside in world.inside.items()
                if subject in inside and ref.startswith("expert/")
            } - {subject}
            assert {str(ref) for ref in impact.experts} == made_from
        catalog.close()


def test_impact_names_the_members_to_drop_and_the_exports(catalog: Catalog) -> None:
    add = catalog.register
    add("base", SeedFacts())
    for name in ("math", "code"):
        add(name, DataFacts())
        add(
            name,
            ExpertFacts(mode=Mode.ANCHORED),
            parents=[("seed/base", "branched_from"), (f"data/{name}", "trained_on")],
        )
    members = (Member(ref="expert/math@1", slot=1), Member(ref="expert/code@1", slot=2))
    add(
        "main",
        SnapshotFacts(mode=Mode.ANCHORED, members=members),
        parents=[("seed/base", "seed"), ("expert/math", "member"), ("expert/code", "member")],
    )
    add(
        "",
        BuildFacts.from_json({"recipe": {"tune": {"mode": "router"}}}, "test"),
        parents=[("snapshot/main", "composed_from"), ("data/code", "tuned_on")],
    )
    add("hub", ExportFacts(), parents=[("build/1", "exported_from")])
    impact = catalog.impact("data/math")
    assert [(build.removal, list(map(str, build.members))) for build in impact.builds] == [
        ("exact", ["expert/math@1"])
    ]
    assert list(map(str, impact.exports)) == ["export/hub@1"]
    assert list(map(str, impact.others)) == ["snapshot/main@1"]
    tuned_on = catalog.impact("data/code").builds[0]
    assert (tuned_on.removal, "tuned_on" in tuned_on.why) == ("rebuild", True)
    assert catalog.impact("expert/code").builds[0].removal == "exact"
    assert catalog.impact("seed/base").builds[0].removal == "rebuild"
