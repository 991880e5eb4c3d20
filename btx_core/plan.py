"""From headers alone: for each tensor of the mixture, its rule, its sources and its shard.

In:  the open seed and members, the recipe's choices.  Out: a Plan that mix.py carries out, byte by byte.
Also names the parts (shared, router, expert slots) of a folder that was built. No tensor is read, torch is not imported.
Shapes: E experts, D model width, F feed-forward width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from btx_core.checkpoint import Checkpoint, TensorInfo
from btx_core.errors import ShapeMismatch, Unsupported, WrongUsage
from btx_core.families import LAYOUTS, Family, Layout, Piece

SHARED, ROUTER, EXPERTS = "model-shared.safetensors", "model-router.safetensors", "model-experts.safetensors"
SEED = "seed"  # the name under which the seed's own feed-forward blocks are an expert
FLOATS = ("F64", "F32", "F16", "BF16")
# Buffers that old checkpoints carry and stock loaders compute anew.
IGNORED = re.compile(r"rotary_emb\.inv_freq$|attn\.(masked_)?bias$")


@dataclass(frozen=True)
class Source:
    """One source's tensor: whose it is and where it lies."""

    member: str
    tensor: TensorInfo


@dataclass(frozen=True)
class Part:
    """Rows and columns of a tensor, combined over the sources when there are several, then `op`."""

    sources: tuple[Source, ...]
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    op: str = ""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        shape = list(self.sources[0].tensor.shape)
        for axis, bounds in ((0, self.rows), (1, self.columns)):
            if bounds:
                shape[axis] = bounds[1] - bounds[0]
        return tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(reversed(self.stored_shape)) if self.op == "transpose" else self.stored_shape


@dataclass(frozen=True)
class Output:
    """One tensor of the mixture: parts joined along `axis`, or a constant, or router rows."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    rule: Literal["take", "combine", "router", "constant"]
    parts: tuple[Part, ...] = ()
    axis: int = 0
    value: float = 0.0
    layer: int = 0


@dataclass(frozen=True)
class Shard:
    """One file. slots: the experts it holds. link: a file that already is this shard."""

    file: str
    outputs: tuple[Output, ...]
    slots: tuple[int, ...] = ()
    link: Path | None = None


@dataclass(frozen=True)
class Plan:
    """Every shard of the mixture. rows: the names of the experts in router row order."""

    family: Family
    shards: tuple[Shard, ...]
    rows: tuple[str, ...]
    layers: int


@dataclass(frozen=True)
class Parts:
    """The on-disk tensor names of a built folder. experts: by slot, gaps where one was removed; empty for fused families."""

    shared: tuple[str, ...]
    router: Mapping[int, str]
    experts: Mapping[int, tuple[str, ...]]
    fused: tuple[str, ...] = ()
    extras: tuple[str, ...] = field(default=())  # constants that travel with the router: per-expert biases


def parts(checkpoint: Checkpoint) -> Parts:
    """Which tensors of a mixture are shared, routers, and each expert slot's. Raises Unsupported for a dense model."""
    layout = LAYOUTS.get(checkpoint.config["model_type"])
    if layout is None:
        raise Unsupported(checkpoint.folder, found=checkpoint.config["model_type"], expected="a mixture made here", next="mix it first")
    patterns = [_pattern(template) for template, _ in layout.expert]
    router, experts, fused, extras, shared = {}, dict[int, list[str]](), [], [], []
    for name in sorted(checkpoint.tensors):
        expert = next((found for pattern in patterns if (found := pattern.fullmatch(name))), None)
        if found := _pattern(layout.router).fullmatch(name):
            router[int(found["l"])] = name
        elif layout.router_bias and _pattern(layout.router_bias).fullmatch(name):
            extras.append(name)
        elif expert and layout.fused:
            fused.append(name)
        elif expert:
            experts.setdefault(int(expert["e"]), []).append(name)
        else:
            shared.append(name)
    slots = {slot: tuple(names) for slot, names in sorted(experts.items())}
    return Parts(tuple(shared), dict(sorted(router.items())), slots, tuple(fused), tuple(extras))


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{l\}", r"(?P<l>\d+)").replace(r"\{e\}", r"(?P<e>\d+)"))


