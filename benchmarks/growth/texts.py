"""The text that growth is measured on: many small documents, held out twice.

In:  a folder.  Out: for every domain a data folder, whose heldout/ is the text that recipes are
chosen on, and beside it a folder of held-out text that is only reported on.
No document is in two of the three parts. Held-out code is small modules, so that no file speaks for
its domain. What the texts are is left to `pipelines.story.corpora`.
"""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from btx_core.texts import TextFolder
from pipelines.story import corpora

# Bytes of training text, and of each of the two held-out parts.
TRAIN, HELDOUT = 600_000, 40_000
# A held-out document has at most so many bytes, and one to train on.
LARGEST_HELDOUT, LARGEST = 6_000, 20_000
GENERAL = "prose"
CORPORA = {
    GENERAL: corpora.prose,
    "code": corpora.code,
    "math": corpora.math,
    "units": corpora.units,
}


@dataclass(frozen=True)
class Domain:
    """Where the text of one domain lies.

    Attributes:
        folder: the training text; its heldout/ is what recipes are chosen on.
        reported: the other held-out text, all of it.
    """

    folder: TextFolder
    reported: TextFolder


def domains(root: Path) -> dict[str, Domain]:
    """Return the text of every domain; what is missing is written."""
    found = {}
    for name, corpus in CORPORA.items():
        folder = root / name
        if not folder.is_dir():
            raw = root / f".{name}"
            shutil.rmtree(raw, ignore_errors=True)
            # Code is given whole, so that its small modules can be held out.
            size = 1 << 30 if name == "code" else TRAIN + 6 * HELDOUT
            corpus(raw, size=size, heldout=1)
            _divide(list(_documents(raw)), folder)
            shutil.rmtree(raw)
        kept = root / "tokens"
        found[name] = Domain(
            TextFolder(folder / "train", tokens=kept),
            TextFolder(folder / "reported", "all", tokens=kept),
        )
    return found


def _documents(raw: Path) -> Iterator[dict[str, str]]:
    for path in sorted(raw.rglob("*")):
        if path.suffix == ".jsonl":
            yield from map(json.loads, path.read_text().splitlines())
        elif path.is_file():
            yield {"text": path.read_text()}


def _divide(documents: list[dict[str, str]], out: Path) -> None:
    """Write the three parts; held-out ones are taken from the small documents."""
    documents = [one for one in documents if _size(one) <= LARGEST]
    documents = random.Random(0).sample(documents, len(documents))
    small = [one for one in documents if _size(one) <= LARGEST_HELDOUT]
    chosen_on = _taken(small, HELDOUT)
    reported = _taken(small[len(chosen_on) :], HELDOUT)
    held_out = {json.dumps(one) for one in (*chosen_on, *reported)}
    train = _taken([one for one in documents if json.dumps(one) not in held_out], TRAIN)
    _write(train, out / "train" / "text.jsonl")
    _write(chosen_on, out / "train" / "heldout" / "text.jsonl")
    _write(reported, out / "reported" / "text.jsonl")


def _size(document: dict[str, str]) -> int:
    return sum(len(text.encode()) for text in document.values())


def _taken(documents: list[dict[str, str]], size: int) -> list[dict[str, str]]:
    taken, left = [], size
    for document in documents:
        if left <= 0:
            break
        taken.append(document)
        left -= _size(document)
    return taken


def _write(documents: list[dict[str, str]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in documents))
