"""Measure a dense or mixed model on the held-out text of each domain.

In:  a checkpoint folder, data folders by domain.  Out: bits per byte, answers right, load per expert, speed and size, as plain numbers.
Each document stands alone, in windows that follow one another; every token is predicted once.
Shapes: B rows, S tokens, L layers with a router, E experts.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear, log_softmax
from transformers import AutoTokenizer

from btx_core.checkpoints.dense import load
from btx_core.texts import Document, encode, end_token, split

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Evaluation:
    domains: dict[
        str, dict[str, float]
    ]  # bits_per_byte, tokens; accuracy and answers where answers can be checked
    routing: (
        dict[str, list[list[float]]] | None
    )  # domain: per layer, the share of tokens' gate weight per expert slot
    dead: list[str]  # "layer L, expert E": under a hundredth of an even share in every domain
    dominant: list[str]  # "layer L, expert E": over nine tenths of every domain's weight
    tokens_per_s: float
    active_parameters: int
    total_parameters: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Windows:
    """Rows of equal-length tokens: ids (B, S + 1), how many leading targets are real, and which are an answer's."""

    ids: list[list[int]] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)  # trailing targets that are the answer; 0: none


def evaluate(
    folder: Path,
    domains: Mapping[str, Path],
    *,
    max_tokens: int = 20_000,
    sequence: int = 256,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> Evaluation:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load(folder).eval()
    return evaluate_model(
        model,
        tokenizer,
        domains,
        max_tokens=max_tokens,
        sequence=sequence,
        batch_tokens=batch_tokens,
        progress=progress,
    )


@torch.inference_mode()
def evaluate_model(
    model: Any,
    tokenizer: Any,
    domains: Mapping[str, Path],
    *,
    max_tokens: int = 20_000,
    sequence: int = 256,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> Evaluation:
    sequence = min(sequence, getattr(model.config, "max_position_embeddings", sequence))
    figures, routing, tokens, started = {}, {}, 0, time.monotonic()
    for number, (name, folder) in enumerate(domains.items()):
        if progress:
            progress(number, len(domains), name)
        windows, text_bytes = heldout_windows(
            split(folder).heldout, tokenizer, sequence, max_tokens
        )
        with loads(model) as load:
            figures[name] = _measure(model, windows, text_bytes, batch_tokens, load)
        tokens += int(figures[name]["tokens"])
        if load.layers:
            routing[name] = load.shares()
    seconds = time.monotonic() - started
    total, active = parameters(model)
    dead, dominant = _outliers(routing)
    return Evaluation(
        figures, routing or None, dead, dominant, round(tokens / seconds, 1), active, total
    )


def heldout_windows(
    documents: tuple[Document, ...], tokenizer: Any, sequence: int, max_tokens: int
) -> tuple[Windows, int]:
    """Windows of the first documents, up to max_tokens, and the bytes of text that they spell."""
    end, windows, text_bytes, spent = end_token(tokenizer), Windows(), 0, 0
    for document in documents:
        if spent >= max_tokens:
            break
        parts = (
            [document.text]
            if document.answer is None
            else [str(document.prompt), f" {document.answer}"]
        )
        ids = encode(tokenizer, parts)
        answer = (
            len(ids[1]) + 1 if document.answer is not None else 0
        )  # with the end token: the answer must also stop
        row = [end, *(token for part in ids for token in part), end]
        if len(row) > max_tokens - spent + 1:
            row, answer = row[: max_tokens - spent + 1], 0
            text_bytes += len(tokenizer.decode(row[1:]).encode())
        else:
            text_bytes += len(document.text.encode())
        spent += len(row) - 1
        starts = range(0, len(row) - 1, sequence)
        for start in starts:
            windows.ids.append(row[start : start + sequence + 1])
            windows.answer.append(answer if len(starts) == 1 else 0)
    return windows, text_bytes


def batches(
    windows: Windows, batch_tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """(B, S) inputs, (B, S) targets with -100 where padded, answers' lengths; rows of like length together."""
    order = sorted(
        range(len(windows.ids)), key=lambda index: (len(windows.ids[index]), index), reverse=True
    )
    while order:
        longest = len(windows.ids[order[0]]) - 1
        rows, order = (
            order[: max(1, batch_tokens // longest)],
            order[max(1, batch_tokens // longest) :],
        )
        inputs, targets = (
            torch.zeros(len(rows), longest, dtype=torch.long),
            torch.full((len(rows), longest), -100),
        )
        for place, row in enumerate(rows):
            ids = torch.tensor(windows.ids[row])
            inputs[place, : len(ids) - 1], targets[place, : len(ids) - 1] = ids[:-1], ids[1:]
        yield inputs, targets, [windows.answer[row] for row in rows]


def _measure(
    model: Any, windows: Windows, text_bytes: int, batch_tokens: int, load: "Loads"
) -> dict[str, float]:
    nats, tokens, answers, right = 0.0, 0, 0, 0
    for inputs, targets, lengths in batches(windows, batch_tokens):
        load.real = targets.flatten() != -100
        logits = model(input_ids=inputs, use_cache=False).logits.float()
        real = targets != -100
        nats -= float(
            log_softmax(logits, -1)
            .gather(-1, targets.clamp(min=0)[..., None])[..., 0][real]
            .double()
            .sum()
        )
        tokens += int(real.sum())
        hits = (logits.argmax(-1) == targets) & real
        for row, length in enumerate(lengths):
            if length:
                last = int(real[row].sum())
                answers += 1
                right += int(hits[row, last - length : last].all())
    figures: dict[str, float] = {"bits_per_byte": nats / math.log(2) / text_bytes, "tokens": tokens}
    return figures | ({"accuracy": right / answers, "answers": answers} if answers else {})


@dataclass
class Loads:
    """Gate weight per expert, summed over real tokens, per layer."""

    layers: dict[str, torch.Tensor] = field(default_factory=dict)
    real: torch.Tensor | None = None
    tokens: int = 0

    def shares(self) -> list[list[float]]:
        return [
            [round(float(value), 6) for value in total / total.sum()]
            for total in self.layers.values()
        ]


def gates(model: Any) -> dict[str, Any]:
    """The routers: modules with a weight (E, D) and a top_k, by name, in layer order."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "top_k") and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    }


def gate_weights(gate: Any, hidden: torch.Tensor) -> torch.Tensor:
    """(T, E): softmax over the kept top-k (Switch: over all), zero elsewhere; what the routed block multiplies its experts with."""
    logits = linear(hidden, gate.weight).float()
    kept, places = logits.topk(gate.top_k, -1)
    weights = (
        kept.softmax(-1)
        if getattr(gate, "norm_topk_prob", True)
        else logits.softmax(-1).gather(-1, places)
    )
    return torch.zeros_like(logits).scatter(-1, places, weights)


@contextmanager
def loads(model: Any) -> Iterator[Loads]:
    load = Loads()

    def listen(name: str) -> Any:
        def hook(gate: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            weights = gate_weights(gate, arguments[0].reshape(-1, gate.weight.shape[1]))
            if load.real is not None:
                weights = weights[load.real]
            load.layers[name] = load.layers.get(name, 0) + weights.double().sum(0)

        return hook

    handles = [gate.register_forward_pre_hook(listen(name)) for name, gate in gates(model).items()]
    try:
        yield load
    finally:
        for handle in handles:
            handle.remove()


def parameters(model: Any) -> tuple[int, int]:
    """All, and those that one token meets: of E experts only the top k."""
    total = sum(parameter.numel() for parameter in model.parameters())
    active = total
    for name, gate in gates(model).items():
        experts = model.get_submodule(name.rsplit(".", 1)[0]).experts
        size = sum(parameter.numel() for parameter in experts.parameters())
        active -= size - size * gate.top_k // gate.weight.shape[0]
    return total, active


def _outliers(routing: Mapping[str, list[list[float]]]) -> tuple[list[str], list[str]]:
    dead, dominant = [], []
    for layer, by_domain in enumerate(zip(*routing.values(), strict=True)):
        for expert, shares in enumerate(zip(*by_domain, strict=True)):
            if max(shares) < 0.01 / len(by_domain[0]):
                dead.append(f"layer {layer}, expert {expert}")
            if min(shares) > 0.9:
                dominant.append(f"layer {layer}, expert {expert}")
    return dead, dominant
