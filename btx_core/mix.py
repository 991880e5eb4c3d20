"""Compose a seed and its experts into one mixture-of-experts checkpoint.

In:  checkpoint folders, the members' slots, a recipe.  Out: a new folder that stock transformers loads, whole or not at all.
Streams byte ranges: no model object is built, memory stays flat in the number of experts and in their size. What is known to be
unchanged is hard-linked. Training is tune.py's work, router rows other than small random ones are router.py's.
Shapes: E experts, D model width.  Method: Branch-Train-MiX (arXiv:2403.07816).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from fcntl import ioctl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from btx_core import combine
from btx_core.checkpoint import INDEX, ITEM_BYTES, TORCH_NAMES, Checkpoint, TensorInfo, read_header, read_json, read_metadata
from btx_core.errors import BtxCoreError, NotFinite, ShapeMismatch, Unsafe, Unsupported, WrongUsage
from btx_core.families import Family, family
from btx_core.plan import (
    GROUPS,
    SEED,
    SHARED,
    Contribution,
    Output,
    Part,
    Plan,
    Shard,
    Source,
    compose,
    layers,
    match,
    parts,
    sizes,
    tensor_class,
)  # fmt: skip

if TYPE_CHECKING:
    import torch

PROVENANCE = "provenance.json"
CHUNK = 1 << 18  # elements: what is made of one chunk stays in cache
Progress = Callable[[int, int, str], None]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
FICLONE = 0x40049409  # linux/fs.h: share another file's blocks


@dataclass(frozen=True)
class Member:
    """One expert to be mixed. shard: an earlier build's shard of this very member at this slot; it is linked, not written."""

    name: str
    slot: int
    folder: Path
    shard: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MixRecipe:
    """What the mixture is to be; its digest belongs to what it made."""

    mode: Literal["anchored", "full"] = "anchored"  # shared parameters: the seed's / combined over seed and members
    routing: Literal["top-k", "soft", "switch", "sample"] = "top-k"  # routing.py says how each chooses and where it exports to
    top_k: int = 2  # experts a token, of routing top-k; soft takes all, switch and sample one
    seed_expert: bool = True  # the seed's own feed-forward blocks are slot 0, and the seed takes part in the average
    split: int = 1  # each expert into this many narrower ones
    blend: bool = False  # each expert takes a chunk of every member's
    method: Literal["mean", "task", "ties", "dare"] = "mean"  # how shared parameters are combined (mode full)
    weights: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # parameter group (plan.GROUPS, or "*") -> member -> weight; absent: 1
    scale: float = 1.0  # task, ties, dare: how much of the combined task vector is added to the seed
    density: float = 0.5  # ties: share of each task vector kept, by size; dare: by chance
    router_std: float = 0.02  # standard deviation of random router rows; zero would tie for ever
    random_seed: int = 0


@dataclass(frozen=True)
class FileWritten:
    path: str
    bytes: int
    linked: bool


@dataclass(frozen=True)
class MixReport:
    files: tuple[FileWritten, ...]

    @property
    def bytes_written(self) -> int:
        return sum(file.bytes for file in self.files if not file.linked)

    @property
    def bytes_linked(self) -> int:
        return sum(file.bytes for file in self.files if file.linked)


