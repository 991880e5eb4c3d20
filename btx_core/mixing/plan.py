"""From headers alone: for each tensor of the mixture, its rule, its sources and its file.

In:  the open seed and its members, the recipe.
Out: a `Plan` that `shards.py` carries out, byte by byte. No tensor is read, torch is not imported.
Shapes: E experts, D model width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from btx_core.checkpoints.canonical import canonical, in_form_of
from btx_core.checkpoints.checkpoint import FLOATS, Checkpoint
from btx_core.checkpoints.families import Family, require_experts
from btx_core.checkpoints.headers import TensorInfo
from btx_core.checkpoints.mixture_layouts import Role
from btx_core.checkpoints.operations import Identity, Operation, Times
from btx_core.checkpoints.pieces import Piece, Rows
from btx_core.mixing.matching import require_match, require_same_family
from btx_core.mixing.parameters import FEED_FORWARD, parameter_group
from btx_core.mixing.recipe import Member, MixRecipe, check_members
from btx_core.mixing.seed_model import SeedModel
from btx_core.mixing.weight_files import FUSED_EXPERTS, ROUTER, SEED_EXPERT, SHARED, expert_file
from btx_core.problems import ShapeMismatch, Unsupported, WrongUsage


@dataclass(frozen=True)
class Source:
    """One source's tensor.

    Attributes:
        member: whose it is.
        tensor: where it lies.
        sha256: of its bytes, where it is on record; else "".
    """

    member: str
    tensor: TensorInfo
    sha256: str = ""


@dataclass(frozen=True)
class Part:
    """Rows and columns of a tensor, combined over its sources, then changed by an operation.

    Attributes:
        sources: the tensors that are combined, all of one shape; a single one is taken as it is.
        rows: first and last + 1 along axis 0; None: all.
        columns: the same along axis 1.
        operation: what happens to the values.
    """

    sources: tuple[Source, ...]
    rows: Rows | None = None
    columns: Rows | None = None
    operation: Operation = field(default_factory=Identity)

    @property
    def shape(self) -> tuple[int, ...]:
        """The part's shape, in elements."""
        shape = list(self.sources[0].tensor.shape)
        for axis, bounds in ((0, self.rows), (1, self.columns)):
            if bounds:
                shape[axis] = bounds[1] - bounds[0]
        return tuple(shape)

    @property
    def is_untouched(self) -> bool:
        """Whether the values reach the mixture as they are."""
        return isinstance(self.operation, Identity)


@dataclass(frozen=True)
class Output:
    """One tensor of the mixture.

    Attributes:
        name: its name in the mixture.
        dtype: as safetensors names it.
        shape: in elements.
        rule: take: one source's bytes; combine: of several; router: given or random weights;
            constant: one value everywhere.
        parts: what it is joined from; empty for router and constant.
        axis: along which the parts are joined.
        value: of a constant.
        layer: of a router.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rule: Literal["take", "combine", "router", "constant"]
    parts: tuple[Part, ...] = ()
    axis: int = 0
    value: float = 0.0
    layer: int = 0

    @property
    def is_copy(self) -> bool:
        """Whether its bytes are one source's, so that the two have one digest."""
        return self.rule == "take" and len(self.parts) == 1 and self.parts[0].is_untouched


@dataclass(frozen=True)
class Shard:
    """One file of the mixture.

    Attributes:
        file: its name.
        outputs: the tensors in it.
        slots: the slots of the experts that it holds.
        link: a finished file to link in its place.
        must_fit: whether a `link` that is another file is an error; else it is written anew.
    """

    file: str
    outputs: tuple[Output, ...]
    slots: tuple[int, ...] = ()
    link: Path | None = None
    must_fit: bool = True


@dataclass(frozen=True)
class Plan:
    """Every file of the mixture.

    Attributes:
        family: the table's entry that it follows.
        shards: the files, in the order in which they are written.
        experts: the names of the experts in order of slots, which is that of the router's rows.
        layers: the number of layers.
    """

    family: Family
    shards: tuple[Shard, ...]
    experts: tuple[str, ...]
    layers: int

    def routers(self) -> list[Output]:
        """Return the routers' matrices [E, D], by layer."""
        outputs = [output for shard in self.shards for output in shard.outputs]
        return [output for output in outputs if output.rule == "router"]


@dataclass(frozen=True)
class Contribution:
    """One member's feed-forward blocks.

    Attributes:
        name: the member's name.
        slot: its slot.
        dense: its open folder.
        shard: the finished file of this expert, if there is one.
        must_fit: whether a `shard` that is another file is an error.
    """

    name: str
    slot: int
    dense: Checkpoint
    shard: Path | None = None
    must_fit: bool = True


