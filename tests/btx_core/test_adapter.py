"""A merged adapter is what PEFT itself would merge; what is more than a sum is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.mixing.preflight import preflight
from btx_core.problems import BtxError, ShapeMismatch, Unsupported
from btx_core.training.adapter import merge, merge_in_place

SETTINGS: list[dict[str, Any]] = [
    {"target_modules": ["gate_proj", "up_proj", "down_proj"]},
    {"target_modules": "all-linear", "use_rslora": True},
    {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"layers.1.mlp.down_proj": 5},
    },
    {"target_modules": ["up_proj"], "modules_to_save": ["lm_head"]},
]


def adapted(
    seed: Path, out: Path, dtype: torch.dtype = torch.float32, **settings: Any
) -> torch.nn.Module:
    """Save an adapter of random weights; return the model that PEFT merges."""
    torch.manual_seed(3)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(seed, dtype=dtype),
        LoraConfig(r=4, lora_alpha=7, task_type="CAUSAL_LM", **settings),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(out)
    return model.merge_and_unload()


@pytest.mark.parametrize("settings", SETTINGS)
def test_merging_equals_pefts_own(
    settings: dict[str, Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    theirs = adapted(tiny("seed"), tmp_path / "adapter", **settings).state_dict()
    merge(tiny("seed"), tmp_path / "adapter", tmp_path / "out")
    opened, seed = Checkpoint.open(tmp_path / "out"), Checkpoint.open(tiny("seed"))
    assert opened.tensors.keys() == seed.tensors.keys()
    assert all(
        torch.allclose(opened.read(name), theirs[name], atol=1e-6) for name in opened.tensors
    )
    assert any(not torch.equal(opened.read(name), seed.read(name)) for name in opened.tensors)


def test_an_adapter_of_the_blocks_alone_makes_an_anchored_expert(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    adapted(tiny("seed"), tmp_path / "expert", target_modules=["gate_proj", "up_proj", "down_proj"])
    kept = (tmp_path / "expert/adapter_model.safetensors").read_bytes()
    merge_in_place(tiny("seed"), tmp_path / "expert")
    assert preflight(tiny("seed"), tmp_path / "expert", "anchored").recommendation == "router"
    assert (tmp_path / "expert/adapter/adapter_model.safetensors").read_bytes() == kept
    assert (tmp_path / "expert/README.md").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["expert"]


def test_bfloat16_is_rounded_once(tiny: Callable[..., Path], tmp_path: Path) -> None:
    seed = tiny("seed", dtype=torch.bfloat16)
    adapted(seed, tmp_path / "adapter", torch.bfloat16, target_modules=["up_proj"])
    merge(seed, tmp_path / "adapter", tmp_path / "out")
    lora = {
        name.removeprefix("base_model.model."): tensor.float()
        for name, tensor in load_file(tmp_path / "adapter/adapter_model.safetensors").items()
    }
    stem = "model.layers.0.mlp.up_proj"
    expected = (
        Checkpoint.open(seed).read(f"{stem}.weight").float()
        + 7 / 4 * lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"]
    )
    assert torch.equal(
        Checkpoint.open(tmp_path / "out").read(f"{stem}.weight"), expected.bfloat16()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"peft_type": "IA3"},
        {"r": 0},
        {"lora_alpha": None},
    ],
)
def test_what_is_more_than_a_sum_is_refused(
    change: dict[str, Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    adapted(tiny("seed"), tmp_path / "adapter", target_modules=["up_proj"])
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(Unsupported, match=r"adapter_config\.json"):
        merge(tiny("seed"), tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fault",
    ["foreign name", "one half missing", "wrong rank", "another width", "a pickle beside it"],
)
def test_an_adapter_that_does_not_fit_is_refused(
    fault: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    adapted(tiny("seed"), tmp_path / "adapter", target_modules=["up_proj"])
    weights = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_A" in name)
    match fault:
        case "foreign name":
            tensors[name.replace("layers.0", "layers.9")] = tensors.pop(name)
        case "one half missing":
            del tensors[name]
        case "wrong rank":
            tensors[name] = tensors[name][:2].contiguous()
        case "another width":
            tensors[name] = tensors[name][:, :8].contiguous()
        case _:
            (tmp_path / "adapter/adapter_model.bin").write_bytes(b"\x80\x04.")
    save_file(tensors, weights)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BtxError) as caught:
        merge(tiny("seed"), tmp_path / "adapter", tmp_path / "out")
    assert fault == "a pickle beside it" or isinstance(caught.value, ShapeMismatch)
    assert sorted(tmp_path.iterdir()) == before
    shutil.rmtree(tmp_path / "adapter")
