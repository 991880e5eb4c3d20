"""Whether a checkpoint's tensors are exactly those of its model's class.

In:  an open checkpoint, dense or mixed.
Out: nothing, or what is missing, too much, of another shape, or no plain float. A stock loader
     would fill what is missing with random values and drop what is too much, with a warning.
The class is built on the device meta: no memory, no values. Values are left to `mixing.preflight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from btx_core.checkpoints.canonical import BUFFERS, EMBEDDING, HEAD
from btx_core.checkpoints.checkpoint import FLOATS, Checkpoint
from btx_core.checkpoints.headers import TensorInfo
from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.problems import ShapeMismatch

ABSENT = "no such tensor"
CAUSAL = "a causal language model"


@dataclass(frozen=True)
class Misfit:
    """A tensor that is not what the model's class has under this name.

    Attributes:
        tensor: its name.
        found: its shape or dtype, or that it is not there.
        expected: the same of the class.
        next: what to do now.
    """

    tensor: str
    found: str
    expected: str
    next: str


def misfits(checkpoint: Checkpoint) -> list[Misfit]:
    """Compare a checkpoint's tensors with those of its model's class.

    Args:
        checkpoint: an open checkpoint.

    Returns:
        What does not fit, in order of names.

    Raises:
        Unsupported: when transformers makes no causal language model of the config.
    """
    tensors = {name: info for name, info in checkpoint.tensors.items() if not BUFFERS.search(name)}
    described, tied = _described(checkpoint)
    found = []
    for name in sorted(described.keys() | tensors.keys()):
        # Of two names of one matrix, one is enough.
        spared = name in tied or (name == EMBEDDING and HEAD in tied and HEAD in tensors)
        if spared and name not in tensors:
            continue
        shape = str(tensors[name].shape) if name in tensors else ABSENT
        expected = str(described.get(name, ABSENT))
        if shape != expected:
            found.append(Misfit(name, shape, f"{expected}, as in its class", _advice(name, shape)))
        elif tensors[name].dtype not in FLOATS:
            found.append(_not_float(tensors[name]))
    return found


def require_whole(checkpoint: Checkpoint) -> None:
    """Require exactly the tensors of the model's class, all plain floats.

    Args:
        checkpoint: an open checkpoint.

    Raises:
        ShapeMismatch: naming the first tensor that does not fit, and how many more do not.
        Unsupported: when transformers makes no causal language model of the config.
    """
    found = misfits(checkpoint)
    if found:
        first = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ShapeMismatch(
            f"{checkpoint.folder}, {first.tensor}{more}",
            found=first.found,
            expected=first.expected,
            next=first.next,
        )


def require_class(checkpoint: Checkpoint) -> None:
    """Require a config that transformers makes a model of, whatever its tensors are.

    Raises:
        Unsupported: otherwise.
    """
    _described(checkpoint)


def _advice(name: str, shape: str) -> str:
    if name.startswith(("score.", "classifier.", "v_head.", "classification_head.")):
        return f"give {CAUSAL}: this one has the head of a classifier or reward model"
    if shape == ABSENT:
        return f"save the whole of {CAUSAL}: a loader would fill this with random values"
    return "bring config.json and weights from the same save together"


def _not_float(info: TensorInfo) -> Misfit:
    return Misfit(
        info.name,
        f"weights of type {info.dtype}",
        f"one of {', '.join(FLOATS)}",
        "save it dequantised: its config says nothing of quantised weights",
    )


def _described(checkpoint: Checkpoint) -> tuple[Mapping[str, tuple[int, ...]], set[str]]:
    """The class's shapes by name as they lie on disk, and the names that are tied to others."""
    # Here, so that headers can be read without it.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    subject = checkpoint.folder / "config.json"
    with refused_as_unsupported(subject, f"a config that makes {CAUSAL}"):
        config = AutoConfig.from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        on_disk = revert_weight_conversion(model, model.state_dict())
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {name: tuple(tensor.shape) for name, tensor in on_disk.items()}, tied
