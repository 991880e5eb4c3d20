"""Which group a tensor of a dense checkpoint belongs to.

In:  a tensor's name.
Out: the name of its group. Which of them an expert keeps for itself is left to `plan.py`.
"""

from __future__ import annotations

import re

# The groups of shared parameters; a recipe may weigh each by itself.
GROUPS = ("attention", "embedding", "norm", "head", "other")
FEED_FORWARD = "ffn"
# In this order: a norm inside a feed-forward block is a norm.
GROUP_PATTERNS = {
    "norm": re.compile(r"norm|layernorm|\.ln_"),
    FEED_FORWARD: re.compile(r"\.(mlp|feed_forward|shared_mlp|ffn)\."),
    "attention": re.compile(r"attn|attention|\.conv\.|mamba|linear_attn"),
    "embedding": re.compile(r"embed|\.wte\."),
    "head": re.compile(r"lm_head"),
}


def parameter_group(name: str) -> str:
    """Return the group of a dense tensor: one of `GROUPS`, or `FEED_FORWARD`."""
    for group, pattern in GROUP_PATTERNS.items():
        if pattern.search(name):
            return group
    return "other"
