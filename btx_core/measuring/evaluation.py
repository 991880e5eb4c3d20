"""Measure a dense or mixed model on the held-out text of each domain.

In:  a checkpoint folder, data folders by domain.
Out: bits per byte, answers right, each expert's share of the load, speed and size.
Each document is measured by itself, in windows that follow one another; every token is predicted
once. Whether the figures are good enough is left to policies.
Shapes: B windows, S tokens, T = B × S tokens, L layers with a router, E experts, V vocabulary.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import log_softmax
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from btx_core.machine import device_of
from btx_core.progress import Progress
from btx_core.routed import RoutedModel, parameter_counts
from btx_core.texts import Document, encode, end_token, split

# The target at a position that is only padding.
IGNORED = -100


@dataclass(frozen=True)
class DomainResult:
    """How a model does on one domain's held-out text.

    Attributes:
        bits_per_byte: lower is better.
        tokens: how many were predicted.
        accuracy: share of answers that are right to the last token; None where none can be checked.
        answers: how many answers were checked.
    """

    bits_per_byte: float
    tokens: int
    accuracy: float | None = None
    answers: int = 0

    def to_json(self) -> dict[str, float]:
        """Return a JSON object, with accuracy and answers only where there are answers."""
        figures = {"bits_per_byte": self.bits_per_byte, "tokens": self.tokens}
        if self.accuracy is not None:
            figures |= {"accuracy": self.accuracy, "answers": self.answers}
        return figures


# By domain, for every layer, each expert's share of the tokens' weight.
Routing = Mapping[str, list[list[float]]]


@dataclass(frozen=True)
class Evaluation:
    """How a model does on every domain.

    Attributes:
        domains: the figures by domain.
        routing: by domain, for every layer, each expert's share of the tokens' weight; None for a
            dense model.
        dead: "layer L, expert E": less than a hundredth of an even share in every domain.
        dominant: "layer L, expert E": over nine tenths of the weight in every domain.
        tokens_per_s: predicted, all domains together.
        active_parameters: those that one token meets.
        total_parameters: all.
    """

    domains: Mapping[str, DomainResult]
    routing: Routing | None
    dead: list[str]
    dominant: list[str]
    tokens_per_s: float
    active_parameters: int
    total_parameters: int

    # Any: a JSON object.
    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as a JSON object."""
        return {
            "domains": {name: result.to_json() for name, result in self.domains.items()},
            "routing": None if self.routing is None else dict(self.routing),
            "dead": self.dead,
            "dominant": self.dominant,
            "tokens_per_s": self.tokens_per_s,
            "active_parameters": self.active_parameters,
            "total_parameters": self.total_parameters,
        }


@dataclass(frozen=True)
class Window:
    """A stretch of one document.

    Attributes:
        ids: up to S + 1 token ids, the first of them only read.
        answer_tokens: how many of the last ones are an answer that can be checked; 0: none.
    """

    ids: list[int]
    answer_tokens: int = 0


@dataclass
class HeldOut:
    """Held-out text as windows.

    Attributes:
        windows: of all documents.
        text_bytes: the bytes of text that they spell.
    """

    windows: list[Window] = field(default_factory=list)
    text_bytes: int = 0


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Windows of like length in one tensor.

    Attributes:
        inputs: token ids (B, S).
        targets: token ids (B, S), IGNORED where a window is padded.
        answer_tokens: of each of the B windows, how many of the last targets are its answer.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    answer_tokens: list[int]


