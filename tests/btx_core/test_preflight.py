"""Facts from the weights: ancestry, divergence, similarity, and what they recommend."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.mixing.distances import all_finite
from btx_core.mixing.preflight import MIN_COSINE, preflight

from .conftest import TINY, build

Save = Callable[..., Path]


def test_an_anchored_branch_descends_and_needs_the_router_only(tiny: Save, seed: Path) -> None:
    facts = preflight(seed, tiny("a"), "anchored")
    assert facts.ancestry.descends
    assert facts.ancestry.shared_identical
    assert facts.ancestry.distance["attention"] == 0.0 < facts.ancestry.distance["ffn"]
    assert facts.recommendation == "router"
    assert json.dumps(facts.to_json(), allow_nan=False)


def test_a_full_branch_descends_and_wants_its_shared_parameters_tuned(
    tiny: Save, seed: Path
) -> None:
    facts = preflight(seed, tiny("a", shared=0.02), "full")
    assert facts.ancestry.descends
    assert not facts.ancestry.shared_identical
    assert facts.recommendation == "shared"
    assert preflight(seed, tiny("a", shared=0.02), "anchored").recommendation == "refuse"


@pytest.mark.parametrize("mode", ["anchored", "full"])
def test_a_model_of_another_seed_is_refused_by_ancestry_with_a_wide_margin(
    mode: str, tiny: Save, seed: Path
) -> None:
    stranger, branch = tiny("stranger", "stranger"), tiny("a", shared=0.02)
    other, own = (preflight(seed, folder, mode).ancestry for folder in (stranger, branch))
    assert not other.descends
    assert preflight(seed, stranger, mode).recommendation == "refuse"
    assert other.margin < -0.35 < 0.3 < own.margin
    assert any(
        problem.subject.startswith("ancestry")
        for problem in preflight(seed, stranger, mode).problems
    )


def trained(folder: Path, out: Path, data_seed: int, steps: int) -> Path:
    """Train the tiny model for real, hard: another data order, a high rate."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(data_seed)
    for _ in range(steps):
        ids = torch.randint(3, TINY["vocab_size"], (4, 32), generator=generator).sort(1).values
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(out)
    return out


def test_trained_branches_are_told_from_models_trained_from_another_seed(tmp_path: Path) -> None:
    for name, number in (("one", 1), ("two", 2)):
        model = build("llama", number, **{**TINY, "vocab_size": TINY["vocab_size"]})
        model.save_pretrained(tmp_path / f"{name}-raw")
        trained(tmp_path / f"{name}-raw", tmp_path / name, 0, 60)  # both on the same data
    branch = trained(tmp_path / "one", tmp_path / "branch", 7, 120)
    own, other = (
        preflight(tmp_path / "one", folder, "full").ancestry
        for folder in (branch, tmp_path / "two")
    )
    print(
        f"cosine with the seed: branch {own.cosine:.3f}, "
        f"another seed's {other.cosine:.3f}, least allowed {MIN_COSINE}"
    )
    assert own.descends
    assert not other.descends
    assert own.margin > 0.2
    assert other.margin < -0.2


def test_divergence_says_which_layer_moved(tiny: Save, seed: Path, tmp_path: Path) -> None:
    shutil.copytree(seed, tmp_path / "moved")
    tensors = load_file(seed / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.1
    save_file(tensors, tmp_path / "moved/model.safetensors")
    first, second = preflight(seed, tmp_path / "moved").divergence_per_layer
    whole = torch.cat(
        [
            tensors[f"model.layers.1.mlp.{name}_proj.weight"].flatten()
            for name in ("gate", "up", "down")
        ]
    ).double()
    before = Checkpoint.open(seed)
    old = torch.cat(
        [
            before.read(f"model.layers.1.mlp.{name}_proj.weight").flatten()
            for name in ("gate", "up", "down")
        ]
    ).double()
    assert first == 0.0
    assert second == pytest.approx(float((whole - old).norm() / old.norm()), rel=1e-9)


def test_similarity_of_task_vectors_is_their_cosine(tiny: Save, seed: Path) -> None:
    found = preflight(seed, tiny("a"), others={"itself": tiny("a"), "b": tiny("b")}).similarity
    assert found["itself"] == pytest.approx(1.0)

    def vector(folder: Path) -> torch.Tensor:
        ours, theirs = Checkpoint.open(seed), Checkpoint.open(folder)
        return torch.cat(
            [
                (theirs.read(n).double() - ours.read(n).double()).flatten()
                for n in ours.tensors
                if ".mlp." in n
            ]
        )

    a, b = vector(tiny("a")), vector(tiny("b"))
    assert found["b"] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-9)


def test_bfloat16_is_measured_as_float64(tiny: Save) -> None:
    seed, branch = tiny("seed", dtype=torch.bfloat16), tiny("a", shared=0.02, dtype=torch.bfloat16)
    facts = preflight(seed, branch, "full")
    ours, theirs = (
        Checkpoint.open(folder).read("model.embed_tokens.weight").double()
        for folder in (seed, branch)
    )
    assert facts.ancestry.distance["embedding"] == pytest.approx(
        float((ours - theirs).norm() / ours.norm()), rel=1e-12
    )


def test_all_finite_notices_one_nan(tiny: Save, seed: Path, tmp_path: Path) -> None:
    assert all_finite(Checkpoint.open(seed))
    shutil.copytree(seed, tmp_path / "bad")
    tensors = load_file(seed / "model.safetensors")
    tensors["lm_head.weight"][-1, -1] = float("nan")
    save_file(tensors, tmp_path / "bad/model.safetensors")
    assert not all_finite(Checkpoint.open(tmp_path / "bad"))


def test_a_branch_that_was_trained_here_descends_however_far_it_moved(
    tiny: Save, seed: Path
) -> None:
    """A tiny random seed moves far in a few steps; what is known is not guessed."""
    for name, moved in (("far", 2.0), ("farther", 5.0)):
        candidate = tiny(name, shared=moved, ffn=moved)
        guessed = preflight(seed, candidate, "full").ancestry
        assert not guessed.descends, "the alarm"
        known = preflight(seed, candidate, "full", trained_here=True)
        assert known.ancestry.descends
        assert known.ancestry.cosine == guessed.cosine, "it is still reported"
        assert not known.problems
    anchored = preflight(seed, tiny("far", shared=2.0, ffn=2.0), trained_here=True)
    assert not anchored.ancestry.descends, "shared parameters of an anchored branch must not move"
