"""Real corpora found on any machine with Python, and generated ones with checkable answers, for the demo and the benchmarks.

In:  the running Python's own library.  Out: one data folder per call, its held-out files under heldout/, and what to register it with.
Deterministic for one Python version; `size` and `heldout` bound the bytes. What prose quotes and what code holds come from different modules.
"""

import ast
import hashlib
import json
import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics
from typing import TypeVar

SIZE, HELDOUT = 600_000, 60_000  # bytes


@dataclass(frozen=True)
class Facts:
    """What `btx data add` asks for."""

    license: str
    source: str
    holder: str


T = TypeVar("T")
PSF = "Python Software Foundation"


def prose(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> Facts:
    """The language reference's help topics, and docstrings of those standard modules that `code` leaves out."""
    texts = [text for _, text in sorted(topics.items())]
    texts += [text for path in _modules(_for_prose) for text in _docstrings(path)]
    _write_lines(out, ({"text": text} for text in _shuffled(texts)), size, heldout)
    return Facts("PSF-2.0", "pydoc_data.topics and docstrings of the standard library", PSF)


def code(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> Facts:
    """Sources of standard modules, a file each."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = _shuffled(
        [
            path
            for path in _modules(lambda name: not _for_prose(name))
            if 1_000 < path.stat().st_size < 60_000
        ]
    )
    for folder, files_of_half in zip(
        (out / "heldout", out),
        _halves(files, lambda path: path.stat().st_size, size, heldout),
        strict=True,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for path in files_of_half:
            name = "_".join(path.relative_to(root).parts)
            (folder / f"{name}.txt").write_bytes(path.read_bytes())
    return Facts("PSF-2.0", "sources of the CPython standard library", PSF)


def math(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> Facts:
    """Arithmetic and word problems."""
    _write_lines(out, _questions(_math_question, "math"), size, heldout)
    return Facts(
        "CC0-1.0",
        "generated arithmetic and word problems with exact answers",
        "the user of btx demo",
    )


def units(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> Facts:
    """Conversions of units, times and dates."""
    _write_lines(out, _questions(_unit_question, "units"), size, heldout)
    return Facts(
        "CC0-1.0", "generated unit and date conversions with exact answers", "the user of btx demo"
    )


def licences(out: Path, *, size: int = SIZE, heldout: int = HELDOUT) -> Facts:
    """Licence texts of the installed packages, each text once."""
    texts = {}
    for distribution in metadata.distributions():
        for path in distribution.files or ():
            if "licen" in path.name.lower() and path.suffix in ("", ".txt", ".md"):
                located = Path(str(path.locate()))
                text = located.read_text(errors="ignore") if located.is_file() else ""
                texts[_place(text)] = text
    _write_lines(
        out,
        ({"text": text} for _, text in sorted(texts.items()) if 500 < len(text) < 60_000),
        size,
        heldout,
    )
    return Facts("LicenseRef-various", "licence texts of installed packages", "their authors")


def _modules(wanted: Callable[[str], bool]) -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {
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
    paths = sorted(
        path
        for path in root.rglob("*.py")
        if not left_out & set(path.relative_to(root).parts)
        and not path.name.startswith("_sysconfigdata")
    )
    return [path for path in paths if wanted(path.relative_to(root).as_posix())]


def _for_prose(module: str) -> bool:
    return int(_place(module), 16) % 2 == 0


def _place(text: str) -> str:
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
            if len(text) > 200:
                yield text


def _halves(
    items: Iterable[T], length: Callable[[T], int], size: int, heldout: int
) -> tuple[list[T], list[T]]:
    """Held out first, then training, each up to its bytes."""
    halves: tuple[list[T], list[T]] = ([], [])
    left = [heldout, size]
    half = 0
    for item in items:
        halves[half].append(item)
        left[half] -= length(item)
        if left[half] <= 0:
            half += 1
            if half == len(halves):
                break
    return halves


def _write_lines(out: Path, rows: Iterable[dict[str, str]], size: int, heldout: int) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for folder, half in zip(
        (out / "heldout", out),
        _halves(lines, lambda line: len(line.encode()), size, heldout),
        strict=True,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{out.name}.jsonl").write_text("".join(half), encoding="utf-8")


Question = Callable[[random.Random], tuple[str, object]]


def _questions(make: Question, seed: str) -> Iterator[dict[str, str]]:
    """Without end, no prompt twice."""
    chance, seen = random.Random(seed), set()
    while True:
        prompt, answer = make(chance)
        if prompt not in seen:
            seen.add(prompt)
            yield {"prompt": prompt, "answer": str(answer)}


def _math_question(chance: random.Random) -> tuple[str, object]:
    a, b, c = chance.randint(2, 99), chance.randint(2, 99), chance.randint(2, 12)
    who, other = chance.sample(
        ("Ada", "Ben", "Carla", "Dev", "Emma", "Farid", "Grace", "Hugo", "Iris", "Jonas"), 2
    )
    thing = chance.choice(
        ("apples", "books", "coins", "marbles", "pencils", "stamps", "tickets", "shells")
    )
    return chance.choice(
        (
            (f"What is {a} + {b}?", a + b),
            (f"What is {a + b} - {b}?", a),
            (f"What is {a} * {c}?", a * c),
            (f"What is {a * c} / {c}?", a),
            (f"What is ({a} + {b}) * {c}?", (a + b) * c),
            (f"Solve for x: x + {a} = {a + b}.", b),
            (f"Solve for x: {c} * x = {c * a}.", a),
            (
                f"{who} has {a} {thing}. {other} gives {who} {b} more {thing}. How many {thing} does {who} have now?",
                a + b,
            ),
            (
                f"{who} had {a + b} {thing} and gave {b} of them to {other}. How many {thing} does {who} have left?",
                a,
            ),
            (
                f"{who} buys {c} boxes with {a} {thing} in each box. How many {thing} does {who} have in all?",
                a * c,
            ),
            (
                f"{who} shares {a * c} {thing} equally among {c} friends. How many {thing} does each friend get?",
                a,
            ),
            (
                f"{who} has {a} {thing} and {other} has {b} more than {who}. How many {thing} do they have together?",
                a + a + b,
            ),
        )
    )


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


def _unit_question(chance: random.Random) -> tuple[str, object]:
    large, small, factor = chance.choice(_FACTORS)
    amount = chance.randint(2, 400)
    month, days = chance.choice(_MONTHS)
    first, last = sorted(chance.sample(range(1, days + 1), 2))
    hour, minute, later = chance.randint(0, 23), chance.randint(0, 59), chance.randint(1, 59)
    end = hour * 60 + minute + later
    return chance.choice(
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
                f"{end // 60 % 24:02}:{end % 60:02}",
            ),
            (
                f"Write {end // 60 % 24:02}:{end % 60:02} on the clock as minutes after midnight.",
                f"{end % 1440} minutes",
            ),
        )
    )