def mix(
    seed: Path,
    members: Sequence[Member],
    recipe: MixRecipe,
    out: Path,
    *,
    router: Mapping[int, torch.Tensor] | None = None,
    previous: Path | None = None,
    progress: Progress | None = None,
) -> MixReport:
    """Write the mixture of the seed and its members to `out`.

    router: layer -> rows [E, D] in slot order, instead of random ones. previous: an earlier build of this very seed; what does not
    depend on the members (anchored: shared parameters, the seed's expert) is linked from it.
    Raises ShapeMismatch, NotFinite, Unsafe, Unsupported, WrongUsage; then nothing is left behind.
    """
    opened = Checkpoint.open(seed)
    family(opened.config)  # refuse by name what is unknown, before transformers is asked
    dense = dense_config(opened)
    row = family(dense, raw=recipe.routing == "switch")
    plan = plan_mix(opened, row, dense, members, recipe, previous)
    config = mixture_config(row, opened, dense, len(plan.rows), recipe)
    rows = given_rows(plan, router) if router is not None else random_rows(plan, recipe)
    with whole_folder(out) as aside:
        files, tensors = write_shards(plan, aside, recipe, rows, progress)
        write_json(aside / "config.json", config)
        write_json(aside / INDEX, index(plan))
        copy_words(opened.folder, aside)
        write_json(aside / PROVENANCE, provenance(plan, members, recipe, tensors))
        written = {file.path for file in files}
        rest = (path for path in sorted(aside.iterdir()) if path.name not in written)
        files += [FileWritten(path.name, path.stat().st_size, False) for path in rest]
    return MixReport(tuple(files))


def plan_mix(
    seed: Checkpoint, row: Family, dense: Mapping[str, Any], members: Sequence[Member], recipe: MixRecipe, previous: Path | None
) -> Plan:
    """Open and match every member, then plan. The order of `members` counts for nothing: slots do."""
    check_members(members, recipe)
    ordered = sorted(members, key=lambda member: member.slot)
    experts = [Contribution(member.name, member.slot, Checkpoint.open(member.folder), member.shard) for member in ordered]
    for expert in experts:
        match(seed, expert.dense, expert.name)
    averaged = {SEED: seed}
    if recipe.mode == "full":
        # By name: even a float64 sum may depend on its order, and slots differ between builds.
        named = {expert.name: expert.dense for expert in sorted(experts, key=lambda expert: expert.name)}
        averaged = named if recipe.method == "mean" and not recipe.seed_expert else {SEED: seed, **named}
    if recipe.seed_expert:
        experts = [Contribution(SEED, 0, seed, _earlier(previous, f"model-expert-{SEED}.safetensors"), hint=True), *experts]
    layers(row, seed)
    shared = _earlier(previous, SHARED) if recipe.mode == "anchored" and recipe.split == 1 else None
    return compose(row, seed, sizes(row, seed, dense), experts, averaged, split=recipe.split, blend=recipe.blend, shared=shared)


def _earlier(previous: Path | None, file: str) -> Path | None:
    path = previous / file if previous else None
    return path if path and path.is_file() else None


def check_members(members: Sequence[Member], recipe: MixRecipe) -> None:
    names, count = [member.name for member in members], (len(members) + recipe.seed_expert) * recipe.split
    for name in names:
        if not NAME.fullmatch(name) or names.count(name) > 1 or name == SEED:
            raise WrongUsage(
                f"member {name!r}",
                found="a name that is taken, reserved or no file name",
                expected="letters, digits and ._@+-, each name once, not 'seed'",
                next="rename the member",
            )
    if recipe.routing == "top-k" and not 1 <= recipe.top_k <= count:
        raise WrongUsage(
            "top_k", found=f"{recipe.top_k} with {count} experts", expected=f"1 to {count}", next="choose top_k within the experts"
        )
    check_recipe(recipe, {SEED, *names})
    if recipe.seed_expert and any(member.slot < 1 for member in members):
        raise WrongUsage("slots", found="a member at slot 0 or below", expected="slot 0 is the seed's own", next="number members from 1")


