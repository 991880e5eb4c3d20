"""How the mixture models of stock transformers name their experts and routers on disk.

In:  nothing.
Out: `LAYOUTS`: one entry a mixture model type. Which dense model becomes which mixture is left to
     `families.py`.
Templates: {l} stands for the layer, {e} for the expert's slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# The three matrices of a gated feed-forward block.
Role = Literal["gate", "up", "down"]
LAYER = "model.layers.{l}."


def one_bias_an_expert(experts: int) -> tuple[int, ...]:
    """The shape [E] of a router's corrections."""
    return (experts,)


def one_row_of_biases(experts: int) -> tuple[int, ...]:
    """The shape [1, E] of a router's corrections."""
    return 1, experts


@dataclass(frozen=True)
class ExpertTensor:
    """One tensor that holds matrices of an expert, or of all experts.

    Attributes:
        name: a template; without {e} the tensor holds the matrices of all experts.
        roles: the matrices that are stacked in it, in order.
    """

    name: str
    roles: tuple[Role, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one mixture model names its experts and routers.

    Attributes:
        model_type: the mixture's model type in transformers.
        architecture: the class that loads it.
        experts: the tensors of its experts.
        router: the router's matrix [E, D]; {l} stands for the layer.
        count_key: the config key for the number of experts.
        top_k_key: the config key for the number of experts that a token takes.
        router_bias: a correction for each expert that sigmoid routers want, zero here; "" if none.
        router_bias_shape: its shape, from the number of experts.
        full_softmax: whether, with norm_topk_prob false, the chosen experts keep the weights that
            the softmax over all experts gave them: the function of a Switch Transformer.
        sigmoid: whether a token scores each expert by itself, by a sigmoid instead of a softmax.
        least_experts: how many experts its routers need; some add up the best two of a group.
    """

    model_type: str
    architecture: str
    experts: tuple[ExpertTensor, ...]
    router: str
    count_key: str
    top_k_key: str = "num_experts_per_tok"
    router_bias: str = ""
    router_bias_shape: Callable[[int], tuple[int, ...]] = one_bias_an_expert
    full_softmax: bool = False
    sigmoid: bool = False
    least_experts: int = 1

    @property
    def fused(self) -> bool:
        """Whether all experts lie in one tensor, so that no expert has a file of its own."""
        return "{e}" not in self.experts[0].name


def separate_experts(prefix: str, gate: str, up: str, down: str) -> tuple[ExpertTensor, ...]:
    """Name three tensors an expert: its gate, up and down matrices."""
    stem = f"{LAYER}{prefix}.experts.{{e}}"
    return (
        ExpertTensor(f"{stem}.{gate}.weight", ("gate",)),
        ExpertTensor(f"{stem}.{up}.weight", ("up",)),
        ExpertTensor(f"{stem}.{down}.weight", ("down",)),
    )


def stacked_experts(gate_and_up: str, down: str) -> tuple[ExpertTensor, ...]:
    """Name two tensors that hold the matrices of all experts."""
    return (
        ExpertTensor(LAYER + gate_and_up, ("gate", "up")),
        ExpertTensor(LAYER + down, ("down",)),
    )


PROJECTIONS = separate_experts("mlp", "gate_proj", "up_proj", "down_proj")
MLP_ROUTER = LAYER + "mlp.gate.weight"
MLP_ROUTER_BIAS = LAYER + "mlp.gate.e_score_correction_bias"

MIXTRAL = Layout(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    # Gate, up, down: a checkpoint with the first two swapped loads without complaint.
    experts=separate_experts("block_sparse_moe", "w1", "w3", "w2"),
    router=LAYER + "block_sparse_moe.gate.weight",
    count_key="num_local_experts",
)
QWEN2_MOE = Layout(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="num_experts",
    full_softmax=True,
)
QWEN3_MOE = Layout(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="num_experts",
    full_softmax=True,
)
QWEN3_5_MOE = Layout(
    model_type="qwen3_5_moe_text",
    architecture="Qwen3_5MoeForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="num_experts",
)
MELLUM = Layout(
    model_type="mellum",
    architecture="MellumForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="num_experts",
    full_softmax=True,
)
FLEX_OLMO = Layout(
    model_type="flex_olmo",
    architecture="FlexOlmoForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="num_experts",
    full_softmax=True,
)
COHERE2_MOE = Layout(
    model_type="cohere2_moe",
    architecture="Cohere2MoeForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="num_experts",
)
GLM4_MOE = Layout(
    model_type="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="n_routed_experts",
    router_bias=MLP_ROUTER_BIAS,
    sigmoid=True,
    least_experts=2,
)
DEEPSEEK_V3 = Layout(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="n_routed_experts",
    router_bias=MLP_ROUTER_BIAS,
    sigmoid=True,
    least_experts=2,
)
ERNIE_MOE = Layout(
    model_type="ernie4_5_moe",
    architecture="Ernie4_5_MoeForCausalLM",
    experts=PROJECTIONS,
    router=MLP_ROUTER,
    count_key="moe_num_experts",
    top_k_key="moe_k",
    router_bias=LAYER + "mlp.moe_statics.e_score_correction_bias",
    router_bias_shape=one_row_of_biases,
)
HUNYUAN_MOE = Layout(
    model_type="hunyuan_v1_moe",
    architecture="HunYuanMoEV1ForCausalLM",
    experts=PROJECTIONS,
    router=LAYER + "mlp.gate.wg.weight",
    count_key="num_experts",
    top_k_key="moe_topk",
)
LFM2_MOE = Layout(
    model_type="lfm2_moe",
    architecture="Lfm2MoeForCausalLM",
    experts=separate_experts("feed_forward", "w1", "w3", "w2"),
    router=LAYER + "feed_forward.gate.weight",
    count_key="num_experts",
    sigmoid=True,
)
GRANITEMOEHYBRID = Layout(
    model_type="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    experts=stacked_experts(
        "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"
    ),
    router=LAYER + "block_sparse_moe.router.layer.weight",
    count_key="num_local_experts",
)
GRANITEMOE = Layout(
    model_type="granitemoe",
    architecture="GraniteMoeForCausalLM",
    experts=stacked_experts(
        "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"
    ),
    router=LAYER + "block_sparse_moe.router.layer.weight",
    count_key="num_local_experts",
)
GRANITEMOE_SWA = Layout(
    model_type="granitemoe_swa",
    architecture="GraniteMoeSWAForCausalLM",
    experts=stacked_experts(
        "block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"
    ),
    router=LAYER + "block_sparse_moe.router.weight",
    count_key="num_local_experts",
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
        GRANITEMOEHYBRID,
    )
}
