"""Attribution: the weights that the model really multiplied with, for every way of routing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from btx_core.measuring.attribution import made_of, routing_shares, token_texts
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.problems import Unsupported
from btx_core.routed import RoutedModel

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 0,
    "norm_topk_prob": True,
    "pad_token_id": None,
    "eos_token_id": None,
}
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize(
    "model_type", ["mixtral", "qwen3_moe", "flex_olmo", "granitemoe", "glm4_moe"]
)
def test_routing_weights_of_a_token_and_layer_add_up_to_one_over_as_many_experts_as_it_takes(
    model_type: str,
) -> None:
    experts = (
        "n_routed_experts"
        if model_type == "glm4_moe"
        else "num_experts"
        if model_type == "qwen3_moe"
        else "num_local_experts"
    )
    torch.manual_seed(0)
    settings = SMALL | {experts: 4} | ({"num_experts": 4} if model_type == "flex_olmo" else {})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings)).eval()
    weights_TLE = routing_shares(RoutedModel(model), IDS)
    assert weights_TLE.shape == (len(IDS), 2, 4)
    assert np.abs(weights_TLE.sum(-1) - 1).max() < 1e-6
    assert ((weights_TLE > 0).sum(-1) == 2).all()


def test_they_agree_with_softmax_over_the_largest_router_logits_of_stock_transformers(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    members = [Member("law", 1, tiny("law")), Member("code", 3, tiny("code"))]
    mix(tiny("seed"), members, MixRecipe(router_std=0.5), tmp_path / "mixed")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mixed").eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([IDS]), output_router_logits=True).router_logits
    expected = np.zeros((len(IDS), len(logits), 3))
    for layer, scores_TE in enumerate(logits):
        for token, scores_E in enumerate(scores_TE.double().numpy()):
            largest = np.argsort(-scores_E)[:2]
            powers = {expert: np.exp(scores_E[expert]) for expert in largest}
            for expert, power in powers.items():
                expected[token, layer, expert] = power / sum(powers.values())
    found = routing_shares(RoutedModel(model), IDS)
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(np.roll(found, 1, axis=-1) - expected).max() > 0.1, (
        "the comparison would see experts mixed up"
    )


def test_a_dense_model_is_refused_by_name(tiny: Callable[..., Path]) -> None:
    with pytest.raises(Unsupported, match="no expert was asked"):
        routing_shares(RoutedModel.load(tiny("seed")), IDS)


def test_split_experts_count_for_their_member_and_blended_ones_for_all() -> None:
    recipe = {"seed_expert": True, "split": 2, "blend": False}
    members, parts_EM = made_of(["seed.0", "seed.1", "v1.5.0", "v1.5.1"], ["v1.5"], recipe)
    assert members == ("seed", "v1.5")
    assert parts_EM.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    members, parts_EM = made_of(
        ["blend-0", "blend-1"], ["law", "code"], {"seed_expert": False, "split": 1, "blend": True}
    )
    assert members == ("law", "code")
    assert parts_EM.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        ("a é b", [(0, 1), (1, 3), (2, 3), (3, 5)]),  # two tokens for one letter
        ("  ab  ", [(2, 3), (3, 4)]),  # blanks that no token covers
        ("ab", [(0, 2)]),
    ],
)
def test_joined_tokens_are_the_text(text: str, offsets: list[tuple[int, int]]) -> None:
    pieces = token_texts(text, offsets)
    assert "".join(pieces) == text
    assert len(pieces) == len(offsets)
    assert token_texts("", []) == ()
