"""Carry a plan out: write or link every shard, with the digests of what was written and of what it was made from.

In:  a Plan, the recipe, the router's rows.  Out: safetensors files, and each tensor's provenance.
Streams byte ranges, tensors in parallel: memory stays flat in the number of experts and in their size. The arithmetic is combine.py's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from btx_core.checkpoints.checkpoint import ITEM_BYTES, TensorInfo, read_header, read_metadata
from btx_core.files import link
from btx_core.mixing import combine
from btx_core.mixing.plan import Output, Part, Plan, Shard, Source, tensor_class
from btx_core.problems import BtxError, NotFinite, ShapeMismatch, Unsafe

if TYPE_CHECKING:
    from btx_core.mixing.mix import MixRecipe

CHUNK = 1 << 18  # elements: what is made of one chunk stays in cache
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class FileWritten:
    path: str
    bytes: int
    linked: bool


def write_shards(
    plan: Plan,
    folder: Path,
    recipe: MixRecipe,
    rows: Mapping[int, np.ndarray],
    progress: Progress | None,
) -> tuple[list[FileWritten], dict[str, Any]]:
    """Write or link every shard. Returns the files, and per tensor its file, rule, sources and sha256."""
    files: list[FileWritten] = []
    tensors: dict[str, Any] = {}
    with one_thread_each(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, shard in enumerate(plan.shards):
            if progress:
                progress(number, len(plan.shards), shard.file)
            path = folder / shard.file
            known = earlier_digests(shard)
            digests = known or write_shard(shard, path, recipe, rows, pool)
            linked = bool(known and shard.link and link(shard.link, path))
            files.append(FileWritten(shard.file, path.stat().st_size, linked))
            tensors |= {
                output.name: describe(shard, output, digests[output.name])
                for output in shard.outputs
            }
    if progress:
        progress(len(plan.shards), len(plan.shards), "mixed")
    return files, dict(sorted(tensors.items()))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Threads that begin inside compute alone: there are as many as cores, and torch would start as many again for each."""
    import torch  # here, so that a plan's sizes can be told without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    more = {key: list(value) for key, value in bounds.items() if value} | (
        {"op": part.op} if part.op else {}
    )
    return {"member": source.member, "tensor": source.tensor.name, **more}


def earlier_digests(shard: Shard) -> dict[str, list[str]] | None:
    """The digests of the file to link; none if there is none, or if it was only a hint (from `previous`) and does not fit."""
    try:
        return linked_digests(shard, shard.link) if shard.link else None
    except BtxError:
        if shard.hint:
            return None
        raise


