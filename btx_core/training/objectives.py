"""What a run of the loop makes small: objectives that turn a batch into one loss.

In:  the running model, a batch, the share of the run that is done.  Out: a scalar loss.
Here are the objectives of plain training and of tuning; that of a branch beside its seed model is
in `btx_core.training.beside`. The single losses are left to `btx_core.training.losses`.
Shapes: B sequences of S tokens (ids hold one more), V vocabulary, T = B × S tokens, D model width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from btx_core.batches import Sequences
from btx_core.routed import RoutedModel, Router
from btx_core.training.losses import (
    NO_EXPERT,
    Predictions,
    balance_loss,
    next_token_loss,
    own_expert_loss,
    predict,
    z_loss,
)
from btx_core.training.openings import Openings
from btx_core.training.recipes import TuneRecipe
from btx_core.training.routing import (
    Routing,
    RoutingInTraining,
    Together,
    routing_in_training,
)

# The domain of a tuning that stands for the seed model's own data.
GENERAL = "seed"


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward pass is given.

    Attributes:
        ids: token ids (B, S + 1): the first S are read, the last S are the targets.
        domains: of each of the B sequences, the name of the domain that its text is from.
        begins: (B, S + 1) whether a document begins with a token; None: with each end token.
        weights: (B, S) how much each target counts in the cross-entropy; None: all alike.
    """

    ids: torch.Tensor
    domains: tuple[str, ...]
    begins: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    @classmethod
    def on(cls, device: torch.device, sequences: Sequences) -> "Batch":
        """Return sequences as a batch on a device."""
        arrays = (sequences.ids, sequences.begins, sequences.weights)
        ids, begins, weights = (
            None if array is None else torch.from_numpy(array).to(device) for array in arrays
        )
        assert ids is not None
        return cls(ids, tuple(sequences.domains), begins, weights)

    @property
    def targets(self) -> torch.Tensor:
        """Token ids (B, S) that follow."""
        return self.ids[:, 1:]


