"""Which domains are one text, divided by chance: a wrong division is found, a right one is not."""

import random
from itertools import combinations
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from btx_core.measuring.text_distance import Apart, apart
from btx_core.texts import TextFolder, every
from btx_core.tokens import Tokens
from registry.records.division import LIKE_CHANCE

DOMAINS = ("prose", "code", "math", "units")


def measured(seed: Path, texts: dict[str, list[str]], root: Path) -> dict[frozenset[str], Apart]:
    tokenizer = AutoTokenizer.from_pretrained(seed)
    tokens = {}
    for name, documents in texts.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number, text in enumerate(documents):
            (folder / f"{number:05}.txt").write_text(text)
        tokens[name] = Tokens.of(TextFolder(folder), tokenizer)
    return {frozenset((pair.left, pair.right)): pair for pair in apart(tokens)}


@pytest.fixture(scope="module")
def documents(tiny_corpora: Path) -> dict[str, list[str]]:
    """Some documents of each domain; of code, parts of its few files."""
    texts = {}
    for name in DOMAINS:
        whole = [document.text for document in every(tiny_corpora / name)]
        if name == "code":
            whole = [text[start : start + 500] for text in whole for start in range(0, 9000, 500)]
            whole = [text for text in whole if text.strip()]
        texts[name] = random.Random(0).sample(whole, min(120, len(whole)))
    return texts


def test_a_domain_that_was_cut_in_two_by_chance_is_told_from_two_domains(
    documents: dict[str, list[str]], tiny_seed: Path, tmp_path: Path
) -> None:
    texts = {}
    for name, whole in documents.items():
        texts[f"{name}-1"], texts[f"{name}-2"] = whole[::2], whole[1::2]
    pairs = measured(tiny_seed, texts, tmp_path)
    for left, right in combinations(sorted(texts), 2):
        pair = pairs[frozenset((left, right))]
        is_one = pair.distance <= LIKE_CHANCE * pair.by_chance
        assert is_one == (left[:-2] == right[:-2]), pair


def test_too_few_documents_say_nothing(tiny_seed: Path, tmp_path: Path) -> None:
    texts = {"few": ["some words"] * 4, "many": [f"text {number}" for number in range(40)]}
    assert measured(tiny_seed, texts, tmp_path) == {}
