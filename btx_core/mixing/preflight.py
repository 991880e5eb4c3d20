"""Say from the weights whether a candidate may become an expert of this seed.

In:  two checkpoint folders and the branch mode; optionally the other experts.
Out: plain facts, with a recommendation. Only what cannot be read safely is an error: judging the
     facts is left to the policies.
Ancestry: branches of one seed stay close to it (cosine near 1), models of other origin are
orthogonal to it (cosine near 0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from btx_core.checkpoints.canonical import canonical, in_form_of, same_bytes
from btx_core.checkpoints.checkpoint import FLOATS, Checkpoint
from btx_core.checkpoints.families import find_family
from btx_core.checkpoints.settings import different_settings
from btx_core.checkpoints.token_meaning import different_tokens
from btx_core.checkpoints.whole import misfits, require_class
from btx_core.mixing.distances import Distance, all_finite, distances, task_cosine
from btx_core.mixing.parameters import FEED_FORWARD, parameter_group
from btx_core.problems import BtxError

# Of the weight matrices with the seed's. Unrelated models lie below 0.1; branches, even far trained
# ones, above 0.8.
MIN_COSINE = 0.5
# Norms say nothing of ancestry: they lie near one in every model.
MATRICES = ("attention", FEED_FORWARD, "embedding", "head")

Mode = Literal["anchored", "full"]
Recommendation = Literal["refuse", "router", "shared"]


@dataclass(frozen=True)
class Problem:
    """One reason why a candidate fits its seed badly.

    Attributes:
        subject: what was looked at.
        found: what was there.
        expected: what should have been there.
    """

    subject: str
    found: str
    expected: str


@dataclass(frozen=True)
class Comparison:
    """What headers, configs and tokenizers say of a candidate.

    Attributes:
        family: the seed's family; None where it has no mixture.
        shapes_match: whether the tensors are the seed's, in name and shape.
        dtype_match: whether they are in the seed's dtypes, and those are floats.
        vocabulary_match: whether the vocabularies are of one size.
        tokenizer_match: whether the tokens mean the same.
        config_match: whether no setting that counts differs, and the config can be loaded.
        problems: what differs.
    """

    family: str | None
    shapes_match: bool
    dtype_match: bool
    vocabulary_match: bool
    tokenizer_match: bool
    config_match: bool
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Ancestry:
    """Whether a candidate descends from its seed.

    Attributes:
        descends: whether it does, and in mode anchored has the seed's shared parameters.
        shared_identical: whether no parameter outside the feed-forward blocks has moved.
        distance: by parameter group, relative to the seed's norm.
        cosines: by parameter group.
        moved: how many tensors outside the feed-forward blocks have moved; None where the weights
            could not be compared.
        cosine: the least cosine of the weight matrices with the seed's; None as for `moved`.
        trained_here: whether it is known to have been branched from the seed.
        problems: why it does not descend.
    """

    descends: bool = False
    shared_identical: bool = False
    distance: Mapping[str, float] = field(default_factory=dict)
    cosines: Mapping[str, float] = field(default_factory=dict)
    moved: int | None = None
    cosine: float | None = None
    trained_here: bool = False
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the form that is registered; margin: the cosine above the least allowed."""
        answer: dict[str, object] = {
            "descends": self.descends,
            "shared_identical": self.shared_identical,
        }
        if self.cosine is not None:
            answer["moved"] = self.moved
            answer["cosine"] = self.cosine
            answer["margin"] = self.margin
        answer["distance"] = dict(self.distance)
        if self.cosine is not None:
            answer["cosines"] = dict(self.cosines)
        if self.trained_here:
            answer["trained_here"] = True
        return answer

    @property
    def margin(self) -> float:
        """The cosine above the least that is allowed."""
        return (self.cosine or 0.0) - MIN_COSINE


@dataclass(frozen=True)
class Preflight:
    """Facts about a candidate as a branch of a seed.

    Attributes:
        comparison: what headers, configs and tokenizers say.
        finite: whether no weight is NaN or infinity.
        mode: the branch mode that was asked about.
        problems: all that speaks against it.
        ancestry: whether it descends from the seed.
        divergence_per_layer: distance of each layer's feed-forward block from the seed's, relative
            to the seed's norm.
        similarity: expert -> cosine of its task vector with the candidate's.
    """

    comparison: Comparison
    finite: bool
    mode: Mode
    problems: tuple[Problem, ...]
    ancestry: Ancestry
    divergence_per_layer: tuple[float, ...] = ()
    similarity: Mapping[str, float] = field(default_factory=dict)

    @property
    def recommendation(self) -> Recommendation:
        """How to tune a mixture with this expert, or not to have it.

        Tuning the router is enough only where nothing shared has moved: averaged shared parameters
        must be tuned (MergeME).
        """
        if self.problems:
            return "refuse"
        calm = self.mode == "anchored" or self.ancestry.shared_identical
        return "router" if calm else "shared"

    def to_json(self) -> dict[str, object]:
        """Return the form that is registered."""
        compared = asdict(self.comparison)
        del compared["problems"]
        return compared | {
            "finite": self.finite,
            "mode": self.mode,
            "problems": [asdict(problem) for problem in self.problems],
            "ancestry": self.ancestry.to_json(),
            "divergence_per_layer": list(self.divergence_per_layer),
            "similarity": dict(self.similarity),
            "recommendation": self.recommendation,
        }


