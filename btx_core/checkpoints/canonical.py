"""A dense checkpoint as stock transformers understands it, however it is spelled.

In:  an open checkpoint.
Out: the same with its parsed config, defaults included, and every parameter once: no buffers, and a
     head only where it is a matrix of its own. Two checkpoints of one model become alike: saved by
     transformers 4 or 5, with a tied head stored or not.
Whether two configs compute the same is left to `settings.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.headers import TensorInfo
from btx_core.checkpoints.settings import require_layers_as_cached
from btx_core.checkpoints.stock import stock_config

# Buffers that old checkpoints carry and stock loaders compute anew.
BUFFERS = re.compile(r"rotary_emb\.inv_freq$|attn\.(masked_)?bias$")
# What every family of the table calls these two; tied, they are one matrix.
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIE = "tie_word_embeddings"
CHUNK_BYTES = 1 << 22


def canonical(checkpoint: Checkpoint) -> Checkpoint:
    """Return a dense checkpoint with its parsed config and every parameter once.

    Stock transformers ties a head only if it is not stored, or stored with the embedding's values.

    Args:
        checkpoint: an open dense checkpoint.

    Returns:
        The checkpoint; its config says in `tie_word_embeddings` what holds.

    Raises:
        Unsupported: when transformers cannot read the config, or reads it in two ways.
    """
    config = dict(stock_config(checkpoint.folder))
    require_layers_as_cached(checkpoint.folder / "config.json", config)
    tensors = {name: info for name, info in checkpoint.tensors.items() if not BUFFERS.search(name)}
    if config.get(TIE, True):
        if HEAD in tensors and EMBEDDING not in tensors:
            tensors[EMBEDDING] = replace(tensors.pop(HEAD), name=EMBEDDING)
        elif HEAD in tensors and same_bytes(tensors[HEAD], tensors[EMBEDDING]):
            del tensors[HEAD]
    config[TIE] = bool(config.get(TIE, True)) and HEAD not in tensors
    return replace(checkpoint, config=config, tensors=tensors)


def in_form_of(seed: Checkpoint, member: Checkpoint) -> Checkpoint:
    """Return a member with a head of its own exactly where its seed has one.

    Args:
        seed: a canonical checkpoint.
        member: a canonical checkpoint.

    Returns:
        The member; unchanged where its head and the seed's cannot be brought together.
    """
    tensors = dict(member.tensors)
    embedding = tensors.get(EMBEDDING)
    if seed.config[TIE] == member.config[TIE] or embedding is None:
        return member
    if not seed.config[TIE]:
        tensors[HEAD] = replace(embedding, name=HEAD)
    elif HEAD in tensors and same_bytes(tensors[HEAD], embedding):
        del tensors[HEAD]
    else:
        return member
    return replace(member, config={**member.config, TIE: seed.config[TIE]}, tensors=tensors)


def same_bytes(left: TensorInfo, right: TensorInfo) -> bool:
    """Say whether two tensors hold the same values of the same type."""
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    with open(left.file, "rb") as ours, open(right.file, "rb") as theirs:
        ours.seek(left.start)
        theirs.seek(right.start)
        for start in range(0, left.bytes, CHUNK_BYTES):
            count = min(CHUNK_BYTES, left.bytes - start)
            if ours.read(count) != theirs.read(count):
                return False
    return True
