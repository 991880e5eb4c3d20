"""How much memory a process of a training or tuning takes, before anything starts.

In:  the shape of a model, how it is trained, and over how many processes.
Out: bytes by what they are for. Arithmetic alone: no weights are read, and torch is not imported.
What is left out is named in `Memory`: the libraries' own memory, which does not grow with the
model, is a constant that the caller adds. Whether it fits is left to whoever knows the machine.
Shapes: S tokens of a sequence, D model width, F feed-forward width, E experts, K experts a token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from btx_core.checkpoints.strict_json import SAVE_ANEW
from btx_core.problems import Unsupported

FLOAT32, BFLOAT16 = 4, 2
# A moving average of the gradient, and one of its square.
ADAM_AVERAGES = 2
# Tensors of width D that the way back needs of one layer and token: the inputs of two norms, of
# attention and of the feed-forward block, the normed states, attention's result and its projection.
KEPT_STATES = 8
# Tensors of width F that it needs of one expert and token: gate, up, the activation, their product.
KEPT_FEED_FORWARD = 4
# Copies of the logits: float32, their log-softmax, its gradient.
LOGITS = 3
# Whole gradients that a process holds between the parts of a step, at most; where they would take
# more, they are divided after every part.
WHOLE_GRADIENTS = 1 << 30
# Logits that a loss holds at once, in numbers: 128 MB in float32.
LOGITS_AT_ONCE = 1 << 25
Trains = Literal["feed-forward", "all", "router", "shared"]


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder, dense (one expert) or mixed.

    Attributes:
        layers: how many.
        width: D.
        feed_forward: F, of one expert.
        heads_width: all query heads together.
        key_value_width: all key heads together.
        vocabulary: tokens.
        tied: whether the head is the embedding.
        experts: E.
        experts_per_token: K.
    """

    layers: int
    width: int
    feed_forward: int
    heads_width: int
    key_value_width: int
    vocabulary: int
    tied: bool
    experts: int = 1
    experts_per_token: int = 1

    # Any: a config as transformers writes it.
    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Return the sizes that a config.json of a dense model or a mixture names.

        Raises:
            Unsupported: for a size that is missing, or no whole number.
        """

        def size(*keys: str, otherwise: int | None = None) -> int:
            named = [config[key] for key in keys if config.get(key)]
            value = named[0] if named else otherwise
            if type(value) is not int or value < 1:
                raise Unsupported(
                    "config.json",
                    found=f"{keys[-1]} {value!r}",
                    expected="a whole number above 0",
                    next=SAVE_ANEW,
                )
            return value

        heads, width = size("num_attention_heads"), size("hidden_size")
        head = size("head_dim", otherwise=width // heads)
        experts = size("num_local_experts", "num_experts", otherwise=1)
        return cls(
            layers=size("num_hidden_layers"),
            width=width,
            feed_forward=size("moe_intermediate_size", "intermediate_size"),
            heads_width=heads * head,
            key_value_width=size("num_key_value_heads", otherwise=heads) * head,
            vocabulary=size("vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
            experts=experts,
            experts_per_token=size("num_experts_per_tok", otherwise=1) if experts > 1 else 1,
        )

    def mixed(self, experts: int, experts_per_token: int = 2) -> "ModelShape":
        """Return the mixture of so many experts of this dense shape."""
        sizes = {each.name: getattr(self, each.name) for each in fields(self)}
        return ModelShape(
            **sizes | {"experts": experts, "experts_per_token": min(experts, experts_per_token)}
        )

    @property
    def expert_parameters(self) -> int:
        """Of all experts in all layers."""
        return self.layers * self.experts * 3 * self.width * self.feed_forward

    @property
    def router_parameters(self) -> int:
        """Of all routers."""
        return self.layers * self.experts * self.width if self.experts > 1 else 0

    @property
    def shared_parameters(self) -> int:
        """Of all else, the norms of every layer included."""
        attention = 2 * self.width * (self.heads_width + self.key_value_width)
        per_layer = attention + 2 * self.width
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.layers * per_layer + embeddings + self.width

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.expert_parameters + self.router_parameters + self.shared_parameters

    def adapters(self, trains: Trains, rank: int) -> int:
        """Return how many parameters adapters of a rank have on all matrices that would train."""
        per_layer = 3 * (self.width + self.feed_forward)
        head = 0
        if trains == "all":
            per_layer += 4 * self.width + 2 * (self.heads_width + self.key_value_width)
            head = 0 if self.tied else self.width + self.vocabulary
        return rank * (self.layers * per_layer + head)

    def trained(self, trains: Trains) -> int:
        """Return how many parameters train."""
        return {
            "feed-forward": self.expert_parameters,
            "all": self.parameters,
            "router": self.router_parameters,
            "shared": self.router_parameters + self.shared_parameters,
        }[trains]


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """How a model is trained.

    Attributes:
        trains: which parameters do.
        batch: sequences a step, over all processes.
        sequence: S.
        accumulate: parts that a process computes its sequences in.
        bfloat16: whether it computes in bfloat16, and holds in it what does not train.
        recompute: whether activations are computed again on the way back.
        logits_chunk: targets whose logits are in memory at a time; 0: all of a part.
        processes: that share the model; 1: it is whole.
        expert_parallel: processes that divide the experts of a mixture, where they divide them
            evenly.
        lora_rank: of adapters that train in place of a branch's parameters; 0: these train.
    """

    trains: Trains
    batch: int
    sequence: int
    accumulate: int = 1
    bfloat16: bool = False
    recompute: bool = False
    logits_chunk: int = 0
    processes: int = 1
    expert_parallel: int = 1
    lora_rank: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes that one process holds at the peak of a step.

    Not counted: the libraries, buffers of communication, and what the allocator leaves unused.

    Attributes:
        weights: of the model, its own share.
        gradients: of what trains, its share.
        averages: AdamW's, its share.
        gathered: parameters of the layers that are whole while they compute, gradients that are
            whole from part to part, and copies in bfloat16 to compute with.
        activations: kept for the way back.
        logits: of the part that is computed.
        teachers: the seed model that general text is held to, and the build that growth goes on
            from, its share.
    """

    weights: int
    gradients: int
    averages: int
    gathered: int
    activations: int
    logits: int
    teachers: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, each.name) for each in fields(self))