def layers(family: Family, dense: Checkpoint) -> int:
    """The number of layers, from the names; every one must have its feed-forward block."""
    pattern = _pattern(family.down.name)
    found = sorted(int(match["l"]) for name in dense.tensors if (match := pattern.fullmatch(name)))
    if not found or found != list(range(len(found))):
        raise ShapeMismatch(
            dense.folder,
            found=f"feed-forward blocks in layers {found[:4]}",
            expected=f"{family.down.name} from layer 0 on",
            next="save the causal language model itself, not its body",
        )
    return len(found)


def match(seed: Checkpoint, member: Checkpoint, name: str) -> None:
    """The member has the seed's tensors, in shape and dtype. Raises ShapeMismatch, naming the first that differs."""
    if member.config["model_type"] != seed.config["model_type"]:
        raise ShapeMismatch(name, found=f"model type {member.config['model_type']}", expected=seed.config["model_type"], next=REBRANCH)
    ours, theirs = kept(seed), kept(member)
    for tensor in sorted(ours.keys() ^ theirs.keys()):
        where = "only in the seed" if tensor in ours else "not in the seed"
        raise ShapeMismatch(f"{name}, {tensor}", found=where, expected="the seed's tensors", next=REBRANCH)
    for tensor, info in ours.items():
        if (info.shape, info.dtype) != (theirs[tensor].shape, theirs[tensor].dtype):
            raise ShapeMismatch(
                f"{name}, {tensor}",
                found=f"{theirs[tensor].dtype} {theirs[tensor].shape}",
                expected=f"{info.dtype} {info.shape}, as in the seed",
                next=REBRANCH,
            )


REBRANCH = "branch again from this seed, or register it under its own seed"


def kept(dense: Checkpoint) -> dict[str, TensorInfo]:
    """The tensors that count: all but buffers that loaders compute."""
    return {name: info for name, info in dense.tensors.items() if not IGNORED.search(name)}


