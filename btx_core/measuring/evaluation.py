"""Measure a dense or mixed model on the held-out text of each domain.

In:  a checkpoint folder, data folders by domain.
Out: bits per byte, answers right, each expert's share of the load, speed and size.
Each document is measured by itself; which text is measured is left to
`btx_core.measuring.samples`. Whether the figures are good enough is left to policies.
Shapes: B windows, S tokens, T = B × S tokens, E experts, D model width.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from btx_core.machine import device_of
from btx_core.measuring.samples import HeldOut, Limits, PaddedBatch, batches, sample
from btx_core.measuring.scoring import score
from btx_core.progress import Progress
from btx_core.routed import RoutedModel, parameter_counts
from btx_core.texts import AnyText
from btx_core.tokens import Tokens


@dataclass(frozen=True)
class Sample:
    """What of a domain's held-out text was measured.

    Attributes:
        digest: of all that fixes it; figures of one digest are figures of the same text.
        documents: how many documents it is from.
        tokens_in_all: of the held-out text that it was drawn from.
        block_bytes: the bytes of text in each of its blocks.
    """

    digest: str
    documents: int
    tokens_in_all: int
    block_bytes: tuple[int, ...]


@dataclass(frozen=True)
class DomainResult:
    """How a model does on one domain's held-out text.

    Attributes:
        bits_per_byte: lower is better.
        tokens: how many were predicted.
        sample: the text that was measured.
        block_bits: the bits that each block of the sample takes.
        accuracy: share of answers that are right to the last token; None where none can be checked.
        answers: how many answers were checked.
    """

    bits_per_byte: float
    tokens: int
    sample: Sample
    block_bits: tuple[float, ...]
    accuracy: float | None = None
    answers: int = 0

    # Any: a JSON object.
    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, with accuracy and answers only where there are answers."""
        figures = asdict(self)
        if self.accuracy is None:
            del figures["accuracy"], figures["answers"]
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


def evaluate(
    folder: Path,
    domains: Mapping[str, AnyText],
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
        max_tokens: how many tokens of held-out text are read of each domain, about so many where
            there are more.
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


# Not in inference mode: processes that each hold whole experts fail there.
@torch.no_grad()
def evaluate_model(
    model: RoutedModel,
    tokenizer: PreTrainedTokenizerBase,
    domains: Mapping[str, AnyText],
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
    limits = replace(limits, sequence=_longest_input(model.network.config, limits.sequence))
    results: dict[str, DomainResult] = {}
    routing: dict[str, list[list[float]]] = {}
    started = time.monotonic()
    for number, (name, folder) in enumerate(domains.items()):
        if progress:
            progress(number, len(domains), name)
        heldout = sample(Tokens.of(folder, tokenizer), limits)
        tally = Tally(heldout)
        for batch in batches(heldout, limits.batch_tokens):
            tally.add(model, batch)
        results[name] = tally.result()
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


def as_all_take(limits: Limits, folders: Iterable[Path]) -> Limits:
    """Return the limits with windows that every one of several models takes.

    Models that are compared are measured within the same limits: windows of another length are
    other text.

    Args:
        limits: how much is read.
        folders: the models' checkpoint folders.
    """
    sequence = limits.sequence
    for folder in folders:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        sequence = _longest_input(config, sequence)
    return replace(limits, sequence=sequence)


def _longest_input(config: PreTrainedConfig, sequence: int) -> int:
    return min(sequence, getattr(config, "max_position_embeddings", sequence))


@dataclass
class Tally:
    """The sums over one domain that its figures are made of.

    Attributes:
        heldout: what is measured.
        block_nats: of all predicted tokens, by block of the sample.
        tokens: predicted.
        answers: checked.
        right: answers that are right.
        expert_loads: by router, the sum (E,) of the weights that it gave each expert.
    """

    heldout: HeldOut
    block_nats: list[float] = field(init=False)
    tokens: int = 0
    answers: int = 0
    right: int = 0
    expert_loads: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin every block at zero."""
        self.block_nats = [0.0] * len(self.heldout.block_bytes)

    def add(self, model: RoutedModel, batch: PaddedBatch) -> None:
        """Run the model over a batch and add it up."""
        device = device_of(model.network)
        predicted = batch.predicted.to(device)
        routers = {router.name: router for router in model.routers}

        def expert_load(name: str, hidden_TD: torch.Tensor) -> torch.Tensor:
            weights_TE = routers[name].routing_weights(hidden_TD)
            return weights_TE[predicted.flatten()].double().sum(0)

        with model.recording(inputs=True, reduce=expert_load) as recording:
            scores = score(model.network, batch.inputs.to(device), batch.targets.to(device))
        for name, load_E in recording.inputs.items():
            earlier_E = self.expert_loads.get(name)
            self.expert_loads[name] = load_E if earlier_E is None else earlier_E + load_E
        log_probabilities_BS = scores.log_probabilities_BS.double().where(predicted, 0.0)
        nats = (-log_probabilities_BS.sum(1)).tolist()
        likeliest = scores.likeliest_BS.cpu()
        for number, window in enumerate(batch.windows):
            self.block_nats[window.block] += nats[number]
            self.tokens += window.measured
            if window.answer_tokens:
                first = window.length - window.answer_tokens
                self.answers += 1
                self.right += int(likeliest[number, first : window.length].all())

    def result(self) -> DomainResult:
        """Return the figures."""
        block_bits = tuple(nats / math.log(2) for nats in self.block_nats)
        return DomainResult(
            bits_per_byte=sum(block_bits) / self.heldout.text_bytes,
            tokens=self.tokens,
            sample=Sample(
                digest=self.heldout.digest,
                documents=self.heldout.documents,
                tokens_in_all=self.heldout.tokens_in_all,
                block_bytes=self.heldout.block_bytes,
            ),
            block_bits=tuple(round(bits, 3) for bits in block_bits),
            accuracy=self.right / self.answers if self.answers else None,
            answers=self.answers,
        )

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
            # An only expert takes all that there is.
            if min(shares) > 0.9 and len(by_domain[0]) > 1:
                dominant.append(f"layer {layer}, expert {expert}")
    return dead, dominant
