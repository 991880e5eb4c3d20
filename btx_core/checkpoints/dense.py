"""A dense checkpoint: its feed-forward blocks, and how a branch of it is written.

In:  a dense model in memory, the folder of the seed model that it was branched from.
Out: its feed-forward blocks by name; a dense checkpoint folder beside the seed's.
Loading a model is left to `btx_core.machine`, training it to `btx_core.training`.
"""

import json
import re
from pathlib import Path

import torch
from transformers import PreTrainedModel

from btx_core.checkpoints.tokenizer_files import copy_tokenizer

FEED_FORWARD = re.compile(r"\.(mlp|feed_forward)(\.|$)")


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


def write_dense(model: PreTrainedModel, seed_model: Path, out: Path) -> None:
    """Write a branch in its seed model's dtype, with the seed's tokenizer files byte for byte.

    Args:
        model: the branch; it is converted to that dtype in place.
        seed_model: the dense folder that it was branched from.
        out: an existing, empty folder.
    """
    config = json.loads((seed_model / "config.json").read_text())
    dtype: torch.dtype = getattr(torch, str(config.get("dtype", "float32")))
    # transformers wraps `to` in a decorator that hides its parameters from the type checker.
    model.to(dtype).save_pretrained(out)  # type: ignore[arg-type]
    copy_tokenizer(seed_model, out)
