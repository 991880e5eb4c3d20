"""Peak memory and time of the next-token loss: in chunks of tokens, and over all logits at once.

    python benchmarks/loss/memory.py [--vocabulary V] [--tokens T] [--width D] [--pairs N]

Each run is a process of its own, forward and backward through a random head, interleaved in pairs.
The peak is that of the process over what it held before; the spread is from the least to the most
of the ratios.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch.nn.functional import cross_entropy

from btx_core.training.losses import Predictions

KINDS = ("plain", "chunks")


def main() -> None:
    """Run the pairs and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--one", choices=KINDS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options)))
        return
    ratios: dict[str, list[float]] = {"bytes": [], "cpu_s": []}
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(options.pairs):
        for kind in KINDS:
            printed = subprocess.run(
                [sys.executable, *sys.argv, "--one", kind],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            runs[kind].append(json.loads(printed))
        for key, values in ratios.items():
            values.append(runs["chunks"][-1][key] / runs["plain"][-1][key])
    spread = {key: [round(min(values), 3), round(max(values), 3)] for key, values in ratios.items()}
    print(json.dumps({"chunks over plain": spread, "runs": runs}))


def measured(options: argparse.Namespace) -> dict[str, float]:
    """Return the peak and the time of one loss and its gradient."""
    torch.manual_seed(0)
    head = torch.nn.Linear(options.width, options.vocabulary, bias=False)
    states = torch.randn(1, options.tokens, options.width, requires_grad=True)
    targets = torch.randint(options.vocabulary, (1, options.tokens))
    head.weight.grad = torch.zeros_like(head.weight)
    before, started = peak(), time.process_time()
    if options.one == "plain":
        loss = cross_entropy(head(states).float().flatten(0, 1), targets.flatten())
    else:
        loss = Predictions(states, head).cross_entropy(targets)
    loss.backward()
    return {
        "bytes": peak() - before,
        "cpu_s": round(time.process_time() - started, 2),
        "loss": float(loss.detach()),
    }


def peak() -> int:
    """Return the most memory that this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
