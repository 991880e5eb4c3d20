"""Licence expressions are compared by what they mean."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import Invalid
from registry.licences import alternatives, each, is_choice, joined, spelled

NAMES = ("MIT", "ISC", "CC0-1.0", "GPL-2.0-only WITH Classpath-exception-2.0", "LicenseRef-Acme")

# An expression as nested pairs, so that a test can write it down in many ways.
trees = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.tuples(st.sampled_from(["AND", "OR"]), inner, inner),
    max_leaves=6,
)


def written(tree: object, turned: bool = False) -> str:
    if isinstance(tree, str):
        return tree
    word, left, right = tree  # type: ignore[misc]
    sides = [written(left, turned), written(right, turned)]
    return f"({f' {word} '.join(reversed(sides) if turned else sides)})"


def complies(tree: object, kept: frozenset[str]) -> bool:
    """The meaning, from the words' definition: whoever keeps these licences complies."""
    if isinstance(tree, str):
        return tree in kept
    word, left, right = tree  # type: ignore[misc]
    sides = (complies(left, kept), complies(right, kept))
    return all(sides) if word == "AND" else any(sides)


@settings(deadline=None)
@given(trees)
def test_alternatives_are_all_ways_to_comply(tree: object) -> None:
    ways = alternatives(written(tree))
    for bits in product([False, True], repeat=len(NAMES)):
        kept = frozenset(name for name, bit in zip(NAMES, bits, strict=True) if bit)
        assert complies(tree, kept) == any(kept.issuperset(way) for way in ways)


@settings(deadline=None)
@given(trees)
def test_equal_meanings_have_equal_alternatives(tree: object) -> None:
    text = written(tree)
    assert alternatives(text) == alternatives(written(tree, turned=True))
    assert alternatives(f"{text} AND {text}") == alternatives(text) == alternatives(f"(({text}))")
    assert alternatives(joined([text, text])) == alternatives(text)
    assert set(each([text])) == {name for way in alternatives(text) for name in way}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("MIT OR Apache-2.0", "(apache-2.0 or mit)"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("MIT AND (CC-BY-4.0 OR CC0-1.0)", "(CC0-1.0 AND MIT) OR (MIT AND CC-BY-4.0)"),
    ],
)
def test_spelling_means_nothing(left: str, right: str) -> None:
    assert alternatives(left) == alternatives(right)


@pytest.mark.parametrize("text", ["MIT MIT", "MIT/Apache-2.0", "OR", "all rights reserved (c)"])
def test_what_cannot_be_read_is_a_licence_that_nobody_agreed_to(text: str) -> None:
    assert alternatives(text) == ((text,),)
    with pytest.raises(Invalid, match="SPDX identifier"):
        spelled(text)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("LicenseRef-MIT-Discord", "MIT"),
        ("LicenseRef-Apache", "Apache-2.0"),
        ("licenseref-gpl-3.0", "GPL-3.0-only"),
        ("LicenseRef-MIT", "MIT"),
        ("BSD-2", "BSD-2-Clause"),
        ("MIT+", "MIT"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only"),
        ("GPL-2.0-with-classpath-exception", "GPL-2.0-only"),
        ("MIT-0", "MIT"),
    ],
)
def test_what_only_looks_like_a_licence_of_the_list_is_none_of_it(text: str, listed: str) -> None:
    assert alternatives(listed) == ((listed,),)
    assert listed not in each([text])
    assert listed not in each([f"({text} OR {text}) AND {text}"])


def test_a_choice_is_one_whole_way_to_comply() -> None:
    offered = "(MIT AND CC-BY-4.0) OR Apache-2.0"
    assert is_choice("Apache-2.0", offered)
    assert is_choice("CC-BY-4.0 AND MIT", offered)
    assert not is_choice("MIT", offered)
    assert not is_choice(offered, offered)
    assert not is_choice("CC0-1.0", offered)


def test_a_joined_work_is_under_all_of_them_each_once() -> None:
    assert joined(["MIT", None, "CC-BY-4.0 AND MIT", ""]) == "CC-BY-4.0 AND MIT"
    assert joined([None]) == ""
