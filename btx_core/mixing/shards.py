"""Carry a plan out: write or link every file, with the digests of what it was made from.

In:  a plan, the recipe, the routers' weights.
Out: safetensors files, and each tensor's provenance. Tensors are written in parallel; what they
     hold is left to `streams.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from btx_core.checkpoints.headers import (
    ITEM_BYTES,
    METADATA,
    TensorInfo,
    read_header,
    read_metadata,
)
from btx_core.files import any_json, link_or_copy
from btx_core.mixing.combine import Raw
from btx_core.mixing.plan import Output, Plan, Shard
from btx_core.mixing.provenance import OutputDigests, TensorRecord, tensor_records
from btx_core.mixing.recipe import MixRecipe
from btx_core.mixing.streams import OutputStream, RouterWeights
from btx_core.problems import BtxError, ShapeMismatch
from btx_core.progress import Progress

MAX_THREADS = 8
# The header's key for the digests, by tensor.
DIGESTS = "btx"
# The header pads its text to a multiple of this, and is found behind eight bytes of length.
ALIGNMENT = 8
SPOT_BYTES = 256
OTHER_SHARD = "give the shard that was mixed from this very member at this slot, or none"


@dataclass(frozen=True)
class FileWritten:
    """One file of a composed folder.

    Attributes:
        path: its name in the folder.
        bytes: its size.
        linked: whether it was linked, so that no data was written.
    """

    path: str
    bytes: int
    linked: bool


@dataclass(frozen=True)
class FileLayout:
    """Where everything lies in a safetensors file.

    Attributes:
        header: the header's bytes, its length included.
        offsets: tensor -> where its bytes begin, counted from the beginning of the file.
        size: the whole file's bytes.
    """

    header: bytes
    offsets: Mapping[str, int]
    size: int


def writing_threads() -> ThreadPoolExecutor:
    """Return as many threads as there are cores, up to `MAX_THREADS`."""
    return ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))


def write_shards(
    plan: Plan,
    folder: Path,
    recipe: MixRecipe,
    router: RouterWeights,
    progress: Progress | None,
) -> tuple[list[FileWritten], dict[str, TensorRecord]]:
    """Write or link every file of a plan.

    Args:
        plan: what is to be written.
        folder: the folder that takes the files.
        recipe: how sources are combined.
        router: layer -> weights [E, D], in order of slots.
        progress: called before each file, and at the end.

    Returns:
        The files, in the order of writing, and the tensors' records, by name.

    Raises:
        ShapeMismatch: for a finished file that is not the plan's.
        NotFinite: for weights that hold NaN or infinity.
    """
    files: list[FileWritten] = []
    records: dict[str, TensorRecord] = {}
    with one_torch_thread(), writing_threads() as pool:
        for number, shard in enumerate(plan.shards):
            if progress:
                progress(number, len(plan.shards), shard.file)
            path = folder / shard.file
            digests = finished_digests(shard)
            linked = False
            if digests and shard.link:
                linked = link_or_copy(shard.link, path)
            else:
                digests = write_shard(shard, path, recipe, router, pool)
            files.append(FileWritten(shard.file, path.stat().st_size, linked))
            records |= tensor_records(shard, digests)
    if progress:
        progress(len(plan.shards), len(plan.shards), "mixed")
    return files, records


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let each thread of a pool compute alone.

    There are as many threads as cores, and torch would start as many again for each.
    """
    # Here, so that a plan's sizes can be asked without it.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def finished_digests(shard: Shard) -> dict[str, OutputDigests] | None:
    """Return the digests of the file to link, None where it must be written.

    Raises:
        ShapeMismatch: when the file must fit and does not.
    """
    if shard.link is None:
        return None
    try:
        return _digests_in(shard, shard.link)
    except BtxError:
        if shard.must_fit:
            raise
        return None


def _digests_in(shard: Shard, file: Path) -> dict[str, OutputDigests]:
    """What a finished file says of itself.

    Its tensors must be the plan's, in name, shape and dtype, and begin with the sources' bytes.
    """
    header = read_header(file)
    expected = {output.name: (output.dtype, output.shape) for output in shard.outputs}
    found = {name: (info.dtype, info.shape) for name, info in header.items()}
    if found != expected:
        names = expected.keys() | found.keys()
        name = min(name for name in names if expected.get(name) != found.get(name))
        absent = "no such tensor: another slot?"
        raise ShapeMismatch(
            f"{file}, {name}",
            found=found.get(name, absent),
            expected=expected.get(name, absent),
            next=OTHER_SHARD,
        )
    for output in shard.outputs:
        spot_check(output, header[output.name])
    try:
        recorded = any_json(read_metadata(file)[DIGESTS])
        return {output.name: _digests_of(output, recorded[output.name]) for output in shard.outputs}
    except (KeyError, ValueError, TypeError):
        raise ShapeMismatch(
            file,
            found="no digests in its header",
            expected="a shard that an earlier mix wrote",
            next=OTHER_SHARD,
        ) from None


