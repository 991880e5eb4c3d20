"""Which dense models have a faithful mixture-of-experts form, and how the names and settings of the two correspond.

In:  a dense config.  Out: a row of the table: where the feed-forward weights lie, what the mixture calls them, and its settings.
Tables only: plan.py reads them. A new family is one row and its oracle test; what has no row is refused, with the reason if known.
Roles: gate, up, down are the three matrices of a gated feed-forward block. Templates: {l} layer, {e} expert slot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from btx_core.errors import Unsupported

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of one dense tensor, then `op`. Bounds are names of sizes (see plan.sizes); none: the whole tensor."""

    name: str
    start: str = ""
    stop: str = ""
    op: str = ""


@dataclass(frozen=True)
class Layout:
    """How one mixture model names its experts and routers on disk.

    expert: templates with the roles stacked in each. Without {e} a template holds all experts in one tensor (`fused`), and no expert
    has a shard of its own. stack: fused experts form a new first axis, rather than more rows. transpose: roles stored transposed.
    """

    model_type: str
    architecture: str
    expert: tuple[tuple[str, tuple[str, ...]], ...]
    router: str
    count_key: str
    stack: bool = True
    transpose: tuple[str, ...] = ()
    router_bias: str = ""  # a per-expert correction that sigmoid routers want; zero

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
    return ((f"{stem}.{gate}.weight", ("gate",)), (f"{stem}.{up}.weight", ("up",)), (f"{stem}.{down}.weight", ("down",)))


PROJ = ("gate_proj", "up_proj", "down_proj")
MLP_GATE = "model.layers.{l}.mlp.gate.weight"
MIXTRAL = Layout(
    "mixtral",
    "MixtralForCausalLM",
    _named("block_sparse_moe", "w1", "w3", "w2"),  # gate, up, down: a swap of the first two loads without complaint
    "model.layers.{l}.block_sparse_moe.gate.weight",
    "num_local_experts",
)
QWEN3_MOE = Layout("qwen3_moe", "Qwen3MoeForCausalLM", _named("mlp", *PROJ), MLP_GATE, "num_experts")

LAYOUTS = {layout.model_type: layout for layout in (MIXTRAL, QWEN3_MOE)}


def _norm_topk(config: Config) -> dict[str, Any]:
    # norm_topk_prob is False by default in the qwen and olmo mixtures: silently another function.
    return {"norm_topk_prob": True, "moe_intermediate_size": config["intermediate_size"], "decoder_sparse_step": 1, "mlp_only_layers": []}


MLP_BIAS = (lambda config: bool(config.get("mlp_bias")), "feed-forward biases (mlp_bias), which no stock mixture has")
FAMILIES: tuple[Family, ...] = (
    Family(dense="llama", layout=MIXTRAL, refuse=(MLP_BIAS, (lambda c: bool(c.get("attention_bias")), "attention biases"))),
    Family(dense="mistral", layout=MIXTRAL),
    Family(dense="qwen3", layout=QWEN3_MOE, settings=_norm_topk),
)
REASONS: dict[str, str] = {}


def family(config: Config) -> Family:
    """The row for this dense config. Raises Unsupported, with the reason."""
    rows = [row for row in FAMILIES if row.dense == config.get("model_type")]
    subject = f"model type {config.get('model_type')}"
    reasons = [reason for row in rows for test, reason in row.refuse if test(config)]
    fitting = [row for row in rows if not any(test(config) for test, _ in row.refuse)]
    if fitting:
        return fitting[0]
    found = "; ".join(reasons) or REASONS.get(str(config.get("model_type")), "no row in the table of families")
    known = ", ".join(sorted({row.dense for row in FAMILIES}))
    raise Unsupported(subject, found=found, expected=f"a family with a proven mixture: {known}", next="start from a seed of such a family")
