"""Look at held-out text before the first step and while training, a little and often.

In:  a few held-out documents as tokens.  Out: their loss at some steps of a run, and a word when it
is worse than where the run started: hours before a gate would say so.
What a model is worth is left to `btx_core.measuring`; these figures only compare a run with itself.
Shapes: B sequences of S tokens (ids hold one more).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from btx_core.batches import Corpus, target_weights
from btx_core.problems import BtxError
from btx_core.tokens import TokenisedDocuments
from btx_core.training.losses import next_token_loss
from btx_core.training.recipes import Optimisation

logger = logging.getLogger(__name__)

# What is read: tokens, and of them at most so many for each token that the run trains on.
MOST_TOKENS, SHARE_OF_RUN = 4096, 0.015
# How often it is read after the start, and how many steps lie between at least.
LOOKS, LEAST_APART = 8, 5
# How much worse counts: the few documents of a look are not the domain.
WORSE = 1.01


class Worse(BtxError):
    """Training makes its model worse on held-out text."""


@dataclass(eq=False)
class HeldOutLooks:
    """The looks of one run at held-out text.

    Attributes:
        ids: token ids (B, S + 1).
        end: the id of the end token.
        losses: (step, loss), nats per token; the first is that of the model as it came.
        begins: (B, S + 1) whether a document begins with a token; None: with each end token.
        weights: (B, S) how much each target counts; None: all alike.
    """

    ids: torch.Tensor
    end: int
    losses: list[tuple[int, float]] = field(default_factory=list)
    begins: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    @classmethod
    def of(cls, corpora: Iterable[Corpus], end: int, recipe: Optimisation) -> "HeldOutLooks":
        """Take the first held-out tokens of each data version of which some are learnt.

        Args:
            corpora: what the run trains on.
            end: the id of the end token.
            recipe: the run's, which says how long sequences are, and how much is worth its time.

        Returns:
            Looks, none taken yet.
        """
        sources = [documents for corpus in corpora for documents in corpus.heldout]
        of_run = int(SHARE_OF_RUN * recipe.steps * recipe.batch * recipe.sequence)
        wanted = max(4 * recipe.sequence, min(MOST_TOKENS, of_run)) // len(sources)
        sequences, begins, learnt = [], [], []
        for documents in sources:
            taken = min(max(1, wanted), len(documents.ids))
            length = min(recipe.sequence, taken)
            for start in _starts(documents, taken // length, length):
                row = torch.full((recipe.sequence + 1,), end)
                ids = documents.ids[max(0, start - 1) : start + length].astype(np.int64)
                row[length + 1 - len(ids) : length + 1] = torch.from_numpy(ids)
                sequences.append(row)
                begins.append(_begins(documents, start, row, end))
                learnt.append(_learnt(documents, start, length, recipe.sequence))
        if not any(documents.is_partly_learnt for documents in sources):
            return cls(torch.stack(sequences), end)
        weights = target_weights(np.stack(learnt), [""] * len(learnt))
        return cls(
            torch.stack(sequences),
            end,
            begins=torch.stack(begins),
            weights=torch.from_numpy(weights),
        )

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to look after so many steps of a run."""
        apart = max(LEAST_APART, -(-steps // LOOKS))
        return step == steps or step % apart == 0

    def look(self, model: torch.nn.Module, step: int, *, batch: int = 1) -> float:
        """Measure the model. Several processes that share it all call.

        Neither the model's mode nor the random numbers of the run are changed.

        Args:
            model: the running model.
            step: how many steps it has trained.
            batch: sequences in one forward pass.

        Returns:
            The loss, nats per token.
        """
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        total = 0.0
        # In evaluation mode nothing is drawn on a device.
        with torch.random.fork_rng([]), torch.no_grad():
            for start in range(0, len(self.ids), batch):
                part = (self.ids, self.begins, self.weights)
                ids, begins, weights = (
                    None if one is None else one[start : start + batch].to(device) for one in part
                )
                assert ids is not None
                loss = next_token_loss(model, ids, self.end, begins, weights)
                total += float(loss) * len(ids)
        model.train(training)
        mean = total / len(self.ids)
        self.losses.append((step, mean))
        return mean

    @property
    def worse(self) -> bool:
        """Whether the last look was worse than the first."""
        return bool(self.losses) and self._is_worse(-1)

    def _is_worse(self, number: int) -> bool:
        # Written so that NaN is worse too.
        return not self.losses[number][1] <= WORSE * self.losses[0][1]

    def judge(self, recipe: Optimisation) -> str | None:
        """Say whether training made its model worse; while the rate rises it may.

        Args:
            recipe: the run's.

        Returns:
            A warning, or None.

        Raises:
            Worse: where two looks in turn are worse and the recipe says "stop".
        """
        step, now = self.losses[-1]
        if not self.worse or step <= min(recipe.warmup_steps, recipe.steps // 2):
            return None
        start = self.losses[0][1]
        again = len(self.losses) > 2 and self._is_worse(-2)
        if recipe.when_worse == "stop" and again:
            raise Worse(
                f"step {step}",
                found=f"{now:.3f} nats per token on held-out text, {start:.3f} before training",
                expected="a model that gets better",
                next="lower learning_rate, or leave it to auto",
            )
        warning = f"worse than at the start on held-out text: {now:.3f}, was {start:.3f}"
        logger.warning("step %d of %d: %s", step, recipe.steps, warning)
        return warning

    # Any: a JSON object.
    def to_json(self) -> dict[str, Any]:
        """Return the looks as a JSON object."""
        return {"losses": self.losses, "worse": self.worse}


def _starts(documents: TokenisedDocuments, count: int, length: int) -> list[int]:
    """Return where the first stretches start that hold anything to learn; else the very first."""
    every = range(0, len(documents.ids) - length + 1, length)
    holding = (start for start in every if documents.learnt(start, start + length).any())
    return list(islice(holding, count)) or [0]


def _begins(documents: TokenisedDocuments, start: int, row: torch.Tensor, end: int) -> torch.Tensor:
    """Tell of a row, which an end token leads, where documents begin."""
    if not documents.is_partly_learnt:
        return row == end
    inside = documents.ends_document(
        max(0, start - 1), min(start + len(row) - 1, len(documents.ids))
    )
    begins = torch.zeros(len(row), dtype=torch.bool)
    first = 1 if start == 0 else 0
    begins[first : first + len(inside)] = torch.from_numpy(inside)[: len(row) - first]
    begins[0] = True
    return begins


def _learnt(
    documents: TokenisedDocuments, start: int, length: int, sequence: int
) -> NDArray[np.bool_]:
    """Tell of the targets of a row which count; what is only padding does not."""
    learnt = np.zeros(sequence, dtype=bool)
    stop = min(start + length, len(documents.ids))
    learnt[: stop - start] = documents.learnt(start, stop)
    return learnt
