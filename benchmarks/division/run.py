"""Which wrong divisions of text into domains are named: one cut in two, two put into one.

    python benchmarks/division/run.py --dir SCRATCH

Prints, for the demonstration's corpora: every two of them, and the halves of each, by the measure
that builds record (`text_distance`); then into how many groups `btx data suggest` divides each
corpus and every two that were put together.
"""

import argparse
import json
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from btx_core.measuring.grouping import grouped
from btx_core.measuring.text_distance import apart
from btx_core.texts import TextFolder, every
from btx_core.tokens import Tokens
from pipelines.story import corpora
from pipelines.story.small_seed import byte_tokenizer
from registry.records.division import LIKE_CHANCE

CORPORA = {
    "prose": corpora.prose,
    "code": corpora.code,
    "math": corpora.math,
    "units": corpora.units,
    "licences": corpora.licences,
}
# Documents of a corpus, and characters of a part of a long one.
DOCUMENTS, CHARACTERS = 200, 2_000


def documents(name: str, root: Path) -> list[str]:
    """Return some documents of a corpus; of long ones, parts."""
    folder = root / "corpora" / name
    if not folder.is_dir():
        CORPORA[name](folder, size=300_000, heldout=20_000)
    parts = [
        document.text[start : start + CHARACTERS]
        for document in every(TextFolder(folder))
        for start in range(0, len(document.text), CHARACTERS)
    ]
    parts = [part for part in parts if part.strip()]
    return random.Random(0).sample(parts, min(DOCUMENTS, len(parts)))


def distances(
    texts: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase, root: Path
) -> Iterator[str]:
    """Yield a line for every two texts: how far apart they are, and whether they are named."""
    tokens = {}
    for name, parts in texts.items():
        folder = root / "divided" / name
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"text": part}) + "\n" for part in parts)
        (folder / "text.jsonl").write_text(lines)
        tokens[name] = Tokens.of(TextFolder(folder), tokenizer)
    for pair in apart(tokens):
        named = pair.distance <= LIKE_CHANCE * pair.by_chance
        by_chance = pair.distance / pair.by_chance
        yield f"| {pair.left} | {pair.right} | {by_chance:.1f} | {'yes' if named else ''} |"


def groups(texts: dict[str, list[str]]) -> Iterator[str]:
    """Yield a line for each corpus and every two together: groups, and how pure they are."""
    for names in [*((name,) for name in texts), *combinations(texts, 2)]:
        labelled = [(name, text) for name in names for text in texts[name]]
        random.Random(0).shuffle(labelled)
        found = grouped([text for _, text in labelled]).groups
        labels = np.array([names.index(name) for name, _ in labelled])
        most = sum(int(np.bincount(labels[found == group]).max()) for group in set(found.tolist()))
        yield f"| {' + '.join(names)} | {found.max() + 1} | {most / len(labels):.0%} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    root = parser.parse_args().dir
    texts = {name: documents(name, root) for name in CORPORA}
    tokenizer = byte_tokenizer([part for parts in texts.values() for part in parts], 1024)
    halves = {}
    for name, parts in texts.items():
        halves |= {f"{name} 1": parts[::2], f"{name} 2": parts[1::2]}
    print("| text | text | distance, by chance 1 | named |\n|---|---|---:|---|")
    print("\n".join(distances(halves, tokenizer, root)))
    print("\n| corpus | groups | of one corpus |\n|---|---:|---:|")
    print("\n".join(groups(texts)))


if __name__ == "__main__":
    main()
