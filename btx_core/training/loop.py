"""Train on text: a branch of a seed, or a small seed from nothing.

In:  a dense seed folder (or a size), data folders, a recipe.  Out: a dense checkpoint folder, whole or not at all, and what it cost.
The loop is one: `optimise`, which tune.py shares, on accelerate: a CPU, a GPU, or several processes that `accelerate launch` starts.
Batches come from data.py and depend on the step alone, so a run that died is taken up at its last checkpoint and ends in the same bytes.
Shapes: B rows, S tokens a row, V vocabulary.
"""

import hashlib
import json
import logging
import math
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from transformers import AutoTokenizer

from btx_core.checkpoints.dense import Mode, branch, write_dense
from btx_core.files import whole_folder
from btx_core.measuring.evaluation import parameters
from btx_core.problems import WrongUsage
from btx_core.texts import Corpus, Mixture, end_token, split
from btx_core.training.beside import beside_seed, pair_loss
from btx_core.training.losses import next_token_loss

Progress = Callable[[int, int, str], None]
Loss = Callable[[Any, torch.Tensor, Sequence[str], float], torch.Tensor]
Precision = Literal["float32", "bfloat16"]


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
    accumulate: int = 1  # parts that a step's rows are computed in, where memory is short
    precision: Precision = (
        "float32"  # of the forward pass; parameters and their averages stay float32
    )
    replay: float = 0.0  # share of rows from the seed's general data
    beside: float = 0.0  # anchored: share of tokens that a learnt gate divides between the expert and the seed's own block
    keep: float = 3.0  # beside: weight of the distance to the seed's predictions on general rows, nats per token
    tag: float = 0.25  # beside: weight of telling the domain's rows from general ones by what enters each block
    lora_rank: int = 0  # train adapters of this rank in place of the parameters themselves, and merge them at the end
    save_every: int = 200  # steps between checkpoints
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
    curve: list[tuple[int, float]] = field(
        default_factory=list
    )  # (step, mean loss since the last point), nats per token

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train(
    seed: Path,
    data: Sequence[Path],
    recipe: TrainRecipe,
    out: Path,
    *,
    general: Path | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train a copy of the seed on the data; anchored leaves every tensor outside the feed-forward blocks as it is in the seed.

    Interrupted, the same call goes on where the last checkpoint was.
    """
    tokenizer = AutoTokenizer.from_pretrained(seed)
    mixture = _mixture(data, general, tokenizer, recipe)
    beside = (
        bool(recipe.beside) and general not in data
    )  # on general text there is nothing to tell apart
    if beside:
        _check_beside(recipe, mixture)
    model = branch(seed, recipe.mode)
    if recipe.lora_rank:
        model = add_adapters(model, recipe.lora_rank)
    checkpoints = Checkpoints.beside(out, recipe, seed, mixture)
    if beside:
        with beside_seed(model, recipe.beside) as pairs:
            loss = pair_loss(pairs, end_token(tokenizer), keep=recipe.keep, tag=recipe.tag)
            report = optimise(
                model, mixture, loss, recipe, checkpoints=checkpoints, progress=progress
            )
    else:
        report = _fit(model, mixture, tokenizer, recipe, progress, checkpoints)
    if recipe.lora_rank:
        model = model.merge_and_unload()
    if not PartialState().is_main_process:
        return report
    with whole_folder(out) as aside:
        write_dense(model, seed, aside)
        (aside / "btx-train.json").write_text(
            json.dumps({"recipe": asdict(recipe), "report": report.to_json()}, indent=1)
        )
    return report


def pretrain(
    config: PretrainConfig,
    data: Sequence[Path],
    recipe: TrainRecipe,
    out: Path,
    progress: Progress | None = None,
) -> TrainReport:
    """A small seed from nothing: tokenizer, then model, from the same training text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(
        [document.text for folder in data for document in split(folder).train], config.vocabulary
    )
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.positions,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            dtype="float32",
        )
    )
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
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, bos_token=end, pad_token=end
    )  # type: ignore[no-untyped-call]


