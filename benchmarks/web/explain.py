"""What `btx explain` costs beside a plain forward pass of the same text, in turns in one run.

    python benchmarks/web/explain.py BUILD_FOLDER [--rounds 30]

Out: one JSON document: milliseconds of each (median, least, most) and the ratio of the medians, for
three lengths of text.

Both sides tokenise, run the model once and use no cache. Plain means: the logits of every position,
as a stock caller gets them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from btx_core.measuring.attribution import Reader
from btx_core.tokens import end_token

TEXT = "def area(r):\n    return 3.14 * r ** 2\n\nHow many metres are 3 km? 12 + 30 = 42.\n"
# How often the text is repeated.
COPIES = (1, 4, 20)
WARM_UP = 3


def plain(reader: Reader, text: str) -> list[torch.Tensor]:
    """Return the logits of a text, a tensor per window of the model's length."""
    encoded = reader.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [end_token(reader.tokenizer), *encoded]
    network = reader.model.network
    window = getattr(network.config, "max_position_embeddings", 2048)
    with torch.inference_mode():
        return [
            network(input_ids=torch.tensor([ids[start : start + window]]), use_cache=False).logits
            for start in range(0, len(ids), window)
        ]


def milliseconds(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1000


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run the sides in turns; return the milliseconds of each round after warming up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(WARM_UP + rounds):
        for name, run in sides.items():
            spent = milliseconds(run)
            if round_number >= WARM_UP:
                taken[name].append(spent)
    return taken


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median_ms": round(statistics.median(values), 2),
        "least_ms": round(min(values), 2),
        "most_ms": round(max(values), 2),
    }


def main() -> None:
    """Print the times of both sides for each length of text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reader = Reader.open(options.build)
    answers: dict[str, object] = {}
    for copies in COPIES:
        text = TEXT * copies
        sides: dict[str, Callable[[], object]] = {
            "plain": partial(plain, reader, text),
            "explain": partial(reader.read, text),
        }
        taken = in_turns(sides, options.rounds)
        ratio = statistics.median(taken["explain"]) / statistics.median(taken["plain"])
        spreads = {name: _spread(values) for name, values in taken.items()}
        tokens = len(reader.read(text).tokens)
        answers[f"{tokens} tokens"] = {**spreads, "ratio": round(ratio, 3)}
    print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