def check_recipe(recipe: MixRecipe, names: set[str]) -> None:
    given = {name for group in recipe.weights.values() for name in group}
    weights = [weight for group in recipe.weights.values() for weight in group.values()]
    faults = {
        "routing": recipe.routing not in ("top-k", "soft", "switch", "sample") and "top-k, soft, switch or sample",
        "mode": recipe.mode not in ("anchored", "full") and "anchored or full",
        "method": (recipe.method not in ("mean", "task", "ties", "dare") or (recipe.mode == "anchored" and recipe.method != "mean"))
        and "mean; task, ties or dare in mode full",
        "weights": (bool(recipe.weights.keys() - {*GROUPS, "*"} or given - names) or not all(0 < weight < 1e6 for weight in weights))
        and f"groups {', '.join(GROUPS)} or *, members of this mix, weights above 0",
        "density": not 0 < recipe.density <= 1 and "above 0, at most 1",
        "split": (recipe.split < 1 or (recipe.blend and recipe.split > 1)) and "1 or more; 1 with blend",
    }
    for key, expected in faults.items():
        if expected:
            raise WrongUsage(f"recipe, {key}", found=getattr(recipe, key), expected=expected, next="change the recipe")


def dense_config(seed: Checkpoint) -> dict[str, Any]:
    """The dense config as transformers understands it: raw JSON leaves out defaults, and classes differ in them."""
    from transformers import AutoConfig  # here, since it takes torch along

    with refusing(seed.folder / "config.json", "a config that transformers reads"):
        found: dict[str, Any] = AutoConfig.from_pretrained(seed.folder, trust_remote_code=False, local_files_only=True).to_dict()
    return found


class refusing:
    """Turn whatever another library raises over a user's file into one refusal."""

    def __init__(self, subject: Path, expected: str) -> None:
        self.subject, self.expected = subject, expected

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, BtxCoreError):
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            raise Unsupported(
                self.subject, found=found, expected=self.expected, next="save the checkpoint anew with save_pretrained"
            ) from None


def mixture_config(row: Family, seed: Checkpoint, dense: Mapping[str, Any], experts: int, recipe: MixRecipe) -> dict[str, Any]:
    """The mixture's config: what both classes know, then the table's settings."""
    from transformers import AutoConfig

    with refusing(seed.folder / "config.json", "a config that has a mixture"):
        made = type(AutoConfig.for_model(row.layout.model_type))
        known = made().to_dict().keys() - {"model_type", "architectures", "transformers_version", "_name_or_path"}
        settings = {key: value for key, value in dense.items() if key in known}
        bounds = sizes(row, seed, dense)
        width = bounds["F"] // recipe.split
        settings |= {"intermediate_size": width} if recipe.split > 1 else {}
        settings |= row.settings({**dense, **bounds, "W": width})
        kept = {"top-k": recipe.top_k, "soft": experts}.get(recipe.routing, 1)
        settings |= {row.layout.count_key: experts, row.layout.top_k_key: kept}
        settings |= {"norm_topk_prob": False} if recipe.routing == "switch" else {}
        config: dict[str, Any] = made(**settings).to_dict()
    config = {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}
    dtype = seed.tensors[row.down.name.format(l=0)].dtype
    return config | {"architectures": [row.layout.architecture], "dtype": TORCH_NAMES[dtype]}  # else the first shard decides


def index(plan: Plan) -> dict[str, Any]:
    names = {output.name: shard.file for shard in plan.shards for output in shard.outputs}
    return {"metadata": {}, "weight_map": dict(sorted(names.items()))}  # loaders want the key "metadata"


def provenance(plan: Plan, members: Sequence[Member], recipe: MixRecipe, tensors: Mapping[str, Any]) -> dict[str, Any]:
    ordered = sorted(members, key=lambda member: member.slot)
    return {
        "format": "btx-provenance-1",
        "family": plan.family.name,
        "recipe": asdict(recipe),
        "rows": list(plan.rows),
        "members": [{"name": member.name, "slot": member.slot} for member in ordered],
        "tensors": tensors,
    }


