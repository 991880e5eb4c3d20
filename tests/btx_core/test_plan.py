"""Plans come from headers alone, and say of every tensor of a built folder what it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.parameters import parameter_group
from btx_core.mixing.parts import parts_of
from btx_core.problems import Unsupported

from .conftest import TINY, build


@pytest.mark.parametrize(("family", "fused"), [("llama", False), ("glm", False), ("granite", True)])
def test_every_tensor_of_a_build_has_one_part(family: str, fused: bool, tmp_path: Path) -> None:
    build(family, **TINY, pad_token_id=0, head_dim=8).save_pretrained(tmp_path / "seed")
    mix(tmp_path / "seed", [Member("a", 4, tmp_path / "seed")], MixRecipe(), tmp_path / "out")
    opened = Checkpoint.open(tmp_path / "out")
    found = parts_of(opened)
    held = [name for names in found.experts.values() for name in names]
    every = [*found.shared, *found.router.values(), *held, *found.fused, *found.router_biases]
    assert sorted(every) == sorted(opened.tensors)
    assert list(found.router) == [0, 1]
    assert list(found.experts) == ([] if fused else [0, 4])
    assert bool(found.fused) == fused
    assert bool(found.router_biases) == (family == "glm")
    files = {name: opened.tensors[name].file.name for name in every}
    assert {files[name] for name in found.shared} == {"model-shared.safetensors"}
    assert {files[name] for name in [*found.router.values(), *found.router_biases]} == {
        "model-router.safetensors"
    }


def test_a_dense_folder_has_no_parts(tiny: Callable[..., Path]) -> None:
    with pytest.raises(Unsupported, match="llama"):
        parts_of(Checkpoint.open(tiny("seed")))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("model.layers.0.mlp.up_proj.weight", "ffn"),
        ("model.layers.0.feed_forward.w1.weight", "ffn"),
        ("model.layers.0.ffn_norm.weight", "norm"),
        ("model.embed_tokens.weight", "embedding"),
        ("model.embedding_norm.weight", "norm"),
        ("lm_head.weight", "head"),
        ("model.layers.0.linear_attn.conv1d.weight", "attention"),
    ],
)
def test_parameter_groups(name: str, group: str) -> None:
    assert parameter_group(name) == group


def test_headers_are_read_without_torch() -> None:
    code = (
        "import sys, btx_core.checkpoints.checkpoint, btx_core.checkpoints.families, "
        "btx_core.mixing.plan, btx_core.mixing.preflight; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
