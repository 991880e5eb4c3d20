"""From headers alone: for each tensor of the mixture, its rule, its sources and its shard.

In:  the open seed and members, the recipe's choices.  Out: a Plan that shards.py carries out, byte by byte.
Also names the parts (shared, router, expert slots) of a folder that was built. No tensor is read, torch is not imported.
Shapes: E experts, D model width, F feed-forward width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from btx_core.checkpoints.checkpoint import Checkpoint, TensorInfo, same_tokenizer
from btx_core.checkpoints.families import LAYOUTS, Family, Layout, Piece
from btx_core.problems import ShapeMismatch, Unsupported, WrongUsage

SHARED, ROUTER, EXPERTS = (
    "model-shared.safetensors",
    "model-router.safetensors",
    "model-experts.safetensors",
)
SEED = "seed"  # the name under which the seed's own feed-forward blocks are an expert
FLOATS = ("F64", "F32", "F16", "BF16")
# Buffers that old checkpoints carry and stock loaders compute anew.
IGNORED = re.compile(r"rotary_emb\.inv_freq$|attn\.(masked_)?bias$")


@dataclass(frozen=True)
class Source:
    """One source's tensor: whose it is, where it lies and, if on record, its SHA-256."""

    member: str
    tensor: TensorInfo
    sha256: str = ""


@dataclass(frozen=True)
class Part:
    """Rows and columns of a tensor, combined over the sources when there are several, then `op`."""

    sources: tuple[Source, ...]
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    op: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.sources[0].tensor.shape)
        for axis, bounds in ((0, self.rows), (1, self.columns)):
            if bounds:
                shape[axis] = bounds[1] - bounds[0]
        return tuple(shape)


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
    """One file. slots: the experts it holds. link: a file that already is this shard; hint: or perhaps is."""

    file: str
    outputs: tuple[Output, ...]
    slots: tuple[int, ...] = ()
    link: Path | None = None
    hint: bool = False


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
    extras: tuple[str, ...] = ()  # constants that travel with the router: per-expert biases


