"""What a user may set of a training or a tuning.

In:  nothing.  Out: the recipes, whose field names are the keys of `[recipe.train]` and
`[recipe.tune]` in btx.toml and whose defaults are written here and nowhere else.
Of the keys in `btx_core.training.fitting.OPEN` the defaults are those of a tiny model, and what
orders of before meant: a workspace chooses them by the model and the text.
No module of torch is imported, so that a recipe can be checked without it. Reading and checking a
user's settings is left to `pipelines.workspace.recipe_reader`.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from btx_core.problems import WrongUsage

BranchMode = Literal["anchored", "full"]
TuneMode = Literal["none", "router", "shared", "all"]
Precision = Literal["float32", "bfloat16"]
RouterStart = Literal["fitted", "centroid", "random"]
GrowRows = Literal["joining", "all"]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """Settings of every run of the optimiser's loop: AdamW with warm-up and cosine."""

    # Optimiser steps.
    steps: int
    # Sequences a step.
    batch: int = 4
    # Tokens of one sequence.
    sequence: int = 128
    # The peak of the learning rate.
    learning_rate: float
    # Steps in which the rate rises to its peak.
    warmup_steps: int
    # Share of the peak that the cosine ends at.
    final_rate: float = 0.1
    weight_decay: float
    # Largest norm of the gradient.
    clip: float = 1.0
    # Parts that a step's sequences are computed in, where memory is short.
    accumulate: int = 1
    # Of the forward pass; parameters and their moving averages stay float32.
    precision: Precision = "float32"
    # When held-out text is predicted worse than at the start: say so, or stop as well.
    when_worse: Literal["warn", "stop"] = "warn"
    # Steps between checkpoints.
    save_every: int = 200
    # The random seed.
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Optimisation):
    """How a branch of a seed model is trained."""

    # anchored: the feed-forward blocks alone; full: every parameter.
    mode: BranchMode = "anchored"
    steps: int = 1000
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    weight_decay: float = 0.1
    # Share of sequences from the seed model's general data.
    replay: float = 0.0
    # Mode anchored: share of tokens that a learnt router divides between the expert and the seed
    # model's own block.
    beside: float = 0.0
    # With beside: weight of the KL divergence from the seed model's predictions on general
    # sequences, nats per token.
    keep: float = 3.0
    # With beside: weight of telling the domain's sequences from general ones by what enters each
    # block.
    tag: float = 0.25
    # Above 0: train adapters of this rank in place of the parameters themselves, and merge them at
    # the end.
    lora_rank: int = 0


@dataclass(frozen=True, kw_only=True)
class TuneRecipe(Optimisation):
    """How a mixture is tuned."""

    # What trains: nothing, the routers, these and all that is shared, or every parameter.
    mode: TuneMode = "shared"
    # Of the routers' weights. fitted and centroid need one vector per expert, so no split or blend.
    start: RouterStart = "fitted"
    steps: int = 600
    # Of the routers.
    learning_rate: float = 5e-3
    # Of everything else that trains, as a share of learning_rate.
    shared_rate: float = 0.6
    # Share of sequences from the seed model's own data; the other domains share the rest evenly.
    general_share: float = 0.4
    # Weight of the next token's cross-entropy. Without it and keep, nothing flows back through the
    # model: twice as fast.
    text: float = 1.0
    # Weight of the KL divergence from the seed model's predictions on its own text, nats per token.
    keep: float = 1.0
    # Weight of the routers' cross-entropy to the expert that each text trained, summed over layers.
    home: float = 0.0
    # Weight of the load balance, α.
    balance: float = 0.01
    # Weight of the mean squared log-partition of the routers' logits.
    z: float = 0.001
    warmup_steps: int = 20
    weight_decay: float = 0.0
    # Routing switch: how many even shares of a batch one expert takes.
    capacity: float = 1.5
    # Routing sample: where the Gumbel temperature, 1 at first, ends.
    temperature: float = 0.5
    # Share of the steps when an expert joins a tuned build, which is then gone on from; 0: every
    # build is tuned from nothing.
    grow: float = 0.0
    # The learning rate then, as a multiple of the usual one. What the keys of growth are worth:
    # benchmarks/growth.
    grow_rate: float = 1.0
    # Which router weights train then, where only routers do: those of what joins, so that taking it
    # out again gives the build before to the bit; or all, so that experts make room for it.
    grow_rows: GrowRows = "joining"
    # Sequences of a step then, as a multiple of `batch`.
    grow_batch: float = 1.0
    # Share of the sequences then, from what joins; 0: the domains share evenly.
    grow_share: float = 0.0
    # Weight then of the KL divergence from the build that is gone on from, on all text but that of
    # what joins, nats per token.
    grow_keep: float = 0.0
    # Of a line's builds, one in so many is tuned from nothing all the same; 0: none has to be.
    from_nothing_every: int = 0


