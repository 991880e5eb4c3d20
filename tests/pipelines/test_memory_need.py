"""Whether a stage fits is known before it starts: from the seed's config and the recipe alone."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from btx_core.checkpoints.strict_json import read_json
from btx_core.mixing.recipe import MixRecipe
from btx_core.training.adapter import add_adapters
from btx_core.training.fitting import in_parts
from btx_core.training.losses import next_token_loss
from btx_core.training.memory import LOGITS_AT_ONCE, ModelShape
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from pipelines.cli.output import place_text
from pipelines.stages import executors, gpus
from pipelines.workspace import disk_need, memory_need
from pipelines.workspace.placement import Resources, check_counts
from registry.errors import Invalid

# Llama 3 8B.
CONFIG = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
TRAIN = TrainRecipe(batch=16, sequence=4096, precision="bfloat16")
TUNE = TuneRecipe(batch=16, sequence=4096, precision="bfloat16", mode="shared")
GPU = 80 << 30


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def on(count: int, *, recompute: bool = True) -> Resources:
    return Resources(processes=count, gpus=count, recompute=recompute)


def test_an_8b_branch_fits_eight_gpus_and_not_one(
    seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "memory_of_smallest", lambda: GPU)
    fits = {}
    for count in (1, 8):
        need = memory_need.of_training(seed, TRAIN, on(count))
        place = executors.placed("train", on(count), need)
        fits[count] = place.fits
        assert ("DOES NOT FIT" in place_text(place)) == (not place.fits)
    assert fits == {1: False, 8: True}


def test_what_lowers_the_need_lowers_what_is_said(seed: Path) -> None:
    kept = memory_need.of_training(seed, TRAIN, on(8, recompute=False))
    again = memory_need.of_training(seed, TRAIN, on(8))
    recipes = (MixRecipe(), TUNE)
    four, eight = (memory_need.of_tuning(seed, count, recipes, on(8)) for count in (5, 9))
    needs = [need or 0 for need in (again, kept, four, eight)]
    assert all(needs)
    assert needs[0] < needs[1]
    assert needs[2] < needs[3]


def test_adapters_lower_the_need_of_memory_and_disk(seed: Path) -> None:
    # A head of its own would have an adapter, whose logits take more than it saves.
    config = CONFIG | {"tie_word_embeddings": True}
    (seed / "config.json").write_text(json.dumps(config))
    for mode in ("anchored", "full"):
        whole = replace(TRAIN, mode=mode)
        adapted = replace(whole, lora_rank=16)
        trained = memory_need.of_training(seed, whole, on(1)) or 0
        # A gradient and two averages of each parameter less; the adapters are few.
        lower = trained - (memory_need.of_training(seed, adapted, on(1)) or 0)
        shape = ModelShape.of(config)
        loaded = shape.trained("feed-forward" if mode == "anchored" else "all")
        assert lower == pytest.approx(3 * 4 * loaded, rel=0.02)
        assert disk_need.of_training(seed, [adapted]) < disk_need.of_training(seed, [whole]) / 50


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_counted_whole_where_an_adapter_is_on_the_head(
    tmp_path: Path, rank: int, tied: bool
) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 4096}
    config = LlamaConfig(**sizes, **heads, tie_word_embeddings=tied)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    trained = LlamaForCausalLM(config)
    kept: list[torch.Size] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ids = torch.randint(5, 60, (2, 33))
        next_token_loss(add_adapters(trained, rank) if rank else trained, ids, 0)
    are_whole = torch.Size([2 * 32, 4096]) in kept
    assert are_whole == (rank > 0 and not tied)

    def need(batch: int) -> int:
        recipe = TrainRecipe(mode="full", batch=batch, sequence=128, lora_rank=rank)
        return memory_need.of_training(tmp_path, recipe, on(1)) or 0

    # More than are in memory at once, where they are not all there.
    rows = 128
    assert rows * 128 * 4096 > LOGITS_AT_ONCE
    assert (need(2 * rows) - need(rows) > 3 * rows * 128 * 4096 * 4) == are_whole


def test_experts_that_are_divided_are_not_gathered(seed: Path) -> None:
    def need(experts: int, divided: int) -> int:
        resources = replace(on(8), expert_parallel=divided)
        return memory_need.of_tuning(seed, experts, (MixRecipe(), TUNE), resources) or 0

    # Of one expert in one layer; two layers are whole at a time, in bfloat16.
    expert = 3 * CONFIG["hidden_size"] * CONFIG["intermediate_size"]
    for divided in (2, 8):
        assert need(8, 1) - need(8, divided) == 2 * (8 - 8 // divided) * expert * 2
    assert need(9, 8) == need(9, 1), "nine are not divided by eight"


def test_growth_is_told_the_build_that_runs_beside_and_its_larger_steps(seed: Path) -> None:
    def need(*, grows: bool, **settings: float) -> int:
        recipes = (MixRecipe(), replace(TUNE, grow=0.2, **settings))
        return memory_need.of_tuning(seed, 5, recipes, on(8), grows=grows) or 0

    alone = need(grows=True)
    assert alone == need(grows=False, grow_keep=1.0, grow_batch=2.0)
    mixture = ModelShape.of(read_json(seed / "config.json")).mixed(5, 2).parameters
    assert need(grows=True, grow_keep=1.0) - alone == pytest.approx(2 * mixture / 8, rel=1e-6)
    assert need(grows=True, grow_batch=2.0) > alone


def test_an_8b_step_is_divided_over_the_processes_before_it_is_computed_in_parts(
    seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "memory_of_smallest", lambda: GPU)
    parts = {}
    for count, recompute in ((8, True), (8, False), (16, False)):
        resources = on(count, recompute=recompute)
        need = partial(_of_training, seed, resources)
        chosen = in_parts({"accumulate": 1}, 256 // count, need, executors.available(resources))
        parts[count, recompute] = chosen["accumulate"]
        assert (need(chosen) or 0) <= GPU, "and then it fits"
    assert parts[8, True] < parts[8, False]
    assert 1 < parts[16, False] < parts[8, False] <= 32


def _of_training(seed: Path, resources: Resources, chosen: Mapping[str, float]) -> int | None:
    recipe = replace(TRAIN, batch=256, accumulate=int(chosen["accumulate"]))
    return memory_need.of_training(seed, recipe, resources)


def test_a_config_that_does_not_say_enough_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert memory_need.of_training(tmp_path, TRAIN, on(1)) is None
    assert executors.placed("train", Resources(), None).fits is None
    assert memory_need.worst([1, None]) is None
    assert memory_need.worst([1, 3, 2]) == 3


def test_the_processes_of_a_cpu_share_its_memory() -> None:
    one, four = (
        executors.placed("train", Resources(processes=count, gpus=0), 1) for count in (1, 4)
    )
    assert four.available_bytes == (one.available_bytes or 0) // 4 > 0


def test_experts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(Invalid, match="expert_parallel"):
        check_counts(Resources(processes=4, expert_parallel=3))
