"""What `btx explain` costs beside a plain forward pass of the same text, in turns in one run.

    python benchmarks/web/explain.py BUILD_FOLDER [--rounds 30]

Out: one JSON document: milliseconds of each (median, least, most) and the ratio of the medians, for three lengths of text.
Both sides tokenise, run the model once and keep no cache. Plain: the logits of every position, as a stock caller gets them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from btx_core.measuring.attribution import Reader
from btx_core.texts import end_token

TEXT = "def area(r):\n    return 3.14 * r ** 2\n\nHow many metres are 3 km? 12 + 30 = 42.\n"


def plain(reader: Reader, text: str) -> Any:
    ids = [
        end_token(reader.tokenizer),
        *reader.tokenizer(text, add_special_tokens=False)["input_ids"],
    ]
    network = reader.model.network
    window = getattr(network.config, "max_position_embeddings", 2048)
    with torch.inference_mode():
        return [
            network(input_ids=torch.tensor([ids[start : start + window]]), use_cache=False).logits
            for start in range(0, len(ids), window)
        ]


def milliseconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    read = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    read.add_argument("build", type=Path)
    read.add_argument("--rounds", type=int, default=30)
    asked = read.parse_args()
    torch.set_num_threads(1)
    reader, answers = Reader.open(asked.build), {}
    for copies in (1, 4, 20):
        text = TEXT * copies
        sides = {
            "plain": lambda text=text: plain(reader, text),
            "explain": lambda text=text: reader.read(text),
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for round_ in range(asked.rounds + 3):
            for name, run in sides.items():
                spent = milliseconds(run)
                if round_ >= 3:  # warm
                    taken[name].append(spent)
        figures = {
            name: {
                "median_ms": round(statistics.median(all_), 2),
                "least_ms": round(min(all_), 2),
                "most_ms": round(max(all_), 2),
            }
            for name, all_ in taken.items()
        }
        ratio = figures["explain"]["median_ms"] / figures["plain"]["median_ms"]
        answers[f"{len(reader.read(text).tokens)} tokens"] = figures | {"ratio": round(ratio, 3)}
    print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
