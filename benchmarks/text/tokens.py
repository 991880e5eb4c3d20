"""Measure what it takes to make token files of much text, beside the tokenizer by itself.

    python benchmarks/text/tokens.py TOKENIZER [--mb 200] [--scratch FOLDER]

TOKENIZER is a folder that AutoTokenizer loads. The text is Python sources and documentation of this
machine, as one .jsonl. Every measurement has a process of its own; memory is the peak of its
private (anonymous) memory over what it held before the text.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ENDINGS = {".py", ".md", ".rst", ".txt", ".html"}


class Measured(NamedTuple):
    """What a function took."""

    cpu_s: float
    peak_mb: float
    says: str


def sources() -> Iterator[str]:
    """Return text files of this machine, each once."""
    for root in (sys.prefix, "/usr/share/doc", "/usr/lib/python3"):
        for path in sorted(Path(root).rglob("*")):
            if path.suffix in ENDINGS and path.is_file():
                yield path.read_text(errors="ignore")


def write_corpus(folder: Path, size: int) -> None:
    """Write so many bytes of text as one .jsonl, the sources again where they do not suffice."""
    folder.mkdir()
    written = 0
    with (folder / "text.jsonl").open("w") as stream:
        while written < size:
            for text in sources():
                stream.write(json.dumps({"text": text}) + "\n")
                written += len(text.encode())
                if written >= size:
                    return


def private_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1000
    return 0.0


def measured(work: Callable[[], str]) -> Measured:
    """Run a function and watch the memory of this process meanwhile."""
    before, peak, done = private_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], private_mb())

    watching = threading.Thread(target=watch)
    watching.start()
    start = resource.getrusage(resource.RUSAGE_SELF)
    says = work()
    end = resource.getrusage(resource.RUSAGE_SELF)
    done.set()
    watching.join()
    cpu_s = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    return Measured(cpu_s, max(peak[0], private_mb()) - before, says)


def by_itself(tokenizer_folder: str, corpus: Path, tokens: Path) -> Measured:
    """Only tokenize, a few documents at a time, and throw the tokens away."""
    from transformers import AutoTokenizer

    from btx_core.tokens import DOCUMENTS

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

    def work() -> str:
        texts, count = [], 0
        with (corpus / "text.jsonl").open() as stream:
            for line in stream:
                texts.append(json.loads(line)["text"])
                if len(texts) == DOCUMENTS // 8:
                    count += sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
                    texts = []
        return f"{count:,} tokens"

    return measured(work)


def build(tokenizer_folder: str, corpus: Path, tokens: Path) -> Measured:
    """Make token files; called again, map those that are there."""
    from transformers import AutoTokenizer

    from btx_core.texts import TextFolder
    from btx_core.tokens import Tokens

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

    def work() -> str:
        found = Tokens.of(TextFolder(corpus, "documents", tokens), tokenizer)
        return f"{len(found.train.ids):,} + {len(found.heldout.ids):,} tokens"

    return measured(work)


def check(tokenizer_folder: str, corpus: Path, tokens: Path) -> Measured:
    """Do what `btx data add` does to prove that a corpus is text."""
    from btx_core import texts

    def work() -> str:
        sum(1 for _ in texts.documents_of(corpus))
        return ""

    return measured(work)


def batch(tokenizer_folder: str, corpus: Path, tokens: Path) -> Measured:
    """Read batches at step 1 and at step 300,000."""
    from transformers import AutoTokenizer

    from btx_core.batches import Corpus, Mixture
    from btx_core.texts import TextFolder

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    mixture = Mixture(
        {"a": Corpus.of([TextFolder(corpus, "documents", tokens)], tokenizer)}, {"a": 1.0}
    )

    def work() -> str:
        took = []
        for first in (1, 300_000):
            start = time.perf_counter()
            for step in range(first, first + 20):
                mixture.batch(step, 32, 2048)
            took.append((time.perf_counter() - start) / 20)
        first_ms, later_ms = (seconds * 1e3 for seconds in took)
        return f"32 × 2048 tokens: {first_ms:.1f} ms at step 1, {later_ms:.1f} at 300,000"

    return measured(work)


def main() -> None:
    """Print one line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer")
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        corpus, tokens = Path(scratch) / "corpus", Path(scratch) / "tokens"
        write_corpus(corpus, options.mb * 10**6)
        context = multiprocessing.get_context("spawn")
        cpu_s = {}
        for name, work in (
            ("the tokenizer by itself", by_itself),
            ("token files", build),
            ("token files, again", build),
            ("check", check),
            ("batches", batch),
        ):
            with context.Pool(1) as pool:
                found = pool.apply(work, (options.tokenizer, corpus, tokens))
            cpu_s[name] = found.cpu_s
            print(f"{name:24} {found.cpu_s:8.2f} CPU s {found.peak_mb:8.0f} MB  {found.says}")
        print(f"CPU ratio {cpu_s['token files'] / cpu_s['the tokenizer by itself']:.2f}")


if __name__ == "__main__":
    main()
