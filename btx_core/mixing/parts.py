"""Which tensors of a composed folder are shared, routers, and each expert slot's.

In:  the open folder of a mixture that was made here.
Out: tensor names by part, from their names alone. Which file holds each is left to its index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.mixture_layouts import LAYOUTS
from btx_core.problems import Unsupported


@dataclass(frozen=True)
class Parts:
    """The tensor names of a composed folder.

    Attributes:
        shared: parameters that all tokens pass.
        router: layer -> the router's matrix [E, D].
        experts: slot -> its tensors, in order of slots, with gaps where an expert was removed;
            empty for a mixture that holds all experts in one tensor.
        fused: tensors that hold all experts.
        router_biases: constants that travel with the router.
    """

    shared: tuple[str, ...]
    router: Mapping[int, str]
    experts: Mapping[int, tuple[str, ...]]
    fused: tuple[str, ...] = ()
    router_biases: tuple[str, ...] = ()


def parts_of(checkpoint: Checkpoint) -> Parts:
    """Sort the tensor names of a mixture into its parts.

    Args:
        checkpoint: a mixture that was made here.

    Returns:
        Parts that name every tensor once.

    Raises:
        Unsupported: for a dense model.
    """
    layout = LAYOUTS.get(checkpoint.config["model_type"])
    if layout is None:
        raise Unsupported(
            checkpoint.folder,
            found=checkpoint.config["model_type"],
            expected="a mixture made here",
            next="mix it first",
        )
    router_pattern = template_pattern(layout.router)
    bias_pattern = template_pattern(layout.router_bias)
    expert_patterns = [template_pattern(tensor.name) for tensor in layout.experts]
    router: dict[int, str] = {}
    experts: dict[int, list[str]] = {}
    fused, biases, shared = [], [], []
    for name in sorted(checkpoint.tensors):
        router_match = router_pattern.fullmatch(name)
        expert_match = _first_match(expert_patterns, name)
        if router_match:
            router[int(router_match["l"])] = name
        elif bias_pattern.fullmatch(name):
            biases.append(name)
        elif expert_match and layout.fused:
            fused.append(name)
        elif expert_match:
            experts.setdefault(int(expert_match["e"]), []).append(name)
        else:
            shared.append(name)
    return Parts(
        shared=tuple(shared),
        router=dict(sorted(router.items())),
        experts={slot: tuple(names) for slot, names in sorted(experts.items())},
        fused=tuple(fused),
        router_biases=tuple(biases),
    )


def template_pattern(template: str) -> re.Pattern[str]:
    """Return a pattern that matches a template's names; its groups are l and e."""
    pattern = re.escape(template)
    pattern = pattern.replace(r"\{l\}", r"(?P<l>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
    return re.compile(pattern)


def _first_match(patterns: list[re.Pattern[str]], name: str) -> re.Match[str] | None:
    for pattern in patterns:
        match = pattern.fullmatch(name)
        if match:
            return match
    return None
