"""The losses that training and tuning make small, each a mean over tokens.

In:  a model and sequences of packed documents, each document led by the end token; or router
logits.
Out: predictions, and losses in nats per token where nothing else is said.
Logits over a vocabulary are computed in chunks of tokens, with their gradient, so that a loss never
holds those of a whole batch. Which losses a run adds up, with which weights, is left to
`btx_core.training.objectives`.
Shapes: B sequences of S tokens (ids hold one more), V vocabulary, D model width, T = B × S tokens,
C tokens of a chunk, E experts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div

from btx_core.training.memory import LOGITS_AT_ONCE
from btx_core.training.packing import run_packed

# In the place of an expert's index: a token that any expert may answer.
NO_EXPERT = -100
Head = Callable[[torch.Tensor], torch.Tensor]
# The sum of a loss over C tokens, and its gradient by their logits (C, V).
LossAndGradient = tuple[torch.Tensor, torch.Tensor]
# Called with logits (C, V), the rows of these C tokens among all T, and the head.
ChunkLoss = Callable[[torch.Tensor, slice, Head], LossAndGradient]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts: the states that its head turns into logits.

    Attributes:
        states_BSD: the head's inputs, scaled as the model scales its logits.
        head: the model's output embedding; an identity where the states are logits already.
    """

    states_BSD: torch.Tensor
    head: torch.nn.Module

    def of(self, sequences: torch.Tensor | Sequence[int]) -> "Predictions":
        """Return the predictions of some sequences, by their numbers or a mask (B,)."""
        return Predictions(self.states_BSD[sequences], self.head)

    def logits(self) -> torch.Tensor:
        """Return all logits (B, S, V), float32."""
        logits: torch.Tensor = self.head(self.states_BSD)
        return logits.float()

    def cross_entropy(
        self, targets_BS: torch.Tensor, weights_BS: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean cross-entropy of the targets, a scalar.

        Args:
            targets_BS: token ids.
            weights_BS: how much each counts; None: all alike.
        """
        targets_T1 = targets_BS.reshape(-1, 1)
        weights_T1 = None if weights_BS is None else weights_BS.reshape(-1, 1)

        def loss(logits_CV: torch.Tensor, rows: slice, _: Head) -> LossAndGradient:
            log_shares_CV = logits_CV.log_softmax(-1)
            nats_C1 = -log_shares_CV.gather(-1, targets_T1[rows])
            if weights_T1 is not None:
                nats_C1 = nats_C1 * weights_T1[rows]
            gradient_CV = log_shares_CV.exp_()
            gradient_CV.scatter_add_(
                -1, targets_T1[rows], gradient_CV.new_full(targets_T1[rows].shape, -1.0)
            )
            if weights_T1 is not None:
                gradient_CV *= weights_T1[rows]
            return nats_C1.sum(), gradient_CV

        return self._mean(loss)

    def kl_divergence(self, target: "Predictions") -> torch.Tensor:
        """Return KL(target ‖ self), mean over all tokens, a scalar; the target is held constant."""
        target_states_TD = target.states_BSD.flatten(0, 1).detach()

        def loss(logits_CV: torch.Tensor, rows: slice, own_head: Head) -> LossAndGradient:
            # A branch beside its seed model shares the head with it.
            head = own_head if target.head is self.head else target.head
            target_CV = head(target_states_TD[rows]).float().log_softmax(-1)
            log_shares_CV = logits_CV.log_softmax(-1)
            total = kl_div(log_shares_CV, target_CV, log_target=True, reduction="sum")
            return total, log_shares_CV.exp_() - target_CV.exp_()

        return self._mean(loss)

    def _mean(self, loss: ChunkLoss) -> torch.Tensor:
        """Return the mean of a loss over all tokens."""
        states_TD = self.states_BSD.flatten(0, 1)

        # Called as the head's own forward, so that its weights are there where they are sharded.
        def summed(states_TD: torch.Tensor, own_head: Head) -> torch.Tensor:
            weight_VD = getattr(self.head, "weight", None)
            arguments = (states_TD, weight_VD, own_head, loss)
            total: torch.Tensor = _SumOverChunks.apply(*arguments)  # type: ignore[no-untyped-call]
            return total

        with _replaced(self.head, summed):
            total: torch.Tensor = self.head(states_TD)
        return total / len(states_TD)


def predict(
    model: torch.nn.Module, ids: torch.Tensor, end: int, begins: torch.Tensor | None = None
) -> Predictions:
    """Run a model over packed documents and return what it predicts of every next token.

    Args:
        model: a causal language model.
        ids: token ids (B, S + 1); the last of each sequence is only a target.
        end: the id of the end token.
        begins: (B, S + 1) whether a document begins with a token; None: with each end token.

    Returns:
        Predictions of B × S tokens.
    """
    # Several processes wrap a model; LoRA's wrapper hands everything on.
    inner: Any = getattr(model, "module", model)
    head: torch.nn.Module = inner.get_output_embeddings()
    begun = None if begins is None else begins[:, :-1]
    # What a model does to its logits must not differ from doing it to the states, and an adapter
    # on the head must be learnt too.
    capped = getattr(inner.config, "final_logit_softcapping", None)
    if capped or getattr(head, "bias", None) is not None or hasattr(head, "base_layer"):
        return Predictions(
            run_packed(model, ids[:, :-1], end, begins=begun).logits, torch.nn.Identity()
        )
    with _replaced(head, lambda states, _: states):
        return Predictions(run_packed(model, ids[:, :-1], end, begins=begun).logits, head)


def next_token_loss(
    model: torch.nn.Module,
    ids: torch.Tensor,
    end: int,
    begins: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of every next token.

    Args:
        model: a causal language model.
        ids: token ids (B, S + 1).
        end: the id of the end token.
        begins: (B, S + 1) whether a document begins with a token; None: with each end token.
        weights: (B, S) how much each target counts; None: all alike.

    Returns:
        A scalar: the mean over all B × S targets.
    """
    return predict(model, ids, end, begins).cross_entropy(ids[:, 1:], weights)


@contextmanager
def _replaced(
    head: torch.nn.Module, function: Callable[[torch.Tensor, Head], torch.Tensor]
) -> Iterator[None]:
    """Let a head compute something else, given its input and what it computes by itself.

    The module is still the one that is called, so that what shards or moves its weights does.
    """
    own, plain = head.__dict__.get("forward"), head.forward
    head.forward = lambda states: function(states, plain)
    try:
        yield
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own


# Any: the context of an autograd function.
class _SumOverChunks(torch.autograd.Function):
    """The sum of a loss over tokens. Gradients are made with it, chunk by chunk: logits go at once.

    Method: Liger's fused linear cross-entropy (arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any,
        states_TD: torch.Tensor,
        weight_VD: torch.Tensor | None,
        head: Head,
        loss: ChunkLoss,
    ) -> torch.Tensor:
        """Return the sum, a scalar; without a weight the states are logits."""
        of_states, of_weight, *_ = ctx.needs_input_grad
        states_gradient_TD = torch.empty_like(states_TD) if of_states else None
        weight_gradient_VD = None
        if of_weight and weight_VD is not None:
            weight_gradient_VD = torch.zeros_like(weight_VD)
        width = states_TD.shape[-1] if weight_VD is None else len(weight_VD)
        count = max(1, LOGITS_AT_ONCE // width)
        total = torch.zeros((), device=states_TD.device)
        for start in range(0, len(states_TD), count):
            rows = slice(start, start + count)
            logits_CV = head(states_TD[rows])
            # What autocast computed in is what the gradient is computed in.
            kind = logits_CV.dtype
            part, gradient_CV = loss(logits_CV.float(), rows, head)
            del logits_CV
            total += part
            gradient_CV = gradient_CV.to(kind)
            if states_gradient_TD is not None:
                through = gradient_CV if weight_VD is None else gradient_CV @ weight_VD.to(kind)
                states_gradient_TD[rows] = through
            if weight_gradient_VD is not None:
                states_CD = states_TD[rows].to(kind)
                if kind == weight_gradient_VD.dtype:
                    weight_gradient_VD.addmm_(gradient_CV.T, states_CD)
                else:
                    weight_gradient_VD += gradient_CV.T @ states_CD
        ctx.save_for_backward(states_gradient_TD, weight_gradient_VD)
        return total

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        """Return the gradients by the states and by the weight."""
        by_states, by_weight = (
            None if gradient is None else gradient.mul_(gradients[0])
            for gradient in ctx.saved_tensors
        )
        return by_states, by_weight, None, None


def balance_loss(shares_TE: torch.Tensor, weights_TE: torch.Tensor) -> torch.Tensor:
    """Return the load balance of a router, E Σ u_i p_i over the means of a batch.

    It multiplies means: the mean of products could not tell a balanced router from a collapsed one.
    Methods: Branch-Train-MiX, whose p is the mean softmax; DeepSeek-V3 (arXiv:2412.19437) for
    routers that score by a sigmoid, whose p is the mean of the sigmoids divided by their sum.

    Args:
        shares_TE: the weights of the experts did each token take all of them (T, E): p is their
            mean.
        weights_TE: the weights that the router gives the experts, most of them zero (T, E): u is
            their mean.

    Returns:
        A scalar without a unit: 1 when balanced, E when one expert takes all.
    """
    return shares_TE.shape[1] * (weights_TE.mean(0) * shares_TE.mean(0)).sum()


def own_expert_loss(logits_TE: torch.Tensor, experts_T: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of a router's choice of each token's own expert.

    Args:
        logits_TE: the router's logits (T, E).
        experts_T: the expert that is to answer each token; NO_EXPERT: whichever.

    Returns:
        A scalar: the sum over the tokens that have an expert, divided by all T.
    """
    loss = cross_entropy(logits_TE, experts_T, ignore_index=NO_EXPERT, reduction="sum")
    return loss / len(logits_TE)


def z_loss(logits_TE: torch.Tensor) -> torch.Tensor:
    """Return the mean squared log-partition of router logits (T, E): it limits their drift."""
    return logits_TE.logsumexp(-1).square().mean()
