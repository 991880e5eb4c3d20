"""Whether a checkpoint has the form of its seed: config, tokenizer, tensors.

In:  two open checkpoints.
Out: nothing, or the first difference. What the weights' values say is left to `preflight.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

# A config's values are whatever its author wrote; here they are only compared.
from typing import Any

from btx_core.checkpoints.checkpoint import Checkpoint, same_tokenizer
from btx_core.mixing.parameters import parameters_of
from btx_core.problems import ShapeMismatch

# Settings that do not change what the weights compute.
INERT_SETTINGS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "use_cache",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "initializer_range",
        "attention_dropout",
        "output_attentions",
        "output_hidden_states",
    }
)
REBRANCH = "branch again from this seed, or register it under its own seed"


def different_settings(seed: Mapping[str, Any], member: Mapping[str, Any]) -> list[str]:
    """Return the settings that both configs give, and give differently, in order."""
    both = (seed.keys() & member.keys()) - INERT_SETTINGS
    return sorted(key for key in both if seed[key] != member[key])


def require_match(seed: Checkpoint, member: Checkpoint, name: str) -> None:
    """Require that a member has the seed's config, tokenizer and tensors.

    Args:
        seed: the seed.
        member: the checkpoint that was branched from it.
        name: the member's name, for the error message.

    Raises:
        ShapeMismatch: naming the first difference.
    """
    if member.config["model_type"] != seed.config["model_type"]:
        raise ShapeMismatch(
            name,
            found=f"model type {member.config['model_type']}",
            expected=seed.config["model_type"],
            next=REBRANCH,
        )
    for key in different_settings(seed.config, member.config):
        raise ShapeMismatch(
            f"{name}, config {key}",
            found=member.config[key],
            expected=f"{seed.config[key]}, as in the seed",
            next=REBRANCH,
        )
    if not same_tokenizer(seed.folder, member.folder):
        raise ShapeMismatch(
            f"{name}, tokenizer.json",
            found="other tokens or merges",
            expected="the seed's tokenizer",
            next=REBRANCH,
        )
    _require_same_tensors(seed, member, name)


def _require_same_tensors(seed: Checkpoint, member: Checkpoint, name: str) -> None:
    ours, theirs = parameters_of(seed), parameters_of(member)
    for tensor in sorted(ours.keys() ^ theirs.keys()):
        raise ShapeMismatch(
            f"{name}, {tensor}",
            found="only in the seed" if tensor in ours else "not in the seed",
            expected="the seed's tensors",
            next=REBRANCH,
        )
    for tensor, own in ours.items():
        other = theirs[tensor]
        if (own.shape, own.dtype) != (other.shape, other.dtype):
            raise ShapeMismatch(
                f"{name}, {tensor}",
                found=f"{other.dtype} {other.shape}",
                expected=f"{own.dtype} {own.shape}, as in the seed",
                next=REBRANCH,
            )
