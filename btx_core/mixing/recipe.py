"""What a mixture is to be: its recipe and its members, checked against each other.

In:  what a person chose.
Out: the same as types, or a refusal that names the key. How it is carried out is left to `plan.py`
     and `streams.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from btx_core.mixing.parameters import GROUPS
from btx_core.mixing.weight_files import SEED_EXPERT
from btx_core.problems import WrongUsage

MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
# In `MixRecipe.weights`: every group that is not named.
ANY_GROUP = "*"
MODES = ("anchored", "full")
ROUTINGS = ("top-k", "soft", "switch", "sample")
METHODS = ("mean", "task", "ties", "dare")


@dataclass(frozen=True)
class Member:
    """One expert to be mixed.

    Attributes:
        name: letters, digits and ._@+-; its file is called by it.
        slot: the expert's number in the mixture; 0 is the seed's own.
        folder: the dense checkpoint, branched from the seed.
        shard: an earlier mix's file of this very member at this slot; it is linked, not written.
    """

    name: str
    slot: int
    folder: Path
    shard: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MixRecipe:
    """How the experts are composed; its digest belongs to what it made.

    Attributes:
        mode: where shared parameters come from: anchored, the seed; full, seed and members.
        routing: how a token chooses experts; `training.routing` says what each does.
        top_k: experts a token, of routing top-k; soft takes all, switch and sample one.
        seed_expert: whether the seed's own feed-forward blocks are slot 0, and the seed takes part
            in the mean of the shared parameters.
        split: each expert becomes this many narrower ones.
        blend: whether each expert takes a chunk of every member's block.
        method: how shared parameters are combined in mode full.
        weights: parameter group (`parameters.GROUPS`, or "*") -> member -> weight; absent: 1.
        scale: of task, ties and dare: how much of the combined task vector is added to the seed.
        density: of ties: the share of each task vector that is kept, by size; of dare: by chance.
        router_std: standard deviation of random router weights; zero would tie for ever.
        random_seed: of router weights and of dare.
    """

    mode: Literal["anchored", "full"] = "anchored"
    routing: Literal["top-k", "soft", "switch", "sample"] = "top-k"
    top_k: int = 2
    seed_expert: bool = True
    split: int = 1
    blend: bool = False
    method: Literal["mean", "task", "ties", "dare"] = "mean"
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scale: float = 1.0
    density: float = 0.5
    router_std: float = 0.02
    random_seed: int = 0


@dataclass(frozen=True)
class Rule:
    """One condition on a recipe.

    Attributes:
        key: the recipe's key that it is about.
        holds: whether the recipe meets it.
        expected: what would, for the error message.
    """

    key: str
    holds: bool
    expected: str


def check_members(members: Sequence[Member], recipe: MixRecipe) -> None:
    """Require members and a recipe that fit each other.

    Raises:
        WrongUsage: naming the member or the recipe's key.
    """
    names = [member.name for member in members]
    for name in names:
        taken = names.count(name) > 1 or name == SEED_EXPERT
        if taken or not MEMBER_NAME.fullmatch(name):
            raise WrongUsage(
                f"member {name!r}",
                found="a name that is taken, reserved or no file name",
                expected=f"letters, digits and ._@+-, each name once, not '{SEED_EXPERT}'",
                next="rename the member",
            )
    experts = (len(members) + recipe.seed_expert) * recipe.split
    if recipe.routing == "top-k" and not 1 <= recipe.top_k <= experts:
        raise WrongUsage(
            "top_k",
            found=f"{recipe.top_k} with {experts} experts",
            expected=f"1 to {experts}",
            next="choose top_k within the experts",
        )
    check_recipe(recipe, {SEED_EXPERT, *names})
    if recipe.seed_expert and any(member.slot < 1 for member in members):
        raise WrongUsage(
            "slots",
            found="a member at slot 0 or below",
            expected="slot 0 is the seed's own",
            next="number members from 1",
        )


def check_recipe(recipe: MixRecipe, names: Collection[str]) -> None:
    """Require a recipe whose keys make sense together.

    Args:
        recipe: the recipe.
        names: the seed's and the members' names.

    Raises:
        WrongUsage: naming the first key that does not.
    """
    for rule in _rules(recipe, names):
        if not rule.holds:
            raise WrongUsage(
                f"recipe, {rule.key}",
                found=getattr(recipe, rule.key),
                expected=rule.expected,
                next="change the recipe",
            )


def _rules(recipe: MixRecipe, names: Collection[str]) -> list[Rule]:
    combines = recipe.mode == "full"
    groups = ", ".join(GROUPS)
    return [
        Rule("routing", recipe.routing in ROUTINGS, "top-k, soft, switch or sample"),
        Rule("mode", recipe.mode in MODES, "anchored or full"),
        Rule(
            "method",
            recipe.method == "mean" or (combines and recipe.method in METHODS),
            "mean; task, ties or dare in mode full",
        ),
        Rule(
            "weights",
            _weights_make_sense(recipe, names),
            f"groups {groups} or {ANY_GROUP}, members of this mix, weights above 0",
        ),
        Rule("density", 0 < recipe.density <= 1, "above 0, at most 1"),
        Rule(
            "split",
            recipe.split >= 1 and not (recipe.blend and recipe.split > 1),
            "1 or more; 1 with blend",
        ),
    ]


def _weights_make_sense(recipe: MixRecipe, names: Collection[str]) -> bool:
    if recipe.weights.keys() - {*GROUPS, ANY_GROUP}:
        return False
    for by_member in recipe.weights.values():
        if by_member.keys() - set(names):
            return False
        if not all(0 < weight < 1e6 for weight in by_member.values()):
            return False
    return True
