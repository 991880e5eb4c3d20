"""Which dense models have a faithful mixture-of-experts form, and how the two correspond.

In:  a dense config.
Out: an entry of the table: where the feed-forward weights lie, what the mixture calls them, and the
     mixture's settings.
Tables only: `mixing.plan` reads them. A new family is one entry and its oracle test; what has no
entry is refused, with the reason if it is known.
Templates: {l} stands for the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A config's values are whatever its class defines.
from typing import Any

from btx_core.checkpoints.mixture_layouts import (
    COHERE2_MOE,
    DEEPSEEK_V3,
    ERNIE_MOE,
    FLEX_OLMO,
    GLM4_MOE,
    GRANITEMOE,
    GRANITEMOE_SWA,
    GRANITEMOEHYBRID,
    HUNYUAN_MOE,
    LAYER,
    LAYOUTS,
    LFM2_MOE,
    MELLUM,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_5_MOE,
    QWEN3_MOE,
    Layout,
    Role,
)
from btx_core.checkpoints.pieces import (
    Constant,
    OperationOf,
    Piece,
    Sizes,
    Translation,
    gate_rows,
    key_rows,
    one_plus,
    query_rows,
    rotated_halves,
    times_root_of_width,
    up_rows,
    value_rows,
)
from btx_core.problems import Unsupported

Config = Mapping[str, Any]
Settings = dict[str, Any]

# What most families call the matrices of their feed-forward blocks.
USUAL_GATE = Piece(LAYER + "mlp.gate_proj.weight")
USUAL_UP = Piece(LAYER + "mlp.up_proj.weight")
USUAL_DOWN = Piece(LAYER + "mlp.down_proj.weight")


@dataclass(frozen=True)
class Refusal:
    """A setting of a dense model that this mixture cannot follow.

    Attributes:
        applies: whether a config has it.
        reason: what it is, for the error message.
    """

    applies: Callable[[Config], bool]
    reason: str


def no_settings(config: Config, sizes: Sizes) -> Settings:
    """Return no settings: the mixture's config is the dense config."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One dense model type and the mixture that computes the same function.

    Attributes:
        dense: the dense model type.
        layout: the mixture.
        settings: the mixture's config keys that differ from the parsed dense config's.
        gate: the gate matrix of the dense feed-forward block.
        up: its up matrix.
        down: its down matrix.
        translated: tensors outside the feed-forward blocks that are not the dense tensor of the
            same name.
        constants: tensors that the mixture wants beside them.
        refusals: settings of the dense model that exclude this mixture.
    """

    dense: str
    layout: Layout
    settings: Callable[[Config, Sizes], Settings] = no_settings
    gate: Piece = USUAL_GATE
    up: Piece = USUAL_UP
    down: Piece = USUAL_DOWN
    translated: tuple[Translation, ...] = ()
    constants: tuple[Constant, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def name(self) -> str:
        """Dense and mixture model type, as the provenance records them."""
        return f"{self.dense}->{self.layout.model_type}"

    def matrix(self, role: Role) -> Piece:
        """Return one matrix of the dense feed-forward block."""
        return {"gate": self.gate, "up": self.up, "down": self.down}[role]


# What a dense config may say


def is_set(key: str) -> Callable[[Config], bool]:
    """Return a test of whether a config sets this key to something true."""
    return lambda config: bool(config.get(key))


def rope_of(config: Config) -> Config:
    """Return the rotary embedding's settings, empty where the config has none."""
    rope: Config = config.get("rope_parameters") or {}
    return rope


def layer_types(config: Config) -> list[str]:
    """Return the kind of attention of each layer, empty where all are alike."""
    return list(config.get("layer_types") or ())


def first_rope(config: Config) -> Config:
    """Return the rotation of the first layer; some configs give one by kind of layer."""
    rope: Config = config["rope_parameters"]
    kinds = layer_types(config) or ["full_attention"]
    first: Config = rope.get(kinds[0], rope)
    return first


