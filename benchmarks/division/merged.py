"""Which texts that hold two domains are named, and whether one that holds one is.

    python benchmarks/division/merged.py --dir SCRATCH [--seeds 3 4] [--pairs 40] [--texts FOLDER]

Right: each corpus by itself, among four others. Wrong: two corpora put together. The corpora are
the demonstration's and what a Debian machine has of text: sources, manuals, licences, tables.
Another folder of texts (--texts, a folder each with text.jsonl) joins them. Three quarters of a
corpus' passages are drawn anew for each random seed. Prints a line for each that has parts, and the
counts.
"""

import argparse
import gzip
import json
import os
import random
import site
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

from run import CHARACTERS, CORPORA, documents

from btx_core.measuring.text_parts import PASSAGES, Parted, parted
from registry.records.division import LITTLE

# Files of a corpus at most, characters of each, and the fewest and most bytes of one.
FILES, BEGINNING, SHORTEST, LONGEST = 150, 6_000, 200, 60_000
FEWEST = 60
# By corpus: where its files lie, what their names end with, and what their paths hold.
FOUND = {
    "perl": ("/usr/share/perl", ".pm", ""),
    "headers": ("/usr/include", ".h", ""),
    "changelogs": ("/usr/share/doc", "gz", "/changelog"),
    "copyright": ("/usr/share/doc", "/copyright", ""),
    "postinst": ("/var/lib/dpkg/info", ".postinst", ""),
    "locales": ("/usr/share/i18n/locales", "", ""),
    "manpages": ("/usr/share/man", "gz", "/man/man"),
    "pods": ("/usr/share/perl", ".pod", ""),
    "readmes": ("PACKAGES", "METADATA", ""),
    "javascript": ("PACKAGES", ".js", ""),
    "css": ("PACKAGES", ".css", ""),
    "json": ("PACKAGES", ".json", ""),
    "yaml": ("PACKAGES", ".yaml", ""),
    "html": ("PACKAGES", ".html", ""),
    "torch": ("PACKAGES", ".py", "torch"),
    "cpp": ("PACKAGES", ".hpp", ""),
}
# The demonstration's, which are also measured among each other alone.
OWN = tuple(CORPORA)


def pool(root: Path, more: Path | None) -> dict[str, list[str]]:
    """Return passages of every corpus that this machine has enough of."""
    found = {name: documents(name, root) for name in CORPORA}
    for name, (folder, ending, part) in FOUND.items():
        folders = site.getsitepackages() if folder == "PACKAGES" else [folder]
        paths = [path for one in folders for path in walked(one) if path.endswith(ending)]
        found[name] = passages(contents(path for path in sorted(paths) if part in path))
    status = Path("/var/lib/dpkg/status")
    if status.exists():
        found["packages"] = passages(status.read_text().split("\n\n"))
    for file in sorted(more.glob("*/text.jsonl")) if more else ():
        rows = file.read_text().splitlines()
        found[file.parent.name] = passages(json.loads(row)["text"][:BEGINNING] for row in rows)
    return {name: parts for name, parts in found.items() if len(parts) >= FEWEST}


def walked(folder: str) -> Iterator[str]:
    """Yield the path of every file below a folder."""
    for at, _, files in os.walk(folder):
        yield from (os.path.join(at, file) for file in files)


def contents(paths: Iterable[str]) -> Iterator[str]:
    """Yield the beginnings of some of these files."""
    chosen = [path for path in paths if SHORTEST <= os.path.getsize(path) <= LONGEST]
    for path in random.Random(1).sample(chosen, min(FILES, len(chosen))):
        opened = gzip.open if path.endswith("gz") else open
        with opened(path, "rb") as file:
            yield file.read().decode(errors="ignore")[:BEGINNING]


def passages(texts: Iterable[str]) -> list[str]:
    """Return some passages of a corpus."""
    parts = [
        text[start : start + CHARACTERS]
        for text in texts
        for start in range(0, len(text), CHARACTERS)
    ]
    parts = [part for part in parts if len(part.strip()) > 40]
    return random.Random(0).sample(parts, min(PASSAGES, len(parts)))


def asked(
    texts: dict[str, list[str]], names: tuple[str, ...], others: Iterable[str], random_seed: int
) -> Parted | None:
    """Put some passages of these corpora together among others; return the parts, if there are."""
    mixed = []
    for name in names:
        generator = random.Random(f"{name}{random_seed}")
        mixed += generator.sample(texts[name], len(texts[name]) * 3 // 4)
    random.Random(random_seed).shuffle(mixed)
    found = parted({"asked": mixed} | {name: texts[name] for name in others}, ["asked"])
    return found[0] if found else None


def told(kind: str, names: tuple[str, ...], found: Parted | None) -> bool:
    """Print what was found; return whether it is named."""
    named = bool(found and found.taught < LITTLE)
    if found:
        sizes = " + ".join(str(part.passages) for part in found.parts)
        mark = "named" if named else ""
        print(f"{kind}\t{' + '.join(names)}\t{found.taught:.3f}\t{sizes}\t{mark}", flush=True)
    elif kind == "wrong":
        print(f"{kind}\t{' + '.join(names)}\tone group", flush=True)
    return named


def main() -> None:
    """Print a line for each text with parts, then how many were named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    texts = pool(options.dir, options.texts)
    print(f"{len(texts)} corpora: {', '.join(texts)}")
    counts: dict[str, list[bool]] = {}

    def count(kind: str, names: tuple[str, ...], others: Iterable[str], random_seed: int) -> None:
        one = "right" if len(names) == 1 else "wrong"
        found = told(one, names, asked(texts, names, others, random_seed))
        counts.setdefault(f"{one}, {kind}", []).append(found)

    def among(names: tuple[str, ...], random_seed: int) -> list[str]:
        rest = [name for name in sorted(texts) if name not in names]
        return random.Random(random_seed).sample(rest, 4)

    for random_seed in options.seeds:
        for name in texts:
            count("among four others", (name,), among((name,), random_seed), random_seed)
        for names in [*((name,) for name in OWN), *combinations(OWN, 2)]:
            rest = [name for name in OWN if name not in names]
            count("the demonstration's", names, rest, random_seed)
    pairs = list(combinations(sorted(texts), 2))
    for number, names in enumerate(random.Random(17).sample(pairs, options.pairs)):
        count("among four others", names, among(names, number), number)
    for kind, named in counts.items():
        print(f"{kind}: {sum(named)} of {len(named)} named")


if __name__ == "__main__":
    main()
