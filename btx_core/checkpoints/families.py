"""Which dense models have a faithful mixture-of-experts form, and how the names and settings of the two correspond.

In:  a dense config.  Out: a row of the table: where the feed-forward weights lie, what the mixture calls them, and its settings.
Tables only: plan.py reads them. A new family is one row and its oracle test; what has no row is refused, with the reason if known.
Roles: gate, up, down are the three matrices of a gated feed-forward block. Templates: {l} layer, {e} expert slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from btx_core.problems import Unsupported

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of one dense tensor, then `op`. Bounds are names of sizes (see plan.sizes)."""

    name: str
    start: str = ""
    stop: str = ""
    op: str = ""


@dataclass(frozen=True)
class Layout:
    """How one mixture model names its experts and routers on disk.

    expert: templates with the roles stacked in each. Without {e} a template holds all experts in one tensor (`fused`), and no expert
    has a shard of its own.
    """

    model_type: str
    architecture: str
    expert: tuple[tuple[str, tuple[str, ...]], ...]
    router: str
    count_key: str
    router_bias: str = ""  # a per-expert correction that sigmoid routers want; zero
    router_bias_shape: tuple[str, ...] = ("E",)
    top_k_key: str = "num_experts_per_tok"
    raw: bool = False  # with norm_topk_prob false the kept experts weigh what the softmax over all gave them: Switch's function

    @property
    def fused(self) -> bool:
        return "{e}" not in self.expert[0][0]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One dense model type and the mixture that computes the same function.

    shared: outputs that are not the dense tensor of the same name, from their pieces. constants: (name, sizes, value) that the mixture
    wants beside them. settings: the mixture's config keys that differ from the parsed dense config's. refuse: (test, reason).
    """

    dense: str
    layout: Layout
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    gate: Piece = Piece("model.layers.{l}.mlp.gate_proj.weight")
    up: Piece = Piece("model.layers.{l}.mlp.up_proj.weight")
    down: Piece = Piece("model.layers.{l}.mlp.down_proj.weight")
    shared: tuple[tuple[str, tuple[Piece, ...]], ...] = ()
    constants: tuple[tuple[str, tuple[str, ...], float], ...] = ()
    refuse: tuple[tuple[Callable[[Config], bool], str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.dense}->{self.layout.model_type}"


def _named(prefix: str, gate: str, up: str, down: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    stem = f"model.layers.{{l}}.{prefix}.experts.{{e}}"
    return (
        (f"{stem}.{gate}.weight", ("gate",)),
        (f"{stem}.{up}.weight", ("up",)),
        (f"{stem}.{down}.weight", ("down",)),
    )


LAYER = "model.layers.{l}."
PROJ = _named("mlp", "gate_proj", "up_proj", "down_proj")
GATE = LAYER + "mlp.gate.weight"
SPARSE = LAYER + "block_sparse_moe."

MIXTRAL = Layout(
    "mixtral",
    "MixtralForCausalLM",
    _named(
        "block_sparse_moe", "w1", "w3", "w2"
    ),  # gate, up, down: a swap of the first two loads without complaint
    SPARSE + "gate.weight",
    "num_local_experts",
)
QWEN2_MOE = Layout("qwen2_moe", "Qwen2MoeForCausalLM", PROJ, GATE, "num_experts", raw=True)
QWEN3_MOE = Layout("qwen3_moe", "Qwen3MoeForCausalLM", PROJ, GATE, "num_experts", raw=True)
QWEN3_5_MOE = Layout("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", PROJ, GATE, "num_experts")
MELLUM = Layout("mellum", "MellumForCausalLM", PROJ, GATE, "num_experts", raw=True)
FLEX_OLMO = Layout("flex_olmo", "FlexOlmoForCausalLM", PROJ, GATE, "num_experts", raw=True)
COHERE2_MOE = Layout("cohere2_moe", "Cohere2MoeForCausalLM", PROJ, GATE, "num_experts")
GLM4_MOE = Layout(
    "glm4_moe",
    "Glm4MoeForCausalLM",
    PROJ,
    GATE,
    "n_routed_experts",
    router_bias=LAYER + "mlp.gate.e_score_correction_bias",
)
DEEPSEEK_V3 = Layout(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    PROJ,
    GATE,
    "n_routed_experts",
    router_bias=LAYER + "mlp.gate.e_score_correction_bias",
)
ERNIE_MOE = Layout(
    "ernie4_5_moe",
    "Ernie4_5_MoeForCausalLM",
    PROJ,
    GATE,
    "moe_num_experts",
    top_k_key="moe_k",
    router_bias=LAYER + "mlp.moe_statics.e_score_correction_bias",
    router_bias_shape=("1", "E"),
)
HUNYUAN_MOE = Layout(
    "hunyuan_v1_moe",
    "HunYuanMoEV1ForCausalLM",
    PROJ,
    LAYER + "mlp.gate.wg.weight",
    "num_experts",
    top_k_key="moe_topk",
)
LFM2_MOE = Layout(
    "lfm2_moe",
    "Lfm2MoeForCausalLM",
    _named("feed_forward", "w1", "w3", "w2"),
    LAYER + "feed_forward.gate.weight",
    "num_experts",
)
GRANITEMOE = Layout(
    "granitemoe",
    "GraniteMoeForCausalLM",
    (
        (SPARSE + "input_linear.weight", ("gate", "up")),
        (SPARSE + "output_linear.weight", ("down",)),
    ),
    SPARSE + "router.layer.weight",
    "num_local_experts",
)
GRANITEMOE_SWA = Layout(
    "granitemoe_swa",
    "GraniteMoeSWAForCausalLM",
    ((SPARSE + "experts.gate_up_proj", ("gate", "up")), (SPARSE + "experts.down_proj", ("down",))),
    SPARSE + "router.weight",
    "num_local_experts",
)
LAYOUTS = {
    layout.model_type: layout
    for layout in (
        MIXTRAL,
        QWEN2_MOE,
        QWEN3_MOE,
        QWEN3_5_MOE,
        MELLUM,
        FLEX_OLMO,
        COHERE2_MOE,
        GLM4_MOE,
        DEEPSEEK_V3,
        ERNIE_MOE,
        HUNYUAN_MOE,
        LFM2_MOE,
        GRANITEMOE,
        GRANITEMOE_SWA,
    )
}


def _moe(config: Config, **more: Any) -> dict[str, Any]:
    # norm_topk_prob is False by default in the qwen and olmo mixtures: silently another function.
    every = {"norm_topk_prob": True, "moe_intermediate_size": config["W"], "head_dim": config["H"]}
    return every | {"decoder_sparse_step": 1, "mlp_only_layers": []} | more


def _grouped(config: Config, **more: Any) -> dict[str, Any]:
    """Sigmoid routers with groups, shared experts and a dense beginning: all switched off."""
    off = {
        "n_shared_experts": 0,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
    }
    return _moe(config, num_mtp_layers=0, **off, **more)


def _one_theta(config: Config) -> dict[str, Any]:
    theta = config["rope_parameters"]["rope_theta"]
    return {"layer_rope_theta": [theta if rope else 0 for rope in config["no_rope_layers"]]}


def _rope(config: Config) -> dict[str, Any]:
    return {
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "rope_parameters": dict(config["rope_parameters"]),
    }


def _one_rope(config: Config) -> Config:
    """The rotation of the layers there are; by kind of layer in configs that allow several kinds."""
    rope: Config = config["rope_parameters"]
    used = config.get("layer_types") or ["full_attention"]
    found: Config = rope.get(used[0], rope)
    return found


def _several_ropes(config: Config) -> bool:
    rope = config.get("rope_parameters") or {}
    return any(
        rope.get(kind, rope) != _one_rope(config) for kind in config.get("layer_types") or ()
    )


def _partial(config: Config) -> float:
    return float(
        (config.get("rope_parameters") or {}).get("partial_rotary_factor")
        or config.get("partial_rotary_factor")
        or 1.0
    )


def _mixed_windows(config: Config) -> bool:
    return len(set(config.get("layer_types") or ())) > 1 or "sliding_attention" in (
        config.get("layer_types") or ()
    )


def _own_head_dim(config: Config) -> bool:
    given = config.get("head_dim")
    return given is not None and bool(
        given * config["num_attention_heads"] != config["hidden_size"]
    )


def _short_window(config: Config) -> bool:
    window = config.get("sliding_window")
    return window is not None and bool(window < config["max_position_embeddings"])


def _is_set(key: str) -> Callable[[Config], bool]:
    return lambda config: bool(config.get(key))


def _scaled_rope(config: Config) -> bool:
    return bool((config.get("rope_parameters") or {}).get("rope_type", "default") != "default")


MLP_BIAS = (_is_set("mlp_bias"), "feed-forward biases (mlp_bias), which no stock mixture has")
ATTENTION_BIAS = (_is_set("attention_bias"), "attention biases, which this mixture lacks")
HEAD_DIM = (
    _own_head_dim,
    "heads whose width is not hidden_size / num_attention_heads, with a mixture that assumes it",
)
WINDOWS = (_mixed_windows, "windows on some layers only, which this mixture lacks")

# A shared expert that the mixture always has: of width 0, and its gate zero.
NO_SHARED_EXPERT = (
    (LAYER + "mlp.shared_expert.gate_proj.weight", ("0", "D"), 0.0),
    (LAYER + "mlp.shared_expert.up_proj.weight", ("0", "D"), 0.0),
    (LAYER + "mlp.shared_expert.down_proj.weight", ("D", "0"), 0.0),
    (LAYER + "mlp.shared_expert_gate.weight", ("1", "D"), 0.0),
)
NO_SHARED_EXPERTS = tuple(
    (name.replace("shared_expert.", "shared_experts."), axes, value)
    for name, axes, value in NO_SHARED_EXPERT[:3]
)
# It cannot be left out or narrowed: it is there, and gives zero.
SILENT_SHARED_MLP = tuple(
    (LAYER + f"mlp.shared_mlp.{name}.weight", axes, 0.0)
    for name, axes in (
        ("gate_proj", ("W", "D")),
        ("up_proj", ("W", "D")),
        ("down_proj", ("D", "W")),
    )
)


def _split(*pairs: tuple[str, Piece]) -> tuple[tuple[str, tuple[Piece, ...]], ...]:
    return tuple((LAYER + name, (piece,)) for name, piece in pairs)


QKV = LAYER + "self_attn.qkv_proj.weight"
SPLIT_QKV = _split(
    ("self_attn.q_proj.weight", Piece(QKV, "0", "Q")),
    ("self_attn.k_proj.weight", Piece(QKV, "Q", "QK")),
    ("self_attn.v_proj.weight", Piece(QKV, "QK", "QKV")),
)
GATE_UP = LAYER + "mlp.gate_up_proj.weight"
GATE_ROWS, UP_ROWS = Piece(GATE_UP, "0", "F"), Piece(GATE_UP, "F", "2F")
ONE_PLUS = "one_plus"  # Gemma's norms multiply by 1 + weight
GEMMA = (
    ("model.embed_tokens.weight", (Piece("model.embed_tokens.weight", op="times_root:{D}"),)),
    ("lm_head.weight", (Piece("model.embed_tokens.weight"),)),
    ("model.norm.weight", (Piece("model.norm.weight", op=ONE_PLUS),)),
    *_split(
        ("input_layernorm.weight", Piece(LAYER + "input_layernorm.weight", op=ONE_PLUS)),
        (
            "post_attention_layernorm.weight",
            Piece(LAYER + "post_attention_layernorm.weight", op=ONE_PLUS),
        ),
    ),
)


# Neighbouring pairs are rotated, not halves: rows are put in the order that rotates halves.
def _halves(*names: str) -> tuple[tuple[str, tuple[Piece, ...]], ...]:
    return _split(
        *(
            (f"self_attn.{name}", Piece(LAYER + f"self_attn.{name}", op="halves:{H}:{R}"))
            for name in names
        )
    )


HALVES = _halves("q_proj.weight", "k_proj.weight")
HALVES_BIAS = _halves("q_proj.bias", "k_proj.bias")

FAMILIES: tuple[Family, ...] = (
    Family(dense="llama", layout=MIXTRAL, refuse=(MLP_BIAS, ATTENTION_BIAS)),
    Family(
        dense="llama",
        layout=GRANITEMOE,
        settings=lambda c: {"attention_multiplier": c["H"] ** -0.5},
        refuse=(MLP_BIAS, HEAD_DIM),
    ),
    Family(
        dense="llama",
        layout=QWEN2_MOE,
        constants=NO_SHARED_EXPERT,
        refuse=(MLP_BIAS, ATTENTION_BIAS),
        settings=lambda c: _moe(
            c, shared_expert_intermediate_size=0, qkv_bias=False, use_sliding_window=False
        ),
    ),
    Family(dense="mistral", layout=MIXTRAL),
    Family(
        dense="ministral",
        layout=QWEN2_MOE,
        constants=NO_SHARED_EXPERT,
        settings=lambda c: _moe(
            c,
            shared_expert_intermediate_size=0,
            qkv_bias=False,
            use_sliding_window=_mixed_windows(c),
        ),
    ),
    Family(
        dense="cwm",
        layout=QWEN2_MOE,
        constants=NO_SHARED_EXPERT,
        refuse=(MLP_BIAS, ATTENTION_BIAS),
        settings=lambda c: _moe(
            c,
            shared_expert_intermediate_size=0,
            qkv_bias=False,
            use_sliding_window=_mixed_windows(c),
        ),
    ),
    Family(
        dense="seed_oss",
        layout=QWEN2_MOE,
        constants=NO_SHARED_EXPERT,
        refuse=(MLP_BIAS, (_is_set("attention_out_bias"), "a bias on the attention's output")),
        settings=lambda c: _moe(
            c,
            shared_expert_intermediate_size=0,
            qkv_bias=bool(c["attention_bias"]),
            use_sliding_window=False,
        ),
    ),
    Family(
        dense="qwen2",
        layout=QWEN2_MOE,
        constants=NO_SHARED_EXPERT,
        settings=lambda c: _moe(c, shared_expert_intermediate_size=0, qkv_bias=True),
    ),
    Family(dense="qwen3", layout=QWEN3_MOE, settings=_moe, refuse=(WINDOWS,)),
    Family(
        dense="qwen3",
        layout=MELLUM,
        refuse=(ATTENTION_BIAS,),
        settings=lambda c: _moe(
            c,
            mlp_layer_types=["sparse"] * c["num_hidden_layers"],
            rope_parameters=dict.fromkeys(
                ("full_attention", "sliding_attention"), c["rope_parameters"]
            ),
        ),
    ),
    Family(
        dense="qwen3_5_text",
        layout=QWEN3_5_MOE,
        constants=NO_SHARED_EXPERT,
        settings=lambda c: _moe(c, shared_expert_intermediate_size=0),
    ),
    Family(dense="olmo2", layout=FLEX_OLMO, settings=_moe, refuse=(HEAD_DIM,)),
    Family(
        dense="olmo3",
        layout=FLEX_OLMO,
        settings=lambda c: _moe(c, rope_parameters=_one_rope(c)),
        refuse=(
            HEAD_DIM,
            (_short_window, "a window shorter than the context"),
            (_several_ropes, "layers that rotate differently"),
        ),
    ),
    Family(
        dense="phi3",
        layout=MIXTRAL,
        shared=SPLIT_QKV,
        gate=GATE_ROWS,
        up=UP_ROWS,
        settings=lambda c: {"head_dim": c["H"]},
        refuse=((lambda c: _partial(c) < 1, "rotation of a part of each head, with a window"),),
    ),
    Family(
        dense="phi3",
        layout=GLM4_MOE,
        shared=SPLIT_QKV,
        gate=GATE_ROWS,
        up=UP_ROWS,
        constants=NO_SHARED_EXPERTS,
        settings=lambda c: _grouped(c, use_qk_norm=False),
        refuse=((_short_window, "a window shorter than the context"),),
    ),
    Family(
        dense="glm",
        layout=GLM4_MOE,
        shared=HALVES,
        gate=GATE_ROWS,
        up=UP_ROWS,
        constants=NO_SHARED_EXPERTS,
        refuse=(ATTENTION_BIAS,),
        settings=lambda c: _grouped(c, use_qk_norm=False),
    ),
    Family(
        dense="glm",
        layout=GLM4_MOE,
        shared=HALVES + HALVES_BIAS,
        gate=GATE_ROWS,
        up=UP_ROWS,
        constants=NO_SHARED_EXPERTS,
        settings=lambda c: _grouped(c, use_qk_norm=False),
    ),
    Family(
        dense="helium",
        layout=MIXTRAL,
        shared=HALVES,
        refuse=(MLP_BIAS, ATTENTION_BIAS),
        settings=lambda c: {"head_dim": c["H"]},
    ),
    Family(dense="granite", layout=GRANITEMOE, refuse=(MLP_BIAS,)),
    Family(
        dense="hyperclovax",
        layout=GRANITEMOE,
        settings=lambda c: {
            "logits_scaling": 1 / c["logits_scaling"]
        },  # one multiplies, the other divides
        refuse=(
            MLP_BIAS,
            HEAD_DIM,
            (_is_set("use_post_norm"), "norms after each block (use_post_norm)"),
        ),
    ),
    Family(
        dense="gemma",
        layout=MIXTRAL,
        shared=GEMMA,
        settings=lambda c: {"tie_word_embeddings": False, "head_dim": c["H"]},
        refuse=(
            ATTENTION_BIAS,
            (lambda c: not c.get("tie_word_embeddings", True), "untied embeddings"),
        ),
    ),
    Family(
        dense="cohere",
        layout=COHERE2_MOE,
        refuse=((_is_set("use_qk_norm"), "norms on queries and keys, which this mixture lacks"),),
        # Layers with a window rotate, those without do not: so each gets a window that covers the context.
        settings=lambda c: (
            _moe(
                c,
                layer_types=["sliding_attention"] * c["num_hidden_layers"],
                sliding_window=c["max_position_embeddings"],
                mlp_layer_types=["sparse"] * c["num_hidden_layers"],
                num_shared_experts=0,
            )
            | _rope(c)
        ),
    ),
    Family(
        dense="cohere2",
        layout=COHERE2_MOE,
        settings=lambda c: (
            _moe(c, mlp_layer_types=["sparse"] * c["num_hidden_layers"], num_shared_experts=0)
            | _rope(c)
        ),
    ),
    Family(
        dense="ernie4_5",
        layout=ERNIE_MOE,
        refuse=((_is_set("use_bias"), "biases (use_bias)"),),
        settings=lambda c: _moe(
            c,
            moe_num_shared_experts=0,
            moe_layer_start_index=0,
            moe_layer_end_index=-1,
            moe_layer_interval=1,
        ),
    ),
    Family(
        dense="hunyuan_v1_dense", layout=HUNYUAN_MOE, constants=SILENT_SHARED_MLP, settings=_moe
    ),
    Family(
        dense="lfm2",
        layout=LFM2_MOE,
        gate=Piece(LAYER + "feed_forward.w1.weight"),
        up=Piece(LAYER + "feed_forward.w3.weight"),
        down=Piece(LAYER + "feed_forward.w2.weight"),
        settings=lambda c: {
            "moe_intermediate_size": c["W"],
            "num_dense_layers": 0,
            "use_expert_bias": False,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
        },
    ),
    Family(
        dense="smollm3",
        layout=GRANITEMOE_SWA,
        # A sink is one more logit of the softmax: far below all others it takes nothing.
        constants=((LAYER + "self_attn.sinks", ("heads",), -10000.0),),
        refuse=(
            MLP_BIAS,
            (_scaled_rope, "scaled rotation, with a mixture that sets it by layer"),
            (_is_set("use_sliding_window"), "windows, with layers that do not rotate"),
        ),
        settings=lambda c: (
            {
                "attention_multiplier": c["H"] ** -0.5,
                "shared_intermediate_size": 0,
                "sliding_window": c["max_position_embeddings"],
            }
            | _one_theta(c)
        ),
    ),  # no layer uses it, but it must be there
    Family(
        dense="youtu",
        layout=DEEPSEEK_V3,
        constants=NO_SHARED_EXPERTS,
        settings=lambda c: {**_grouped(c), "head_dim": c["head_dim"]},
    ),
)
NOT_GATED = "a feed-forward block without a gate"
REASONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "phi",
            "starcoder2",
            "gpt2",
            "gpt_neox",
            "gptj",
            "nemotron",
            "arcee",
            "apertus",
            "falcon",
            "mpt",
            "opt",
            "bloom",
        ),
        NOT_GATED,
    ),
    **dict.fromkeys(
        ("gemma2", "gemma3_text", "glm4", "exaone4"),
        "norms after the feed-forward block that no stock mixture has",
    ),
    "gemma3": "a model of text and pictures",
    "stablelm": "norms with biases, which no stock mixture has",
    "olmo": "norms without weights, which only a mixture with joined attention has",
    **dict.fromkeys(LAYOUTS, "a mixture already; give the dense seed that it was made from"),
}


def _holds(test: Callable[[Config], bool], config: Config) -> bool:
    try:
        return test(config)
    except (
        KeyError,
        TypeError,
        AttributeError,
    ):  # a raw config leaves out defaults; the parsed one is asked before anything is written
        return False


def family(config: Config, *, raw: bool = False) -> Family:
    """The row for this dense config; raw: one whose mixture can weigh by the whole softmax. Raises Unsupported, with the reason."""
    rows = [row for row in FAMILIES if row.dense == config.get("model_type")]
    subject = f"model type {config.get('model_type')}"
    reasons = [reason for row in rows for test, reason in row.refuse if _holds(test, config)]
    fitting = [row for row in rows if not any(_holds(test, config) for test, _ in row.refuse)]
    if fitting and not raw:
        return fitting[0]
    if able := [row for row in fitting if row.layout.raw]:
        return able[0]
    if fitting:
        known = ", ".join(sorted({row.dense for row in FAMILIES if row.layout.raw}))
        found = "no stock mixture of this family that weighs its one expert by the softmax over all"
        raise Unsupported(
            f"{subject}, routing switch",
            found=found,
            expected=f"one of {known}",
            next="choose another routing",
        )
    found = "; ".join(dict.fromkeys(reasons)) or REASONS.get(
        str(config.get("model_type")), "no row in the table of families"
    )
    known = ", ".join(sorted({row.dense for row in FAMILIES}))
    raise Unsupported(
        subject,
        found=found,
        expected=f"a family with a proven mixture: {known}",
        next="start from a seed of such a family",
    )
