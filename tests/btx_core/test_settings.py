"""Whether two configs are one model is answered as the two models' own logits answer it.

The same weights stand beside two configs; stock transformers says whether they compute the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from btx_core.checkpoints.families import FAMILIES
from btx_core.mixing.plan import plan_mix
from btx_core.mixing.preflight import preflight
from btx_core.mixing.recipe import Member, MixRecipe
from btx_core.mixing.seed_model import SeedModel
from btx_core.problems import BtxError

from .conftest import build

Config = dict[str, Any]

BASE: Config = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "num_key_value_heads": 4}
OWN: dict[str, Config] = {
    "youtu": LATENT | dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    "qwen3_5_text": {"layer_types": ["full_attention"] * 2, "head_dim": 16},
    "ministral": {
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "cwm": {"head_dim": 8, "sliding_window": 8, "layer_types": ["full_attention"] * 2}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "olmo3": {"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hyperclovax": {"use_post_norm": False, "head_dim": 8},
    "mistral": {"sliding_window": None},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "smollm3": {"no_rope_layers": [1, 0]},
    "glm": {"head_dim": 8},
    "granitemoehybrid": {
        "num_local_experts": 0,
        "shared_intermediate_size": 48,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "layer_types": ["linear_attention", "full_attention"],
        "position_embedding_type": "rope",
    },
    "helium": {"head_dim": 8},
    "seed_oss": {"head_dim": 8, "attention_bias": False, "attention_out_bias": False},
}
ROTATIONS: dict[str, Config] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "linear by one": {"rope_type": "linear", "factor": 1.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
# Changes of the config as transformers 5 writes it; a class that lacks a setting ignores it.
CHANGES: dict[str, Config] = {
    "nothing": {},
    "theta": {"rope_parameters": {"rope_theta": 77.0}},
    **{f"rotation {name}": {"rope_parameters": given} for name, given in ROTATIONS.items()},
    "a part of the rotation": {"rope_parameters": {"partial_rotary_factor": 0.25}},
    "epsilon": dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "norm_eps"), 0.4),
    "head width": {"head_dim": 16},
    "head width as it is": {"head_dim": 8},
    "heads": {"num_attention_heads": 2, "head_dim": 16, "num_key_value_heads": 1},
    "a window": {"sliding_window": 5, "use_sliding_window": True},
    "a window that is off": {"sliding_window": 5, "use_sliding_window": False},
    "windows on all layers": {
        "sliding_window": 5,
        "use_sliding_window": True,
        "layer_types": ["sliding_attention"] * 2,
    },
    "window layers": {"max_window_layers": 1},
    "kinds of layers": {"layer_types": ["full_attention"] * 2},
    "layers without rotation": {"no_rope_layers": [0, 1]},
    "embedding multiplier": {"embedding_multiplier": 3.0},
    "residual multiplier": {"residual_multiplier": 0.3},
    "attention multiplier": {"attention_multiplier": 0.9},
    "logits scaling": {"logits_scaling": 3.0},
    "logit scale": {"logit_scale": 0.7},
    "activation": {"hidden_act": "relu"},
    "activation by another name": {"hidden_act": "swish"},
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "attention bias": {"attention_bias": True},
    "feed-forward bias": {"mlp_bias": True},
    "norms of queries": {"use_qk_norm": True},
    "neighbours rotated": {"rope_interleave": False},
    "a padding token without a row": {"pad_token_id": 1 << 20},
    "context": {"max_position_embeddings": 32},
    "longer context": {"max_position_embeddings": 4096},
    "without effect": {
        "use_cache": False,
        "attention_dropout": 0.1,
        "initializer_range": 0.5,
        "pretraining_tp": 2,
        "eos_token_id": [2, 5],
        "pad_token_id": 7,
        "_attn_implementation_autoset": True,
        "a_note_of_the_trainer": "third run",
    },
}
SPELLINGS = ("4", "5", "left out")


def changed(config: Config, change: Config) -> Config:
    result = config | {key: value for key, value in change.items() if key != "rope_parameters"}
    if "rope_parameters" in change:
        result["rope_parameters"] = dict(config["rope_parameters"]) | change["rope_parameters"]
    return result


def spelled(config: Config, how: str) -> Config:
    """The same config as this release of transformers, or a terse hand, writes it."""
    result = dict(config)
    rope = dict(result.get("rope_parameters") or {})
    nested = any(isinstance(value, dict) for value in rope.values())
    if how == "4" and not nested:
        result["torch_dtype"] = result.pop("dtype", "float32")
        del result["rope_parameters"]
        result["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            result["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        if rope.get("rope_type", "default") != "default":
            result["rope_scaling"] = rope
    if how == "left out":
        defaults = type(AutoConfig.for_model(config["model_type"]))().to_dict()
        result = {
            key: value
            for key, value in result.items()
            if key == "model_type" or key not in defaults or defaults[key] != value
        }
        result.pop("dtype", None)
    return result


@cache
def logits(folder: Path) -> torch.Tensor | None:
    """What the folder computes, beyond its context too; None where stock loading finds a fault."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        if any(info.values()):
            return None
        ids = torch.randint(3, 64, (1, 150), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            first = model.eval()(ids[:, :-1], use_cache=True)
            step = model(ids[:, -1:], past_key_values=first.past_key_values)
            found = torch.cat([first.logits, step.logits], dim=1)
    except Exception:
        return None
    return found


def same_function(seed: Path, expert: Path) -> bool:
    ours, theirs = logits(seed), logits(expert)
    assert ours is not None
    if theirs is None or theirs.shape != ours.shape:
        return False
    return bool((ours - theirs).abs().max() <= 1e-5 * ours.abs().max().clamp(min=1))


def mixes(seed: Path, expert: Path) -> bool:
    try:
        plan_mix(SeedModel.open(seed, MixRecipe()), [Member("e", 1, expert)], MixRecipe())
    except BtxError:
        return False
    return True


def registers(seed: Path, expert: Path) -> bool:
    try:
        return not preflight(seed, expert, "anchored").problems
    except BtxError:
        return False


def wrong_answers(family: str, root: Path, pairs: list[tuple[str, str]]) -> tuple[list[str], int]:
    """Every change and pair of spellings that is answered other than the logits answer it."""
    model = build(family, 1, **(BASE | OWN.get(family, {})))
    model.save_pretrained(root / "saved")
    config = json.loads((root / "saved/config.json").read_text())

    def written(name: str, content: Config) -> Path:
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(content))
            (folder / "model.safetensors").hardlink_to(root / "saved/model.safetensors")
        return folder

    wrong, asked = [], 0
    for ours, theirs in pairs:
        seed = written(f"seed {ours}", spelled(config, ours))
        for change, settings in CHANGES.items():
            content = spelled(changed(config, settings), theirs)
            expert = written(f"{change} {theirs}", content)
            truth = same_function(seed, expert)
            answers = {"mix": mixes(seed, expert), "register": registers(seed, expert)}
            asked += 1
            wrong += [
                f"{family}, {change}, {ours} against {theirs}: {command} says {answer}"
                for command, answer in answers.items()
                if answer != truth
            ]
    logits.cache_clear()
    return wrong, asked