class Objective(Protocol):
    """A loss of a whole batch."""

    @property
    def trains_through_model(self) -> bool:
        """Whether gradients flow back through the model, or stop at what is computed beside it."""

    def attached(self) -> AbstractContextManager[None]:
        """Return a block in which the model computes as this objective needs it, both ways."""

    def __call__(self, model: torch.nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        """Return the loss of a batch.

        Args:
            model: the running model, which several processes may have wrapped.
            batch: the sequences.
            progress: the share of the run's steps that is done, 0 to 1.

        Returns:
            A scalar, a mean over tokens.
        """


@dataclass(frozen=True)
class NextToken:
    """The cross-entropy of the next token.

    Attributes:
        end: the id of the end token.
    """

    end: int

    @property
    def trains_through_model(self) -> bool:
        """Always."""
        return True

    def attached(self) -> AbstractContextManager[None]:
        """The stock model as it is."""
        return nullcontext()

    def __call__(self, model: torch.nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        """Return the mean over all targets that are learnt, nats per token."""
        return next_token_loss(model, batch.ids, self.end, batch.begins, batch.weights)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A model whose predictions a mixture is held to.

    Attributes:
        model: dense or mixed, frozen.
        domains: on whose text.
        weight: of the KL divergence from what it predicts, nats per token.
    """

    model: torch.nn.Module
    domains: frozenset[str]
    weight: float


@dataclass(eq=False)
class Tuning:
    """The loss of a tuning: a weighted sum of some terms, the weights being its recipe's.

    The next token's cross-entropy; for each teacher the KL divergence from what it predicts; and
    for each router the load balance, the z-loss and, where the recipe asks for it, the choice of
    each text's own expert.

    Attributes:
        routed: the mixture that is tuned.
        recipe: the weights, and how the routers choose.
        routing: of the mixture's own recipe.
        end: the id of the end token.
        own_experts: by domain, the index of the expert that its text trained.
        openings: where the seed model's expert is to answer whosever text it is.
        teachers: the seed model for its own text; when a build grows, the one before.
        progress: the share of the run's steps that is done.
        sequences: of the forward pass that is computed.
    """

    routed: RoutedModel
    recipe: TuneRecipe
    routing: Routing
    end: int
    own_experts: Mapping[str, int]
    openings: Openings | None = None
    teachers: Sequence[Teacher] = ()
    progress: float = 0.0
    sequences: int = 1

    @property
    def trains_through_model(self) -> bool:
        """Whether a term depends on the model's predictions."""
        return bool(self.recipe.text or self.recipe.keep or self.teachers)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the routers choose as in training; on the way back too, where layers run again."""
        with routing_in_training(self.routed.routers, self._how):
            yield

    def _how(self) -> RoutingInTraining:
        temperature = 1 - self.progress * (1 - self.recipe.temperature)
        together = Together(self.routed.machine, self.sequences)
        return RoutingInTraining(self.routing, self.recipe.capacity, temperature, together)

    def __call__(self, model: torch.nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        """Return the weighted sum, nats per token."""
        self.progress, self.sequences = progress, len(batch.ids)
        predictions, routers = self._forward(model, batch)
        loss = self._text_term(predictions, batch)
        for teacher in self.teachers:
            divergence = self._divergence(teacher, predictions, batch)
            if divergence is not None:
                loss = loss + divergence
        experts_T = self._experts(batch) if self.recipe.home and self.own_experts else None
        for router in self.routed.routers:
            # One addition a term: another order of sums would give other bits.
            for term in self._router_terms(router, routers[router.name], experts_T):
                loss = loss + term
        return loss

    def _forward(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[Predictions, dict[str, torch.Tensor]]:
        """Return the predictions, and the logits of each router (T, E) by its name."""
        through = self.trains_through_model
        with (
            torch.set_grad_enabled(through),
            self.routed.recording(inputs=not through, logits=through) as recording,
        ):
            predictions = predict(model, batch.ids, self.end, batch.begins)
        if through:
            return predictions, recording.logits
        of_routers = {
            router.name: router.logits(recording.inputs[router.name])
            for router in self.routed.routers
        }
        return predictions, of_routers

    def _text_term(self, predictions: Predictions, batch: Batch) -> torch.Tensor:
        if not self.recipe.text:
            # Every process goes back through the whole model, whatever its sequences are.
            if self.routed.machine.world > 1 and self.trains_through_model:
                return 0.0 * predictions.cross_entropy(batch.ids[:, 1:])
            return torch.zeros((), device=batch.ids.device)
        return self.recipe.text * predictions.cross_entropy(batch.targets, batch.weights)

    def _divergence(
        self, teacher: Teacher, predictions: Predictions, batch: Batch
    ) -> torch.Tensor | None:
        """Return the KL divergence from a teacher on its text, where the batch has any."""
        own = [number for number, name in enumerate(batch.domains) if name in teacher.domains]
        # Several processes compute every forward pass together.
        if not own and self.routed.machine.world == 1:
            return None
        with torch.no_grad():
            read = own or [0]
            begins = None if batch.begins is None else batch.begins[read]
            target = predict(teacher.model, batch.ids[read], self.end, begins)
        if not own:
            return None
        divergence = predictions.of(own).kl_divergence(target)
        return teacher.weight * divergence * len(own) / len(batch.domains)

    def _experts(self, batch: Batch) -> torch.Tensor:
        """Return the expert that is to answer each token (T,); NO_EXPERT: whichever."""
        indices = [self.own_experts.get(name, NO_EXPERT) for name in batch.domains]
        read = batch.ids[:, :-1]
        experts_BS = torch.tensor(indices, device=read.device)[:, None].repeat(1, read.shape[1])
        if self.openings is not None and batch.begins is not None:
            rows = zip(read.cpu().numpy(), batch.begins[:, :-1].cpu().numpy(), strict=True)
            shared = np.stack([self.openings.within(ids, begins) for ids, begins in rows])
            experts_BS[torch.from_numpy(shared).to(read.device)] = self.openings.expert
        return experts_BS.flatten()

    def _router_terms(
        self, router: Router, logits_TE: torch.Tensor, experts_T: torch.Tensor | None
    ) -> list[torch.Tensor]:
        weights_TE = router.weights_of(logits_TE)
        terms = [
            self.recipe.balance * self._balance(router.shares_of(logits_TE), weights_TE),
            self.recipe.z * z_loss(logits_TE),
        ]
        if experts_T is not None:
            terms.append(self.recipe.home * own_expert_loss(logits_TE, experts_T))
        return terms

    def _balance(self, shares_TE: torch.Tensor, weights_TE: torch.Tensor) -> torch.Tensor:
        """Return the load balance over the sequences of all processes.

        It multiplies means over the whole batch. A process knows its own with a gradient and the
        others' without; the mean of what the processes return, and of its gradients, is the whole.
        """
        machine = self.routed.machine
        if machine.world == 1:
            return balance_loss(shares_TE, weights_TE)
        taken_E, likely_E = weights_TE.mean(0), shares_TE.mean(0)
        all_taken_E, all_likely_E = machine.mean(taken_E), machine.mean(likely_E)
        terms_E = taken_E * all_likely_E + all_taken_E * likely_E - all_taken_E * all_likely_E
        return shares_TE.shape[1] * terms_E.sum()