def memory_of(model: ModelShape, run: RunShape, teachers: Sequence[ModelShape] = ()) -> Memory:
    """Estimate what one process of a run holds at the peak of a step.

    Args:
        model: what is trained.
        run: how, and over how many processes.
        teachers: frozen models beside it.

    Returns:
        Bytes by what they are for.
    """
    computed = BFLOAT16 if run.bfloat16 else FLOAT32
    loaded = model.trained(run.trains)
    frozen = model.parameters - loaded
    share = run.processes
    # Each process holds adapters whole, beside the parameters that they are put on.
    adapters = model.adapters(run.trains, run.lora_rank)
    trained = 0 if adapters else loaded
    rows = -(-run.batch // (run.processes * run.accumulate))
    tokens = rows * run.sequence
    # Experts that are divided are never whole in one process, all together.
    experts = model.expert_parameters // math.gcd(run.expert_parallel, model.experts)
    layer = (experts + model.router_parameters) // model.layers
    layer += 2 * model.width * (model.heads_width + model.key_value_width + 1)
    head = model.vocabulary * model.width
    # Two layers, one computing and one on its way, and the embedding and head, which stay.
    gathered = (2 * layer + head) * computed if share > 1 else 0
    # Its gradient is whole too until it is divided.
    divided_later = trained > 0 and run.trains in ("all", "feed-forward")
    gathered += layer * computed if share > 1 and divided_later else 0
    if share > 1 and run.accumulate > 1 and trained * FLOAT32 <= WHOLE_GRADIENTS:
        gathered += trained * FLOAT32
    if share == 1 and run.bfloat16:
        # Copies in bfloat16, to compute with, of what is held in float32.
        gathered += loaded * BFLOAT16
    # Norms and embeddings in float32 hand float32 on.
    handed_on = FLOAT32 if run.trains in ("all", "shared") else computed
    kept = _kept(model, computed, handed_on) * tokens
    states = model.layers * model.width * tokens * handed_on
    activations = states + kept if run.recompute else model.layers * kept
    targets = min(tokens, run.logits_chunk) if run.logits_chunk else tokens
    return Memory(
        weights=(loaded * FLOAT32 + frozen * computed) // share + adapters * FLOAT32,
        gradients=trained * FLOAT32 // share + adapters * FLOAT32,
        averages=ADAM_AVERAGES * (trained * FLOAT32 // share + adapters * FLOAT32),
        gathered=gathered,
        activations=activations,
        logits=LOGITS * targets * model.vocabulary * FLOAT32,
        teachers=sum(teacher.parameters for teacher in teachers) * computed // share,
    )


def _kept(model: ModelShape, computed: int, handed_on: int) -> int:
    """Return how many bytes of one layer and token the way back needs.

    Args:
        model: whose layer it is.
        computed: bytes of a number that is computed.
        handed_on: bytes of a number that one layer hands to the next.
    """
    attention = model.heads_width + 2 * model.key_value_width
    experts = model.experts_per_token * (KEPT_FEED_FORWARD * model.feed_forward + model.width)
    return KEPT_STATES * model.width * handed_on + (attention + experts) * computed
