"""Which texts hold two domains: two put together are found, one is not."""

import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from btx_core.measuring.text_parts import Parted, parted, passages
from btx_core.texts import TextFolder, every
from btx_core.tokens import TokenisedDocuments, Tokens
from registry.records.division import LITTLE

DOMAINS = ("prose", "code", "math", "units")


@pytest.fixture(scope="module")
def texts(tiny_corpora: Path) -> dict[str, list[str]]:
    """Some passages of each domain."""
    found = {}
    for name in DOMAINS:
        whole = [document.text for document in every(tiny_corpora / name)]
        parts = [text[start : start + 500] for text in whole for start in range(0, 9000, 500)]
        parts = [text for text in parts if text.strip()]
        found[name] = random.Random(0).sample(parts, min(120, len(parts)))
    return found


def named(asked: Sequence[str], others: dict[str, list[str]]) -> list[Parted]:
    shuffled = random.Random(0).sample(asked, len(asked))
    return [one for one in parted({"asked": shuffled, **others}, ["asked"]) if one.taught < LITTLE]


@pytest.mark.parametrize(("left", "right"), [("prose", "math"), ("code", "units")])
def test_two_domains_in_one_text_are_found_and_each_by_itself_is_not(
    texts: dict[str, list[str]], left: str, right: str
) -> None:
    others = {name: text for name, text in texts.items() if name not in (left, right)}
    (found,) = named(texts[left] + texts[right], others)
    assert sum(part.passages for part in found.parts) == len(texts[left] + texts[right])
    for one, other in ((left, right), (right, left)):
        assert named(texts[one], {**others, other: texts[other]}) == []


def test_what_is_written_after_several_patterns_is_one_domain(
    texts: dict[str, list[str]],
) -> None:
    """Its groups have few words in common; they are not another domain for it."""
    generator = np.random.default_rng(0)
    first = [f"add {a} to {b} and say the sum" for a, b in generator.integers(99, size=(60, 2))]
    second = [f"how many metres are {a} miles ?" for a in generator.integers(99, size=60)]
    assert named(first + second, {"prose": texts["prose"]}) == []


def test_of_one_text_alone_nothing_is_said(texts: dict[str, list[str]]) -> None:
    assert parted({"asked": texts["prose"] + texts["math"]}, ["asked"]) == []


def test_passages_are_from_all_over_a_text_and_over_no_documents_end(
    tiny_seed: Path, tiny_corpora: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    tokens = Tokens.of(TextFolder(tiny_corpora / "code"), tokenizer)
    read = passages(tokens.train, tokenizer)
    ends = tokens.train.ends
    last = tokenizer.decode(tokens.train.ids[ends[-2] : ends[-1]].tolist())
    assert read[-1].strip()
    assert read[-1][:50] in last


class Words:
    """A tokenizer whose tokens are words of one letter."""

    def decode(self, token_ids: list[int], /, *, skip_special_tokens: bool) -> str:
        return " ".join("abc"[one % 3] for one in token_ids)


def test_passages_of_very_many_documents_take_little_memory() -> None:
    documents = TokenisedDocuments(np.zeros(1_000_000, np.uint16), np.arange(1, 1_000_001))
    tracemalloc.start()
    assert passages(documents, Words()) == ["a"] * 200
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()
    ids = np.arange(1300, dtype=np.uint16) % 3
    few = TokenisedDocuments(ids, np.array([1, 1025, 1300]))
    lengths = [len(one.split()) for one in passages(few, Words())]
    assert lengths == [1, 512, 512, 275]
