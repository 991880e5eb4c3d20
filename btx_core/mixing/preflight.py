"""Say from the weights whether a candidate may become an expert of this seed.

In:  two checkpoint folders and the branch mode; optionally the other experts.  Out: plain facts, with a recommendation. Judges nothing:
policies do. Raises only for what cannot be read safely. Streams, memory stays flat.
Ancestry: branches of one seed stay close to it (cosine near 1), models of other origin are orthogonal to it (cosine near 0).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from btx_core.checkpoints.checkpoint import ITEM_BYTES, Checkpoint, TensorInfo, same_tokenizer
from btx_core.checkpoints.families import family
from btx_core.mixing import combine
from btx_core.mixing.plan import FLOATS, different_settings, kept, tensor_class
from btx_core.problems import BtxError

CHUNK = 1 << 20  # elements
MIN_COSINE = 0.5  # of the weight matrices with the seed's. Unrelated models: below 0.1; branches, even far trained ones: above 0.8


@dataclass(frozen=True)
class Distance:
    """Sums over one or more tensors: of squares of the seed's, of the candidate's, of their difference, and of their product."""

    seed: float = 0.0
    candidate: float = 0.0
    difference: float = 0.0
    product: float = 0.0
    finite: bool = True
    identical: bool = True

    def __add__(self, other: Distance) -> Distance:
        return Distance(
            self.seed + other.seed,
            self.candidate + other.candidate,
            self.difference + other.difference,
            self.product + other.product,
            self.finite and other.finite,
            self.identical and other.identical,
        )

    @property
    def relative(self) -> float:
        return (
            float(np.sqrt(self.difference / self.seed)) if self.seed else float(self.difference > 0)
        )

    @property
    def cosine(self) -> float:
        return (
            float(self.product / np.sqrt(self.seed * self.candidate))
            if self.seed and self.candidate
            else 0.0
        )


def preflight(
    seed: Path,
    candidate: Path,
    mode: Literal["anchored", "full"] = "anchored",
    *,
    others: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Facts about `candidate` as a branch of `seed`. others: experts of the same seed, for the similarity of task vectors."""
    ours, theirs = Checkpoint.open(seed), Checkpoint.open(candidate)
    problems: list[dict[str, str]] = []
    facts = _alike(ours, theirs, problems)
    comparable = facts["shapes_match"] and facts["dtype_match"]
    measured = distances(ours, theirs) if comparable else {}
    finite = all(found.finite for found in measured.values()) if comparable else all_finite(theirs)
    if not finite:
        names = [name for name, found in measured.items() if not found.finite]
        _problem(
            problems,
            f"{candidate.name}, {min(names, default='weights')}",
            "NaN or infinity",
            "finite weights",
        )
    facts |= {"finite": finite, "mode": mode, "problems": problems}
    facts["ancestry"] = (
        ancestry(measured, mode, problems)
        if comparable and finite
        else {"descends": False, "shared_identical": False, "distance": {}}
    )
    facts["divergence_per_layer"] = divergence(measured) if comparable and finite else []
    facts["similarity"] = similarity(ours, theirs, others or {}) if comparable and finite else {}
    # Router-only tuning is enough only where nothing shared has moved: averaged shared parameters must be tuned (MergeME).
    calm = "router" if mode == "anchored" or facts["ancestry"]["shared_identical"] else "shared"
    facts["recommendation"] = "refuse" if problems else calm
    return facts


def fits(folder: Path) -> list[dict[str, str]]:
    """Whether the weights are those that the folder's own config describes; the problems found, none if they are.

    Builds the model without memory (device meta) and compares names and shapes. For seeds: a candidate's config must equal its seed's.
    """
    import torch  # here, so that a preflight without it stays light
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint, problems = Checkpoint.open(folder), list[dict[str, str]]()
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    except Exception as error:  # transformers checks configs with many kinds of exception
        _problem(
            problems,
            f"{folder.name}, config.json",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
            "a config that makes a model",
        )
        return problems
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    found = {name: info.shape for name, info in kept(checkpoint).items()}
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name) and not (name in tied and name not in found):
            _problem(
                problems,
                f"{folder.name}, {name}",
                found.get(name, "no such tensor"),
                f"{wanted.get(name, 'no such tensor')}, as the config says",
            )
    return problems


def _problem(problems: list[dict[str, str]], subject: str, found: object, expected: object) -> None:
    problems.append({"subject": subject, "found": str(found), "expected": str(expected)})


def _alike(
    seed: Checkpoint, candidate: Checkpoint, problems: list[dict[str, str]]
) -> dict[str, Any]:
    """What the headers, configs and tokenizers say."""
    name = candidate.folder.name
    try:
        row: str | None = family(seed.config).name
    except BtxError as error:
        row = None
        _problem(problems, error.subject, error.found, error.expected)
    different = different_settings(seed.config, candidate.config)
    for key in different:
        _problem(problems, f"{name}, config {key}", candidate.config[key], seed.config[key])
    ours, theirs = kept(seed), kept(candidate)
    shapes = _compare(problems, name, "shape", ours, theirs)
    types = _compare(problems, name, "dtype", ours, theirs)
    if strange := sorted({info.dtype for info in theirs.values()} - set(FLOATS)):
        _problem(problems, name, f"weights of type {strange[0]}", f"one of {', '.join(FLOATS)}")
        types = False
    vocabulary = seed.config.get("vocab_size") == candidate.config.get("vocab_size")
    tokens = same_tokenizer(seed.folder, candidate.folder)
    if not tokens:
        _problem(
            problems, f"{name}, tokenizer.json", "other tokens or merges", "the seed's tokenizer"
        )
    return {
        "family": row,
        "shapes_match": shapes,
        "dtype_match": types,
        "vocabulary_match": vocabulary,
        "tokenizer_match": tokens,
        "config_match": not different,
    }


