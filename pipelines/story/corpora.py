"""Corpora for the demonstration and the benchmarks: real text, and questions with exact answers.

In:  the running Python's own library.
Out: a data folder per call, its held-out files under heldout/, and what to register it with.

The same version of Python gives the same bytes; `size` and `heldout` bound how many. The modules
that `prose` quotes are not those that `code` holds.
"""

import ast
import hashlib
import json
import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics
from typing import AnyStr, Generic, TypeVar

from registry.records.facts import DataStatement

# Bytes of training text and of held-out text.
SIZE, HELDOUT = 600_000, 60_000
PSF = "Python Software Foundation"
USER = "the user of btx demo"
# Folders of the standard library that hold tests, tools, or what is not of the library itself.
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "__pycache__",
    "turtledemo",
    "ensurepip",
}
# Sources and licence texts beyond these bytes are tables or collections, not text.
SHORTEST_SOURCE, SHORTEST_LICENCE, LONGEST = 1_000, 500, 60_000
SHORTEST_DOCSTRING = 200

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """A prompt and its only right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class HeldOutSplit(Generic[T]):
    """What is held out, and what is trained on."""

    heldout: list[T]
    train: list[T]

    def by_folder(self, out: Path) -> dict[Path, list[T]]:
        """Return both parts by the folder that each belongs in."""
        return {out / "heldout": self.heldout, out: self.train}


Ask = Callable[[random.Random], Question]


def prose(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> DataStatement:
    """Write help topics of the language reference, and docstrings of modules not in `code`.

    Args:
        out: the folder to be made.
        size: bytes of training text.
        heldout: bytes of held-out text.

    Returns:
        What to register it with.
    """
    texts = [text for _, text in sorted(topics.items())]
    texts += [text for path in _modules(_is_for_prose) for text in _docstrings(path)]
    _write_jsonl(out, ({"text": text} for text in _shuffled(texts)), size, heldout)
    return DataStatement(
        license="PSF-2.0",
        source="pydoc_data.topics and docstrings of the standard library",
        holder=PSF,
        pii="none",
    )


def code(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> DataStatement:
    """Write sources of standard modules, one file per module.

    Args:
        out: the folder to be made.
        size: bytes of training text.
        heldout: bytes of held-out text.

    Returns:
        What to register it with.
    """
    sources = [
        path
        for path in _modules(lambda module: not _is_for_prose(module))
        if SHORTEST_SOURCE < path.stat().st_size < LONGEST
    ]
    parts = _split(
        _shuffled(sources), lambda path: path.stat().st_size, size, heldout, Path.read_bytes
    )
    for folder, paths in parts.by_folder(out).items():
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            name = "_".join(path.relative_to(_library()).parts)
            (folder / f"{name}.txt").write_bytes(path.read_bytes())
    return DataStatement(
        license="PSF-2.0",
        source="sources of the CPython standard library",
        holder=PSF,
        pii="none",
    )


def math(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> DataStatement:
    """Write arithmetic and word problems.

    Args:
        out: the folder to be made.
        size: bytes of training text.
        heldout: bytes of held-out text.

    Returns:
        What to register it with.
    """
    _write_jsonl(out, _questions(_math_question, "math"), size, heldout)
    return DataStatement(
        license="CC0-1.0",
        source="generated arithmetic and word problems with exact answers",
        holder=USER,
        pii="none",
    )


def units(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> DataStatement:
    """Write conversions of units, times and dates.

    Args:
        out: the folder to be made.
        size: bytes of training text.
        heldout: bytes of held-out text.

    Returns:
        What to register it with.
    """
    _write_jsonl(out, _questions(_unit_question, "units"), size, heldout)
    return DataStatement(
        license="CC0-1.0",
        source="generated unit and date conversions with exact answers",
        holder=USER,
        pii="none",
    )


def licences(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> DataStatement:
    """Write licence texts of the installed packages, each text once.

    Args:
        out: the folder to be made.
        size: bytes of training text.
        heldout: bytes of held-out text.

    Returns:
        What to register it with.
    """
    text_by_digest = {_digest(text): text for text in _licence_texts()}
    texts = [text for _, text in sorted(text_by_digest.items())]
    documents = ({"text": text} for text in texts if SHORTEST_LICENCE < len(text) < LONGEST)
    _write_jsonl(out, documents, size, heldout)
    return DataStatement(
        license="LicenseRef-various",
        source="licence texts of installed packages",
        holder="their authors",
        pii="none",
    )


def _licence_texts() -> Iterator[str]:
    for distribution in metadata.distributions():
        for path in distribution.files or ():
            if "licen" in path.name.lower() and path.suffix in ("", ".txt", ".md"):
                located = Path(str(path.locate()))
                yield (
                    located.read_text(errors="ignore", encoding="utf-8")
                    if located.is_file()
                    else ""
                )


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _modules(is_selected: Callable[[str], bool]) -> list[Path]:
    """Return the standard modules whose path inside the library is selected, in order."""
    root = _library()
    paths = sorted(
        path
        for path in root.rglob("*.py")
        if not LEFT_OUT & set(path.relative_to(root).parts)
        and not path.name.startswith("_sysconfigdata")
    )
    return [path for path in paths if is_selected(path.relative_to(root).as_posix())]


def _is_for_prose(module: str) -> bool:
    """Say which half of the modules `prose` quotes; a digest leaves it to chance, but fixed."""
    return int(_digest(module), 16) % 2 == 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shuffled(items: list[T]) -> list[T]:
    return random.Random(0).sample(items, len(items))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) > SHORTEST_DOCSTRING:
                yield text


def _split(
    items: Iterable[T],
    length: Callable[[T], int],
    size: int,
    heldout: int,
    text: Callable[[T], bytes] | None = None,
) -> HeldOutSplit[T]:
    """Take items until the held-out part has its bytes, then until the training part has.

    Where `text` reads an item, none is trained on that is a copy of one that is held out.
    """
    stream = iter(items)
    held = _take(stream, length, heldout)
    rest = without_copies(stream, held, text) if text else stream
    return HeldOutSplit(held, _take(rest, length, size))


def without_copies(
    train: Iterable[T], heldout: Iterable[T], text: Callable[[T], AnyStr]
) -> Iterator[T]:
    """Yield what shares at most half of its lines' text, or of theirs, with each held-out item.

    Args:
        train: what may be trained on, in order.
        heldout: what is held out.
        text: reads an item.
    """
    held = [(len(content), frozenset(content.splitlines())) for content in map(text, heldout)]
    for item in train:
        lines = text(item).splitlines()
        length = sum(map(len, lines))
        shared = ((size, sum(len(line) for line in lines if line in known)) for size, known in held)
        if all(common <= min(size, length) / 2 for size, common in shared):
            yield item


def _take(items: Iterator[T], length: Callable[[T], int], size_bytes: int) -> list[T]:
    taken: list[T] = []
    left_bytes = size_bytes
    for item in items:
        taken.append(item)
        left_bytes -= length(item)
        if left_bytes <= 0:
            break
    return taken


def _write_jsonl(
    out: Path, documents: Iterable[Mapping[str, str]], size: int, heldout: int
) -> None:
    texts = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    parts = _split(texts, lambda text: len(text.encode()), size, heldout)
    for folder, documents_of_part in parts.by_folder(out).items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{out.name}.jsonl").write_text("".join(documents_of_part), encoding="utf-8")


def _questions(ask: Ask, random_seed: str) -> Iterator[dict[str, str]]:
    """Yield questions without end, no prompt twice."""
    generator, prompts = random.Random(random_seed), set()
    while True:
        question = ask(generator)
        if question.prompt not in prompts:
            prompts.add(question.prompt)
            yield {"prompt": question.prompt, "answer": question.answer}


_PEOPLE = ("Ada", "Ben", "Carla", "Dev", "Emma", "Farid", "Grace", "Hugo", "Iris", "Jonas")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "stamps", "tickets", "shells")


def _math_question(generator: random.Random) -> Question:
    a, b = generator.randint(2, 99), generator.randint(2, 99)
    c = generator.randint(2, 12)
    who, other = generator.sample(_PEOPLE, 2)
    things = generator.choice(_THINGS)
    prompt, answer = generator.choice(
        (
            (f"What is {a} + {b}?", a + b),
            (f"What is {a + b} - {b}?", a),
            (f"What is {a} * {c}?", a * c),
            (f"What is {a * c} / {c}?", a),
            (f"What is ({a} + {b}) * {c}?", (a + b) * c),
            (f"Solve for x: x + {a} = {a + b}.", b),
            (f"Solve for x: {c} * x = {c * a}.", a),
            (
                f"{who} has {a} {things}. {other} gives {who} {b} more {things}. "
                f"How many {things} does {who} have now?",
                a + b,
            ),
            (
                f"{who} had {a + b} {things} and gave {b} of them to {other}. "
                f"How many {things} does {who} have left?",
                a,
            ),
            (
                f"{who} buys {c} boxes with {a} {things} in each box. "
                f"How many {things} does {who} have in all?",
                a * c,
            ),
            (
                f"{who} shares {a * c} {things} equally among {c} friends. "
                f"How many {things} does each friend get?",
                a,
            ),
            (
                f"{who} has {a} {things} and {other} has {b} more than {who}. "
                f"How many {things} do they have together?",
                a + a + b,
            ),
        )
    )
    return Question(prompt, str(answer))


# A larger unit, a smaller one, and how many of the smaller make one of the larger.
_FACTORS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("centimetres", "millimetres", 10),
    ("kilograms", "grams", 1000),
    ("tonnes", "kilograms", 1000),
    ("litres", "millilitres", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("pounds", "ounces", 16),
    ("gallons", "quarts", 4),
    ("kilobytes", "bytes", 1024),
    ("bytes", "bits", 8),
    ("dozens", "units", 12),
)
# Months and their days.
_MONTHS = (
    ("January", 31),
    ("March", 31),
    ("April", 30),
    ("May", 31),
    ("June", 30),
    ("July", 31),
    ("August", 31),
    ("October", 31),
    ("December", 31),
)


def _unit_question(generator: random.Random) -> Question:
    large, small, factor = generator.choice(_FACTORS)
    amount = generator.randint(2, 400)
    month, days = generator.choice(_MONTHS)
    first, last = sorted(generator.sample(range(1, days + 1), 2))
    hour, minute = generator.randint(0, 23), generator.randint(0, 59)
    later = generator.randint(1, 59)
    end = hour * 60 + minute + later
    clock = f"{end // 60 % 24:02}:{end % 60:02}"
    prompt, answer = generator.choice(
        (
            (f"Convert {amount} {large} to {small}.", f"{amount * factor} {small}"),
            (f"Convert {amount * factor} {small} to {large}.", f"{amount} {large}"),
            (f"Express {amount} {large} in {small}.", f"{amount * factor} {small}"),
            (
                f"From {month} {first} to {month} {last}, how many days pass?",
                f"{last - first} days",
            ),
            (f"Which date is {last - first} days after {month} {first}?", f"{month} {last}"),
            (
                f"At {hour:02}:{minute:02} a train leaves and needs {later} minutes. Arrival time?",
                clock,
            ),
            (f"Write {clock} on the clock as minutes after midnight.", f"{end % 1440} minutes"),
        )
    )
    return Question(prompt, answer)
