"""Aliases move by events, notes stay, and a mistake is retired before anything stands on it."""

import pytest

from registry.catalogue.catalog import Catalog
from registry.errors import Conflict, Invalid, NotFound, Refused
from registry.governance import changes, keys, remarks
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    Member,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.kinds import Kind, Relation, Status


def data(catalog: Catalog, name: str, **more: str) -> str:
    facts = DataFacts(domain=name, license="MIT", source="test", **more)
    return str(catalog.register(name, facts).ref)


def test_an_alias_stands_for_a_version_wherever_a_reference_is_read(catalog: Catalog) -> None:
    with pytest.raises(Invalid):
        catalog.get("best")
    first, second = data(catalog, "a"), data(catalog, "b")
    remarks.move_alias(catalog, "best", first)
    assert str(catalog.get("best").ref) == first
    assert catalog.status("best") == Status.REGISTERED
    assert str(catalog.lineage("best").nodes[0].ref) == first
    moved = remarks.move_alias(catalog, "best", second, "newer")
    assert (moved.subject, moved.body.to_json()["before"]) == (second, first)
    assert catalog.aliases() == {"best": second}
    assert len(catalog.events(kind="alias")) == 2
    remarks.remove_alias(catalog, "best")
    with pytest.raises(Invalid):
        catalog.get("best")
    with pytest.raises(NotFound):
        remarks.remove_alias(catalog, "best")


def test_an_alias_that_is_called_like_an_expert_does_not_hide_it(catalog: Catalog) -> None:
    of = {"legal": data(catalog, "legal"), "math": data(catalog, "math")}
    seed = str(catalog.register("base", SeedFacts(license="MIT")).ref)

    def expert(name: str) -> str:
        facts = ExpertFacts(seed=seed, data=(of[name],), mode="full", licenses=("MIT",))
        return str(catalog.register(name, facts).ref)

    legal = expert("legal")
    for alias in ("best", "math"):
        remarks.move_alias(catalog, alias, legal)
        assert str(catalog.reference(alias, Kind.EXPERT)) == legal
    math = expert("math")
    assert str(catalog.reference("math", Kind.EXPERT)) == "expert/math"
    remarks.move_alias(catalog, "math", math)
    assert str(catalog.reference("math", Kind.EXPERT)) == math, "a version of its own"
    remarks.move_alias(catalog, "math", legal)
    assert str(catalog.reference("best", Kind.EXPERT)) == legal
    # Where no kind is asked for, a word without a slash can only be an alias.
    assert str(catalog.get("math").ref) == legal


@pytest.mark.parametrize("word", ["data", "builds", "build", "a/b", "Best", "", "a b", "7"])
def test_what_reads_as_something_else_is_no_alias(lite: Catalog, word: str) -> None:
    with pytest.raises(Invalid):
        remarks.move_alias(lite, word, data(lite, "a"))


def test_no_alias_moves_to_what_is_out_of_use(lite: Catalog) -> None:
    ref = data(lite, "a")
    lite.withdraw(ref, "test")
    with pytest.raises(Refused):
        remarks.move_alias(lite, "best", ref)


def test_a_mistake_is_retired_and_registered_anew_under_the_next_number(catalog: Catalog) -> None:
    ref = data(catalog, "a", holder="mistyped")
    assert data(catalog, "a", holder="mistyped") == ref
    remarks.retire(catalog, ref, "the holder was mistyped")
    assert catalog.status(ref) == Status.RETIRED
    again = data(catalog, "a", holder="mistyped")
    assert (ref, again) == ("data/a@1", "data/a@2")
    assert catalog.status(again) == Status.REGISTERED


def test_a_name_alone_of_what_is_to_be_used_is_the_newest_version_in_use(lite: Catalog) -> None:
    first, second = (data(lite, "a", holder=holder) for holder in ("ann", "ben"))
    remarks.retire(lite, second, "mistake")
    for ref, expected in (("data/a", first), (second, second)):
        assert str(lite.get_usable(ref, DataFacts).ref) == expected
    remarks.retire(lite, first, "mistake")
    assert str(lite.get_usable("data/a", DataFacts).ref) == second, "for whoever asks to refuse it"


def test_nothing_is_made_from_what_was_retired(lite: Catalog) -> None:
    ref = data(lite, "a")
    seed = SeedFacts(model_type="llama")
    remarks.retire(lite, ref, "mistake")
    with pytest.raises(Refused, match="retired"):
        lite.register("base", seed, parents=[(ref, Relation.TRAINED_ON)])


def test_what_something_stands_on_is_withdrawn_and_never_retired(lite: Catalog) -> None:
    ref = data(lite, "a")
    lite.register("base", SeedFacts(model_type="llama"), parents=[(ref, Relation.TRAINED_ON)])
    with pytest.raises(Conflict, match="seed/base@1 was made from it"):
        remarks.retire(lite, ref, "mistake")
    gone, named = data(lite, "b"), data(lite, "c")
    lite.withdraw(gone, "test")
    remarks.move_alias(lite, "best", named)
    for subject in (gone, named):
        with pytest.raises(Conflict):
            remarks.retire(lite, subject, "mistake")
    assert lite.status(ref) == Status.REGISTERED


def test_a_snapshot_that_no_build_was_composed_from_is_nothing_that_stands(lite: Catalog) -> None:
    """An interrupted rebuild leaves one behind."""

    def snapshot(name: str) -> str:
        lite.register(name, ExpertFacts(domain=name))
        members = (Member(ref=f"expert/{name}@1", slot=1),)
        parents = [(f"expert/{name}@1", Relation.MEMBER)]
        return str(lite.register("main", SnapshotFacts(members=members), parents=parents).ref)

    left, used = snapshot("a"), snapshot("b")
    lite.register("", BuildFacts(), parents=[(used, Relation.COMPOSED_FROM)])
    with pytest.raises(Conflict, match="build/1 was made from it"):
        remarks.retire(lite, "expert/b", "mistake")
    remarks.retire(lite, "expert/a", "mistake")
    assert lite.status("expert/a") == Status.RETIRED
    with pytest.raises(Refused, match="made from expert/a@1, retired"):
        lite.register("", BuildFacts(line="x"), parents=[(left, Relation.COMPOSED_FROM)])


def test_notes_are_kept_in_their_order(lite: Catalog) -> None:
    ref = data(lite, "a")
    for text in ("first", "second"):
        remarks.note(lite, ref, text)
    assert [event.body.to_json()["text"] for event in remarks.notes(lite, ref)] == [
        "first",
        "second",
    ]
    with pytest.raises(Invalid):
        remarks.note(lite, ref, " ")


def test_where_an_auditor_keeps_the_list_only_people_on_it_name_and_retire(
    lite: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    ref = data(lite, "a")
    monkeypatch.setenv("BTX_KEY_FILE", f"{tmp_path}/key.pem")
    file = keys.key_file(lite.actor)
    keys.new_key(lite.actor, file)
    public_key = file.with_suffix(".pub").read_text()
    changes.change_actor(lite, changes.Change(lite.actor, ("auditor",), public_key))
    event = remarks.move_alias(lite, "best", ref)
    assert event.body.to_json()["envelope"]
    lite.actor = "mallory"
    for act in (
        lambda: remarks.move_alias(lite, "worst", ref),
        lambda: remarks.note(lite, ref, "lies"),
        lambda: remarks.retire(lite, ref, "lies"),
    ):
        with pytest.raises((Refused, Conflict)):
            act()
    assert lite.aliases() == {"best": ref}