def _mixture(
    data: Sequence[Path], general: Path | None, tokenizer: Any, recipe: TrainRecipe
) -> Mixture:
    corpora = {"data": Corpus.of(data, tokenizer, recipe.seed)}
    shares = {"data": 1.0}
    if recipe.replay and general is not None:
        corpora["general"] = Corpus.of([general], tokenizer, recipe.seed)
        shares = {"data": 1 - recipe.replay, "general": recipe.replay}
    return Mixture(corpora, shares)


def _check_beside(recipe: TrainRecipe, mixture: Mixture) -> None:
    subject, mend = (
        "[recipe.train] beside",
        "set replay = 0.5, and name the seed's data: btx seed add NAME PATH --data data/NAME",
    )
    if recipe.mode != "anchored":  # the seed's block would meet states that it never saw
        raise WrongUsage(
            subject,
            found=f'mode = "{recipe.mode}"',
            expected='mode = "anchored"',
            next="choose one of the two",
        )
    if "general" not in mixture.corpora:
        raise WrongUsage(
            subject,
            found="no general rows to tell the domain from",
            expected="replay above 0",
            next=mend,
        )


def _fit(
    model: Any,
    mixture: Mixture,
    tokenizer: Any,
    recipe: TrainRecipe,
    progress: Progress | None,
    checkpoints: "Checkpoints | None" = None,
) -> TrainReport:
    end = end_token(tokenizer)

    def loss(running: Any, rows: torch.Tensor, names: Sequence[str], done: float) -> torch.Tensor:
        return next_token_loss(running, rows, end)

    return optimise(model, mixture, loss, recipe, checkpoints=checkpoints, progress=progress)