def preflight(
    seed: Path,
    candidate: Path,
    mode: Mode = "anchored",
    *,
    others: Mapping[str, Path] | None = None,
    name: str | None = None,
    trained_here: bool = False,
) -> Preflight:
    """Collect facts about a candidate as a branch of a seed.

    Args:
        seed: the seed's folder.
        candidate: the candidate's folder.
        mode: whether shared parameters may have moved (full) or not (anchored).
        others: experts of the same seed by name, for the similarity of task vectors.
        name: what the problems call the candidate; its folder's name unless given.
        trained_here: whether it is known to have been branched from this seed, so that nothing is
            concluded from how far it has moved.

    Returns:
        The facts.

    Raises:
        Unsafe: for a folder that must not be read.
    """
    opened, given = Checkpoint.open(seed), Checkpoint.open(candidate)
    ours = canonical(opened)
    theirs = given
    if given.model_type == opened.model_type:
        theirs = in_form_of(ours, canonical(given))
    name = name or candidate.name
    comparison = compare(ours, theirs, name)
    comparable = comparison.shapes_match and comparison.dtype_match
    measured = distances(ours, theirs) if comparable else {}
    if comparable:
        finite = all(distance.finite for distance in measured.values())
    else:
        finite = all_finite(theirs)
    if not finite:
        bad = [name for name, distance in measured.items() if not distance.finite]
        subject = f"{name}, {min(bad, default='weights')}"
        problem = Problem(subject, "NaN or infinity", "finite weights")
        return Preflight(comparison, False, mode, (*comparison.problems, problem), Ancestry())
    if not comparable:
        return Preflight(comparison, True, mode, comparison.problems, Ancestry())
    descent = ancestry(measured, mode, trained_here=trained_here)
    return Preflight(
        comparison=comparison,
        finite=True,
        mode=mode,
        problems=(*comparison.problems, *descent.problems),
        ancestry=descent,
        divergence_per_layer=tuple(divergence(measured)),
        similarity={
            name: task_cosine(ours, theirs, Checkpoint.open(folder))
            for name, folder in sorted((others or {}).items())
        },
    )


def moved_shared(seed: Path, candidate: Path) -> list[str]:
    """Return the tensors outside the feed-forward blocks that two checkpoints hold differently.

    Args:
        seed: the seed's folder.
        candidate: the candidate's folder; tensors that it lacks or has in another form are not
            compared.

    Raises:
        Unsafe: for a folder that must not be read.
    """
    ours = canonical(Checkpoint.open(seed))
    theirs = in_form_of(ours, canonical(Checkpoint.open(candidate)))
    return [
        name
        for name, info in ours.tensors.items()
        if parameter_group(name) != FEED_FORWARD
        and name in theirs.tensors
        and (info.dtype, info.shape) == (theirs.tensors[name].dtype, theirs.tensors[name].shape)
        and not same_bytes(info, theirs.tensors[name])
    ]


def compare(seed: Checkpoint, candidate: Checkpoint, name: str) -> Comparison:
    """Compare headers, configs and tokenizers; no parameter is read.

    Args:
        seed: the seed, canonical.
        candidate: the candidate, canonical if it is of the seed's model type.
        name: what the problems call it.
    """
    problems: list[Problem] = []
    family = None
    try:
        family = find_family(seed.config).name
    except BtxError as error:
        problems.append(Problem(error.subject, error.found, error.expected))
    whole = misfits(Checkpoint.open(seed.folder))
    problems += [Problem(f"seed, {one.tensor}", one.found, one.expected) for one in whole[:1]]
    different = different_settings(seed.config, candidate.config)
    for one in different:
        subject = f"{name}, config {one.key}"
        problems.append(Problem(subject, str(one.member), str(one.seed)))
    loads = True
    if not different and candidate.config != seed.config:
        try:
            require_class(candidate)
        except BtxError as error:
            loads = False
            problems.append(Problem(f"{name}, config", error.found, error.expected))
    shapes = _different_shapes(seed, candidate, name)
    types = _different_dtypes(seed, candidate, name)
    tokens = different_tokens(seed.folder, candidate.folder)
    problems += [*shapes, *types]
    if tokens:
        problems.append(Problem(f"{name}, tokenizer", tokens.found, tokens.expected))
    return Comparison(
        family=family,
        shapes_match=not shapes,
        dtype_match=not types,
        vocabulary_match=seed.config.get("vocab_size") == candidate.config.get("vocab_size"),
        tokenizer_match=tokens is None,
        config_match=loads and not different,
        problems=tuple(problems),
    )


