"""Which tensors of a dense checkpoint count, and which group each belongs to.

In:  an open checkpoint, or a tensor's name.
Out: its parameters; a group's name. Which of them an expert keeps for itself is left to `plan.py`.
"""

from __future__ import annotations

import re

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.headers import TensorInfo

FLOATS = ("F64", "F32", "F16", "BF16")
# The groups of shared parameters; a recipe may weigh each by itself.
GROUPS = ("attention", "embedding", "norm", "head", "other")
FEED_FORWARD = "ffn"
# Buffers that old checkpoints carry and stock loaders compute anew.
BUFFERS = re.compile(r"rotary_emb\.inv_freq$|attn\.(masked_)?bias$")
# In this order: a norm inside a feed-forward block is a norm.
GROUP_PATTERNS = {
    "norm": re.compile(r"norm|layernorm|\.ln_"),
    FEED_FORWARD: re.compile(r"\.(mlp|feed_forward|shared_mlp|ffn)\."),
    "attention": re.compile(r"attn|attention|\.conv\.|mamba|linear_attn"),
    "embedding": re.compile(r"embed|\.wte\."),
    "head": re.compile(r"lm_head"),
}


def parameters_of(dense: Checkpoint) -> dict[str, TensorInfo]:
    """Return a checkpoint's tensors by name, without the buffers that loaders compute."""
    return {name: info for name, info in dense.tensors.items() if not BUFFERS.search(name)}


def parameter_group(name: str) -> str:
    """Return the group of a dense tensor: one of `GROUPS`, or `FEED_FORWARD`."""
    for group, pattern in GROUP_PATTERNS.items():
        if pattern.search(name):
            return group
    return "other"