@dataclass(frozen=True)
class Checkpoints:
    """Where a run leaves its state, and the key that says whose state it is."""

    folder: Path
    key: str

    @classmethod
    def beside(cls, out: Path, recipe: Any, model: Path, mixture: Mixture) -> "Checkpoints":
        """A hidden folder beside `out`. The key holds all that fixes a run: another recipe, model or text begins anew."""
        weights = {
            file.name: hashlib.file_digest(file.open("rb"), "sha256").hexdigest()
            for file in sorted(model.glob("*.safetensors"))
        }
        fixed = {
            "recipe": asdict(recipe),
            "model": weights,
            "data": {name: corpus.digest for name, corpus in mixture.corpora.items()},
        }
        return cls(out.with_name(f".{out.name}.training"), json.dumps(fixed, sort_keys=True))

    def save(
        self, accelerator: Any, step: int, curve: list[tuple[int, float]], since: list[float]
    ) -> None:
        aside = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        logging.getLogger("accelerate.utils.other").setLevel(
            logging.ERROR
        )  # it warns of every tied embedding, which it restores
        accelerator.save_state(aside)
        (aside / "run.json").write_text(
            json.dumps({"key": self.key, "step": step, "curve": curve, "since": since})
        )
        older = self.folder.with_name(f"{self.folder.name}.old")
        shutil.rmtree(older, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(older)
        aside.rename(self.folder)
        shutil.rmtree(older, ignore_errors=True)

    def load(self, accelerator: Any) -> tuple[int, list[tuple[int, float]], list[float]]:
        """Steps done, the curve so far and the losses since its last point: (0, [], []) where no state of this very run is found."""
        for folder in (
            self.folder,
            self.folder.with_name(f"{self.folder.name}.old"),
        ):  # the older, if death came between the two renames
            if (folder / "run.json").is_file():
                run = json.loads((folder / "run.json").read_text())
                if run["key"] == self.key:
                    accelerator.load_state(folder)
                    return run["step"], [tuple(point) for point in run["curve"]], run["since"]
        return 0, [], []

    def clear(self) -> None:
        for ending in ("", ".old", ".new"):
            shutil.rmtree(self.folder.with_name(f"{self.folder.name}{ending}"), ignore_errors=True)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """They slow a CPU down many times and teach nothing. Left on, every number of this thread would lose them, whoever computes next."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@denormals_flushed()
def optimise(
    model: Any,
    mixture: Mixture,
    loss: Loss,
    recipe: Any,
    *,
    rates: Mapping[str, float] | None = None,
    through: bool = True,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """AdamW with warm-up and cosine over the parameters that require a gradient. The model ends where it trained.

    loss: of the running model, (B, S + 1) rows, their domains' names, and the share of the steps that is done; a mean over tokens.
    Several processes take the rows in turn.
    rates: multiplies the rate of every parameter whose name ends so (default 1). through: as flops_per_token counts it.
    """
    started, cpu_started = time.monotonic(), _cpu_s()
    torch.manual_seed(recipe.seed)
    accelerator = Accelerator()
    optimiser = torch.optim.AdamW(
        _groups(model, recipe, rates or {}), betas=(0.9, 0.95), fused=True
    )
    running, optimiser = accelerator.prepare(model, optimiser)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first, curve, since = checkpoints.load(accelerator) if checkpoints else (0, [], [])
    every = max(1, recipe.steps // 50)
    model.train()
    for step in range(first, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * group["scale"] * schedule(step, recipe)
        since.append(_backward(accelerator, running, mixture, loss, recipe, step))
        accelerator.clip_grad_norm_(trained, recipe.clip)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            curve.append((step + 1, sum(since) / len(since)))
            since = []
            if progress:
                progress(step + 1, recipe.steps, f"loss {curve[-1][1]:.3f}")
        if checkpoints and (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
            checkpoints.save(accelerator, step + 1, curve, since)
    model.eval()
    if checkpoints:
        checkpoints.clear()
    tokens, (total, _) = recipe.steps * recipe.batch * recipe.sequence, parameters(model)
    size = sum(parameter.numel() for parameter in trained)
    return TrainReport(
        tokens,
        tokens * flops_per_token(model, through=through),
        round(time.monotonic() - started, 3),
        round(_cpu_s() - cpu_started, 3),
        _peak_bytes(accelerator.device),
        total,
        size,
        curve,
    )


def flops_per_token(model: Any, *, through: bool = True) -> float:
    """Of one training step: 2 forward and 2 backward for each parameter that a token meets, 2 more for each of those that trains.

    through: gradients flow back through the model. The seed's own pass over general text is not counted.
    """
    total, active = parameters(model)
    experts = any(
        parameter.requires_grad
        for name, parameter in model.named_parameters()
        if ".experts." in name
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return float(
        (4 if through else 2) * active + 2 * (trained - (total - active if experts else 0))
    )


def _backward(
    accelerator: Any, running: Any, mixture: Mixture, loss: Loss, recipe: Any, step: int
) -> float:
    """Add up the gradients of one step, part by part. Returns the mean loss."""
    rows, names = mixture.batch(step, recipe.batch, recipe.sequence)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    parts, total = recipe.accumulate, 0.0
    for ids, domains in zip(
        np.array_split(rows[mine], parts), np.array_split(np.array(names[mine]), parts), strict=True
    ):
        with torch.autocast(
            accelerator.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
        ):
            value = loss(
                running,
                torch.from_numpy(ids).to(accelerator.device),
                domains.tolist(),
                step / recipe.steps,
            )
            value = value * (len(ids) / len(rows[mine]))
        accelerator.backward(value)
        total += float(value.detach())
    return total


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
            scale = next(
                (rate for ending, rate in rates.items() if name.endswith(ending)),
                rates.get("", 1.0),
            )
            groups.setdefault(
                (scale, recipe.weight_decay if parameter.ndim > 1 else 0.0), []
            ).append(parameter)
    return [
        {"params": parameters, "scale": scale, "weight_decay": decay, "lr": 0.0}
        for (scale, decay), parameters in groups.items()
    ]


def add_adapters(model: Any, rank: int) -> Any:
    """Low-rank adapters on every trainable matrix; all else is frozen."""
    from peft import LoraConfig, get_peft_model  # seconds to import, and seldom asked for

    linear = {
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2
    }
    modules = [
        name
        for name, module in model.named_modules()
        if name in linear and isinstance(module, torch.nn.Linear)
    ]
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system