def growing(recipe: TuneRecipe, *, joins: bool) -> TuneRecipe:
    """Return the recipe with the steps, batch and rate of a tuning that goes on from a build.

    Args:
        recipe: as it is given, with `grow` above 0.
        joins: whether the build gains an expert; where it only loses some, nothing is tuned.
    """
    steps = math.ceil(recipe.steps * recipe.grow) if joins else 0
    return replace(
        recipe,
        steps=steps,
        batch=math.ceil(recipe.batch * recipe.grow_batch),
        learning_rate=recipe.learning_rate * recipe.grow_rate,
    )


def check_shares(recipe: Optimisation) -> None:
    """Check that no share of the text is more than all of it.

    Args:
        recipe: every key resolved.

    Raises:
        WrongUsage: naming the key.
    """
    for key in ("replay", "beside", "general_share", "grow_share"):
        share = getattr(recipe, key, 0.0)
        if share > 1:
            raise WrongUsage(
                f"recipe key {key}",
                found=f"{share:g}",
                expected="a share: 1 is all",
                next="fix the value",
            )


def check_parts(recipe: Optimisation, processes: int) -> None:
    """Check that a step's sequences divide over the processes, and theirs into parts.

    Args:
        recipe: every key resolved.
        processes: that compute a step together.

    Raises:
        WrongUsage: naming the key.
    """
    if recipe.batch % processes:
        raise WrongUsage(
            "recipe key batch",
            found=f"{recipe.batch} sequences for {processes} processes",
            expected=f"a multiple of {processes}",
            next="change batch, or the number of processes",
        )
    rows = recipe.batch // processes
    if recipe.accumulate > rows:
        raise WrongUsage(
            "recipe key accumulate",
            found=f"{recipe.accumulate} parts of {rows} sequences, which is what a process takes",
            expected=f"at most {rows}",
            next="lower accumulate, or raise batch",
        )


def check_beside(recipe: TrainRecipe, *, has_general: bool) -> None:
    """Check that a branch can be trained beside its seed model, where the recipe asks for that.

    Args:
        recipe: every key resolved.
        has_general: whether there is general text among what is trained on.

    Raises:
        WrongUsage: for what `beside` builds on.
    """
    if not recipe.beside:
        return
    subject = "[recipe.train] beside"
    # In any other mode the seed model's block would meet states that it never saw.
    if recipe.mode != "anchored":
        raise WrongUsage(
            subject,
            found=f'mode = "{recipe.mode}"',
            expected='mode = "anchored"',
            next="choose one of the two",
        )
    if not has_general:
        raise WrongUsage(
            subject,
            found="no general rows to tell the domain from",
            expected="replay above 0",
            next=(
                "set replay = 0.5, and name the seed's data: "
                "btx seed add NAME PATH --data data/NAME"
            ),
        )


def check_taught(recipe: TuneRecipe) -> None:
    """Check that what is tuned has something to learn.

    Args:
        recipe: every key resolved.

    Raises:
        WrongUsage: for a recipe that gives shared parameters nothing to learn.
    """
    if recipe.mode not in ("none", "router") and not (recipe.text or recipe.keep):
        raise WrongUsage(
            "[recipe.tune] text, keep",
            found=f'both 0, mode = "{recipe.mode}"',
            expected='mode = "router"',
            next="give text a weight: 1",
        )