def _compare(
    problems: list[dict[str, str]],
    name: str,
    key: str,
    ours: Mapping[str, TensorInfo],
    theirs: Mapping[str, TensorInfo],
) -> bool:
    def say(tensors: Mapping[str, TensorInfo], tensor: str) -> object:
        return getattr(tensors[tensor], key) if tensor in tensors else "no such tensor"

    different = [
        tensor
        for tensor in sorted(ours.keys() | theirs.keys())
        if say(ours, tensor) != say(theirs, tensor)
    ]
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        _problem(
            problems,
            f"{name}, {different[0]}{more}",
            f"{key} {say(theirs, different[0])}",
            f"{key} {say(ours, different[0])}",
        )
    return not different


def distances(seed: Checkpoint, candidate: Checkpoint) -> dict[str, Distance]:
    """Per tensor, in float64, streamed and parallel."""
    names, theirs = kept(seed), kept(candidate)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(
            zip(
                names,
                pool.map(lambda name: distance(names[name], theirs[name]), names),
                strict=True,
            )
        )


def distance(ours: TensorInfo, theirs: TensorInfo) -> Distance:
    total = Distance()
    for left, right in zip(chunks(ours), chunks(theirs), strict=True):
        if not combine.finite(right, theirs.dtype) or not combine.finite(left, ours.dtype):
            return Distance(finite=False, identical=False)
        if left == right:
            values = combine.unpack(left, ours.dtype).astype(np.float64)
            square = float(values @ values)
            total += Distance(square, square, 0.0, square)
        else:
            a, b = (combine.unpack(raw, ours.dtype).astype(np.float64) for raw in (left, right))
            total += Distance(
                float(a @ a), float(b @ b), float((a - b) @ (a - b)), float(a @ b), identical=False
            )
    return total


def chunks(tensor: TensorInfo) -> Iterable[bytes]:
    step = CHUNK * ITEM_BYTES[tensor.dtype]
    with open(tensor.file, "rb", buffering=0) as file:
        for start in range(tensor.start, tensor.end, step):
            yield os.pread(file.fileno(), min(step, tensor.end - start), start)


def all_finite(checkpoint: Checkpoint) -> bool:
    return all(
        combine.finite(chunk, tensor.dtype)
        for tensor in checkpoint.tensors.values()
        for chunk in chunks(tensor)
    )


def ancestry(
    measured: Mapping[str, Distance], mode: str, problems: list[dict[str, str]]
) -> dict[str, Any]:
    """Does the candidate descend from the seed? distance: relative, per class. margin: cosine of the matrices above the least allowed."""
    classes: dict[str, Distance] = {}
    for name, found in measured.items():
        classes[tensor_class(name)] = classes.get(tensor_class(name), Distance()) + found
    moved = [
        name
        for name, found in measured.items()
        if tensor_class(name) != "ffn" and not found.identical
    ]
    # Norms say nothing: they lie near one in every model.
    cosine = min(
        (
            found.cosine
            for kind, found in classes.items()
            if kind in ("attention", "ffn", "embedding", "head")
        ),
        default=0.0,
    )
    descends = cosine >= MIN_COSINE and not (mode == "anchored" and moved)
    if cosine < MIN_COSINE:
        _problem(
            problems,
            "ancestry",
            f"cosine {cosine:.3f} with the seed's weights",
            f"at least {MIN_COSINE}, as every branch of this seed has",
        )
    elif not descends:
        _problem(
            problems,
            f"ancestry, {moved[0]}",
            f"{len(moved)} shared tensors that moved",
            "the seed's, bit for bit (mode anchored)",
        )
    return {
        "descends": descends,
        "shared_identical": not moved,
        "moved": len(moved),
        "cosine": cosine,
        "margin": cosine - MIN_COSINE,
        "distance": {kind: found.relative for kind, found in sorted(classes.items())},
        "cosines": {kind: found.cosine for kind, found in sorted(classes.items())},
    }


def divergence(measured: Mapping[str, Distance]) -> list[float]:
    """Relative distance of each layer's feed-forward block from the seed's."""
    layers: dict[int, Distance] = {}
    for name, found in measured.items():
        if tensor_class(name) == "ffn" and (layer := re.search(r"\.(\d+)\.", name)):
            layers[int(layer[1])] = layers.get(int(layer[1]), Distance()) + found
    return [found.relative for _, found in sorted(layers.items())]


def similarity(
    seed: Checkpoint, candidate: Checkpoint, others: Mapping[str, Path]
) -> dict[str, float]:
    """Cosine between the candidate's task vector (weights minus seed's) and each other expert's, over feed-forward blocks."""
    return {
        name: _task_cosine(seed, candidate, Checkpoint.open(folder))
        for name, folder in sorted(others.items())
    }


def _task_cosine(seed: Checkpoint, left: Checkpoint, right: Checkpoint) -> float:
    sums = np.zeros(3)
    for name, info in kept(seed).items():
        if tensor_class(name) != "ffn" or name not in right.tensors:
            continue
        for raw in zip(
            chunks(info), chunks(left.tensors[name]), chunks(right.tensors[name]), strict=True
        ):
            base, a, b = (combine.unpack(chunk, info.dtype).astype(np.float64) for chunk in raw)
            a, b = a - base, b - base
            sums += (a @ b, a @ a, b @ b)
    return float(sums[0] / np.sqrt(sums[1] * sums[2])) if sums[1] and sums[2] else 0.0
