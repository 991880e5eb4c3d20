"""The domains of the story: text that SmolLM2 has hardly seen, and general text that it knows.

In:  packages of Debian, fetched by apt-get into a folder; no right of root is needed.
Out: a data folder per domain, its held-out documents under heldout/, and what to register it with.

Documents are pieces of at most PIECE bytes. A source file is held out whole or not at all, and of
one that is held out the first piece counts, so that the held-out text comes from many files.
"""

import gzip
import json
import random
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.story import corpora
from registry.records.facts import DataStatement

PIECE = 3_000
SHORTEST = 400
# Manual pages and modules name their authors, who published them so.
RETAIN_UNTIL = "2036-12-31"


@dataclass(frozen=True)
class Domain:
    """A field of work: where its text comes from, and what to register it with.

    Attributes:
        package: of Debian; that of Perl's modules has the version of the machine's Perl behind it.
        read: yields the texts of the unpacked package, one a source file, in order of their paths.
        statement: licence, source and holder.
    """

    package: str
    read: Callable[[Path], Iterator[str]]
    statement: DataStatement


def fetch(package: str, folder: Path) -> Path:
    """Download a Debian package and unpack it into a folder of its own.

    Returns:
        The folder.
    """
    unpacked = folder / package
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if package == "perl-modules":
            version = subprocess.run(["perl", "-e", "print $^V"], capture_output=True, text=True)
            package += "-" + version.stdout.removeprefix("v").rpartition(".")[0]
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
    return unpacked


def write(name: str, out: Path, downloads: Path, size: int, heldout: int) -> DataStatement:
    """Write a domain's data folder.

    Args:
        name: a key of DOMAINS, or "general".
        out: the folder to be made.
        downloads: where packages are kept.
        size: bytes of training text.
        heldout: bytes of held-out text.

    Returns:
        What to register it with.
    """
    if name == "general":
        return corpora.prose(out, size=size, heldout=heldout)
    domain = DOMAINS[name]
    texts = [text for text in domain.read(fetch(domain.package, downloads)) if len(text) > SHORTEST]
    files = iter(random.Random(0).sample(texts, len(texts)))
    held = list(take((next(pieces(text)) for text in files), heldout))
    _write(out / "heldout", held)
    rest = [piece for text in files for piece in pieces(text)]
    shuffled = random.Random(0).sample(rest, len(rest))
    _write(out, take(corpora.without_copies(shuffled, held, str), size))
    return domain.statement


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of at most PIECE bytes, cut at the ends of lines."""
    piece, length = [], 0
    for line in text.splitlines(keepends=True):
        size = len(line.encode())
        if length + size > PIECE and length >= SHORTEST:
            yield "".join(piece)
            piece, length = [], 0
        piece.append(line)
        length += size
    if piece:
        yield "".join(piece)


def take(texts: Iterable[str], size: int) -> Iterator[str]:
    """Yield texts until their bytes are reached."""
    for text in texts:
        if size <= 0:
            return
        size -= len(text.encode())
        yield text


def _write(folder: Path, texts: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")


def _japanese_manuals(unpacked: Path) -> Iterator[str]:
    for path in sorted((unpacked / "usr/share/man/ja").rglob("*.gz")):
        if not path.is_symlink():
            text = without_roff(gzip.decompress(path.read_bytes()).decode("utf-8", "ignore"))
            # Some pages are stubs that include another, some were never translated.
            if sum("\u3040" <= sign <= "\u9fff" for sign in text) > len(text) / 5:
                yield text


def _perl_modules(unpacked: Path) -> Iterator[str]:
    for path in sorted((unpacked / "usr/share/perl").rglob("*.p[lm]")):
        # Tables of Unicode and of time zones are no text.
        if not path.is_symlink() and "unicore" not in path.parts:
            yield path.read_text("utf-8", "ignore")


def without_roff(text: str) -> str:
    """Return the text of a manual page without the marks of its typesetter."""
    lines = []
    for line in text.splitlines():
        if line.startswith(('.\\"', "'\\\"", ".TH", ".de", ".if", ".ie", ".el", ".nr", "..")):
            continue
        request = re.match(r"[.'] *([A-Za-z]+) ?(.*)", line)
        if request:
            line = request.group(2).replace('"', "")
            if request.group(1) in ("SH", "SS", "Sh", "Ss"):
                line = f"\n{line}"
        for mark, plain in ROFF.items():
            line = re.sub(mark, plain, line)
        if line.strip() or (lines and lines[-1].strip()):
            lines.append(line)
    return "\n".join(lines).strip() + "\n"


ROFF: Mapping[str, str] = {
    r"\\f(\(..|\[[^]]*\]|.)": "",
    r"\\s[-+]?\d": "",
    r"\\[&,/|^:%)]": "",
    r"\\\*\(..": "",
    r"\\\(em": "—",
    r"\\\((aq|cq|oq)": "'",
    r"\\\((lq|rq|dq)": '"',
    r"\\\(..": "",
    r"\\-": "-",
    r"\\e": r"\\",
    r"\\(.)": r"\1",
}

DOMAINS: Mapping[str, Domain] = {
    "japanese": Domain(
        "manpages-ja",
        _japanese_manuals,
        DataStatement(
            license="LicenseRef-manpages-ja",
            source="Debian package manpages-ja: each page under the licence of its original",
            holder="the JM Project and the authors of the pages",
            language="ja",
            pii="reviewed",
            retain_until=RETAIN_UNTIL,
        ),
    ),
    "perl": Domain(
        "perl-modules",
        _perl_modules,
        DataStatement(
            # Of the two that Perl offers; "or later" of the GPL's first version.
            license="GPL-2.0-or-later",
            source="Debian package perl-modules: the modules that come with Perl",
            holder="Larry Wall and others",
            pii="reviewed",
            retain_until=RETAIN_UNTIL,
        ),
    ),
}
