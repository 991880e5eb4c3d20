"""The feed-forward blocks of a dense model, by name.

In:  a dense model in memory.  Out: its blocks.
Loading a model is left to `btx_core.machine`, training it to `btx_core.training`.
"""

import re

import torch

FEED_FORWARD = re.compile(r"\.(mlp|feed_forward|shared_mlp)(\.|$)")


def feed_forward_blocks(dense: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the feed-forward block of every layer of a dense model.

    Args:
        dense: a dense causal language model.

    Returns:
        The blocks by module name, in layer order.
    """
    blocks = {}
    for name, module in dense.named_modules():
        match = FEED_FORWARD.search(name)
        if match and match.end() == len(name):
            blocks[name] = module
    return blocks
