"""Every entry of the table computes the dense model's function, as stock transformers sees it."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from btx_core.checkpoints.dense import feed_forward_blocks
from btx_core.checkpoints.families import FAMILIES, REASONS, find_family
from btx_core.mixing.mix import Known, Member, MixRecipe, mix
from btx_core.problems import Unsupported
from btx_core.routed import RoutedModel
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TuneRecipe
from btx_core.training.router_start import OwnExpert
from btx_core.training.tune import TuneInputs, tune

from .conftest import EXAMPLES, TINY, build, stock

HEADS = {4: (1, 2, 4), 2: (1, 2)}
# The last matrix of a dense feed-forward block.
DOWN = r"down_proj.weight|feed_forward.w2.weight|shared_mlp.output_linear.weight"
ROPE = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
]


def rope(draw: st.DrawFn, kinds: list[dict[str, Any]] = ROPE, **more: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "rope_theta": draw(st.sampled_from([1e4, 5e5])),
            **draw(st.sampled_from(kinds)),
            **more,
        }
    }


def common(
    draw: st.DrawFn, heads: tuple[int, ...] = (2, 4), widths: tuple[int, ...] = (8, 16)
) -> dict[str, Any]:
    count, width = draw(st.sampled_from(heads)), draw(st.sampled_from(widths))
    return {
        "vocab_size": draw(st.integers(40, 70)),
        "hidden_size": count * width,
        "head_dim": width,
        "intermediate_size": draw(st.sampled_from([16, 24, 40])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": count,
        "num_key_value_heads": draw(st.sampled_from(HEADS[count])),
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def kinds(
    draw: st.DrawFn, layers: int, names: tuple[str, str] = ("full_attention", "sliding_attention")
) -> list[str]:
    return [draw(st.sampled_from(names)) for _ in range(layers)]


@st.composite
def dense(
    draw: st.DrawFn, entry: str
) -> dict[str, Any]:  # one branch per family: what may vary there
    model, mixture = entry.split("->")
    c = common(draw)
    tie, eps, flag = (
        {"tie_word_embeddings": draw(st.booleans())},
        {"rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3]))},
        draw(st.booleans()),
    )
    own_width = {"head_dim": draw(st.sampled_from([8, 16, 32]))}
    layers = c["num_hidden_layers"]
    match model, mixture:
        case "llama", "mixtral" | "qwen2_moe":
            return c | tie | eps | own_width | rope(draw) | {"attention_bias": False}
        case "llama", _:
            return c | tie | eps | rope(draw) | {"attention_bias": True}
        case "mistral", _:
            return (
                c
                | tie
                | eps
                | own_width
                | rope(draw)
                | {"sliding_window": draw(st.sampled_from([None, 4]))}
            )
        case "ministral" | "cwm", _:
            return (
                c
                | tie
                | eps
                | own_width
                | rope(draw)
                | {"sliding_window": 4, "layer_types": kinds(draw, layers)}
            )
        case "seed_oss", _:
            return (
                c
                | tie
                | eps
                | own_width
                | rope(draw)
                | {"attention_bias": flag, "attention_out_bias": False}
            )
        case "qwen2", _:
            window = {"use_sliding_window": flag, "sliding_window": 4, "max_window_layers": 1}
            return (
                {key: value for key, value in c.items() if key != "head_dim"}
                | tie
                | eps
                | rope(draw)
                | window
            )
        case "qwen3", "qwen3_moe":
            return c | tie | eps | own_width | rope(draw) | {"attention_bias": flag}
        case "qwen3", _:
            mixed = ["sliding_attention", *kinds(draw, layers - 1)]
            return (
                c
                | tie
                | eps
                | own_width
                | rope(draw, ROPE[:1])
                | {"use_sliding_window": True, "sliding_window": 4, "layer_types": mixed}
            )
        case "qwen3_5_text", _:
            linear = {
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
            }
            types = [
                *kinds(draw, layers - 1, ("full_attention", "linear_attention")),
                "full_attention",
            ]  # its cache wants one at least
            mrope = {"mrope_section": [1, 1, 0], "mrope_interleaved": True}
            return (
                c
                | tie
                | eps
                | linear
                | {"head_dim": 16, "layer_types": types}
                | rope(draw, ROPE[:1], partial_rotary_factor=0.25, **mrope)
            )
        case "olmo2", _:
            return c | tie | eps | rope(draw)
        case "olmo3", _:
            return (
                c
                | tie
                | eps
                | rope(draw, ROPE[:1])
                | {"sliding_window": 64, "layer_types": kinds(draw, layers)}
            )
        case "phi3", "mixtral":
            long = {
                "rope_type": "longrope",
                "short_factor": [1.0] * (c["head_dim"] // 2),
                "long_factor": [2.0] * (c["head_dim"] // 2),
                "original_max_position_embeddings": 32,
            }
            return (
                c
                | tie
                | eps
                | rope(draw, [ROPE[0], long])
                | {"sliding_window": draw(st.sampled_from([None, 4]))}
            )
        case "phi3", _:
            return (
                c
                | tie
                | eps
                | rope(draw, ROPE[:1], partial_rotary_factor=0.75 if c["head_dim"] == 16 else 0.5)
            )
        case "glm", _:
            return (
                c
                | tie
                | eps
                | own_width
                | rope(draw, ROPE[:1], partial_rotary_factor=0.5)
                | {"attention_bias": not mixture_first(entry)}
            )
        case "helium", _:
            return c | tie | eps | rope(draw, ROPE[:1])
        case "granite" | "hyperclovax", _:
            factors = {
                "embedding_multiplier": 3.0,
                "logits_scaling": 2.0,
                "residual_multiplier": 0.5,
                "attention_multiplier": 0.2,
            }
            return (
                c
                | tie
                | eps
                | rope(draw)
                | factors
                | {"attention_bias": flag}
                | ({"use_post_norm": False} if model == "hyperclovax" else {})
            )
        case "granitemoehybrid", _:
            mamba = dict.fromkeys(("mamba_n_heads", "mamba_n_groups", "mamba_expand"), 2)
            factors = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5}
            types = kinds(draw, layers - 1, ("full_attention", "linear_attention"))
            return (
                {key: value for key, value in c.items() if key != "head_dim"}
                | tie
                | eps
                | rope(draw, ROPE[:1])
                | factors
                | mamba
                | {
                    "mamba_d_head": c["hidden_size"],
                    "mamba_d_state": 8,
                    "num_local_experts": 0,
                    "shared_intermediate_size": c["intermediate_size"],
                    "position_embedding_type": draw(st.sampled_from(["rope", "nope"])),
                    "layer_types": ["full_attention", *types],
                }
            )
        case "gemma", _:
            return c | eps | own_width | rope(draw, ROPE[:1])
        case "cohere", _:
            return (
                c
                | tie
                | rope(draw, ROPE[:1])
                | {"logit_scale": 0.2, "attention_bias": flag, "layer_norm_eps": 1e-4}
            )
        case "cohere2", _:
            return (
                c
                | tie
                | rope(draw, ROPE[:1])
                | {"logit_scale": 0.2, "sliding_window": 4, "layer_types": kinds(draw, layers)}
            )
        case "ernie4_5", _:
            return c | tie | eps | own_width | rope(draw, ROPE[:1])
        case "hunyuan_v1_dense", _:
            return c | tie | eps | own_width | rope(draw, ROPE[:1]) | {"attention_bias": flag}
        case "lfm2", _:
            auto = {
                "block_auto_adjust_ff_dim": flag,
                "block_multiple_of": 8,
                "conv_bias": draw(st.booleans()),
            }
            return (
                c
                | auto
                | rope(draw, ROPE[:1])
                | {
                    "layer_types": [
                        *kinds(draw, layers - 1, ("full_attention", "conv")),
                        "full_attention",
                    ]
                }
            )
        case "smollm3", _:
            return (
                c
                | tie
                | eps
                | rope(draw, ROPE[:1])
                | {"no_rope_layers": [draw(st.integers(0, 1)) for _ in range(layers)]}
            )
        case "youtu", _:
            latent = {
                "q_lora_rank": draw(st.sampled_from([None, 8])),
                "kv_lora_rank": 8,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
                "num_key_value_heads": c["num_attention_heads"],
            }
            return (
                {key: value for key, value in c.items() if key != "head_dim"}
                | tie
                | eps
                | latent
                | rope(draw, ROPE[:1])
            )
    raise AssertionError(f"no oracle for {entry}")


def mixture_first(entry: str) -> bool:
    return entry.endswith("#0")


# Entries of one name are numbered.
NUMBERED = {
    f"{family.name}#{[other.name for other in FAMILIES[:n]].count(family.name)}": family
    for n, family in enumerate(FAMILIES)
}
ENTRIES = [name for name in NUMBERED if name != "llama->qwen2_moe#0"]  # chosen for Switch alone
SWITCH = [name for name, family in NUMBERED.items() if family.layout.full_softmax]


def model_of(entry: str, config: dict[str, Any], seed: int) -> PreTrainedModel:
    return build(entry.split("->")[0], seed, **config)


def padded(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, vocabulary, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return ids, mask


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp(min=1))


@torch.no_grad()
def function_difference(made: PreTrainedModel, dense: PreTrainedModel) -> float:
    """Largest difference over a left-padded batch and over cached steps.

    Its unit is the largest logit, or 1.
    """
    ids, mask = padded(dense.config.vocab_size)
    real = mask.bool()
    found = [
        difference(
            made(ids, attention_mask=mask).logits[real],
            dense(ids, attention_mask=mask).logits[real],
        )
    ]
    whole, cache = dense(ids[:1]).logits, None
    for position in range(ids.shape[1]):
        step = made(ids[:1, position : position + 1], past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        found.append(difference(step.logits[:, -1], whole[:, position]))
    return max(found)


CAMPAIGN = settings(
    max_examples=EXAMPLES or 4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not EXAMPLES,
)


@pytest.mark.parametrize("entry", ENTRIES)
@CAMPAIGN
@given(data=st.data())
def test_copies_of_one_expert_give_the_dense_logits(entry: str, data: st.DataObject) -> None:
    config = data.draw(
        dense(entry.removesuffix("#0").removesuffix("#1") if "glm->" not in entry else entry)
    )
    copies, top_k = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 2))
    model = model_of(entry, config, data.draw(st.integers(0, 9)))
    with tempfile.TemporaryDirectory() as folder:
        seed, out = Path(folder) / "seed", Path(folder) / "out"
        model.save_pretrained(seed)
        assert entry.startswith(find_family(AutoConfig.from_pretrained(seed).to_dict()).name)
        members = [Member(f"m{n}", 2 * n + 1, seed) for n in range(copies)]  # with gaps
        mix(
            seed,
            members,
            MixRecipe(
                mode=data.draw(st.sampled_from(["anchored", "full"])),
                top_k=top_k,
                seed_expert=False,
            ),
            out,
        )
        assert function_difference(stock(out), model) <= (1e-4 if "lfm2" in entry else 1e-5)


def doubled(
    model: PreTrainedModel, other: PreTrainedModel, entry: str, config: dict[str, Any]
) -> PreTrainedModel:
    """A dense model whose feed-forward blocks are the mean of two models'.

    They are twice as wide, and the last matrix is halved.
    """
    wide = dict(config)
    wide["intermediate_size"] = (
        2 * next(p for n, p in model.named_parameters() if re.search(DOWN, n)).shape[1]
    )
    if "shared_intermediate_size" in wide:
        wide["shared_intermediate_size"] = wide["intermediate_size"]
    wide["block_auto_adjust_ff_dim"] = False
    if "lfm2" not in entry:
        wide.pop("block_auto_adjust_ff_dim")
    theirs, joined = other.state_dict(), {}
    for name, ours in model.state_dict().items():
        if re.search(r"gate_up_proj|shared_mlp.input_linear", name):
            joined[name] = torch.cat(
                [
                    part
                    for pair in zip(ours.chunk(2), theirs[name].chunk(2), strict=True)
                    for part in pair
                ]
            )
        elif re.search(r"(gate|up)_proj|feed_forward.w[13]", name):
            joined[name] = torch.cat([ours, theirs[name]])
        elif re.search(r"mlp.down_proj|feed_forward.w2|shared_mlp.output_linear", name):
            joined[name] = torch.cat([ours, theirs[name]], 1) / 2
        else:
            joined[name] = ours
    result = build(entry.split("->")[0], **wide)
    result.load_state_dict(joined)
    return result.eval()


@pytest.mark.parametrize("entry", ENTRIES)
@settings(CAMPAIGN, max_examples=EXAMPLES or 2)
@given(data=st.data())
def test_two_experts_of_equal_weight_give_the_mean_of_their_blocks(
    entry: str, data: st.DataObject
) -> None:
    config = data.draw(
        dense(entry.removesuffix("#0").removesuffix("#1") if "glm->" not in entry else entry)
    )
    model, other = (model_of(entry, config, number) for number in (1, 2))
    with tempfile.TemporaryDirectory() as folder:
        seed, branch, out = Path(folder) / "seed", Path(folder) / "branch", Path(folder) / "out"
        model.save_pretrained(seed)
        other.save_pretrained(branch)
        even = {
            layer: torch.zeros(2, config["hidden_size"])
            for layer in range(config["num_hidden_layers"])
        }
        mix(seed, [Member("other", 5, branch)], MixRecipe(), out, known=Known(router=even))
        made = stock(out)
        assert function_difference(made, doubled(model, other, entry, config)) <= (
            1e-4 if "lfm2" in entry else 1e-5
        )
        down = [p for n, p in made.named_parameters() if re.search(r"experts\.down_proj$", n)]
        first, second = (
            next(p for n, p in m.named_parameters() if re.search(DOWN, n)) for m in (model, other)
        )
        assert torch.equal(down[0][0], first)  # and in the order of the slots
        assert torch.equal(down[0][1], second)


@pytest.mark.parametrize("entry", SWITCH)
@settings(CAMPAIGN, max_examples=EXAMPLES or 2)
@given(data=st.data())
def test_switch_weighs_its_one_expert_by_the_softmax_over_all(
    entry: str, data: st.DataObject
) -> None:
    """Four copies of one expert and even rows: a quarter of the dense model's block."""
    config = data.draw(dense(entry.removesuffix("#0")))
    model = model_of(entry, config, 1)
    with tempfile.TemporaryDirectory() as folder:
        seed, out = Path(folder) / "seed", Path(folder) / "out"
        model.save_pretrained(seed)
        even = {
            layer: torch.zeros(4, config["hidden_size"])
            for layer in range(config["num_hidden_layers"])
        }
        mix(
            seed,
            [Member(f"m{n}", n, seed) for n in range(1, 4)],
            MixRecipe(routing="switch"),
            out,
            known=Known(router=even),
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "mlp.down_proj" in name:
                    parameter /= 4
        assert function_difference(stock(out), model) <= 1e-5


@pytest.mark.parametrize("entry", ENTRIES)
@settings(CAMPAIGN, max_examples=EXAMPLES or 1)
@given(data=st.data())
@torch.no_grad()
def test_every_layer_has_a_block_and_a_router_that_says_what_its_experts_really_get(
    entry: str, data: st.DataObject
) -> None:
    config = data.draw(
        dense(entry.removesuffix("#0").removesuffix("#1") if "glm->" not in entry else entry)
    )
    with tempfile.TemporaryDirectory() as folder:
        seed, out = Path(folder) / "seed", Path(folder) / "out"
        model = model_of(entry, config, 1)
        assert len(feed_forward_blocks(model)) == config["num_hidden_layers"]
        model.save_pretrained(seed)
        recipe = MixRecipe(top_k=3, router_std=0.5)
        mix(seed, [Member(f"m{n}", n, seed) for n in (1, 2, 3)], recipe, out)
        routed = RoutedModel.load(out)
        assert len(routed.routers) == config["num_hidden_layers"]
        ids, _ = padded(config["vocab_size"])
        with routed.recording(inputs=True, logits=True, choices=True) as recording:
            routed.network(input_ids=ids)
        for router, choice in zip(routed.routers, recording.choices.values(), strict=True):
            given = torch.zeros(ids.numel(), 4).scatter(-1, choice.index_TK, choice.weights_TK)
            hidden_TD, logits_TE = recording.inputs[router.name], recording.logits[router.name]
            assert torch.allclose(router.routing_weights(hidden_TD), given, atol=1e-4)
            assert torch.allclose(router.weights_of(logits_TE), given, atol=1e-4)
            assert (router.experts, router.top_k) == (4, recipe.top_k)
        routed = RoutedModel.load(out, torch.bfloat16)
        with routed.recording(inputs=True) as recording:
            routed.network(input_ids=ids)
        for router in routed.routers:
            shares_T = router.routing_weights(recording.inputs[router.name]).sum(-1)
            assert torch.allclose(shares_T, torch.ones(ids.numel()), atol=0.01)


# Whose routers or blocks have other names than most.
OTHERWISE_NAMED = ("hunyuan_v1_moe", "granitemoehybrid")
# One entry for every mixture.
MIXTURES = {family.layout.model_type: name for name, family in NUMBERED.items() if name in ENTRIES}


@pytest.mark.parametrize(
    "mixture",
    [
        pytest.param(name, marks=() if name in OTHERWISE_NAMED else pytest.mark.slow)
        for name in MIXTURES
    ],
)
@settings(CAMPAIGN, max_examples=1)
@given(data=st.data())
def test_every_mixture_is_tuned_as_a_rebuild_tunes_by_default(
    mixture: str, data: st.DataObject, tiny_seed: Path, tiny_corpora: Path
) -> None:
    entry = MIXTURES[mixture]
    config = data.draw(dense(entry if "glm->" in entry else entry.partition("#")[0]))
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    with tempfile.TemporaryDirectory() as folder:
        seed, mixed, out = (Path(folder) / name for name in ("seed", "mixed", "out"))
        model_of(entry, config | {"vocab_size": len(tokenizer)}, 1).save_pretrained(seed)
        tokenizer.save_pretrained(seed)
        mix(seed, [Member("math", 1, seed)], MixRecipe(), mixed)
        texts = {GENERAL: [tiny_corpora / "prose"], "math": [tiny_corpora / "math"]}
        own = {GENERAL: OwnExpert(0, seed), "math": OwnExpert(1, seed)}
        recipe = TuneRecipe(steps=1, batch=2, sequence=16, warmup_steps=0)
        tune(TuneInputs(mixed, texts, own, seed), recipe, out)
        before, after = (RoutedModel.load(one).routers for one in (mixed, out))
        for old, new in zip(before, after, strict=True):
            assert not torch.equal(old.weight, new.weight)


def test_a_family_without_such_a_mixture_refuses_switch_by_name() -> None:
    with pytest.raises(Unsupported, match="routing switch") as caught:
        find_family({"model_type": "granite"}, full_softmax=True)
    assert "softmax over all" in str(caught.value)


@pytest.mark.parametrize("model_type", ["llama", "glm"])
def test_one_expert_alone_computes_as_the_dense_model_or_is_refused_by_name(
    model_type: str, tmp_path: Path
) -> None:
    model = build(model_type, **TINY, head_dim=8, pad_token_id=0)
    model.save_pretrained(tmp_path / "seed")
    members = [Member(f"m{number}", number, tmp_path / "seed") for number in (1, 2)]
    recipe, out = MixRecipe(seed_expert=False, top_k=1), tmp_path / "out"
    if model_type != "llama":
        # Its routers add up the best two scores of a group.
        with pytest.raises(Unsupported, match="at least 2"):
            mix(tmp_path / "seed", members[:1], recipe, out)
        assert not out.exists()
        recipe = replace(recipe, top_k=2)
    mix(tmp_path / "seed", members[: recipe.top_k], recipe, out)
    assert function_difference(stock(out), model) <= 1e-5


def test_at_least_twenty_families_have_an_entry() -> None:
    assert len({family.dense for family in FAMILIES}) >= 20


@pytest.mark.parametrize("model_type", [*REASONS, "never_heard_of"])
def test_what_has_no_faithful_mixture_is_refused_with_a_reason(model_type: str) -> None:
    with pytest.raises(Unsupported) as caught:
        find_family({"model_type": model_type})
    assert model_type in str(caught.value)
    assert caught.value.found == REASONS.get(model_type, "no entry in the table of families")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias"),
        ({"model_type": "cohere", "use_qk_norm": True}, "norms on queries"),
    ],
)
def test_a_setting_that_no_mixture_has_is_refused_by_name(
    config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unsupported, match=reason):
        find_family(config)


def test_the_oracle_notices_gate_and_up_swapped(tmp_path: Path) -> None:
    model = build(
        "llama",
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model.save_pretrained(tmp_path / "seed")
    mix(tmp_path / "seed", [Member("a", 1, tmp_path / "seed")], MixRecipe(), tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"] == {}
    broken = stock(tmp_path / "out")
    with torch.no_grad():
        weight = broken.model.layers[0].mlp.experts.gate_up_proj
        weight.copy_(weight.roll(24, 1))
    assert function_difference(broken, model) > 1e-3
