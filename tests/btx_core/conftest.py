"""Tiny checkpoints for tests of the weights: random models of any family, saved and mixed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.mixing.parts import parts_of

logging.disable_progress_bar()
torch.set_num_threads(1)

# Hypothesis examples for a long campaign; 0: each test's own small number.
EXAMPLES = int(os.environ.get("BTX_EXAMPLES", "0"))


def build(
    model_type: str, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any
) -> PreTrainedModel:
    """A dense model with every parameter random, norms included.

    A parameter left at one or zero would hide a mistake.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(
                torch.randn_like(parameter)
                * (0.2 if "norm" in name or parameter.dim() < 2 else 0.15)
            )
    model = model.to(dtype)
    model.tie_weights()
    return model


def stock(folder: Path) -> PreTrainedModel:
    """The model that stock transformers loads, with no tensor too few or too many."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a flat folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def flip(path: Path, position: int = -1) -> None:
    """Change one byte of a file, but not of those that share its blocks."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0xFF
    path.unlink()
    path.write_bytes(raw)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint folder, by name."""
    opened = Checkpoint.open(folder)
    return {name: opened.read(name) for name in opened.tensors}


def router_weights(folder: Path) -> dict[int, torch.Tensor]:
    """A built folder's router weights, layer -> [E, D], in order of slots."""
    built = Checkpoint.open(folder)
    return {layer: built.read(name) for layer, name in parts_of(built).router.items()}


TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """save(name, base, shared=..., ffn=...): a Llama branched from `base` by noise of these sizes.

    The same arguments give the same folder.
    """
    root, made = tmp_path_factory.mktemp("tiny"), dict[tuple[Any, ...], Path]()

    def save(
        name: str,
        base: str = "seed",
        *,
        shared: float = 0.0,
        ffn: float = 0.05,
        dtype: torch.dtype = torch.float32,
    ) -> Path:
        key = (name, base, shared, ffn, dtype)
        if key in made:
            return made[key]
        model = build("llama", sum(base.encode()), dtype, **TINY)
        if name != base:
            torch.manual_seed(sum(name.encode()))
            with torch.no_grad():
                for tensor, parameter in model.named_parameters():
                    parameter.add_(
                        (ffn if ".mlp." in tensor else shared) * torch.randn_like(parameter)
                    )
        folder = root / f"{len(made)}-{name}"
        model.save_pretrained(folder)
        made[key] = folder
        return folder

    return save


@pytest.fixture
def seed(tiny: Callable[..., Path]) -> Path:
    return tiny("seed")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()
