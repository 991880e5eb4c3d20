"""What a model predicts of given tokens, in bounded memory at any length and vocabulary.

In:  a model and token ids.  Out: the log-probability of every target, and whether it was the
likeliest token. The model's body runs once; its logits are made and dropped a few positions at a
time, by the model's own code, so that whatever it does to them holds.
Shapes: B sequences of S tokens, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel

# Logits that are held at once, in numbers: 128 MB in float32.
CHUNK = 1 << 25


class Scores(NamedTuple):
    """How a model predicts targets.

    Attributes:
        log_probabilities_BS: of every target, float32.
        likeliest_BS: whether no token was more likely.
    """

    log_probabilities_BS: torch.Tensor
    likeliest_BS: torch.Tensor


@torch.no_grad()
def score(network: PreTrainedModel, inputs_BS: torch.Tensor, targets_BS: torch.Tensor) -> Scores:
    """Run a model over sequences and score a target at every position.

    Args:
        network: a causal language model.
        inputs_BS: token ids, on the model's device.
        targets_BS: the token ids that follow; below 0 at positions whose score is not used.

    Returns:
        The scores.
    """
    # Any: a transformers ModelOutput, whose class differs between families, and an untyped method.
    body, untyped = network.base_model, cast(Any, network)
    outputs: list[Any] = []
    # Through the whole model: where it is sharded, its outermost module must run first.
    hook = body.register_forward_hook(lambda _, arguments, output: outputs.append(output))
    try:
        network(input_ids=inputs_BS, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    (states,) = outputs
    vocabulary = untyped.get_output_embeddings().weight.shape[0]
    step = max(1, CHUNK // (vocabulary * len(inputs_BS)))
    parts = []
    for start in range(0, inputs_BS.shape[1], step):
        rows = slice(start, start + step)
        states_now = states.last_hidden_state[:, rows]
        with _answered(body, {**states, "last_hidden_state": states_now}, type(states)):
            logits = network(input_ids=inputs_BS[:, rows], use_cache=False).logits
        parts.append(_scores(logits, targets_BS[:, rows]))
    return Scores(*(torch.cat(tensors, 1) for tensors in zip(*parts, strict=True)))


def _scores(logits_BSV: torch.Tensor, targets_BS: torch.Tensor) -> Scores:
    logits_BSV = logits_BSV.float()
    wanted_BS = targets_BS.clamp(min=0)
    own_BS = logits_BSV.gather(-1, wanted_BS[..., None])[..., 0]
    likeliest_BS = logits_BSV.argmax(-1) == targets_BS
    return Scores(own_BS - logits_BSV.logsumexp(-1), likeliest_BS)


# Any: a transformers ModelOutput.
@contextmanager
def _answered(body: torch.nn.Module, fields: dict[str, Any], kind: type[Any]) -> Iterator[None]:
    """Let a module return these fields instead of running."""
    before = vars(body).get("forward")
    # An attribute of the object hides the method of its class.
    vars(body)["forward"] = lambda *_, **__: kind(**fields)
    try:
        yield
    finally:
        del vars(body)["forward"]
        if before is not None:
            vars(body)["forward"] = before
