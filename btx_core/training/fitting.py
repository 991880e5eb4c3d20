"""Choose what a recipe leaves open by the model, the text and the memory.

In:  how large they are, and the settings that a user gave.  Out: the open settings, chosen.
What is chosen is stored with the run, so that nobody chooses again. No module of torch is imported.
Where the rules come from: Branch-Train-MiX trains 7B branches and their mixture at a peak of 1e-4,
a cosine down to a tenth of it and 100 warm-up steps, tuning with a quarter of the branches' tokens;
BAR tunes routers alone on a twentieth of the text; four epochs teach about as much as new text
(arXiv:2305.16264). At a million parameters 3e-3 and 512 tokens a step did best, at 135 million 2e-3
ruins a model and 3e-4 improves it (benchmarks/btx_table, benchmarks/auto).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# The settings that are chosen where a recipe does not name them, or names them "auto".
OPEN = ("steps", "batch", "sequence", "learning_rate", "warmup_steps", "accumulate")
AUTO = "auto"
# Of text in most languages and vocabularies, more or less.
BYTES_A_TOKEN = 4
# Peak rates: the paper's from a billion parameters on, and with the root of the size below it.
LARGE, LARGE_RATE, HIGHEST_RATE = 10**9, 1e-4, 3e-3
# Of a tuning, what everything but the routers takes of the rate (TuneRecipe.shared_rate): it then
# trains at the rate of a branch.
SHARED_RATE = 0.6
MOST_STEPS, LEAST_STEPS, MOST_EPOCHS, MOST_WARMUP = 20_000, 200, 4, 100
TUNED_SHARE = {"router": 0.05, "shared": 0.25, "all": 0.25}
# Longest sequences, by the parameters from which on they are taken.
SEQUENCES = ((10**9, 4096), (10**8, 2048), (10**7, 512), (0, 128))

Chosen = dict[str, int | float]


@dataclass(frozen=True)
class Scope:
    """What a run is fitted to.

    Attributes:
        parameters: of the seed model.
        text_bytes: of the text that is trained on.
        positions: the longest sequence that the model takes; None: it does not say.
        processes: that compute a step together, each as many of its sequences.
    """

    parameters: int
    text_bytes: int
    positions: int | None = None
    processes: int = 1

    @property
    def tokens(self) -> int:
        """About how many tokens the text has."""
        return max(1, self.text_bytes // BYTES_A_TOKEN)


def for_training(scope: Scope, given: Mapping[str, object]) -> Chosen:
    """Choose the open settings of a branch's training: one epoch of its text, up to a cap.

    Args:
        scope: the seed model and the branch's text.
        given: `[recipe.train]`.

    Returns:
        The open settings alone.
    """
    replay = _number(given, "replay", 0.0)
    # General text comes on top.
    tokens = scope.tokens / max(0.1, 1 - replay)
    return _open(given, _chosen(scope, given, tokens, branch_rate(scope.parameters)))


def for_tuning(scope: Scope, given: Mapping[str, object]) -> Chosen:
    """Choose the open settings of a tuning, by what it trains.

    Args:
        scope: the seed model and the text of all domains.
        given: `[recipe.tune]`.

    Returns:
        The open settings alone.
    """
    mode = str(given.get("mode", "shared"))
    rate = branch_rate(scope.parameters) / SHARED_RATE
    # Routers alone are few, and nothing else moves under them.
    if mode == "router":
        rate *= 2
    share = TUNED_SHARE.get(mode, 0.25)
    return _open(given, _chosen(scope, given, scope.tokens * share, rate))


def in_parts(
    chosen: Chosen, rows: int, need: Callable[[Chosen], int | None], memory: int | None
) -> Chosen:
    """Choose in how many parts a process computes a step: the fewest that fit its memory.

    Args:
        chosen: what was chosen; where the parts were given, they are not in it and stay.
        rows: sequences of a step that one process computes.
        need: says the bytes that a choice takes; None where nobody knows.
        memory: bytes of a process; None where nobody knows.
    """
    if memory is None or "accumulate" not in chosen:
        return chosen
    parts = 1
    while parts < rows and (need(chosen | {"accumulate": parts}) or 0) > memory:
        parts = min(rows, 2 * parts)
    return chosen | {"accumulate": parts}


def branch_rate(parameters: int) -> float:
    """Return the peak rate at which a model of this size is trained on."""
    rate = LARGE_RATE * math.sqrt(LARGE / max(1, parameters))
    return min(HIGHEST_RATE, max(LARGE_RATE, rate))


def is_open(given: Mapping[str, object], key: str) -> bool:
    """Whether a setting is to be chosen."""
    return given.get(key, AUTO) == AUTO


def _chosen(scope: Scope, given: Mapping[str, object], tokens: float, rate: float) -> Chosen:
    """Choose every setting; each follows those before it, chosen or given."""
    sequence = int(_number(given, "sequence", _sequence(scope)))
    batch = int(_number(given, "batch", _batch(scope, tokens, sequence)))
    epoch = tokens / (batch * sequence)
    wanted = max(epoch, min(MOST_EPOCHS * epoch, LEAST_STEPS))
    steps = int(_number(given, "steps", min(MOST_STEPS, math.ceil(wanted))))
    return {
        "steps": steps,
        "batch": batch,
        "sequence": sequence,
        "learning_rate": float(f"{rate:.1e}"),
        "warmup_steps": min(MOST_WARMUP, max(1, steps // 10)),
        "accumulate": 1,
    }


def _sequence(scope: Scope) -> int:
    """Return the longest sequence that the model takes and of which the text has a few dozen."""
    longest = next(length for least, length in SEQUENCES if scope.parameters >= least)
    return max(16, min(longest, scope.positions or longest, _power_of_two(scope.tokens / 32)))


def _batch(scope: Scope, tokens: float, sequence: int) -> int:
    """Return as many sequences as leave the text a few hundred steps; more for large models.

    They are rounded up to as many for each process.
    """
    most = min(2**20, 512 * max(1.0, scope.parameters / 10**6) ** 0.8)
    rows = _power_of_two(min(most, max(512, tokens / 500)) / sequence)
    return scope.processes * math.ceil(rows / scope.processes)


def _power_of_two(value: float) -> int:
    """Return the largest power of two up to a value, 1 at least."""
    return 1 << max(0, int(math.log2(max(1.0, value))))


def _number(given: Mapping[str, object], key: str, otherwise: float) -> float:
    value = given.get(key)
    # What is no number is told where the recipe is read.
    return value if isinstance(value, int | float) and value > 0 else otherwise


def _open(given: Mapping[str, object], chosen: Chosen) -> Chosen:
    return {key: value for key, value in chosen.items() if is_open(given, key)}