def _digests_of(output: Output, recorded: Sequence[object]) -> OutputDigests:
    own, *sources = map(str, recorded)
    if len(sources) != _count_sources(output):
        raise ValueError("digests of another plan")
    return OutputDigests(own, tuple(sources))


def _count_sources(output: Output) -> int:
    return sum(len(part.sources) for part in output.parts)


def spot_check(output: Output, tensor: TensorInfo) -> None:
    """Require that a finished tensor begins as its source does.

    So a tuned shard, or another version's, is not linked by mistake. A few bytes of each tensor
    are read; every byte is compared by mixing again, or by the registry's digests.

    Args:
        output: the tensor's plan; what is combined or changed is not looked at.
        tensor: the finished tensor.

    Raises:
        ShapeMismatch: when the bytes differ.
    """
    part = output.parts[0] if output.parts else None
    if output.rule != "take" or not part or not part.is_untouched or part.columns:
        return
    source = part.sources[0].tensor
    start = source.start + (part.rows[0] * source.row_bytes if part.rows else 0)
    count = min(SPOT_BYTES, tensor.bytes)
    if _peek(source.file, start, count) != _peek(tensor.file, tensor.start, count):
        raise ShapeMismatch(
            f"{tensor.file}, {tensor.name}",
            found="other values than its source's",
            expected=f"those of {source.file}",
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
    router: RouterWeights,
    pool: ThreadPoolExecutor,
) -> dict[str, OutputDigests]:
    """Write one safetensors file, its tensors in parallel.

    The header carries each tensor's digests, so that a link of the file needs no reading.

    Args:
        shard: the file's plan.
        path: the new file.
        recipe: how sources are combined.
        router: layer -> weights [E, D], for a file of routers.
        pool: the threads that write.

    Returns:
        The digests of each tensor, by name.

    Raises:
        NotFinite: for weights that hold NaN or infinity.
    """
    # The widest dtype first keeps all tensors aligned.
    outputs = sorted(shard.outputs, key=lambda output: (-ITEM_BYTES[output.dtype], output.name))
    layout = file_layout(outputs)
    with open(path, "xb") as file:
        handle = file.fileno()
        # A full disk shows now.
        os.posix_fallocate(handle, 0, layout.size)
        jobs = [
            pool.submit(
                write_output,
                handle,
                layout.offsets[output.name],
                OutputStream(output, recipe, router),
            )
            for output in outputs
        ]
        try:
            digests = {output.name: job.result() for output, job in zip(outputs, jobs, strict=True)}
        finally:
            for job in jobs:
                job.cancel()
            # No thread may write to a closed file's number.
            wait(jobs)
        write_at(handle, file_layout(outputs, digests).header, 0)
    return digests


def file_layout(
    outputs: Sequence[Output], digests: Mapping[str, OutputDigests] | None = None
) -> FileLayout:
    """Lay out a safetensors file.

    Args:
        outputs: its tensors, in the order of their bytes.
        digests: what the header records of each; None while they are unknown, which takes the
            same room.
    """
    if digests is None:
        digests = {output.name: _unknown_digests(output) for output in outputs}
    recorded = {name: of_tensor.to_json() for name, of_tensor in digests.items()}
    metadata = {"format": "pt", DIGESTS: json.dumps(recorded, sort_keys=True)}
    entries: dict[str, object] = {METADATA: metadata}
    starts: dict[str, int] = {}
    reached = 0
    for output in outputs:
        starts[output.name] = reached
        reached += prod(output.shape) * ITEM_BYTES[output.dtype]
        entries[output.name] = {
            "dtype": output.dtype,
            "shape": list(output.shape),
            "data_offsets": [starts[output.name], reached],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + start for name, start in starts.items()}
    return FileLayout(header, offsets, len(header) + reached)


def _unknown_digests(output: Output) -> OutputDigests:
    zeros = "0" * 64
    return OutputDigests(zeros, (zeros,) * _count_sources(output))


def write_output(handle: int, start: int, stream: OutputStream) -> OutputDigests:
    """Write one tensor.

    What is taken as it is is hashed once, or not at all if its digest is on record.

    Args:
        handle: the open file's number.
        start: where the tensor's bytes begin, counted from the beginning of the file.
        stream: its bytes.

    Returns:
        The tensor's digest and its sources'.
    """
    digest = None if stream.output.is_copy else hashlib.sha256()
    end = start
    for chunk in stream.chunks():
        if digest:
            digest.update(chunk)
        end = write_at(handle, chunk, end)
    # The disk begins now, beside the work on the next tensor.
    os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)
    sources = stream.source_digests()
    return OutputDigests(digest.hexdigest() if digest else sources[0], tuple(sources))


def write_at(handle: int, data: Raw, start: int) -> int:
    """Write all of the data, which one call may not do.

    Args:
        handle: the open file's number.
        data: the bytes.
        start: where they begin, counted from the beginning of the file.

    Returns:
        Where they end.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, start)
        start, view = start + written, view[written:]
    return start