DENSE = sorted({family.dense for family in FAMILIES})


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_configs_are_compared_as_their_logits_compare(family: str, tmp_path: Path) -> None:
    wrong, asked = wrong_answers(family, tmp_path, [("left out", "4")])
    assert asked == len(CHANGES)
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("family", DENSE)
def test_no_family_and_no_spelling_is_answered_wrongly(family: str, tmp_path: Path) -> None:
    pairs = [(ours, theirs) for ours in SPELLINGS for theirs in SPELLINGS]
    wrong, asked = wrong_answers(family, tmp_path, pairs)
    print(f"{family}: {asked} pairs of configs, {len(wrong)} wrong answers")
    assert wrong == []


def test_the_grid_notices_a_setting_that_is_not_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from btx_core.checkpoints import settings

    blind = settings.WITHOUT_EFFECT | {"rms_norm_eps"}
    monkeypatch.setattr(settings, "WITHOUT_EFFECT", blind)
    wrong, _ = wrong_answers("llama", tmp_path, [("left out", "4")])
    assert wrong
    assert all("epsilon" in line for line in wrong)


def test_an_expert_in_another_spelling_of_one_dtype_is_no_other_model(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny("a"), tmp_path / "expert")
    config = json.loads((tmp_path / "expert/config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (tmp_path / "expert/config.json").write_text(json.dumps(config))
    assert mixes(tiny("seed"), tmp_path / "expert")


@pytest.mark.parametrize(
    ("setting", "taken"),
    [
        ({"sliding_window": 7}, False),
        ({"sliding_window": {}}, False),
        ({"attention_chunk_size": 4}, False),
        ({"layer_types": ["sliding_attention", "full_attention"]}, False),
        ({"sliding_window": 4096}, True),
        ({"sliding_window": 7, "layer_types": ["full_attention", "full_attention"]}, True),
        ({"layer_types": ["full_attention", "full_attention"]}, True),
    ],
)
def test_a_window_of_the_cache_alone_is_refused(
    tiny: Callable[..., Path], tmp_path: Path, setting: Config, taken: bool
) -> None:
    """Stock transformers reads the whole context at once, and generates with a part of it."""
    shutil.copytree(tiny("a"), tmp_path / "seed")
    config = json.loads((tmp_path / "seed/config.json").read_text()) | setting
    (tmp_path / "seed/config.json").write_text(json.dumps(config))
    assert mixes(tmp_path / "seed", tmp_path / "seed") == taken
