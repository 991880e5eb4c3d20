"""Load a model onto this machine. No other module of the package does so.

In:  a checkpoint folder in Hugging Face format.  Out: a stock transformers model.
Training, tuning, the teacher, the first router weights, evaluation, attribution and the harness all
load here, so that device, dtype and sharding have one place where they are decided. Today a model
is loaded whole, on the CPU; accelerate moves what is trained. Checking a folder that is not trusted
is left to `btx_core.checkpoints.checkpoint`.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar


def load(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a dense or mixed causal language model.

    Args:
        folder: a checkpoint folder that stock transformers loads.
        dtype: the dtype of every parameter; None keeps the one that the folder's config names.

    Returns:
        The model in evaluation mode, every parameter requiring a gradient.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto" if dtype is None else dtype
    )
    return model