def rotates_differently(config: Config) -> bool:
    """Say whether layers of different kinds rotate differently."""
    rope = rope_of(config)
    return any(rope.get(kind, rope) != first_rope(config) for kind in layer_types(config))


def rotates_in_part(config: Config) -> bool:
    """Say whether only a part of each head is rotated."""
    share = rope_of(config).get("partial_rotary_factor")
    return float(share or config.get("partial_rotary_factor") or 1.0) < 1


def scales_rotation(config: Config) -> bool:
    """Say whether the rotation is other than the default."""
    return bool(rope_of(config).get("rope_type", "default") != "default")


def has_windows(config: Config) -> bool:
    """Say whether some layers see a window of the context only."""
    kinds = layer_types(config)
    return len(set(kinds)) > 1 or "sliding_attention" in kinds


def has_short_window(config: Config) -> bool:
    """Say whether the window is shorter than the context."""
    window = config.get("sliding_window")
    return window is not None and bool(window < config["max_position_embeddings"])


def has_own_head_width(config: Config) -> bool:
    """Say whether a head's width is not the model's width divided by the heads."""
    head = config.get("head_dim")
    if head is None:
        return False
    return bool(head * config["num_attention_heads"] != config["hidden_size"])


def has_untied_embeddings(config: Config) -> bool:
    """Say whether the head has a matrix of its own."""
    return not config.get("tie_word_embeddings", True)


ALREADY_A_MIXTURE = "a mixture already; give the dense seed that it was made from"
MLP_BIAS = Refusal(is_set("mlp_bias"), "feed-forward biases (mlp_bias), which no stock mixture has")
ATTENTION_BIAS = Refusal(is_set("attention_bias"), "attention biases, which this mixture lacks")
HEAD_WIDTH = Refusal(
    has_own_head_width,
    "heads whose width is not hidden_size / num_attention_heads, with a mixture that assumes it",
)
WINDOWS = Refusal(has_windows, "windows on some layers only, which this mixture lacks")
SHORT_WINDOW = Refusal(has_short_window, "a window shorter than the context")


# What the mixtures' configs want


