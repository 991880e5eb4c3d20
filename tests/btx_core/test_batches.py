"""Batches: what fixes one is data, random seed and step; a step costs the same wherever it is."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from btx_core.batches import Corpus, Mixture, floor_sum, permuted


@pytest.fixture(scope="module")
def corpora(tiny_seed: Path, tiny_corpora: Path) -> dict[str, Corpus]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    return {name: Corpus.of([tiny_corpora / name], tokenizer) for name in ("prose", "math")}


def numbered(*sizes: int, digest: str = "d") -> Corpus:
    """A corpus whose tokens are their own positions."""
    ends = np.cumsum([0, *sizes])
    parts = [np.arange(first, last, dtype=np.uint32) for first, last in pairwise(ends)]
    return Corpus(tuple(parts), 0, digest)


@pytest.mark.parametrize("sizes", [(1000,), (333, 1, 999)])
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_holds_every_token_once(sizes: tuple[int, ...], epoch: int) -> None:
    corpus, length = numbered(*sizes), 64
    count = corpus.tokens // length
    numbers = range(epoch * count, (epoch + 1) * count)
    seen = np.concatenate([corpus.sequence(number, length)[:-1] for number in numbers])
    assert len(set(seen.tolist())) == len(seen) == count * length
    assert corpus.tokens - len(seen) < length, "but the tail that fills no sequence"


def test_a_corpus_shorter_than_a_sequence_fills_it() -> None:
    ids = numbered(5, 2).sequence(3, 16)
    assert len(ids) == 17
    assert (np.diff(ids) % 7 == 1).all()


def test_a_short_training_reads_all_over_the_corpus() -> None:
    """Forty sequences of a corpus of a million tokens: no tenth of it goes without."""
    corpus = numbered(1_000_000)
    starts = [int(corpus.sequence(number, 100)[0]) // 100_000 for number in range(80)]
    assert set(starts) == set(range(10))


def test_another_epoch_random_seed_or_text_reads_in_another_order() -> None:
    corpus = numbered(6400)
    others = (numbered(6400, digest="e"), Corpus(corpus.parts, 0, "d", random_seed=1))
    first = [corpus.sequence(number, 64).tolist() for number in range(20)]
    assert first != [corpus.sequence(number + 100, 64).tolist() for number in range(20)]
    for other in others:
        assert first != [other.sequence(number, 64).tolist() for number in range(20)]


@given(step=st.integers(0, 3_000_000), count=st.integers(1, 8))
def test_a_batch_depends_on_its_step_alone(
    corpora: dict[str, Corpus], step: int, count: int
) -> None:
    mixture = Mixture(corpora, {"prose": 0.4, "math": 0.6})
    fresh = {
        name: Corpus(one.parts, one.end, one.digest, one.random_seed)
        for name, one in corpora.items()
    }
    ids, names, *_ = mixture.batch(step, count, 32)
    again, names_again, *_ = Mixture(fresh, mixture.shares).batch(step, count, 32)
    assert names == names_again
    assert np.array_equal(ids, again)
    assert ids.shape == (count, 33)


@settings(max_examples=30, deadline=None)
@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=5).filter(any),
    first=st.integers(0, 60),
    count=st.integers(1, 7),
)
def test_no_sequence_of_a_domain_is_skipped_or_read_twice(
    shares: list[float], first: int, count: int
) -> None:
    """What the closed form says was drawn before a step is what the steps before it drew."""
    names = [str(number) for number in range(len(shares))]
    mixture = Mixture(dict.fromkeys(names, numbered(9)), dict(zip(names, shares, strict=True)))
    used = [name for name, share in zip(names, shares, strict=True) if share > 0]
    drawn = [name for step in range(first) for name in mixture.batch(step, count, 4)[1]]
    assert mixture.drawn(first * count) == [drawn.count(name) for name in used]


@given(
    count=st.integers(0, 200),
    divisor=st.integers(1, 50),
    factor=st.integers(0, 99),
    offset=st.integers(0, 99),
)
def test_the_closed_form_is_the_sum(count: int, divisor: int, factor: int, offset: int) -> None:
    terms = [(factor * number + offset) // divisor for number in range(count)]
    assert floor_sum(count, divisor, factor, offset) == sum(terms)


@given(count=st.integers(1, 300), key=st.integers(0, (1 << 64) - 1))
def test_an_order_has_every_place_once(count: int, key: int) -> None:
    assert sorted(permuted(place, count, key) for place in range(count)) == list(range(count))


def test_shares_hold_in_any_stretch_of_steps(corpora: dict[str, Corpus]) -> None:
    mixture = Mixture(corpora, {"prose": 0.4, "math": 0.6})
    for first in (0, 17, 500, 300_000):
        names = [
            name for step in range(first, first + 25) for name in mixture.batch(step, 4, 32)[1]
        ]
        assert names.count("prose") == pytest.approx(40, abs=3)
