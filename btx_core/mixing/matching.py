"""Whether a checkpoint has the form of its seed: config, tokenizer, tensors.

In:  two open checkpoints.
Out: nothing, or the first difference. What the weights' values say is left to `preflight.py`.
"""

from __future__ import annotations

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.settings import different_settings
from btx_core.checkpoints.token_meaning import different_tokens
from btx_core.checkpoints.whole import require_class
from btx_core.problems import ShapeMismatch

REBRANCH = "branch again from this seed, or register it under its own seed"


def require_same_family(seed: Checkpoint, member: Checkpoint, name: str) -> None:
    """Require that a member has the seed's model type.

    Args:
        seed: the seed.
        member: the checkpoint that was branched from it.
        name: the member's name, for the error message.

    Raises:
        ShapeMismatch: when the two are of different types.
    """
    if member.model_type != seed.model_type:
        raise ShapeMismatch(
            name,
            found=f"model type {member.model_type}",
            expected=seed.model_type,
            next=REBRANCH,
        )


def require_match(seed: Checkpoint, member: Checkpoint, name: str) -> None:
    """Require that a member has the seed's config, tokenizer and tensors.

    Args:
        seed: the seed, canonical.
        member: the checkpoint that was branched from it, canonical.
        name: the member's name, for the error message.

    Raises:
        ShapeMismatch: naming the first difference.
        Unsupported: for a config of which transformers makes no model.
    """
    for difference in different_settings(seed.config, member.config):
        raise ShapeMismatch(
            f"{name}, config {difference.key}",
            found='""' if difference.member == "" else difference.member,
            expected=f"{difference.seed}, as in the seed",
            next=REBRANCH,
        )
    tokens = different_tokens(seed.folder, member.folder)
    if tokens:
        raise ShapeMismatch(
            f"{name}, tokenizer", found=tokens.found, expected=tokens.expected, next=REBRANCH
        )
    _require_same_tensors(seed, member, name)
    if member.config != seed.config:
        # Settings that change no logits may still be such that the member cannot be loaded.
        require_class(member)


def _require_same_tensors(seed: Checkpoint, member: Checkpoint, name: str) -> None:
    ours, theirs = seed.tensors, member.tensors
    for tensor in sorted(ours.keys() ^ theirs.keys()):
        raise ShapeMismatch(
            f"{name}, {tensor}",
            found="only in the seed" if tensor in ours else "not in the seed",
            expected="the seed's tensors",
            next=REBRANCH,
        )
    for tensor, own in ours.items():
        other = theirs[tensor]
        if own.shape != other.shape:
            raise ShapeMismatch(
                f"{name}, {tensor}",
                found=f"shape {other.shape}",
                expected=f"{own.shape}, as in the seed",
                next=REBRANCH,
            )
        if own.dtype != other.dtype:
            raise ShapeMismatch(
                f"{name}, {tensor}",
                found=f"dtype {other.dtype}",
                expected=f"{own.dtype}, as in the seed",
                next=f"save it in {own.dtype}: model.to(torch dtype).save_pretrained(...)",
            )
