"""A mixed corpus is divided as it was put together; one that is not mixed is left whole."""

import random
import tracemalloc

import pytest

from btx_core.measuring.grouping import grouped


def corpus(name: str, documents: int = 60) -> list[str]:
    """Documents that draw from a vocabulary of their own."""
    draw = random.Random(name)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(80)]
    return [" ".join(draw.choices(words, k=40)) for _ in range(documents)]


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
def test_a_mixed_corpus_is_divided_as_it_was_put_together(names: str) -> None:
    texts = [(name, text) for name in names for text in corpus(name)]
    random.Random(0).shuffle(texts)
    found = grouped([text for _, text in texts])
    pairs = {(name, int(group)) for (name, _), group in zip(texts, found.groups, strict=True)}
    assert len(pairs) == len(names)
    assert len({group for _, group in pairs}) == len(names)
    for name, group in pairs:
        words = {word for text in corpus(name) for word in text.split()}
        assert set(found.words[group]) <= words


def test_a_corpus_of_one_vocabulary_is_left_whole() -> None:
    found = grouped(corpus("a", 200))
    assert set(found.groups.tolist()) == {0}
    assert found.agreement is None


def test_as_many_groups_as_are_asked_for_the_largest_first() -> None:
    found = grouped([*corpus("a", 90), *corpus("b", 40)], 2)
    assert (found.groups == 0).sum() == 90
    assert (found.groups == 1).sum() == 40


def test_the_same_corpus_gives_the_same_groups() -> None:
    texts = [*corpus("a"), *corpus("b")]
    assert grouped(texts).groups.tolist() == grouped(texts).groups.tolist()


def test_a_large_corpus_takes_little_more_memory_than_a_small_one() -> None:
    peaks = []
    for documents in (2_000, 6_000):
        texts = [*corpus("a", documents // 2), *corpus("b", documents // 2)]
        tracemalloc.start()
        groups = grouped(texts, 2).groups
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (groups == 0).sum() == documents // 2
    assert peaks[1] < peaks[0] + 20_000_000