@dataclass(frozen=True)
class Block:
    """Inner units [start, stop) of one contribution's feed-forward blocks."""

    contribution: Contribution
    start: int
    stop: int


@dataclass(frozen=True)
class Expert:
    """One expert of the mixture: a block of one contribution, or of several side by side."""

    name: str
    slot: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class ExpertFile:
    """The experts that share one file, and the finished file to link, if there is one."""

    name: str
    experts: tuple[Expert, ...]
    link: Path | None = None
    must_fit: bool = True


def plan_mix(
    seed: SeedModel,
    members: Sequence[Member],
    recipe: MixRecipe,
    previous: Path | None = None,
    digests: Mapping[str, Mapping[str, str]] | None = None,
) -> Plan:
    """Open and match every member, then plan.

    Args:
        seed: the open seed.
        members: the experts; their order counts for nothing, their slots do.
        recipe: how they are composed.
        previous: an earlier build of this very seed; what does not depend on the members is linked
            from it.
        digests: member -> tensor -> SHA-256 that the caller has proven.

    Returns:
        The plan.

    Raises:
        WrongUsage: for members or a recipe that make no sense together.
        Unsafe: for a member that must not be read.
        ShapeMismatch: for a member that is no branch of this seed.
        Unsupported: for weights or a recipe that the mixture has no place for.
    """
    check_members(members, recipe)
    contributions = _contributions(seed, members, digests or {})
    averaged = _averaged(seed, contributions, recipe)
    if recipe.seed_expert:
        own_shard = _earlier(previous, expert_file(SEED_EXPERT))
        own = Contribution(SEED_EXPERT, 0, seed.checkpoint, own_shard, must_fit=False)
        contributions = [own, *contributions]
    shared = None
    if recipe.mode == "anchored" and recipe.split == 1:
        shared = _earlier(previous, SHARED)
    return compose(seed.split(recipe.split), contributions, averaged, recipe, shared)


def _contributions(
    seed: SeedModel, members: Sequence[Member], digests: Mapping[str, Mapping[str, str]]
) -> list[Contribution]:
    """The members' open folders in order of slots, each matched with the seed."""
    contributions = []
    for member in sorted(members, key=lambda member: member.slot):
        opened = Checkpoint.open(member.folder, digests.get(member.name))
        require_same_family(seed.checkpoint, opened, member.name)
        dense = in_form_of(seed.checkpoint, canonical(opened))
        require_match(seed.checkpoint, dense, member.name)
        contributions.append(Contribution(member.name, member.slot, dense, member.shard))
    return contributions


def _averaged(
    seed: SeedModel, contributions: Sequence[Contribution], recipe: MixRecipe
) -> dict[str, Checkpoint]:
    """What the shared parameters are combined from, by name."""
    own = {SEED_EXPERT: seed.checkpoint}
    if recipe.mode == "anchored":
        return own
    # By name: even a float64 sum may depend on its order, and slots differ between builds.
    by_name = sorted(contributions, key=lambda contribution: contribution.name)
    members = {contribution.name: contribution.dense for contribution in by_name}
    if recipe.method == "mean" and not recipe.seed_expert:
        return members
    return own | members


def _earlier(previous: Path | None, file: str) -> Path | None:
    """A file of the previous build, if there is one."""
    if previous is None or not (previous / file).is_file():
        return None
    return previous / file


def compose(
    seed: SeedModel,
    contributions: Sequence[Contribution],
    averaged: Mapping[str, Checkpoint],
    recipe: MixRecipe,
    shared: Path | None = None,
) -> Plan:
    """Plan the mixture of these contributions.

    Args:
        seed: the open seed, with the sizes of the split.
        contributions: the experts' sources, in order of slots.
        averaged: what the shared parameters are combined from, by name.
        recipe: whether the experts are split or blended.
        shared: an earlier build's shared parameters, linked if they are these.

    Returns:
        The plan.

    Raises:
        WrongUsage: for slots or widths that make no sense.
        Unsupported: for a blend of experts that the mixture holds in one tensor, for weights that
            it has no place for, or for fewer experts than its routers need.
    """
    layout = seed.family.layout
    slots = [contribution.slot for contribution in contributions]
    if slots != sorted(set(slots)):
        raise WrongUsage(
            "slots",
            found=slots,
            expected="ascending slots, each once",
            next="give every member its own slot",
        )
    if recipe.blend and layout.fused:
        raise Unsupported(
            seed.family.name,
            found="experts in one tensor",
            expected="experts in tensors of their own",
            next="mix without blend",
        )
    files = cut_experts(contributions, seed.sizes.inner, recipe)
    experts = [expert for file in files for expert in file.experts]
    require_experts(seed.family, len(experts))
    # Last, since averaging keeps the cores busy while the disk takes in the experts.
    shards = (
        *_expert_shards(seed, files, experts),
        Shard(SHARED, _shared(seed, averaged), link=shared, must_fit=False),
        Shard(ROUTER, _routers(seed, len(experts))),
    )
    return Plan(seed.family, shards, tuple(expert.name for expert in experts), seed.layers)


