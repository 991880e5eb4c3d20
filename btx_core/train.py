"""Train on text: a branch of a seed, or a small seed from nothing.

In:  a dense seed folder (or a size), data folders, a recipe.  Out: a dense checkpoint folder, whole or not at all, and what it cost.
The loop is one: `optimise`, which tune.py shares. Batches come from data.py and depend on the step alone, so a run can be taken up anywhere.
Shapes: B rows, S tokens a row, V vocabulary.
"""

import json
import math
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from btx_core.branch import Mode, branch, write_dense
from btx_core.data import Corpus, Mixture, end_token, split
from btx_core.mix import whole_folder

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    mode: Mode = "anchored"
    steps: int = 1000  # optimiser steps
    batch: int = 4  # rows a step
    sequence: int = 128  # tokens a row
    learning_rate: float = 2e-3  # peak
    warmup_steps: int = 30
    final_rate: float = 0.1  # share of the peak that the cosine ends at
    weight_decay: float = 0.1
    clip: float = 1.0  # largest norm of the gradient
    replay: float = 0.0  # share of rows from the seed's general data
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A small Llama and its byte-level BPE tokenizer."""

    vocabulary: int = 1024
    hidden: int = 64
    feed_forward: int = 192
    layers: int = 4
    heads: int = 4
    positions: int = 256


@dataclass(frozen=True)
class TrainReport:
    tokens: int
    flops: float
    wall_s: float
    device_s: float
    peak_bytes: int
    parameters: int
    trained_parameters: int
    curve: list[tuple[int, float]] = field(default_factory=list)  # (step, mean loss since the last point), nats per token

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train(
    seed: Path, data: Sequence[Path], recipe: TrainRecipe, out: Path, *, general: Path | None = None, progress: Progress | None = None
) -> TrainReport:
    """Train a copy of the seed on the data; anchored leaves every tensor outside the feed-forward blocks as it is in the seed."""
    tokenizer = AutoTokenizer.from_pretrained(seed)
    mixture = _mixture(data, general, tokenizer, recipe)
    model = branch(seed, recipe.mode)
    report = _fit(model, mixture, tokenizer, recipe, progress)
    with whole_folder(out) as aside:
        write_dense(model, seed, aside)
        (aside / "btx-train.json").write_text(json.dumps({"recipe": asdict(recipe), "report": report.to_json()}, indent=1))
    return report


def pretrain(config: PretrainConfig, data: Sequence[Path], recipe: TrainRecipe, out: Path, progress: Progress | None = None) -> TrainReport:
    """A small seed from nothing: tokenizer, then model, from the same training text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer([document.text for folder in data for document in split(folder).train], config.vocabulary)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=config.hidden, intermediate_size=config.feed_forward, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, num_key_value_heads=config.heads, max_position_embeddings=config.positions, tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id, dtype="float32",
        )
    )  # fmt: skip
    report = _fit(model, _mixture(data, None, tokenizer, recipe), tokenizer, recipe, progress)
    with whole_folder(out) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    return report


def byte_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Byte-level BPE; digits stay single, so that numbers are spelt alike wherever they stand."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|end|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[end], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end, pad_token=end)  # type: ignore[no-untyped-call]


def _mixture(data: Sequence[Path], general: Path | None, tokenizer: Any, recipe: TrainRecipe) -> Mixture:
    corpora = {"data": Corpus.of(data, tokenizer, recipe.seed)}
    shares = {"data": 1.0}
    if recipe.replay and general is not None:
        corpora["general"] = Corpus.of([general], tokenizer, recipe.seed)
        shares = {"data": 1 - recipe.replay, "general": recipe.replay}
    return Mixture(corpora, shares)


def _fit(model: Any, mixture: Mixture, tokenizer: Any, recipe: TrainRecipe, progress: Progress | None) -> TrainReport:
    end = end_token(tokenizer)

    def loss(step: int) -> torch.Tensor:
        rows, _ = mixture.batch(step, recipe.batch, recipe.sequence)
        return next_token_loss(model, torch.from_numpy(rows), end)

    return optimise(model, loss, recipe, progress=progress)


def next_token_loss(model: Any, rows: torch.Tensor, end: int) -> torch.Tensor:
    """rows: (B, S + 1). Mean over all B × S targets, nats per token."""
    return cross_entropy(next_token_scores(model, rows, end).flatten(0, 1), rows[:, 1:].flatten())


def next_token_scores(model: Any, rows: torch.Tensor, end: int) -> torch.Tensor:
    """rows: (B, S + 1). Logits (B, S, V), float32."""
    return model(input_ids=rows[:, :-1], attention_mask=alone(rows[:, :-1], end), use_cache=False).logits.float()  # type: ignore[no-any-return]


def alone(inputs: torch.Tensor, end: int) -> torch.Tensor:
    """(B, 1, S, S): 0 where a token may look, lowest elsewhere. Each packed document sees itself alone, begun by the end token before it."""
    document = (inputs == end).cumsum(1)
    seen = (document[:, :, None] == document[:, None, :]).tril()
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


def optimise(
    model: Any,
    loss: Callable[[int], torch.Tensor],
    recipe: Any,
    *,
    rates: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """AdamW with warm-up and cosine over the parameters that require a gradient.

    rates: multiplies the rate of every parameter whose name ends so (default 1).
    """
    started, cpu_started = time.monotonic(), _cpu_s()
    torch.set_flush_denormal(True)
    torch.manual_seed(recipe.seed)
    optimiser = torch.optim.AdamW(_groups(model, recipe, rates or {}), betas=(0.9, 0.95), fused=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    curve: list[tuple[int, float]] = []
    every, since = max(1, recipe.steps // 50), []
    model.train()
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * group["scale"] * schedule(step, recipe)
        value = loss(step)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip)
        optimiser.step()
        optimiser.zero_grad()
        since.append(float(value.detach()))
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            curve.append((step + 1, sum(since) / len(since)))
            since = []
            if progress:
                progress(step + 1, recipe.steps, f"loss {curve[-1][1]:.3f}")
    model.eval()
    tokens = recipe.steps * recipe.batch * recipe.sequence
    every_parameter, trained_parameters = sum(p.numel() for p in model.parameters()), sum(p.numel() for p in trained)
    return TrainReport(
        tokens, float(tokens) * (4 * every_parameter + 2 * trained_parameters), round(time.monotonic() - started, 3), round(_cpu_s() - cpu_started, 3),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, every_parameter, trained_parameters, curve,
    )  # fmt: skip


def schedule(step: int, recipe: Any) -> float:
    """Share of the peak rate: linear warm-up, then a cosine down to final_rate."""
    if step < recipe.warmup_steps:
        return float((step + 1) / recipe.warmup_steps)
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return float(recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * done)))


def _groups(model: Any, recipe: Any, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """One group per (rate, decay): vectors and norms do not decay."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = next((rate for ending, rate in rates.items() if name.endswith(ending)), rates.get("", 1.0))
            groups.setdefault((scale, recipe.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": parameters, "scale": scale, "weight_decay": decay, "lr": 0.0} for (scale, decay), parameters in groups.items()]


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system