def sizes(family: Family, dense: Checkpoint, config: Mapping[str, Any]) -> dict[str, int]:
    """Named bounds for pieces, from the shapes of layer 0 and the parsed config. H: head width, R: the part of it that rotates."""
    width, inner = dense.tensors[family.down.name.format(l=0)].shape
    heads = config.get("num_attention_heads") or 1
    head = config.get("head_dim") or config.get("hidden_size", width) // heads
    partial = (config.get("rope_parameters") or {}).get("partial_rotary_factor") or 1.0
    named = {"0": 0, "D": width, "F": inner, "2F": 2 * inner, "H": head, "R": int(head * partial), "heads": heads}
    joined = dense.tensors.get("model.layers.0.self_attn.qkv_proj.weight")
    if joined:
        queries = heads * head
        named |= {"Q": queries, "QK": (queries + joined.shape[0]) // 2, "QKV": joined.shape[0]}
    return named


@dataclass(frozen=True)
class Contribution:
    """An expert of the mixture: its name, slot, open folder and, if it exists, its finished shard."""

    name: str
    slot: int
    dense: Checkpoint
    shard: Path | None = None


def compose(
    family: Family,
    seed: Checkpoint,
    bounds: Mapping[str, int],
    experts: Sequence[Contribution],
    averaged: Mapping[str, Checkpoint],
    shared: Path | None = None,
) -> Plan:
    """The plan for these experts. bounds: see sizes. averaged: name to checkpoint of all that the shared parameters are combined from."""
    slots = [expert.slot for expert in experts]
    if slots != sorted(set(slots)):
        raise WrongUsage("slots", found=slots, expected="ascending slots, each once", next="give every member its own slot")
    count = layers(family, seed)
    shards = [
        Shard(SHARED, _shared(family, seed, averaged, count, bounds), link=shared),
        Shard(ROUTER, _router(family, seed, len(experts), count)),
    ]
    if family.layout.fused:
        shards.append(Shard(EXPERTS, _experts(family, experts, count, bounds), tuple(slots)))
    for expert in () if family.layout.fused else experts:
        file = f"model-expert-{expert.name}.safetensors"
        shards.append(Shard(file, _experts(family, [expert], count, bounds), (expert.slot,), expert.shard))
    return Plan(family, tuple(shards), tuple(expert.name for expert in experts), count)


def _bind(piece: Piece, layer: int, sources: Mapping[str, Checkpoint], bounds: Mapping[str, int]) -> Part:
    name = piece.name.format(l=layer)
    rows = (bounds[piece.start], bounds[piece.stop]) if piece.stop else None
    found = tuple(Source(member, dense.tensors[name]) for member, dense in sources.items() if name in dense.tensors)
    if not found:
        member, dense = next(iter(sources.items()))
        raise ShapeMismatch(f"{member}, {name}", found="no such tensor", expected="a complete checkpoint", next=f"look at {dense.folder}")
    return Part(found, rows, op=piece.op.format(**bounds))


def _joined(name: str, parts: Sequence[Part]) -> Output:
    shape, dtype = parts[0].shape, parts[0].sources[0].tensor.dtype
    if dtype not in FLOATS:
        raise Unsupported(name, found=dtype, expected=f"one of {', '.join(FLOATS)}", next="convert the checkpoint to plain floats")
    rule: Literal["take", "combine"] = "combine" if any(len(part.sources) > 1 for part in parts) else "take"
    return Output(name, dtype, (sum(part.shape[0] for part in parts), *shape[1:]), rule, tuple(parts))


def _shared(
    family: Family, seed: Checkpoint, averaged: Mapping[str, Checkpoint], count: int, bounds: Mapping[str, int]
) -> tuple[Output, ...]:
    """All that stands outside the feed-forward blocks: the table's translations, then the rest under its own name."""
    used = {piece.name.format(l=layer) for layer in range(count) for piece in (family.gate, family.up, family.down)}
    outputs = []
    for template, pieces in family.shared:
        for layer in range(count if "{l}" in template else 1):
            bound = [_bind(piece, layer, averaged, bounds) for piece in pieces]
            used |= {part.sources[0].tensor.name for part in bound}
            outputs.append(_joined(template.format(l=layer), bound))
    dtype = seed.tensors[family.down.name.format(l=0)].dtype
    for template, axes, value in family.constants:
        shape = _shape(axes, bounds)
        names = [template.format(l=layer) for layer in range(count)] if "{l}" in template else [template]
        outputs += [Output(name, dtype, shape, "constant", value=value) for name in names]
    outputs += [_joined(name, [_bind(Piece(name), 0, averaged, bounds)]) for name in kept(seed) if name not in used]
    return tuple(sorted(outputs, key=lambda output: output.name))


def _shape(axes: Sequence[str], bounds: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(bounds[axis] if axis in bounds else int(axis) for axis in axes)


def _router(family: Family, seed: Checkpoint, experts: int, count: int) -> tuple[Output, ...]:
    down = seed.tensors[family.down.name.format(l=0)]
    layout: Layout = family.layout
    rows = [Output(layout.router.format(l=layer), down.dtype, (experts, down.shape[0]), "router", layer=layer) for layer in range(count)]
    if layout.router_bias:
        shape = _shape(layout.router_bias_shape, {"E": experts})
        rows += [Output(layout.router_bias.format(l=layer), "F32", shape, "constant", layer=layer) for layer in range(count)]
    return tuple(rows)


def _experts(family: Family, experts: Sequence[Contribution], count: int, bounds: Mapping[str, int]) -> tuple[Output, ...]:
    """The experts' tensors: one per slot and template, or one per template with all experts in it."""
    outputs = []
    for layer in range(count):
        for template, roles in family.layout.expert:
            joined = [_role(family, role, layer, expert, bounds) for expert in experts for role in roles]
            output = _joined(template.format(l=layer, e=experts[0].slot), joined)
            if family.layout.fused and family.layout.stack:
                rows = output.shape[0] // len(experts)
                output = Output(output.name, output.dtype, (len(experts), rows, *output.shape[1:]), output.rule, output.parts)
            outputs.append(output)
    return tuple(outputs)


def _role(family: Family, role: str, layer: int, expert: Contribution, bounds: Mapping[str, int]) -> Part:
    piece: Piece = getattr(family, role)
    if role in family.layout.transpose:
        piece = Piece(piece.name, piece.start, piece.stop, "transpose")
    return _bind(piece, layer, {expert.name: expert.dense}, bounds)


def elements(output: Output) -> int:
    return prod(output.shape)


def tensor_class(name: str) -> Literal["ffn", "attention", "embedding", "norm", "head", "other"]:
    """The parameter group of a dense tensor."""
    if re.search(r"norm|layernorm|\.ln_", name):
        return "norm"
    if re.search(r"\.(mlp|feed_forward|shared_mlp|ffn)\.", name):
        return "ffn"
    if re.search(r"attn|attention|\.conv\.|mamba|linear_attn", name):
        return "attention"
    if "embed" in name or ".wte." in name:
        return "embedding"
    return "head" if "lm_head" in name else "other"
