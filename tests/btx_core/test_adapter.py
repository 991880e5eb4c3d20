"""A merged adapter is what PEFT itself would merge; what is more than a sum is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
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

from .conftest import TINY, build

ALL = ["q_proj", "v_proj", "up_proj", "down_proj"]
# A plain sum, merged here.
SUMS: dict[str, dict[str, Any]] = {
    "the blocks": {"target_modules": ["gate_proj", "up_proj", "down_proj"]},
    "rank-stabilised": {"target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"layers.1.mlp.down_proj": 5},
    },
    "a head that is saved": {"target_modules": ["up_proj"], "modules_to_save": ["lm_head"]},
    "a head that is adapted": {"target_modules": ["up_proj", "lm_head"]},
    "some layers": {"target_modules": ALL, "layers_to_transform": [1]},
    **{
        f"started {start}": {"target_modules": ALL, "init_lora_weights": start}
        for start in ("gaussian", "orthogonal", "mica", False)
    },
}
# More than a sum, merged by PEFT.
MORE: dict[str, dict[str, Any]] = {
    "DoRA": {"target_modules": ALL, "use_dora": True},
    "DoRA, rank-stabilised": {"target_modules": "all-linear", "use_dora": True, "use_rslora": True},
    "embeddings": {"target_modules": ["embed_tokens", "up_proj"]},
    "embeddings and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "token rows": {"target_modules": ALL, "trainable_token_indices": [3, 7]},
}
BIASES: dict[str, dict[str, Any]] = {
    "all biases": {"target_modules": ["up_proj"], "bias": "all"},
    "biases of adapted layers": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "a bias of the adapter": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
}


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
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(out)
    return model.merge_and_unload()


def require_merged_as_by_peft(seed: Path, settings: dict[str, Any], root: Path) -> str:
    theirs = adapted(seed, root / "adapter", **settings).state_dict()
    merged_by = merge(seed, root / "adapter", root / "out")
    opened, before = Checkpoint.open(root / "out"), Checkpoint.open(seed)
    assert opened.tensors.keys() == before.tensors.keys()
    for name in opened.tensors:
        assert torch.allclose(opened.read(name), theirs[name], atol=1e-6), name
    assert any(not torch.equal(opened.read(name), before.read(name)) for name in opened.tensors)
    return merged_by


@pytest.mark.parametrize("kind", SUMS)
def test_a_plain_sum_equals_pefts_own_merge(
    kind: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    assert require_merged_as_by_peft(tiny("seed"), SUMS[kind], tmp_path) == "sum"


@pytest.mark.parametrize("kind", MORE)
def test_what_is_more_than_a_sum_is_merged_by_peft_itself(
    kind: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    merged_by = require_merged_as_by_peft(tiny("seed"), MORE[kind], tmp_path)
    assert merged_by == f"peft {version('peft')}"


@pytest.mark.parametrize("kind", BIASES)
def test_biases_are_merged_by_peft_itself(kind: str, tmp_path: Path) -> None:
    build("qwen2", 1, **TINY, pad_token_id=0).save_pretrained(tmp_path / "seed")
    assert require_merged_as_by_peft(tmp_path / "seed", BIASES[kind], tmp_path) != "sum"


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens", "up_proj"]},
        {"target_modules": ["up_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["up_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_a_change_of_one_of_two_tied_matrices_is_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    build("llama", 1, **TINY, tie_word_embeddings=True).save_pretrained(tmp_path / "seed")
    adapted(tmp_path / "seed", tmp_path / "adapter", **settings)
    with pytest.raises(BtxError) as caught:
        merge(tmp_path / "seed", tmp_path / "adapter", tmp_path / "out")
    assert "one matrix" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_whose_start_was_taken_out_of_the_base_is_refused_with_the_way_on(
    start: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    adapted(tiny("seed"), tmp_path / "adapter", target_modules=ALL, init_lora_weights=start)
    with pytest.raises(Unsupported, match=start) as caught:
        merge(tiny("seed"), tmp_path / "adapter", tmp_path / "out")
    assert "path_initial_model_for_weight_conversion" in caught.value.next
    assert not (tmp_path / "out").exists()


def test_a_converted_pissa_adapter_is_a_plain_sum(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    settings = LoraConfig(r=4, target_modules=ALL, init_lora_weights="pissa")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny("seed")), settings)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.peft_config["default"].init_lora_weights = "pissa"
    expected = model(torch.arange(3, 20)[None]).logits
    model.save_pretrained(
        tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    assert merge(tiny("seed"), tmp_path / "adapter", tmp_path / "out") == "sum"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(merged(torch.arange(3, 20)[None]).logits, expected, atol=1e-4)


@pytest.mark.parametrize("setting", [{"rms_norm_eps": 1e-2}, {"rope_theta": 1e6}])
def test_an_adapter_of_a_base_with_other_settings_is_refused(
    setting: dict[str, Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny("seed"), tmp_path / "base")
    content = json.loads((tmp_path / "base/config.json").read_text())
    if "rope_theta" in setting:
        del content["rope_parameters"]
    (tmp_path / "base/config.json").write_text(json.dumps(content | setting))
    adapted(tmp_path / "base", tmp_path / "adapter", target_modules=["up_proj"])
    with pytest.raises(ShapeMismatch, match=r"rms_norm_eps|rope_parameters"):
        merge(tiny("seed"), tmp_path / "adapter", tmp_path / "out")


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
        {"fan_in_fan_out": True},
        {"use_qalora": True},
        {"layer_replication": [[0, 1]]},
        {"megatron_config": {"tensor_model_parallel_size": 1}},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "of_a_release_to_come"},
        {"a_setting_to_come": True},
        {"peft_type": "IA3"},
        {"r": 0},
        {"lora_alpha": None},
    ],
)
def test_what_nobody_has_proven_is_refused_by_name(
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
    ["foreign name", "one half missing", "wrong rank", "another width", "a pickle alone"],
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
    if fault == "a pickle alone":
        weights.unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BtxError) as caught:
        merge(tiny("seed"), tmp_path / "adapter", tmp_path / "out")
    assert fault == "a pickle alone" or isinstance(caught.value, ShapeMismatch)
    assert sorted(tmp_path.iterdir()) == before
    shutil.rmtree(tmp_path / "adapter")
