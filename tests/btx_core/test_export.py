"""An exported folder is plain: no gaps, nothing linked, the same function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.mixing.exporting import export_checkpoint, misfits_of_build
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.parts import parts_of
from btx_core.problems import BtxError, Unsupported, WrongUsage

from .conftest import build, stock

CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MORE: dict[str, dict[str, Any]] = {
    "youtu": {"q_lora_rank": 8, "kv_lora_rank": 8, "num_key_value_heads": 4}
    | dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    "qwen3_5_text": {"layer_types": ["full_attention"] * 2, "head_dim": 16},
    "ministral": {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
}
FAMILIES = [
    "llama",
    "qwen2",
    "qwen3",
    "glm",
    "olmo2",
    "cohere2",
    "ernie4_5",
    "hunyuan_v1_dense",
    "lfm2",
    "granite",
    "smollm3",
    *MORE,
]
IDS = torch.arange(3, 20)[None]


def built(family: str, root: Path) -> Path:
    """A mixture of two different experts, at slots 0 and 3."""
    settings = CONFIG | MORE.get(family, {})
    if family == "youtu":
        del settings["head_dim"]
    for number in (1, 2):
        build(family, number, **settings).save_pretrained(root / f"{number}")
    mix(root / "1", [Member("other", 3, root / "2")], MixRecipe(), root / "built")
    return root / "built"


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return stock(folder)(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("fused", "target"),
    [(False, "transformers"), (True, "transformers"), (False, "vllm"), (False, "llama.cpp")],
)
def test_every_export_computes_the_builds_function(
    family: str, fused: bool, target: str, tmp_path: Path
) -> None:
    folder, out = built(family, tmp_path), tmp_path / "out"
    if target == "llama.cpp" and family in ("olmo2", "smollm3"):
        with pytest.raises(Unsupported, match=r"flex_olmo|granitemoe_swa"):
            export_checkpoint(folder, out, target=target)
        assert not out.exists()
        return
    written = export_checkpoint(folder, out, fused=fused, target=target)
    assert torch.allclose(logits(out), logits(folder), atol=1e-5)
    assert written == sum(path.stat().st_size for path in out.iterdir())
    slots = {
        int(found[1])
        for name in Checkpoint.open(out).tensors
        if (found := re.search(r"experts\.(\d+)\.", name))
    }
    assert slots in ({0, 1}, set())
    assert len(list(out.glob("*.safetensors"))) == 1 or not fused
    assert all(path.stat().st_nlink == 1 for path in out.iterdir())


def test_llama_cpp_gets_a_shared_expert_of_some_width_and_biases(tmp_path: Path) -> None:
    folder = built("ministral", tmp_path)
    export_checkpoint(folder, tmp_path / "out", target="llama.cpp")
    opened = Checkpoint.open(tmp_path / "out")
    assert opened.config["shared_expert_intermediate_size"] > 0
    assert all(info.bytes for info in opened.tensors.values())
    assert not opened.read("model.layers.0.self_attn.q_proj.bias").any()


def test_fused_for_another_loader_and_unknown_targets_are_wrong_usage(tmp_path: Path) -> None:
    folder = built("llama", tmp_path)
    for fused, target in ((True, "vllm"), (False, "ollama")):
        with pytest.raises(WrongUsage):
            export_checkpoint(folder, tmp_path / "out", fused=fused, target=target)


def test_a_dense_folder_is_no_build(tiny: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BtxError, match="llama"):
        export_checkpoint(tiny("seed"), tmp_path / "out")


def test_files_of_the_build_alone_stay_behind(tmp_path: Path) -> None:
    folder = built("llama", tmp_path)
    (folder / "btx-mix.json").write_text("{}")
    export_checkpoint(folder, tmp_path / "out")
    assert not {"provenance.json", "btx-mix.json"} & {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["metadata"] == {}
    assert list(parts_of(Checkpoint.open(tmp_path / "out")).experts) == [0, 1]


@pytest.mark.parametrize("family", ["llama", "qwen2", "granite", "lfm2"])
@pytest.mark.parametrize("lost", ["self_attn", "gate.weight|router", "norm.weight"])
def test_a_build_whose_tensors_are_not_its_classs_is_found(
    family: str, lost: str, tmp_path: Path
) -> None:
    folder = built(family, tmp_path)
    assert misfits_of_build(folder) == []
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = next(name for name in sorted(index["weight_map"]) if re.search(lost, name))
    file = folder / index["weight_map"].pop(name)
    tensors = load_file(file)
    del tensors[name]
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [one.tensor for one in misfits_of_build(folder)] == [name]