def copy_words(seed: Path, out: Path) -> None:
    """The tokenizer, under a class that does not depend on the model type, and the generation settings."""
    if (seed / "generation_config.json").exists():
        shutil.copyfile(seed / "generation_config.json", out / "generation_config.json")
    if not any((seed / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")):
        return
    from transformers import AutoTokenizer

    with refusing(seed / "tokenizer.json", "a tokenizer that transformers reads"):
        AutoTokenizer.from_pretrained(seed, trust_remote_code=False, local_files_only=True).save_pretrained(out)
    settings = read_json(out / "tokenizer_config.json") | {"tokenizer_class": "TokenizersBackend"}
    settings.pop("name_or_path", None)
    write_json(out / "tokenizer_config.json", settings)


# Router rows


def random_rows(plan: Plan, recipe: MixRecipe) -> dict[int, np.ndarray]:
    """Small random rows [E, D]. A row depends on its expert's name alone: others may come and go."""
    width = next(output.shape[1] for shard in plan.shards for output in shard.outputs if output.rule == "router")
    return {layer: np.stack([_random_row(recipe, layer, name, width) for name in plan.rows]) for layer in range(plan.layers)}


def _random_row(recipe: MixRecipe, layer: int, name: str, width: int) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(f"{recipe.random_seed}/{layer}/{name}".encode()).digest()[:16], "little")
    row: np.ndarray = np.random.Generator(np.random.Philox(key=key)).standard_normal(width) * recipe.router_std
    return row


def given_rows(plan: Plan, router: Mapping[int, torch.Tensor]) -> dict[int, np.ndarray]:
    rows = {layer: tensor.detach().double().cpu().numpy() for layer, tensor in router.items()}
    for output in (output for shard in plan.shards for output in shard.outputs if output.rule == "router"):
        if (found := getattr(rows.get(output.layer), "shape", None)) != output.shape:
            raise ShapeMismatch(
                f"router rows, layer {output.layer}", found=found, expected=output.shape, next="give one row per expert, in slot order"
            )
    return rows


# Writing


class whole_folder:
    """A folder that appears under its name only when it is complete and on disk."""

    def __init__(self, out: Path) -> None:
        self.out = Path(os.path.abspath(out))
        self.aside = self.out.parent / f".{self.out.name}.partial-{os.getpid()}-{threading.get_ident()}"

    def __enter__(self) -> Path:
        if os.path.lexists(self.out):
            raise WrongUsage(self.out, found="something there already", expected="a new folder", next="choose another, or remove it first")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.aside.mkdir()
        return self.aside

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                for path in (*self.aside.iterdir(), self.aside):
                    fsync(path)
                os.rename(self.aside, self.out)
                fsync(self.out.parent)
        finally:
            shutil.rmtree(self.aside, ignore_errors=True)


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def link(source: Path, target: Path) -> bool:
    """Hard link, else share the blocks, else copy. True if no data was written."""
    try:
        os.link(source.resolve(), target)
        return True
    except OSError:  # another file system, or one without links
        with open(source, "rb") as read, open(target, "xb") as write:
            try:
                ioctl(write.fileno(), FICLONE, read.fileno())
                return True
            except OSError:
                left = os.fstat(read.fileno()).st_size
                while left:
                    left -= os.copy_file_range(read.fileno(), write.fileno(), left)
                return False


def write_shards(
    plan: Plan, folder: Path, recipe: MixRecipe, rows: Mapping[int, np.ndarray], progress: Progress | None
) -> tuple[list[FileWritten], dict[str, Any]]:
    """Write or link every shard. Returns the files, and per tensor its file, rule, sources and sha256."""
    files: list[FileWritten] = []
    tensors: dict[str, Any] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, shard in enumerate(plan.shards):
            if progress:
                progress(number, len(plan.shards), shard.file)
            path = folder / shard.file
            known = earlier_digests(shard)
            digests = known or write_shard(shard, path, recipe, rows, pool)
            linked = bool(known and shard.link and link(shard.link, path))
            files.append(FileWritten(shard.file, path.stat().st_size, linked))
            tensors |= {output.name: describe(shard, output, digests[output.name]) for output in shard.outputs}
    if progress:
        progress(len(plan.shards), len(plan.shards), "mixed")
    return files, dict(sorted(tensors.items()))


def describe(shard: Shard, output: Output, digests: Sequence[str]) -> dict[str, Any]:
    """One tensor's provenance. digests: its own, then those of the bytes taken from each source, in order."""
    sources = [_source(part, source) for part in output.parts for source in part.sources]
    read = zip(sources, digests[1:], strict=True)
    return {
        "file": shard.file,
        "rule": output.rule,
        "sha256": digests[0],
        "sources": [entry | {"sha256": digest} for entry, digest in read],
    }


def _source(part: Part, source: Source) -> dict[str, Any]:
    bounds = {"rows": part.rows, "columns": part.columns}
    more = {key: list(value) for key, value in bounds.items() if value} | ({"op": part.op} if part.op else {})
    return {"member": source.member, "tensor": source.tensor.name, **more}


def earlier_digests(shard: Shard) -> dict[str, list[str]] | None:
    """The digests of the file to link; none if there is none, or if it was only a hint (from `previous`) and does not fit."""
    try:
        return linked_digests(shard, shard.link) if shard.link else None
    except BtxCoreError:
        if shard.hint:
            return None
        raise


def linked_digests(shard: Shard, file: Path) -> dict[str, list[str]]:
    """What a finished shard says of itself; its tensors must be the plan's, in name, shape and dtype, and begin with the sources' bytes."""
    header = read_header(file)
    wanted = {output.name: (output.dtype, output.shape) for output in shard.outputs}
    found = {name: (info.dtype, info.shape) for name, info in header.items()}
    if found != wanted:
        name = min(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        absent = "no such tensor: another slot?"
        raise ShapeMismatch(f"{file}, {name}", found=found.get(name, absent), expected=wanted.get(name, absent), next=OTHER_SHARD)
    for output in shard.outputs:
        spot_check(output, header[output.name])
    try:
        digests = json.loads(read_metadata(file)["btx"])
        counts = {output.name: 1 + sum(len(part.sources) for part in output.parts) for output in shard.outputs}
        if any(len(digests[name]) != count for name, count in counts.items()):
            raise ValueError
        return {name: list(map(str, digests[name])) for name in wanted}
    except (KeyError, ValueError, TypeError):
        raise ShapeMismatch(
            file, found="no digests in its header", expected="a shard that an earlier mix wrote", next=OTHER_SHARD
        ) from None


OTHER_SHARD = "give the shard that was mixed from this very member at this slot, or none"
SPOT_BYTES = 256


def spot_check(output: Output, tensor: TensorInfo) -> None:
    """The finished tensor begins as its source does: so a tuned shard, or another version's, is not linked by mistake.

    Reads a few bytes of each tensor; every byte is compared by mixing again, or by the registry's digests.
    """
    part = output.parts[0] if output.parts else None
    if output.rule != "take" or not part or part.op or part.columns:
        return
    info = part.sources[0].tensor
    start = info.start + (part.rows[0] * info.row_bytes if part.rows else 0)
    ours, theirs = (_peek(file, place, min(SPOT_BYTES, tensor.bytes)) for file, place in ((info.file, start), (tensor.file, tensor.start)))
    if ours != theirs:
        raise ShapeMismatch(
            f"{tensor.file}, {tensor.name}", found="other values than its source's", expected=f"those of {info.file}", next=OTHER_SHARD
        )


def _peek(file: Path, start: int, count: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read(count)


def write_shard(
    shard: Shard, path: Path, recipe: MixRecipe, rows: Mapping[int, np.ndarray], pool: ThreadPoolExecutor
) -> dict[str, list[str]]:
    """Write one safetensors file; its tensors in parallel. The header carries each tensor's digests, so that a link needs no reading."""
    outputs = sorted(shard.outputs, key=lambda output: (-ITEM_BYTES[output.dtype], output.name))  # widest first: keeps all aligned
    blank = {output.name: ["0" * 64] * (1 + sum(len(part.sources) for part in output.parts)) for output in outputs}
    _, places, size = layout(outputs, blank)
    with open(path, "xb") as file:
        handle = file.fileno()
        os.posix_fallocate(handle, 0, size)  # a full disk shows now
        jobs = [pool.submit(write_output, handle, places[output.name], output, recipe, rows) for output in outputs]
        try:
            digests = {output.name: job.result() for output, job in zip(outputs, jobs, strict=True)}
        finally:
            for job in jobs:
                job.cancel()
            wait(jobs)  # no thread may write to a closed file's number
        final, _, _ = layout(outputs, digests)
        write_at(handle, final, 0)
    return digests


def layout(outputs: Sequence[Output], digests: Mapping[str, list[str]]) -> tuple[bytes, dict[str, int], int]:
    """The safetensors header, each tensor's absolute offset, and the file's size."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", "btx": json.dumps(digests, sort_keys=True)}}
    reached, starts = 0, {}
    for output in outputs:
        starts[output.name] = reached
        reached += int(np.prod(output.shape, dtype=np.int64)) * ITEM_BYTES[output.dtype]
        entries[output.name] = {"dtype": output.dtype, "shape": list(output.shape), "data_offsets": [starts[output.name], reached]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: begin + start for name, start in starts.items()}, begin + reached


def write_output(handle: int, start: int, output: Output, recipe: MixRecipe, rows: Mapping[int, np.ndarray]) -> list[str]:
    """Write one tensor. Returns its sha256, then its sources'."""
    digest = hashlib.sha256()
    sources: list[str] = []
    whole = output.rule == "take" and len(output.parts) == 1 and not output.parts[0].op
    for chunk in output_bytes(output, recipe, rows, None if whole else sources):
        digest.update(chunk)
        start = write_at(handle, chunk, start)
    return [digest.hexdigest(), *([digest.hexdigest()] if whole else sources)]  # what is taken whole is hashed once


def write_at(handle: int, data: Any, start: int) -> int:
    """Write all of it, which one call may not do. Returns where it ends."""
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, start)
        start, view = start + written, view[written:]
    return start


def output_bytes(output: Output, recipe: MixRecipe, rows: Mapping[int, np.ndarray], sources: list[str] | None) -> Iterator[Any]:
    if output.rule == "router":
        yield combine.pack(rows[output.layer].ravel(), output.dtype)
    elif output.rule == "constant":
        yield combine.pack(np.full(output.shape, output.value).ravel(), output.dtype)
    elif output.axis == 1:
        kind = f"V{ITEM_BYTES[output.dtype]}"
        parts = [np.frombuffer(b"".join(part_bytes(part, output, recipe, sources)), kind).reshape(part.shape) for part in output.parts]
        yield np.concatenate(parts, axis=1).tobytes()
    else:
        for part in output.parts:
            yield from part_bytes(part, output, recipe, sources)


def part_bytes(part: Part, output: Output, recipe: MixRecipe, sources: list[str] | None) -> Iterator[Any]:
    """One part's bytes: taken as they are, or combined and changed element by element; then rearranged, if its op says so.

    sources: takes up the digests of what was read; none: the caller hashes.
    """
    hashes = [hashlib.sha256() if sources is not None else None for _ in part.sources]
    streams = [source_chunks(source, part, found) for source, found in zip(part.sources, hashes, strict=True)]
    kind, *numbers = part.op.split(":")
    element = combine.ELEMENTS.get(kind)
    change = partial(element, *map(int, numbers)) if element else None
    if len(streams) == 1 and not change:
        chunks: Iterator[Any] = streams[0]
    elif len(streams) == 1 or recipe.method == "mean":
        streams = [source_chunks(source, part, found, sound=True) for source, found in zip(part.sources, hashes, strict=True)]
        chunks = _finite(combine.mean(streams, output.dtype, _weights(part, recipe), change), part, output.dtype)
    else:
        chunks = _task(part, output, recipe, streams, change)
    if kind == "halves":
        whole = np.frombuffer(b"".join(chunks), f"V{ITEM_BYTES[output.dtype]}").reshape(part.shape)
        chunks = iter([combine.halves(whole, *map(int, numbers))])
    yield from chunks
    if sources is not None:
        sources += [found.hexdigest() for found in hashes if found]


def _finite(chunks: Iterator[Any], part: Part, dtype: str) -> Iterator[Any]:
    """NaN and infinity survive every sum: one look at the mean serves for all its sources, which are read again to name the one."""
    for chunk in chunks:
        if not combine.finite(chunk, dtype):
            for source in part.sources:
                for _ in source_chunks(source, part):
                    pass
            subject = f"{part.sources[0].tensor.name}, mixed"
            raise NotFinite(subject, found=f"values beyond {dtype}", expected="finite weights", next="compare the members' weights")
        yield chunk


def _weights(part: Part, recipe: MixRecipe) -> list[float]:
    group = tensor_class(part.sources[0].tensor.name)
    given = {**recipe.weights.get("*", {}), **recipe.weights.get(group, {})}
    return [float(given.get(source.member, 1.0)) for source in part.sources]


def _task(
    part: Part, output: Output, recipe: MixRecipe, streams: Sequence[Iterator[bytes]], change: combine.Element | None
) -> Iterator[Any]:
    """The seed (first source) plus what the members' task vectors agree on."""
    base, *members = part.sources

    def keep(source: Source) -> combine.Keep | None:
        if recipe.method == "ties":
            pairs = lambda: zip(source_chunks(base, part), source_chunks(source, part), strict=True)  # noqa: E731
            return combine.keep_large(combine.threshold(pairs, output.dtype, recipe.density))
        if recipe.method == "dare":
            key = f"{recipe.random_seed}/{source.member}/{source.tensor.name}/{part.rows}"
            return combine.keep_by_chance(hashlib.sha256(key.encode()).digest(), recipe.density)
        return None

    keeps = [keep(source) for source in members]
    weights = _weights(part, recipe)[1:]
    return combine.task(streams[0], streams[1:], output.dtype, weights, recipe.scale, keeps, recipe.method == "ties", change)


def source_chunks(source: Source, part: Part, digest: Any = None, sound: bool = False) -> Iterator[bytes]:
    """The bytes of a tensor's rows and columns, hashed and checked for NaN and infinity (unless `sound`) on the way."""
    tensor = source.tensor
    start, end = (tensor.start + bound * tensor.row_bytes for bound in part.rows) if part.rows else (tensor.start, tensor.end)
    step = CHUNK * ITEM_BYTES[tensor.dtype]
    if part.columns:
        step = max(1, step // tensor.row_bytes) * tensor.row_bytes
    with open(tensor.file, "rb", buffering=0) as file:
        while start < end:
            chunk = os.pread(file.fileno(), min(step, end - start), start)
            if len(chunk) < min(step, end - start):
                raise Unsafe(tensor.file, found="a file that ends early", expected="the file as it was opened", next="mix again")
            start += len(chunk)
            if part.columns:
                first, last = part.columns
                chunk = np.frombuffer(chunk, f"V{ITEM_BYTES[tensor.dtype]}").reshape(-1, tensor.shape[1])[:, first:last].tobytes()
            if not sound and not combine.finite(chunk, tensor.dtype):
                subject = f"{source.member}, {tensor.name}"
                raise NotFinite(subject, found="NaN or infinity", expected="finite weights", next="look at the training that made it")
            if digest:
                digest.update(chunk)
            yield chunk


def router_rows(folder: Path) -> dict[int, torch.Tensor]:
    """A built folder's router rows, layer -> [E, D], in slot order."""
    built = Checkpoint.open(folder)
    return {layer: built.read(name) for layer, name in parts(built).router.items()}
