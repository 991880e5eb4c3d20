"""The memory formula: exact counts of parameters, and peaks that real runs reach."""

import os
import subprocess
import sys
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from btx_core.problems import Unsupported
from btx_core.training.adapter import add_adapters
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
