"""Copy a seed for one domain: which parameters train, and how the copy is written back.

In:  a dense seed folder, a branch mode.  Out: a model whose frozen parameters are marked so; a dense folder beside the seed's.
Anchored trains the feed-forward blocks only; everything shared is written from the seed's own bytes.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from btx_core.checkpoints.tokenizer_files import copy_tokenizer

Mode = Literal["anchored", "full"]
FEED_FORWARD = re.compile(r"\.(mlp|feed_forward)(\.|$)")


def branch(seed: Path, mode: Mode) -> Any:
    """The seed as a float32 model to train; anchored: only feed-forward parameters require a gradient."""
    model = load(seed, torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(mode == "full" or bool(FEED_FORWARD.search(name)))
    return model


def feed_forward_blocks(dense: Any) -> dict[str, Any]:
    """One module a layer, by name, in layer order."""
    return {
        name: module
        for name, module in dense.named_modules()
        if (found := FEED_FORWARD.search(name)) and found.end() == len(name)
    }


def load(folder: Path, dtype: Any = "auto") -> Any:
    """Stock transformers, without its progress bars."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def write_dense(model: Any, seed: Path, out: Path) -> None:
    """Write the branch in the seed's dtype, with the seed's tokenizer files byte for byte."""
    model.to(
        getattr(torch, str(json.loads((seed / "config.json").read_text()).get("dtype", "float32")))
    ).save_pretrained(out)
    copy_tokenizer(seed, out)