def cut_experts(
    contributions: Sequence[Contribution], inner: int, recipe: MixRecipe
) -> list[ExpertFile]:
    """Cut the contributions into experts, file by file.

    Split, each contribution becomes several narrower experts: slots from its own times `split` on.
    Blended, each expert takes a chunk of every contribution. Method: arXiv:2403.07816, section 4.4.

    Args:
        contributions: the experts' sources, in order of slots.
        inner: F, in units.
        recipe: its split and blend.

    Raises:
        WrongUsage: when the width is no multiple of the number of chunks.
    """
    chunks = len(contributions) if recipe.blend else recipe.split
    if inner % chunks:
        raise WrongUsage(
            "feed-forward width",
            found=f"{inner} into {chunks} chunks",
            expected="chunks of equal width",
            next="choose another number",
        )
    width = inner // chunks
    if recipe.blend:
        return [_blended(contributions, number, width) for number, _ in enumerate(contributions)]
    return [_split(contribution, chunks, width) for contribution in contributions]


def _blended(contributions: Sequence[Contribution], number: int, width: int) -> ExpertFile:
    """The expert that takes this chunk of every contribution."""
    start = number * width
    blocks = tuple(Block(contribution, start, start + width) for contribution in contributions)
    name = f"blend-{number}"
    return ExpertFile(name, (Expert(name, contributions[number].slot, blocks),))


def _split(contribution: Contribution, chunks: int, width: int) -> ExpertFile:
    """One contribution's experts: itself, or narrower ones."""
    experts = []
    for chunk in range(chunks):
        name = contribution.name if chunks == 1 else f"{contribution.name}.{chunk}"
        block = Block(contribution, chunk * width, (chunk + 1) * width)
        experts.append(Expert(name, contribution.slot * chunks + chunk, (block,)))
    return ExpertFile(contribution.name, tuple(experts), contribution.shard, contribution.must_fit)


def _expert_shards(
    seed: SeedModel, files: Sequence[ExpertFile], experts: Sequence[Expert]
) -> Iterator[Shard]:
    """A file for each contribution, or one file where a tensor holds all experts."""
    if seed.family.layout.fused:
        slots = tuple(expert.slot for expert in experts)
        yield Shard(FUSED_EXPERTS, _expert_outputs(seed, experts), slots)
        return
    for file in files:
        outputs: list[Output] = []
        for expert in file.experts:
            outputs += _expert_outputs(seed, [expert])
        slots = tuple(expert.slot for expert in file.experts)
        name = expert_file(file.name)
        yield Shard(name, tuple(outputs), slots, file.link, file.must_fit)


def _expert_outputs(seed: SeedModel, experts: Sequence[Expert]) -> tuple[Output, ...]:
    """The experts' tensors: one a slot and template, or one a template with all experts in it."""
    layout = seed.family.layout
    outputs = []
    for layer in range(seed.layers):
        for tensor in layout.experts:
            parts: list[Part] = []
            for expert in experts:
                for role in tensor.roles:
                    parts += _matrix(seed, role, layer, expert)
            side_by_side = tensor.roles == ("down",) and len(experts[0].blocks) > 1
            name = tensor.name.format(l=layer, e=experts[0].slot)
            output = _joined(name, parts, axis=1 if side_by_side else 0)
            if layout.fused:
                rows = output.shape[0] // len(experts)
                output = replace(output, shape=(len(experts), rows, *output.shape[1:]))
            outputs.append(output)
    return tuple(outputs)


def _matrix(seed: SeedModel, role: Role, layer: int, expert: Expert) -> list[Part]:
    """One matrix of one expert, from each of its blocks."""
    piece = seed.family.matrix(role)
    parts = []
    for block in expert.blocks:
        source = {block.contribution.name: block.contribution.dense}
        whole = _bind(seed, piece, layer, source)
        parts.append(_chunk(seed, whole, role, block))
    return parts


