"""A dense checkpoint: its feed-forward blocks, and how a branch of it is written.

In:  a dense model in memory, the folder of the seed model that it was branched from.
Out: its feed-forward blocks by name; a dense checkpoint folder beside the seed's.
Loading a model is left to `btx_core.machine`, training it to `btx_core.training`.
"""

import re
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from btx_core.checkpoints.canonical import BUFFERS, EMBEDDING, HEAD
from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.headers import TensorInfo
from btx_core.checkpoints.rewriting import write_again
from btx_core.problems import ShapeMismatch

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
    """Write a branch in its seed model's form: the same files, tensor names, dtypes and config.

    A tied head is stored exactly where the seed model stores it.

    Args:
        model: the branch.
        seed_model: the dense folder that it was branched from.
        out: an existing, empty folder.

    Raises:
        ShapeMismatch: for a tensor of the seed model that the branch has not.
    """
    base = Checkpoint.open(seed_model)
    on_disk = revert_weight_conversion(model, model.state_dict())

    def value_of(info: TensorInfo) -> torch.Tensor | None:
        if BUFFERS.search(info.name):
            return None
        other_name = {HEAD: EMBEDDING, EMBEDDING: HEAD}.get(info.name, info.name)
        value: torch.Tensor | None = on_disk.get(info.name, on_disk.get(other_name))
        if value is None:
            raise ShapeMismatch(
                f"{seed_model}, {info.name}",
                found="no such tensor in the trained model",
                expected="the tensors of the seed's class",
                next="start from a seed that btx seed add takes today",
            )
        return value

    write_again(base, value_of, out)