def evaluate(
    folder: Path,
    domains: Mapping[str, Path],
    *,
    max_tokens: int = 20_000,
    sequence: int = 256,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a checkpoint.

    Args:
        folder: a dense or mixed checkpoint.
        domains: data folders by any text, such as a data reference; the figures have the same keys.
        max_tokens: how many tokens of held-out text are read of each domain.
        sequence: tokens of one window; no more than the model takes.
        batch_tokens: tokens in one forward pass.
        progress: called before each domain.

    Returns:
        The figures.

    Raises:
        Unreadable: for a data folder that does not hold text as promised.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    limits = Limits(max_tokens, sequence, batch_tokens)
    return evaluate_model(RoutedModel.load(folder), tokenizer, domains, limits, progress)


@dataclass(frozen=True)
class Limits:
    """How much is read of each domain, and in what portions.

    Attributes:
        max_tokens: of held-out text, per domain.
        sequence: tokens of one window.
        batch_tokens: tokens in one forward pass.
    """

    max_tokens: int
    sequence: int = 256
    batch_tokens: int = 4096


@torch.inference_mode()
def evaluate_model(
    model: RoutedModel,
    tokenizer: PreTrainedTokenizerBase,
    domains: Mapping[str, Path],
    limits: Limits,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model in memory.

    Args:
        model: dense or mixed.
        tokenizer: the model's.
        domains: data folders by any text.
        limits: how much is read.
        progress: called before each domain.

    Returns:
        The figures.

    Raises:
        Unreadable: as `evaluate`.
    """
    longest = _longest_input(model, limits.sequence)
    results: dict[str, DomainResult] = {}
    routing: dict[str, list[list[float]]] = {}
    started = time.monotonic()
    for number, (name, folder) in enumerate(domains.items()):
        if progress:
            progress(number, len(domains), name)
        heldout = heldout_windows(split(folder).heldout, tokenizer, longest, limits.max_tokens)
        tally = Tally()
        for batch in batches(heldout, limits.batch_tokens):
            tally.add(model, batch)
        results[name] = tally.result(heldout.text_bytes)
        if tally.expert_loads:
            routing[name] = tally.load_shares()
    seconds = time.monotonic() - started
    tokens = sum(result.tokens for result in results.values())
    counts = parameter_counts(model.network)
    dead, dominant = _outliers(routing)
    return Evaluation(
        domains=results,
        routing=routing or None,
        dead=dead,
        dominant=dominant,
        tokens_per_s=round(tokens / seconds, 1),
        active_parameters=counts.active,
        total_parameters=counts.total,
    )


def heldout_windows(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    sequence: int,
    max_tokens: int,
) -> HeldOut:
    """Cut the first documents into windows.

    Args:
        documents: held-out documents.
        tokenizer: of the model that is measured.
        sequence: S, tokens of one window.
        max_tokens: where to stop; the last document is cut there.

    Returns:
        The windows, and the bytes of text that they spell.
    """
    end, heldout, spent = end_token(tokenizer), HeldOut(), 0
    for document in documents:
        if spent >= max_tokens:
            break
        ids, answer_tokens = _encoded(document, tokenizer, end)
        if len(ids) > max_tokens - spent + 1:
            ids, answer_tokens = ids[: max_tokens - spent + 1], 0
            # Any: decoding one list of ids gives one text.
            text: Any = tokenizer.decode(ids[1:])
        else:
            text = document.text
        heldout.text_bytes += len(text.encode())
        spent += len(ids) - 1
        starts = range(0, len(ids) - 1, sequence)
        for start in starts:
            # An answer is checked where its whole document is in one window.
            checked = answer_tokens if len(starts) == 1 else 0
            heldout.windows.append(Window(ids[start : start + sequence + 1], checked))
    return heldout


def batches(heldout: HeldOut, batch_tokens: int) -> Iterator[PaddedBatch]:
    """Put windows of like length together, the longest first.

    Args:
        heldout: the windows.
        batch_tokens: tokens of a batch, padding included; one window at least.

    Yields:
        Every window once.
    """
    # Of two of one length the later comes first: the order fixes the last bits of the sums.
    numbered = sorted(enumerate(heldout.windows), key=_length_and_number, reverse=True)
    windows = [window for _, window in numbered]
    while windows:
        longest = _length(windows[0])
        count = max(1, batch_tokens // longest)
        now, windows = windows[:count], windows[count:]
        inputs = torch.zeros(len(now), longest, dtype=torch.long)
        targets = torch.full((len(now), longest), IGNORED)
        for number, window in enumerate(now):
            ids = torch.tensor(window.ids)
            inputs[number, : len(ids) - 1] = ids[:-1]
            targets[number, : len(ids) - 1] = ids[1:]
        yield PaddedBatch(inputs, targets, [window.answer_tokens for window in now])


def _length(window: Window) -> int:
    return len(window.ids) - 1


def _length_and_number(numbered: tuple[int, Window]) -> tuple[int, int]:
    number, window = numbered
    return _length(window), number


def _longest_input(model: RoutedModel, sequence: int) -> int:
    return min(sequence, getattr(model.network.config, "max_position_embeddings", sequence))


def _encoded(
    document: Document, tokenizer: PreTrainedTokenizerBase, end: int
) -> tuple[list[int], int]:
    """Return a document's ids between two end tokens, and how many of the last are its answer."""
    if document.answer is None:
        (ids,) = encode(tokenizer, [document.text])
        return [end, *ids, end], 0
    prompt, answer = encode(tokenizer, [str(document.prompt), f" {document.answer}"])
    # With the end token: the answer must also stop.
    return [end, *prompt, *answer, end], len(answer) + 1


@dataclass
class Tally:
    """The sums over one domain that its figures are made of.

    Attributes:
        nats: of all predicted tokens.
        tokens: predicted.
        answers: checked.
        right: answers that are right.
        expert_loads: by router, the sum (E,) of the weights that it gave each expert.
    """

    nats: float = 0.0
    tokens: int = 0
    answers: int = 0
    right: int = 0
    expert_loads: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, model: RoutedModel, batch: PaddedBatch) -> None:
        """Run the model over a batch and add it up."""
        device = device_of(model.network)
        ids, wanted = batch.inputs.to(device), batch.targets.to(device)
        real = wanted != IGNORED
        routers = {router.name: router for router in model.routers}

        def expert_load(name: str, hidden_TD: torch.Tensor) -> torch.Tensor:
            weights_TE = routers[name].routing_weights(hidden_TD)
            return weights_TE[real.flatten()].double().sum(0)

        with model.recording(inputs=True, reduce=expert_load) as recording:
            logits = model.network(input_ids=ids, use_cache=False).logits.float()
        for name, load_E in recording.inputs.items():
            earlier_E = self.expert_loads.get(name)
            self.expert_loads[name] = load_E if earlier_E is None else earlier_E + load_E
        targets = wanted.clamp(min=0)[..., None]
        log_probabilities = log_softmax(logits, -1).gather(-1, targets)[..., 0][real]
        self.nats -= float(log_probabilities.double().sum())
        self.tokens += int(real.sum())
        self._check_answers((logits.argmax(-1) == wanted) & real, real, batch.answer_tokens)

    def _check_answers(
        self, hits: torch.Tensor, real: torch.Tensor, answer_tokens: list[int]
    ) -> None:
        """Count the answers of which every token was the likeliest: hits and real are (B, S)."""
        for number, length in enumerate(answer_tokens):
            if length:
                last = int(real[number].sum())
                self.answers += 1
                self.right += int(hits[number, last - length : last].all())

    def result(self, text_bytes: int) -> DomainResult:
        """Return the figures of a text of so many bytes."""
        accuracy = self.right / self.answers if self.answers else None
        bits_per_byte = self.nats / math.log(2) / text_bytes
        return DomainResult(bits_per_byte, self.tokens, accuracy, self.answers)

    def load_shares(self) -> list[list[float]]:
        """Return for every layer each expert's share of the tokens' weight."""
        return [_rounded(load_E / load_E.sum()) for load_E in self.expert_loads.values()]


def _rounded(shares_E: torch.Tensor) -> list[float]:
    return [round(float(share), 6) for share in shares_E]


def _outliers(routing: Routing) -> tuple[list[str], list[str]]:
    """Return the experts that are idle in every domain, and those that take nearly all in each."""
    dead, dominant = [], []
    for layer, by_domain in enumerate(zip(*routing.values(), strict=True)):
        for expert, shares in enumerate(zip(*by_domain, strict=True)):
            if max(shares) < 0.01 / len(by_domain[0]):
                dead.append(f"layer {layer}, expert {expert}")
            if min(shares) > 0.9:
                dominant.append(f"layer {layer}, expert {expert}")
    return dead, dominant