def _different_shapes(seed: Checkpoint, candidate: Checkpoint, name: str) -> list[Problem]:
    ours = {name: str(info.shape) for name, info in seed.tensors.items()}
    theirs = {name: str(info.shape) for name, info in candidate.tensors.items()}
    return _first_difference(name, "shape", ours, theirs)


def _different_dtypes(seed: Checkpoint, candidate: Checkpoint, name: str) -> list[Problem]:
    ours = {name: info.dtype for name, info in seed.tensors.items()}
    theirs = {name: info.dtype for name, info in candidate.tensors.items()}
    problems = _first_difference(name, "dtype", ours, theirs)
    strange = sorted(set(theirs.values()) - set(FLOATS))
    if strange:
        found = f"weights of type {strange[0]}"
        problems.append(Problem(name, found, f"one of {', '.join(FLOATS)}"))
    return problems


def _first_difference(
    name: str, what: str, ours: Mapping[str, str], theirs: Mapping[str, str]
) -> list[Problem]:
    """One problem that names the first tensor that differs, and how many more do."""
    names = sorted(ours.keys() | theirs.keys())
    different = [tensor for tensor in names if ours.get(tensor) != theirs.get(tensor)]
    if not different:
        return []
    first = different[0]
    more = f" and {len(different) - 1} more" if len(different) > 1 else ""
    absent = "no such tensor"
    found = f"{what} {theirs.get(first, absent)}"
    expected = f"{what} {ours.get(first, absent)}"
    return [Problem(f"{name}, {first}{more}", found, expected)]


def ancestry(
    measured: Mapping[str, Distance], mode: Mode, *, trained_here: bool = False
) -> Ancestry:
    """Say whether a candidate descends from its seed.

    Args:
        measured: distances by tensor name.
        mode: whether shared parameters may have moved (full) or not (anchored).
        trained_here: whether it is known to descend; the cosine is then only reported.
    """
    groups: dict[str, Distance] = {}
    moved: list[str] = []
    for name, distance in measured.items():
        group = parameter_group(name)
        groups[group] = groups.get(group, Distance()) + distance
        if group != FEED_FORWARD and not distance.identical:
            moved.append(name)
    matrices = [distance for group, distance in groups.items() if group in MATRICES]
    cosine = min((distance.cosine for distance in matrices), default=0.0)
    problems = _ancestry_problems(1.0 if trained_here else cosine, moved, mode)
    return Ancestry(
        descends=not problems,
        shared_identical=not moved,
        distance={group: distance.relative for group, distance in sorted(groups.items())},
        cosines={group: distance.cosine for group, distance in sorted(groups.items())},
        moved=len(moved),
        cosine=cosine,
        trained_here=trained_here,
        problems=problems,
    )


def _ancestry_problems(cosine: float, moved: Sequence[str], mode: Mode) -> tuple[Problem, ...]:
    if cosine < MIN_COSINE:
        found = f"cosine {cosine:.3f} with the seed's weights"
        expected = f"at least {MIN_COSINE}, as every branch of this seed has"
        return (Problem("ancestry", found, expected),)
    if mode == "anchored" and moved:
        found = f"{len(moved)} shared tensors that moved"
        expected = "the seed's, bit for bit (mode anchored)"
        return (Problem(f"ancestry, {moved[0]}", found, expected),)
    return ()


def divergence(measured: Mapping[str, Distance]) -> list[float]:
    """Return the distance of each layer's feed-forward block, relative to the seed's norm.

    Args:
        measured: distances by tensor name.
    """
    layers: dict[int, Distance] = {}
    for name, distance in measured.items():
        number = re.search(r"\.(\d+)\.", name)
        if number and parameter_group(name) == FEED_FORWARD:
            layer = int(number[1])
            layers[layer] = layers.get(layer, Distance()) + distance
    return [distance.relative for _, distance in sorted(layers.items())]