def sparse_everywhere(config: Config, sizes: Sizes) -> Settings:
    """Return the settings by which every layer is a mixture and its weights sum to one."""
    return {
        # False by default in the qwen and olmo mixtures: silently another function.
        "norm_topk_prob": True,
        "moe_intermediate_size": sizes.expert_inner,
        "head_dim": sizes.head,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def sparse_layer_types(config: Config) -> Settings:
    """Return the settings by which every layer is a mixture, where the config lists layers."""
    return {"mlp_layer_types": ["sparse"] * config["num_hidden_layers"]}


def no_groups(config: Config, sizes: Sizes) -> Settings:
    """Return the settings that switch off groups, shared experts and a dense beginning."""
    return sparse_everywhere(config, sizes) | {
        "num_mtp_layers": 0,
        "n_shared_experts": 0,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
    }


def no_groups_no_qk_norm(config: Config, sizes: Sizes) -> Settings:
    """Return the settings of `no_groups`, for a model without norms on queries and keys."""
    return no_groups(config, sizes) | {"use_qk_norm": False}


def rope_in_both_forms(config: Config) -> Settings:
    """Return the rotation under its old key and its new one."""
    rope = config["rope_parameters"]
    return {"rope_theta": rope["rope_theta"], "rope_parameters": dict(rope)}


def head_width(config: Config, sizes: Sizes) -> Settings:
    """Return the width of a head, which the mixture would compute otherwise."""
    return {"head_dim": sizes.head}


def granite_attention(config: Config, sizes: Sizes) -> Settings:
    """Return the usual scale of attention, which Granite states outright."""
    return {"attention_multiplier": sizes.head**-0.5}


def qwen2_moe_settings(config: Config, sizes: Sizes, **more: object) -> Settings:
    """Return the settings of a Qwen2 mixture without a shared expert."""
    return sparse_everywhere(config, sizes) | {"shared_expert_intermediate_size": 0} | more


def llama_in_qwen2(config: Config, sizes: Sizes) -> Settings:
    """Return a Qwen2 mixture's settings for a model without biases and windows."""
    return qwen2_moe_settings(config, sizes, qkv_bias=False, use_sliding_window=False)


def windowed_in_qwen2(config: Config, sizes: Sizes) -> Settings:
    """Return a Qwen2 mixture's settings for a model that may have windows."""
    windows = has_windows(config)
    return qwen2_moe_settings(config, sizes, qkv_bias=False, use_sliding_window=windows)


def seed_oss_in_qwen2(config: Config, sizes: Sizes) -> Settings:
    """Return a Qwen2 mixture's settings for Seed-OSS."""
    biases = bool(config["attention_bias"])
    return qwen2_moe_settings(config, sizes, qkv_bias=biases, use_sliding_window=False)


def qwen2_in_qwen2(config: Config, sizes: Sizes) -> Settings:
    """Return a Qwen2 mixture's settings for Qwen2 itself."""
    return qwen2_moe_settings(config, sizes, qkv_bias=True)


def mellum_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Mellum's settings: one rotation for both kinds of layer."""
    kinds = ("full_attention", "sliding_attention")
    rope = dict.fromkeys(kinds, config["rope_parameters"])
    return sparse_everywhere(config, sizes) | sparse_layer_types(config) | {"rope_parameters": rope}


def olmo3_settings(config: Config, sizes: Sizes) -> Settings:
    """Return FlexOlmo's settings for Olmo 3: the one rotation of all its layers."""
    return sparse_everywhere(config, sizes) | {"rope_parameters": first_rope(config)}


def hyperclovax_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Granite's settings for HyperCLOVA X: one multiplies logits, the other divides."""
    return {"logits_scaling": 1 / config["logits_scaling"]}


def gemma_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Mixtral's settings for Gemma, whose scaled embeddings are not its head."""
    return {"tie_word_embeddings": False, "head_dim": sizes.head}


def cohere_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Cohere 2's settings for Cohere.

    Layers with a window rotate and those without do not: so each layer gets a window that covers
    the context.
    """
    windows = {
        "layer_types": ["sliding_attention"] * config["num_hidden_layers"],
        "sliding_window": config["max_position_embeddings"],
    }
    return cohere2_settings(config, sizes) | windows


def cohere2_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Cohere 2's settings: no shared experts."""
    return (
        sparse_everywhere(config, sizes)
        | sparse_layer_types(config)
        | {"num_shared_experts": 0}
        | rope_in_both_forms(config)
    )


def ernie_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Ernie's settings: no shared experts, and a mixture in every layer."""
    return sparse_everywhere(config, sizes) | {
        "moe_num_shared_experts": 0,
        "moe_layer_start_index": 0,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
    }


def lfm2_settings(config: Config, sizes: Sizes) -> Settings:
    """Return LFM2's settings: no dense layers and no corrections of the router."""
    return {
        "moe_intermediate_size": sizes.expert_inner,
        "num_dense_layers": 0,
        "use_expert_bias": False,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    }


def smollm3_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Granite's settings for SmolLM3: layer by layer a rotation or none."""
    theta = config["rope_parameters"]["rope_theta"]
    return granite_attention(config, sizes) | {
        "shared_intermediate_size": 0,
        # No layer uses it, but it must be there.
        "sliding_window": config["max_position_embeddings"],
        "layer_rope_theta": [theta if rotates else 0 for rotates in config["no_rope_layers"]],
    }


def youtu_settings(config: Config, sizes: Sizes) -> Settings:
    """Return DeepSeek's settings for Youtu, whose head width is not a part of its width."""
    return no_groups(config, sizes) | {"head_dim": config["head_dim"]}


def granite_hybrid_settings(config: Config, sizes: Sizes) -> Settings:
    """Return Granite 4's settings: the dense block is an expert, and none is shared."""
    return {"shared_intermediate_size": 0, "intermediate_size": sizes.expert_inner}


# Tensors that a mixture wants and the dense model lacks

# A shared expert that the mixture always has: of width 0, and its gate zero.
NO_SHARED_EXPERT = (
    Constant(LAYER + "mlp.shared_expert.gate_proj.weight", lambda sizes: (0, sizes.width)),
    Constant(LAYER + "mlp.shared_expert.up_proj.weight", lambda sizes: (0, sizes.width)),
    Constant(LAYER + "mlp.shared_expert.down_proj.weight", lambda sizes: (sizes.width, 0)),
    Constant(LAYER + "mlp.shared_expert_gate.weight", lambda sizes: (1, sizes.width)),
)
NO_SHARED_EXPERTS = (
    Constant(LAYER + "mlp.shared_experts.gate_proj.weight", lambda sizes: (0, sizes.width)),
    Constant(LAYER + "mlp.shared_experts.up_proj.weight", lambda sizes: (0, sizes.width)),
    Constant(LAYER + "mlp.shared_experts.down_proj.weight", lambda sizes: (sizes.width, 0)),
)
NO_SHARED_LINEAR = (
    Constant(LAYER + "shared_mlp.input_linear.weight", lambda sizes: (0, sizes.width)),
    Constant(LAYER + "shared_mlp.output_linear.weight", lambda sizes: (sizes.width, 0)),
)
# It cannot be left out or narrowed: it is there, and gives zero.
SILENT_SHARED_MLP = (
    Constant(
        LAYER + "mlp.shared_mlp.gate_proj.weight",
        lambda sizes: (sizes.expert_inner, sizes.width),
    ),
    Constant(
        LAYER + "mlp.shared_mlp.up_proj.weight",
        lambda sizes: (sizes.expert_inner, sizes.width),
    ),
    Constant(
        LAYER + "mlp.shared_mlp.down_proj.weight",
        lambda sizes: (sizes.width, sizes.expert_inner),
    ),
)
# A sink is one more logit of the softmax: far below all others it takes nothing.
SILENT_SINKS = (Constant(LAYER + "self_attn.sinks", lambda sizes: (sizes.heads,), -10000.0),)

# Tensors that the mixture holds in another form

JOINED_QKV = LAYER + "self_attn.qkv_proj.weight"
SEPARATE_QKV = (
    Translation(LAYER + "self_attn.q_proj.weight", Piece(JOINED_QKV, query_rows)),
    Translation(LAYER + "self_attn.k_proj.weight", Piece(JOINED_QKV, key_rows)),
    Translation(LAYER + "self_attn.v_proj.weight", Piece(JOINED_QKV, value_rows)),
)
JOINED_GATE_AND_UP = LAYER + "mlp.gate_up_proj.weight"
GATE_OF_JOINED = Piece(JOINED_GATE_AND_UP, gate_rows)
UP_OF_JOINED = Piece(JOINED_GATE_AND_UP, up_rows)


def changed(name: str, operation: OperationOf) -> Translation:
    """Return a tensor that keeps its name and whose values change."""
    return Translation(name, Piece(name, operation=operation))


# The norms multiply by 1 + weight; the embedding is scaled, and the head is the unscaled one.
GEMMA = (
    changed("model.embed_tokens.weight", times_root_of_width),
    Translation("lm_head.weight", Piece("model.embed_tokens.weight")),
    changed("model.norm.weight", one_plus),
    changed(LAYER + "input_layernorm.weight", one_plus),
    changed(LAYER + "post_attention_layernorm.weight", one_plus),
)
# The dense model rotates neighbouring pairs, the mixture halves of each head.
HALVES = (
    changed(LAYER + "self_attn.q_proj.weight", rotated_halves),
    changed(LAYER + "self_attn.k_proj.weight", rotated_halves),
)
HALVES_OF_BIASES = (
    changed(LAYER + "self_attn.q_proj.bias", rotated_halves),
    changed(LAYER + "self_attn.k_proj.bias", rotated_halves),
)

# Where one dense model has several entries, the first that refuses nothing of it is taken.
FAMILIES: tuple[Family, ...] = (
    # The same block and attention.
    Family(
        dense="llama",
        layout=MIXTRAL,
        refusals=(MLP_BIAS, ATTENTION_BIAS),
    ),
    # Granite's mixture has attention biases.
    Family(
        dense="llama",
        layout=GRANITEMOE,
        settings=granite_attention,
        refusals=(MLP_BIAS, HEAD_WIDTH),
    ),
    # For routing switch alone: Mixtral cannot weigh by the softmax over all experts.
    Family(
        dense="llama",
        layout=QWEN2_MOE,
        settings=llama_in_qwen2,
        constants=NO_SHARED_EXPERT,
        refusals=(MLP_BIAS, ATTENTION_BIAS),
    ),
    # The same block and attention, window included.
    Family(
        dense="mistral",
        layout=MIXTRAL,
    ),
    # Windows by layer, which Qwen2's mixture has.
    Family(
        dense="ministral",
        layout=QWEN2_MOE,
        settings=windowed_in_qwen2,
        constants=NO_SHARED_EXPERT,
    ),
    # Windows by layer, which Qwen2's mixture has.
    Family(
        dense="cwm",
        layout=QWEN2_MOE,
        settings=windowed_in_qwen2,
        constants=NO_SHARED_EXPERT,
        refusals=(MLP_BIAS, ATTENTION_BIAS),
    ),
    # Biases on queries, keys and values, or none.
    Family(
        dense="seed_oss",
        layout=QWEN2_MOE,
        settings=seed_oss_in_qwen2,
        constants=NO_SHARED_EXPERT,
        refusals=(
            MLP_BIAS,
            Refusal(is_set("attention_out_bias"), "a bias on the attention's output"),
        ),
    ),
    # Its own mixture, without the shared expert.
    Family(
        dense="qwen2",
        layout=QWEN2_MOE,
        settings=qwen2_in_qwen2,
        constants=NO_SHARED_EXPERT,
    ),
    # Its own mixture, which has no windows.
    Family(
        dense="qwen3",
        layout=QWEN3_MOE,
        settings=sparse_everywhere,
        refusals=(WINDOWS,),
    ),
    # With windows.
    Family(
        dense="qwen3",
        layout=MELLUM,
        settings=mellum_settings,
        refusals=(ATTENTION_BIAS,),
    ),
    # Its own mixture, without the shared expert.
    Family(
        dense="qwen3_5_text",
        layout=QWEN3_5_MOE,
        settings=qwen2_moe_settings,
        constants=NO_SHARED_EXPERT,
    ),
    # Its own mixture.
    Family(
        dense="olmo2",
        layout=FLEX_OLMO,
        settings=sparse_everywhere,
        refusals=(HEAD_WIDTH,),
    ),
    # Olmo 2's mixture, where the windows hide nothing.
    Family(
        dense="olmo3",
        layout=FLEX_OLMO,
        settings=olmo3_settings,
        refusals=(
            HEAD_WIDTH,
            SHORT_WINDOW,
            Refusal(rotates_differently, "layers that rotate differently"),
        ),
    ),
    # Joined matrices are cut apart.
    Family(
        dense="phi3",
        layout=MIXTRAL,
        settings=head_width,
        gate=GATE_OF_JOINED,
        up=UP_OF_JOINED,
        translated=SEPARATE_QKV,
        refusals=(Refusal(rotates_in_part, "rotation of a part of each head, with a window"),),
    ),
    # Rotation of a part of each head, which GLM's mixture has.
    Family(
        dense="phi3",
        layout=GLM4_MOE,
        settings=no_groups_no_qk_norm,
        gate=GATE_OF_JOINED,
        up=UP_OF_JOINED,
        translated=SEPARATE_QKV,
        constants=NO_SHARED_EXPERTS,
        refusals=(SHORT_WINDOW,),
    ),
    # Its own mixture, which rotates halves.
    Family(
        dense="glm",
        layout=GLM4_MOE,
        settings=no_groups_no_qk_norm,
        gate=GATE_OF_JOINED,
        up=UP_OF_JOINED,
        translated=HALVES,
        constants=NO_SHARED_EXPERTS,
        refusals=(ATTENTION_BIAS,),
    ),
    # With biases, which are reordered as well.
    Family(
        dense="glm",
        layout=GLM4_MOE,
        settings=no_groups_no_qk_norm,
        gate=GATE_OF_JOINED,
        up=UP_OF_JOINED,
        translated=HALVES + HALVES_OF_BIASES,
        constants=NO_SHARED_EXPERTS,
    ),
    # Llama's block, but neighbours are rotated.
    Family(
        dense="helium",
        layout=MIXTRAL,
        settings=head_width,
        translated=HALVES,
        refusals=(MLP_BIAS, ATTENTION_BIAS),
    ),
    # Its own mixture.
    Family(
        dense="granite",
        layout=GRANITEMOE,
        refusals=(MLP_BIAS,),
    ),
    # Granite 4, with layers of Mamba or without: its own mixture, whose shared block is empty.
    Family(
        dense="granitemoehybrid",
        layout=GRANITEMOEHYBRID,
        settings=granite_hybrid_settings,
        gate=Piece(LAYER + "shared_mlp.input_linear.weight", gate_rows),
        up=Piece(LAYER + "shared_mlp.input_linear.weight", up_rows),
        down=Piece(LAYER + "shared_mlp.output_linear.weight"),
        constants=NO_SHARED_LINEAR,
        refusals=(Refusal(is_set("num_local_experts"), ALREADY_A_MIXTURE),),
    ),
    # Granite's multipliers under other names.
    Family(
        dense="hyperclovax",
        layout=GRANITEMOE,
        settings=hyperclovax_settings,
        refusals=(
            MLP_BIAS,
            HEAD_WIDTH,
            Refusal(is_set("use_post_norm"), "norms after each block (use_post_norm)"),
        ),
    ),
    # Its norms and its scaled embedding go into the weights.
    Family(
        dense="gemma",
        layout=MIXTRAL,
        settings=gemma_settings,
        translated=GEMMA,
        refusals=(ATTENTION_BIAS, Refusal(has_untied_embeddings, "untied embeddings")),
    ),
    # Cohere 2's mixture with windows that hide nothing.
    Family(
        dense="cohere",
        layout=COHERE2_MOE,
        settings=cohere_settings,
        refusals=(
            Refusal(is_set("use_qk_norm"), "norms on queries and keys, which this mixture lacks"),
        ),
    ),
    # Its own mixture, without shared experts.
    Family(
        dense="cohere2",
        layout=COHERE2_MOE,
        settings=cohere2_settings,
    ),
    # Its own mixture, in every layer.
    Family(
        dense="ernie4_5",
        layout=ERNIE_MOE,
        settings=ernie_settings,
        refusals=(Refusal(is_set("use_bias"), "biases (use_bias)"),),
    ),
    # Its own mixture, whose shared block is silent.
    Family(
        dense="hunyuan_v1_dense",
        layout=HUNYUAN_MOE,
        settings=sparse_everywhere,
        constants=SILENT_SHARED_MLP,
    ),
    # Its own mixture, from the first layer on.
    Family(
        dense="lfm2",
        layout=LFM2_MOE,
        settings=lfm2_settings,
        gate=Piece(LAYER + "feed_forward.w1.weight"),
        up=Piece(LAYER + "feed_forward.w3.weight"),
        down=Piece(LAYER + "feed_forward.w2.weight"),
    ),
    # Layers that do not rotate, which only this mixture sets one by one.
    Family(
        dense="smollm3",
        layout=GRANITEMOE_SWA,
        settings=smollm3_settings,
        constants=SILENT_SINKS,
        refusals=(
            MLP_BIAS,
            Refusal(scales_rotation, "scaled rotation, with a mixture that sets it by layer"),
            Refusal(is_set("use_sliding_window"), "windows, with layers that do not rotate"),
        ),
    ),
    # Latent attention, as DeepSeek's mixture has it.
    Family(
        dense="youtu",
        layout=DEEPSEEK_V3,
        settings=youtu_settings,
        constants=NO_SHARED_EXPERTS,
    ),
)
NOT_GATED = "a feed-forward block without a gate"
LATE_NORMS = "norms after the feed-forward block that no stock mixture has"
REASONS: dict[str, str] = {
    "phi": NOT_GATED,
    "starcoder2": NOT_GATED,
    "gpt2": NOT_GATED,
    "gpt_neox": NOT_GATED,
    "gptj": NOT_GATED,
    "nemotron": NOT_GATED,
    "arcee": NOT_GATED,
    "apertus": NOT_GATED,
    "falcon": NOT_GATED,
    "mpt": NOT_GATED,
    "opt": NOT_GATED,
    "bloom": NOT_GATED,
    "gemma2": LATE_NORMS,
    "gemma3_text": LATE_NORMS,
    "glm4": LATE_NORMS,
    "exaone4": LATE_NORMS,
    "gemma3": "a model of text and pictures",
    "gemma4": "a model of text and pictures",
    "gemma4_text": "its mixture norms the experts' sum once more, and keeps a dense block beside",
    "stablelm": "norms with biases, which no stock mixture has",
    "olmo": "layer norms without weights; stock mixtures with such norms join queries, keys and "
    "values (dbrx), run their blocks in parallel (cohere2_moe) or weigh by no softmax (phimoe)",
    **dict.fromkeys(
        sorted(LAYOUTS.keys() - {family.dense for family in FAMILIES}), ALREADY_A_MIXTURE
    ),
}


def find_family(config: Config, *, full_softmax: bool = False) -> Family:
    """Return the table's entry for a dense config.

    Args:
        config: a raw or parsed config. A raw one leaves out defaults, so that refusals may be
            missed; the parsed one is asked before anything is written.
        full_softmax: whether the mixture must be able to weigh by the softmax over all experts.

    Returns:
        The first entry that refuses nothing of the config.

    Raises:
        Unsupported: with the reason.
    """
    model_type = str(config.get("model_type"))
    families = [family for family in FAMILIES if family.dense == model_type]
    fitting = [family for family in families if not _reasons_against(family, config)]
    for family in fitting:
        if family.layout.full_softmax or not full_softmax:
            return family
    if fitting:
        raise _no_full_softmax(model_type)
    reasons: dict[str, None] = {}
    for family in families:
        reasons |= dict.fromkeys(_reasons_against(family, config))
    known = ", ".join(sorted({family.dense for family in FAMILIES}))
    raise Unsupported(
        f"model type {model_type}",
        found="; ".join(reasons) or REASONS.get(model_type, "no entry in the table of families"),
        expected=f"a family with a proven mixture: {known}",
        next="start from a seed of such a family",
    )


def require_experts(family: Family, experts: int) -> None:
    """Require as many experts as the routers of a family's mixture choose among.

    Args:
        family: the seed's.
        experts: of the mixture, the seed's own among them.

    Raises:
        Unsupported: for fewer.
    """
    least = family.layout.least_experts
    if experts < least:
        raise Unsupported(
            f"model type {family.dense}, mixed as {family.layout.model_type}",
            found=f"{experts} expert{'' if experts == 1 else 's'}",
            expected=f"at least {least}, which its routers choose among",
            next="add an expert, or keep the seed's own: seed_expert",
        )


def _no_full_softmax(model_type: str) -> Unsupported:
    able = {family.dense for family in FAMILIES if family.layout.full_softmax}
    return Unsupported(
        f"model type {model_type}, routing switch",
        found=(
            "no stock mixture of this family that weighs its one expert by the softmax over all"
        ),
        expected=f"one of {', '.join(sorted(able))}",
        next="choose another routing",
    )


def _reasons_against(family: Family, config: Config) -> list[str]:
    return [refusal.reason for refusal in family.refusals if _applies(refusal, config)]


def _applies(refusal: Refusal, config: Config) -> bool:
    try:
        return refusal.applies(config)
    # A raw config leaves out defaults.
    except (KeyError, TypeError, AttributeError):
        return False