def _chunk(seed: SeedModel, whole: Part, role: Role, block: Block) -> Part:
    """The block's share of a matrix: rows of gate and up, columns of down."""
    if (block.start, block.stop) == (0, seed.sizes.inner):
        return whole
    if role == "down":
        # A narrower expert gives a part of the sum, and its router weight is a share: times the
        # number of chunks, copies sum to the whole.
        chunks = seed.sizes.inner // seed.sizes.expert_inner
        operation = Times(chunks) if chunks > 1 else Identity()
        return replace(whole, columns=(block.start, block.stop), operation=operation)
    first = whole.rows[0] if whole.rows else 0
    return replace(whole, rows=(first + block.start, first + block.stop))


def _shared(seed: SeedModel, averaged: Mapping[str, Checkpoint]) -> tuple[Output, ...]:
    """All outside the feed-forward blocks: translated tensors, constants, and the rest."""
    outputs: list[Output] = []
    used = _feed_forward_names(seed)
    for translation in seed.family.translated:
        for layer in _layers_of(translation.name, seed):
            part = _bind(seed, translation.piece, layer, averaged)
            used.add(part.sources[0].tensor.name)
            outputs.append(_joined(translation.name.format(l=layer), [part]))
    for constant in seed.family.constants:
        shape = constant.shape(seed.sizes)
        for layer in _layers_of(constant.name, seed):
            name = constant.name.format(l=layer)
            outputs.append(Output(name, seed.dtype, shape, "constant", value=constant.value))
    for name in seed.checkpoint.tensors:
        if name not in used:
            _require_no_feed_forward(seed, name)
            outputs.append(_joined(name, [_bind(seed, Piece(name), 0, averaged)]))
    return tuple(sorted(outputs, key=lambda output: output.name))


def _feed_forward_names(seed: SeedModel) -> set[str]:
    """The dense tensors that become experts."""
    matrices = (seed.family.gate, seed.family.up, seed.family.down)
    return {matrix.name.format(l=layer) for matrix in matrices for layer in range(seed.layers)}


def _layers_of(template: str, seed: SeedModel) -> range:
    """Every layer, or a single round for a tensor that is there once."""
    return range(seed.layers if "{l}" in template else 1)


def _require_no_feed_forward(seed: SeedModel, name: str) -> None:
    if parameter_group(name) == FEED_FORWARD:
        raise Unsupported(
            f"{seed.checkpoint.folder}, {name}",
            found="a feed-forward tensor that the mixture has no place for",
            expected="gate, up and down only",
            next="start from a seed without it",
        )


def _routers(seed: SeedModel, experts: int) -> tuple[Output, ...]:
    """Each layer's router, and the corrections that travel with it."""
    layout = seed.family.layout
    outputs = []
    for layer in range(seed.layers):
        name = layout.router.format(l=layer)
        shape = (experts, seed.sizes.width)
        outputs.append(Output(name, seed.dtype, shape, "router", layer=layer))
    if layout.router_bias:
        bias_shape = layout.router_bias_shape(experts)
        for layer in range(seed.layers):
            name = layout.router_bias.format(l=layer)
            outputs.append(Output(name, "F32", bias_shape, "constant", layer=layer))
    return tuple(outputs)


def _bind(seed: SeedModel, piece: Piece, layer: int, checkpoints: Mapping[str, Checkpoint]) -> Part:
    """A piece of the table, as tensors of these checkpoints."""
    name = piece.name.format(l=layer)
    sources = tuple(
        Source(member, dense.tensors[name], dense.digests.get(name, ""))
        for member, dense in checkpoints.items()
        if name in dense.tensors
    )
    if not sources:
        member, dense = next(iter(checkpoints.items()))
        raise ShapeMismatch(
            f"{member}, {name}",
            found="no such tensor",
            expected="a complete checkpoint",
            next=f"look at {dense.folder}",
        )
    rows = piece.rows(seed.sizes) if piece.rows else None
    return Part(sources, rows, operation=piece.operation(seed.sizes))


def _joined(name: str, parts: Sequence[Part], axis: int = 0) -> Output:
    """The tensor that these parts make, one after another along the axis."""
    dtype = parts[0].sources[0].tensor.dtype
    if dtype not in FLOATS:
        raise Unsupported(
            name,
            found=dtype,
            expected=f"one of {', '.join(FLOATS)}",
            next="convert the checkpoint to plain floats",
        )
    shape = list(parts[0].shape)
    if shape:
        shape[axis] = sum(part.shape[axis] for part in parts)
    combined = any(len(part.sources) > 1 for part in parts)
    return Output(name, dtype, tuple(shape), "combine" if combined else "take", tuple(parts), axis)