def linked_digests(shard: Shard, file: Path) -> dict[str, list[str]]:
    """What a finished shard says of itself; its tensors must be the plan's, in name, shape and dtype, and begin with the sources' bytes."""
    header = read_header(file)
    wanted = {output.name: (output.dtype, output.shape) for output in shard.outputs}
    found = {name: (info.dtype, info.shape) for name, info in header.items()}
    if found != wanted:
        name = min(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        absent = "no such tensor: another slot?"
        raise ShapeMismatch(
            f"{file}, {name}",
            found=found.get(name, absent),
            expected=wanted.get(name, absent),
            next=OTHER_SHARD,
        )
    for output in shard.outputs:
        spot_check(output, header[output.name])
    try:
        digests = json.loads(read_metadata(file)["btx"])
        counts = {
            output.name: 1 + sum(len(part.sources) for part in output.parts)
            for output in shard.outputs
        }
        if any(len(digests[name]) != count for name, count in counts.items()):
            raise ValueError
        return {name: list(map(str, digests[name])) for name in wanted}
    except (KeyError, ValueError, TypeError):
        raise ShapeMismatch(
            file,
            found="no digests in its header",
            expected="a shard that an earlier mix wrote",
            next=OTHER_SHARD,
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
    ours, theirs = (
        _peek(file, place, min(SPOT_BYTES, tensor.bytes))
        for file, place in ((info.file, start), (tensor.file, tensor.start))
    )
    if ours != theirs:
        raise ShapeMismatch(
            f"{tensor.file}, {tensor.name}",
            found="other values than its source's",
            expected=f"those of {info.file}",
            next=OTHER_SHARD,
        )


def _peek(file: Path, start: int, count: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(start)
        return stream.read(count)


def write_shard(
    shard: Shard,
    path: Path,
    recipe: MixRecipe,
    rows: Mapping[int, np.ndarray],
    pool: ThreadPoolExecutor,
) -> dict[str, list[str]]:
    """Write one safetensors file; its tensors in parallel. The header carries each tensor's digests, so that a link needs no reading."""
    outputs = sorted(
        shard.outputs, key=lambda output: (-ITEM_BYTES[output.dtype], output.name)
    )  # widest first: keeps all aligned
    _, places, size = layout(outputs)
    with open(path, "xb") as file:
        handle = file.fileno()
        os.posix_fallocate(handle, 0, size)  # a full disk shows now
        jobs = [
            pool.submit(write_output, handle, places[output.name], output, recipe, rows)
            for output in outputs
        ]
        try:
            digests = {output.name: job.result() for output, job in zip(outputs, jobs, strict=True)}
        finally:
            for job in jobs:
                job.cancel()
            wait(jobs)  # no thread may write to a closed file's number
        final, _, _ = layout(outputs, digests)
        write_at(handle, final, 0)
    return digests


def layout(
    outputs: Sequence[Output], digests: Mapping[str, list[str]] | None = None
) -> tuple[bytes, dict[str, int], int]:
    """The safetensors header, each tensor's absolute offset, and the file's size. digests: zeros until they are known."""
    if digests is None:
        digests = {
            output.name: ["0" * 64] * (1 + sum(len(part.sources) for part in output.parts))
            for output in outputs
        }
    entries: dict[str, Any] = {
        "__metadata__": {"format": "pt", "btx": json.dumps(digests, sort_keys=True)}
    }
    reached, starts = 0, {}
    for output in outputs:
        starts[output.name] = reached
        reached += int(np.prod(output.shape, dtype=np.int64)) * ITEM_BYTES[output.dtype]
        entries[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [starts[output.name], reached],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    return (
        len(text).to_bytes(8, "little") + text,
        {name: begin + start for name, start in starts.items()},
        begin + reached,
    )


def write_output(
    handle: int, start: int, output: Output, recipe: MixRecipe, rows: Mapping[int, np.ndarray]
) -> list[str]:
    """Write one tensor. Returns its sha256, then its sources'. What is taken as it is is hashed once, or not at all if on record."""
    sources: list[str] = []
    taken = output.rule == "take" and len(output.parts) == 1 and not output.parts[0].op
    recorded = on_record(output.parts[0], output.parts[0].sources[0]) if taken else ""
    digest, end = None if recorded else hashlib.sha256(), start
    for chunk in output_bytes(output, recipe, rows, None if taken else sources):
        if digest:
            digest.update(chunk)
        end = write_at(handle, chunk, end)
    os.posix_fadvise(
        handle, start, end - start, os.POSIX_FADV_DONTNEED
    )  # the disk begins now, beside the work on the next tensor
    own = digest.hexdigest() if digest else recorded
    return [own, *([own] if taken else sources)]


def on_record(part: Part, source: Source) -> str:
    """The SHA-256 on record of what the part takes from the source, if there is one: it is of a whole tensor."""
    return "" if part.rows or part.columns else source.sha256


def write_at(handle: int, data: Any, start: int) -> int:
    """Write all of it, which one call may not do. Returns where it ends."""
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, start)
        start, view = start + written, view[written:]
    return start


def output_bytes(
    output: Output, recipe: MixRecipe, rows: Mapping[int, np.ndarray], sources: list[str] | None
) -> Iterator[Any]:
    if output.rule == "router":
        yield combine.pack(rows[output.layer].ravel(), output.dtype)
    elif output.rule == "constant":
        yield combine.pack(np.full(output.shape, output.value).ravel(), output.dtype)
    elif output.axis == 1:
        kind = f"V{ITEM_BYTES[output.dtype]}"
        parts = [
            np.frombuffer(b"".join(part_bytes(part, output, recipe, sources)), kind).reshape(
                part.shape
            )
            for part in output.parts
        ]
        yield np.concatenate(parts, axis=1).tobytes()
    else:
        for part in output.parts:
            yield from part_bytes(part, output, recipe, sources)


def part_bytes(
    part: Part, output: Output, recipe: MixRecipe, sources: list[str] | None
) -> Iterator[Any]:
    """One part's bytes: taken as they are, or combined and changed element by element; then rearranged, if its op says so.

    sources: takes up the digests of what was read; none: the caller hashes.
    """
    kind, *numbers = part.op.split(":")
    element = combine.ELEMENTS.get(kind)
    change = partial(element, *map(int, numbers)) if element else None
    taken, averaged = (
        len(part.sources) == 1 and not change,
        len(part.sources) == 1 or recipe.method == "mean",
    )
    hashes = [
        hashlib.sha256() if sources is not None and not on_record(part, source) else None
        for source in part.sources
    ]
    read = zip(part.sources, hashes, strict=True)
    streams = [
        source_chunks(source, part, found, sound=averaged and not taken) for source, found in read
    ]
    if taken:
        chunks: Iterator[Any] = streams[0]
    elif averaged:
        chunks = _finite(
            combine.mean(streams, output.dtype, _weights(part, recipe), change), part, output.dtype
        )
    else:
        chunks = _task(part, output, recipe, streams, change)
    if kind == "halves":
        whole = np.frombuffer(b"".join(chunks), f"V{ITEM_BYTES[output.dtype]}").reshape(part.shape)
        chunks = iter([combine.halves(whole, *map(int, numbers))])
    yield from chunks
    if sources is not None:
        pairs = zip(part.sources, hashes, strict=True)
        sources += [
            found.hexdigest() if found else on_record(part, source) for source, found in pairs
        ]


def _finite(chunks: Iterator[Any], part: Part, dtype: str) -> Iterator[Any]:
    """NaN and infinity survive every sum: one look at the mean serves for all its sources, which are read again to name the one."""
    for chunk in chunks:
        if not combine.finite(chunk, dtype):
            for source in part.sources:
                for _ in source_chunks(source, part):
                    pass
            subject = f"{part.sources[0].tensor.name}, mixed"
            raise NotFinite(
                subject,
                found=f"values beyond {dtype}",
                expected="finite weights",
                next="compare the members' weights",
            )
        yield chunk


def _weights(part: Part, recipe: MixRecipe) -> list[float]:
    group = tensor_class(part.sources[0].tensor.name)
    given = {**recipe.weights.get("*", {}), **recipe.weights.get(group, {})}
    return [float(given.get(source.member, 1.0)) for source in part.sources]


def _task(
    part: Part,
    output: Output,
    recipe: MixRecipe,
    streams: Sequence[Iterator[np.ndarray]],
    change: combine.Element | None,
) -> Iterator[Any]:
    """The seed (first source) plus what the members' task vectors agree on."""
    base, *members = part.sources

    def keep(source: Source) -> combine.Keep | None:
        if recipe.method == "ties":

            def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                return zip(source_chunks(base, part), source_chunks(source, part), strict=True)

            return combine.keep_large(combine.threshold(pairs, output.dtype, recipe.density))
        if recipe.method == "dare":
            key = f"{recipe.random_seed}/{source.member}/{source.tensor.name}/{part.rows}"
            return combine.keep_by_chance(hashlib.sha256(key.encode()).digest(), recipe.density)
        return None

    keeps = [keep(source) for source in members]
    weights = _weights(part, recipe)[1:]
    return combine.task(
        streams[0],
        streams[1:],
        output.dtype,
        weights,
        recipe.scale,
        keeps,
        recipe.method == "ties",
        change,
    )


def source_chunks(
    source: Source, part: Part, digest: Any = None, sound: bool = False
) -> Iterator[np.ndarray]:
    """The bytes of a tensor's rows and columns, hashed and checked for NaN and infinity (unless `sound`) on the way."""
    tensor = source.tensor
    start, end = (
        (tensor.start + bound * tensor.row_bytes for bound in part.rows)
        if part.rows
        else (tensor.start, tensor.end)
    )
    step = CHUNK * ITEM_BYTES[tensor.dtype]
    if part.columns:
        step = max(1, step // tensor.row_bytes) * tensor.row_bytes
    with open(tensor.file, "rb", buffering=0) as file:
        while start < end:
            chunk = np.empty(min(step, end - start), np.uint8)
            if os.preadv(file.fileno(), [chunk.data], start) < len(chunk):
                raise Unsafe(
                    tensor.file,
                    found="a file that ends early",
                    expected="the file as it was opened",
                    next="mix again",
                )
            start += len(chunk)
            if part.columns:
                first, last = part.columns
                chunk = np.ascontiguousarray(
                    chunk.reshape(-1, tensor.shape[1], ITEM_BYTES[tensor.dtype])[:, first:last]
                ).reshape(-1)
            if not sound and not combine.finite(chunk, tensor.dtype):
                subject = f"{source.member}, {tensor.name}"
                raise NotFinite(
                    subject,
                    found="NaN or infinity",
                    expected="finite weights",
                    next="look at the training that made it",
                )
            if digest:
                digest.update(chunk)
            yield chunk