def parts(checkpoint: Checkpoint) -> Parts:
    """Which tensors of a mixture are shared, routers, and each expert slot's. Raises Unsupported for a dense model."""
    layout = LAYOUTS.get(checkpoint.config["model_type"])
    if layout is None:
        raise Unsupported(
            checkpoint.folder,
            found=checkpoint.config["model_type"],
            expected="a mixture made here",
            next="mix it first",
        )
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
    return re.compile(
        re.escape(template).replace(r"\{l\}", r"(?P<l>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    )


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
        raise ShapeMismatch(
            name,
            found=f"model type {member.config['model_type']}",
            expected=seed.config["model_type"],
            next=REBRANCH,
        )
    for key in different_settings(seed.config, member.config):
        raise ShapeMismatch(
            f"{name}, config {key}",
            found=member.config[key],
            expected=f"{seed.config[key]}, as in the seed",
            next=REBRANCH,
        )
    if not same_tokenizer(seed.folder, member.folder):
        raise ShapeMismatch(
            f"{name}, tokenizer.json",
            found="other tokens or merges",
            expected="the seed's tokenizer",
            next=REBRANCH,
        )
    ours, theirs = kept(seed), kept(member)
    for tensor in sorted(ours.keys() ^ theirs.keys()):
        where = "only in the seed" if tensor in ours else "not in the seed"
        raise ShapeMismatch(
            f"{name}, {tensor}", found=where, expected="the seed's tensors", next=REBRANCH
        )
    for tensor, info in ours.items():
        if (info.shape, info.dtype) != (theirs[tensor].shape, theirs[tensor].dtype):
            raise ShapeMismatch(
                f"{name}, {tensor}",
                found=f"{theirs[tensor].dtype} {theirs[tensor].shape}",
                expected=f"{info.dtype} {info.shape}, as in the seed",
                next=REBRANCH,
            )


# Settings that do not change what the weights compute.
INERT = {
    "_name_or_path",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
    "attention_dropout",
    "output_attentions",
    "output_hidden_states",
}


def different_settings(seed: Mapping[str, Any], member: Mapping[str, Any]) -> list[str]:
    """Settings that both configs give, and give differently."""
    return sorted(key for key in (seed.keys() & member.keys()) - INERT if seed[key] != member[key])


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
    named = {
        "0": 0,
        "D": width,
        "F": inner,
        "2F": 2 * inner,
        "H": head,
        "R": int(head * partial),
        "heads": heads,
    }
    joined = dense.tensors.get("model.layers.0.self_attn.qkv_proj.weight")
    if joined:
        queries = heads * head
        named |= {"Q": queries, "QK": (queries + joined.shape[0]) // 2, "QKV": joined.shape[0]}
    return named


@dataclass(frozen=True)
class Contribution:
    """One member's feed-forward blocks: name, slot, open folder and, if it exists, the finished shard."""

    name: str
    slot: int
    dense: Checkpoint
    shard: Path | None = None
    hint: bool = False


@dataclass(frozen=True)
class Expert:
    """One expert of the mixture: inner columns [start, stop) of one contribution, or of several side by side."""

    name: str
    slot: int
    blocks: tuple[tuple[Contribution, int, int], ...]


def cut(
    contributions: Sequence[Contribution], inner: int, split: int, blend: bool
) -> list[list[Expert]]:
    """The experts, by shard. split: each contribution becomes this many narrower experts. blend: each expert takes a chunk of every one.

    Slots: a contribution's own times `split`, and on from there. inner: F. Method: arXiv:2403.07816, section 4.4.
    """
    pieces = len(contributions) if blend else split
    if inner % pieces:
        raise WrongUsage(
            "feed-forward width",
            found=f"{inner} into {pieces} chunks",
            expected="chunks of equal width",
            next="choose another number",
        )
    width = inner // pieces
    if blend:
        every = [
            tuple((one, k * width, (k + 1) * width) for one in contributions) for k in range(pieces)
        ]
        return [[Expert(f"blend-{k}", one.slot, every[k])] for k, one in enumerate(contributions)]
    if split == 1:
        return [[Expert(one.name, one.slot, ((one, 0, inner),))] for one in contributions]
    return [
        [
            Expert(f"{one.name}.{c}", one.slot * split + c, ((one, c * width, (c + 1) * width),))
            for c in range(split)
        ]
        for one in contributions
    ]


def compose(
    family: Family,
    seed: Checkpoint,
    bounds: Mapping[str, int],
    contributions: Sequence[Contribution],
    averaged: Mapping[str, Checkpoint],
    *,
    split: int = 1,
    blend: bool = False,
    shared: Path | None = None,
) -> Plan:
    """The plan for these contributions. bounds: see sizes. averaged: all that the shared parameters are combined from, by name."""
    slots = [one.slot for one in contributions]
    if slots != sorted(set(slots)):
        raise WrongUsage(
            "slots",
            found=slots,
            expected="ascending slots, each once",
            next="give every member its own slot",
        )
    if blend and family.layout.fused:
        raise Unsupported(
            family.name,
            found="experts in one tensor",
            expected="experts in tensors of their own",
            next="mix without blend",
        )
    count, inner = layers(family, seed), bounds["F"]
    groups = cut(contributions, inner, split, blend)
    experts = [expert for group in groups for expert in group]
    bounds = {**bounds, "W": inner // split}
    shards = []
    if family.layout.fused:
        shards.append(
            Shard(
                EXPERTS,
                _experts(family, experts, count, bounds),
                tuple(expert.slot for expert in experts),
            )
        )
    for one, group in () if family.layout.fused else zip(contributions, groups, strict=True):
        name = group[0].name if blend else one.name
        held = tuple(expert.slot for expert in group)
        outputs = tuple(
            output for expert in group for output in _experts(family, [expert], count, bounds)
        )
        shards.append(
            Shard(
                f"model-expert-{name}.safetensors",
                outputs,
                held,
                None if blend else one.shard,
                one.hint,
            )
        )
    # Last, since averaging keeps the cores busy while the disk takes in the experts.
    shards.append(
        Shard(SHARED, _shared(family, seed, averaged, count, bounds), link=shared, hint=True)
    )
    shards.append(Shard(ROUTER, _router(family, seed, len(experts), count)))
    return Plan(family, tuple(shards), tuple(expert.name for expert in experts), count)


def _bind(
    piece: Piece, layer: int, sources: Mapping[str, Checkpoint], bounds: Mapping[str, int]
) -> Part:
    name = piece.name.format(l=layer)
    rows = (bounds[piece.start], bounds[piece.stop]) if piece.stop else None
    found = tuple(
        Source(member, dense.tensors[name], dense.digests.get(name, ""))
        for member, dense in sources.items()
        if name in dense.tensors
    )
    if not found:
        member, dense = next(iter(sources.items()))
        raise ShapeMismatch(
            f"{member}, {name}",
            found="no such tensor",
            expected="a complete checkpoint",
            next=f"look at {dense.folder}",
        )
    return Part(found, rows, op=piece.op.format(**bounds))


def _joined(name: str, parts: Sequence[Part], axis: int = 0) -> Output:
    shape, dtype = list(parts[0].shape), parts[0].sources[0].tensor.dtype
    if dtype not in FLOATS:
        raise Unsupported(
            name,
            found=dtype,
            expected=f"one of {', '.join(FLOATS)}",
            next="convert the checkpoint to plain floats",
        )
    rule: Literal["take", "combine"] = (
        "combine" if any(len(part.sources) > 1 for part in parts) else "take"
    )
    if shape:
        shape[axis] = sum(part.shape[axis] for part in parts)
    return Output(name, dtype, tuple(shape), rule, tuple(parts), axis)


def _shared(
    family: Family,
    seed: Checkpoint,
    averaged: Mapping[str, Checkpoint],
    count: int,
    bounds: Mapping[str, int],
) -> tuple[Output, ...]:
    """All that stands outside the feed-forward blocks: the table's translations, then the rest under its own name."""
    used = {
        piece.name.format(l=layer)
        for layer in range(count)
        for piece in (family.gate, family.up, family.down)
    }
    outputs = []
    for template, pieces in family.shared:
        for layer in range(count if "{l}" in template else 1):
            bound = [_bind(piece, layer, averaged, bounds) for piece in pieces]
            used |= {part.sources[0].tensor.name for part in bound}
            outputs.append(_joined(template.format(l=layer), bound))
    dtype = seed.tensors[family.down.name.format(l=0)].dtype
    for template, axes, value in family.constants:
        shape = _shape(axes, bounds)
        names = (
            [template.format(l=layer) for layer in range(count)]
            if "{l}" in template
            else [template]
        )
        outputs += [Output(name, dtype, shape, "constant", value=value) for name in names]
    rest = [name for name in kept(seed) if name not in used]
    if strange := [name for name in rest if tensor_class(name) == "ffn"]:
        raise Unsupported(
            f"{seed.folder}, {strange[0]}",
            found="a feed-forward tensor that the mixture has no place for",
            expected="gate, up and down only",
            next="start from a seed without it",
        )
    outputs += [_joined(name, [_bind(Piece(name), 0, averaged, bounds)]) for name in rest]
    return tuple(sorted(outputs, key=lambda output: output.name))


def _shape(axes: Sequence[str], bounds: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(bounds[axis] if axis in bounds else int(axis) for axis in axes)


def _router(family: Family, seed: Checkpoint, experts: int, count: int) -> tuple[Output, ...]:
    down = seed.tensors[family.down.name.format(l=0)]
    layout: Layout = family.layout
    rows = [
        Output(
            layout.router.format(l=layer),
            down.dtype,
            (experts, down.shape[0]),
            "router",
            layer=layer,
        )
        for layer in range(count)
    ]
    if layout.router_bias:
        shape = _shape(layout.router_bias_shape, {"E": experts})
        rows += [
            Output(layout.router_bias.format(l=layer), "F32", shape, "constant", layer=layer)
            for layer in range(count)
        ]
    return tuple(rows)


def _experts(
    family: Family, experts: Sequence[Expert], count: int, bounds: Mapping[str, int]
) -> tuple[Output, ...]:
    """The experts' tensors: one per slot and template, or one per template with all experts in it."""
    outputs = []
    for layer in range(count):
        for template, roles in family.layout.expert:
            joined = [
                part
                for expert in experts
                for role in roles
                for part in _role(family, role, layer, expert, bounds)
            ]
            side_by_side = roles == ("down",) and len(experts[0].blocks) > 1
            output = _joined(
                template.format(l=layer, e=experts[0].slot), joined, axis=1 if side_by_side else 0
            )
            if family.layout.fused:
                rows = output.shape[0] // len(experts)
                output = replace(output, shape=(len(experts), rows, *output.shape[1:]))
            outputs.append(output)
    return tuple(outputs)


def _role(
    family: Family, role: str, layer: int, expert: Expert, bounds: Mapping[str, int]
) -> list[Part]:
    """One matrix of one expert, from each of its blocks: rows of gate and up, columns of down."""
    piece: Piece = getattr(family, role)
    return [
        _slice(_bind(piece, layer, {one.name: one.dense}, bounds), role, start, stop, bounds)
        for one, start, stop in expert.blocks
    ]


def _slice(whole: Part, role: str, start: int, stop: int, bounds: Mapping[str, int]) -> Part:
    if (start, stop) == (0, bounds["F"]):
        return whole
    if role == "down":
        # A narrower expert gives a part of the sum, and its router weight is a share: times the number of chunks, copies sum to the whole.
        chunks = bounds["F"] // bounds["W"]
        return replace(whole, columns=(start, stop), op=f"times:{chunks}" if chunks > 1 else "")
    first = whole.rows[0] if whole.rows else 0
    return replace(whole, rows=(first + start, first + stop))


GROUPS = ("attention", "embedding", "norm", "head", "other")  # of shared parameters


def tensor_class(name: str) -> str:
    """The parameter group of a dense tensor: one of GROUPS, or ffn."""
    if re.search(r"norm|layernorm|\.ln_", name):
        return "norm"
    if re.search(r"\.(mlp|feed_forward|shared_mlp|ffn)\.", name):
        return "ffn"
    if re.search(r"attn|attention|\.conv\.|mamba|linear_attn", name):
        return "attention"
    if "embed" in name or ".wte." in name:
        return "embedding"
    return "head" if "lm_head" in name else "other"
