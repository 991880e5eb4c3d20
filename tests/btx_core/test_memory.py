"""The memory formula: exact counts of parameters, and peaks that real runs reach."""

import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from btx_core.problems import Unsupported
from btx_core.routed import experts_computing_in
from btx_core.training.adapter import add_adapters
from btx_core.training.losses import next_token_loss
from btx_core.training.memory import ModelShape, RunShape, Trains, memory_of

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA_8B = ModelShape(32, 4096, 14336, 4096, 1024, 128_256, tied=False)
# A fresh process, so that the peak is this run's. It grows what an earlier tiny run has left.
MEASURE = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from btx_core.training.losses import next_token_loss
torch.set_num_threads(1)
recompute = sys.argv[1] == "1"
sizes = dict(vocab_size=2048, hidden_size=256, intermediate_size=1024, num_hidden_layers=6,
             num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=False)
tiny = sizes | dict(vocab_size=256, hidden_size=64, intermediate_size=64, num_hidden_layers=1)

def run(sizes, sequence):
    model = LlamaForCausalLM(LlamaConfig(**sizes)).train()
    if recompute:
        model.activation_checkpointing_enable()
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        next_token_loss(model, torch.randint(5, 200, (4, sequence + 1)), 0).backward()
        optimiser.step()
        optimiser.zero_grad()

def line(name):
    found = [text for text in open("/proc/self/status") if text.startswith(name)]
    return int(found[0].split()[1]) * 1024

run(tiny, 16)
before = line("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
run(sizes, 256)
print(line("VmHWM") - before)
"""


@pytest.mark.parametrize("tied", [False, True])
def test_the_parameters_of_a_dense_model_and_of_a_mixture_are_counted_exactly(tied: bool) -> None:
    sizes = SIZES | {"tie_word_embeddings": tied}
    dense = LlamaForCausalLM(LlamaConfig(**sizes))
    shape = ModelShape.of(dense.config.to_dict())
    assert shape.parameters == dense.num_parameters()
    mixed = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=3))
    found = ModelShape.of(mixed.config.to_dict())
    assert found.parameters == mixed.num_parameters()
    assert found == shape.mixed(3)
    experts = [each for name, each in mixed.named_parameters() if ".experts." in name]
    assert found.trained("feed-forward") == sum(each.numel() for each in experts)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("trains", ["feed-forward", "all"])
def test_the_parameters_of_adapters_are_counted_exactly(tied: bool, trains: Trains) -> None:
    dense = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    for name, parameter in dense.named_parameters():
        parameter.requires_grad_(trains == "all" or ".mlp." in name)
    adapters = [each for each in add_adapters(dense, 3).parameters() if each.requires_grad]
    shape = ModelShape.of(dense.config.to_dict())
    assert shape.adapters(trains, 3) == sum(each.numel() for each in adapters)
    assert shape.adapters(trains, 0) == 0


def test_an_8b_branch_and_its_mixture_take_what_their_weights_say() -> None:
    assert LLAMA_8B.parameters == pytest.approx(8.03e9, rel=1e-3)
    run = RunShape(trains="feed-forward", batch=8, sequence=2048)
    alone = memory_of(LLAMA_8B, run)
    assert alone.weights + alone.gradients + alone.averages == pytest.approx(100e9, rel=0.01)
    eight = memory_of(
        LLAMA_8B, RunShape(trains="feed-forward", batch=8, sequence=2048, processes=8)
    )
    assert eight.weights * 8 == pytest.approx(alone.weights, rel=1e-6)
    assert eight.activations * 8 == alone.activations
    assert eight.gathered > 0 == alone.gathered


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("trains", "experts"),
    [("feed-forward", 1), ("all", 1), ("router", 3), ("shared", 3), ("all", 3)],
)
def test_what_the_way_back_needs_is_about_what_the_formula_says(
    trains: Trains, experts: int, bfloat16: bool
) -> None:
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6}
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**sizes))
        if experts == 1
        else MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=experts))
    )
    for name, parameter in model.named_parameters():
        router, feed_forward = name.endswith(".gate.weight"), ".mlp." in name
        parameter.requires_grad_(
            {
                "all": True,
                "router": router,
                "shared": router or not feed_forward,
                "feed-forward": feed_forward,
            }[trains]
        )
        if bfloat16 and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    computing = experts_computing_in(model, torch.bfloat16) if bfloat16 else nullcontext()
    with computing, torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        few, many = (kept_for_the_way_back(model, rows) for rows in (2, 6))
    shape = ModelShape.of(model.config.to_dict() | {"num_local_experts": experts})
    run = RunShape(trains=trains, batch=4, sequence=128, bfloat16=bfloat16, logits_chunk=1)
    said = memory_of(shape, run).activations
    assert many - few <= 1.1 * said, "it says too little"
    assert many - few >= 0.55 * said, "it says far too much"


def kept_for_the_way_back(model: PreTrainedModel, rows: int) -> int:
    """Bytes that the loss of so many sequences of 128 tokens keeps, the model's own not counted."""
    kept = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found, held = 0, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal found
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in kept:
            kept.add(storage.data_ptr())
            found += storage.nbytes()
        # Else another one could take its place.
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        next_token_loss(model, torch.randint(5, 60, (rows, 129)), 0)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_a_run_peaks_where_the_formula_says(recompute: bool) -> None:
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(int(recompute))]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    shape = ModelShape(6, 256, 1024, 256, 256, 2048, tied=False)
    run = RunShape(trains="all", batch=4, sequence=256, recompute=recompute)
    measured = int(done.stdout)
    assert measured <= 1.1 * memory_of(shape, run).total, "it says too little"
    assert measured >= 0.65 * memory_of(shape, run).total, "it says far too much"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_key_value_heads", "2"),
        ("hidden_size", None),
        ("vocab_size", 1.5),
        ("num_hidden_layers", [2]),
        ("head_dim", -8),
        ("num_attention_heads", True),
    ],
)
def test_a_size_that_is_no_number_is_told_by_its_name(key: str, value: object) -> None:
    sizes = ("num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size")
    config = dict.fromkeys(sizes, 4) | {"intermediate_size": 4, key: value}
    with pytest.raises(Unsupported, match=r"config\.json") as refused:
        ModelShape.of(config)
    assert refused.value.found == f"{key} {value!r}"
