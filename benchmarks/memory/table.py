"""Memory a GPU takes to train 8B branches and to tune their mixtures, by the formula.

    .venv/bin/python benchmarks/memory/table.py [CONFIG.json]

In:  nothing, or a config.json of another dense model. No weights are read.
Out: Markdown rows: GB a process, and whether that and a constant fit an 80 GB card.
"""

import json
import sys
from pathlib import Path

from btx_core.training.memory import Memory, ModelShape, RunShape, memory_of

# Llama 3 8B.
CONFIG = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
CARD_GB, LIBRARIES_GB = 80, 4
PROCESSES = (1, 8, 16)
SEQUENCE, ROWS = 4096, 1


def row(name: str, found: list[Memory]) -> str:
    cells = []
    for memory in found:
        gigabytes = memory.total / 1e9
        fits = "fits" if gigabytes + LIBRARIES_GB <= CARD_GB else "no"
        state = (memory.weights + memory.gradients + memory.averages + memory.teachers) / 1e9
        cells.append(f"{gigabytes:.3g} ({state:.3g}), {fits}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else CONFIG
    dense = ModelShape.of(config)
    print(f"One sequence of {SEQUENCE} tokens a process, bfloat16, activations computed again,")
    print(
        "logits in chunks of 1,024; GB a process, and in brackets what does not depend on text.\n"
    )
    print("| | " + " | ".join(f"{count} GPU" for count in PROCESSES) + " |")
    print("|---|" + "---:|" * len(PROCESSES))
    ways = [
        ("branch, anchored", dense, "feed-forward", []),
        ("branch, full", dense, "all", []),
    ]
    for experts in (4, 8):
        mixed = dense.mixed(experts)
        ways += [
            (f"8B × {experts}, tune {trains}", mixed, trains, [dense])
            for trains in ("router", "shared", "all")
        ]
    for name, shape, trains, teachers in ways:
        found = []
        for processes in PROCESSES:
            run = RunShape(
                trains=trains,
                batch=ROWS * processes,
                sequence=SEQUENCE,
                bfloat16=True,
                recompute=True,
                logits_chunk=1024,
                processes=processes,
            )
            found.append(memory_of(shape, run, teachers))
        print(row(name, found))


if __name__ == "__main__":
    main()
