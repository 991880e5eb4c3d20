"""The optimiser's loop, one for branches, small seed models and tuning.

In:  a model in memory, a mixture of text, an objective, a recipe.  Out: the same model trained, and
what that cost.
It runs on accelerate: on a CPU, a GPU, or several processes that `accelerate launch` starts. A
batch depends on its step alone, so a run that died is taken up at its last checkpoint and ends in
the bytes that it would have had. Loading and writing models is left to `branch` and `tune`.
Shapes: B sequences of S tokens (ids hold one more).
"""

import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from btx_core.progress import Progress
from btx_core.routed import is_expert_parameter, parameter_counts
from btx_core.texts import Mixture
from btx_core.training.heldout import HeldOutLooks
from btx_core.training.objectives import Batch, Objective
from btx_core.training.recipes import Optimisation
from btx_core.training.run_state import RunCheckpoints, RunState


@dataclass(frozen=True)
class TrainingReport:
    """What a run of the loop took.

    Attributes:
        tokens: read in all steps.
        flops: floating point operations, by `flops_per_token`.
        wall_s: seconds by the clock.
        device_s: seconds of CPU time of this process.
        peak_bytes: the most memory held: of the GPU where there is one, else of this process.
        parameters: of the model.
        trained_parameters: those that required a gradient.
        curve: (step, mean loss since the point before), nats per token.
        heldout: the looks at held-out text, where the run took any.
    """

    tokens: int
    flops: float
    wall_s: float
    device_s: float
    peak_bytes: int
    parameters: int
    trained_parameters: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    heldout: dict[str, Any] | None = None

    # Any: a JSON object.
    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class ParameterRates:
    """How much of the learning rate each parameter takes.

    Attributes:
        by_name: factors by parameter name.
        otherwise: the factor of every other parameter.
    """

    by_name: Mapping[str, float] = field(default_factory=dict)
    otherwise: float = 1.0

    def of(self, name: str) -> float:
        """Return the factor of the parameter of this name."""
        return self.by_name.get(name, self.otherwise)


@dataclass(frozen=True, eq=False)
class Training:
    """What the loop trains.

    Attributes:
        model: its parameters that require a gradient are trained, in place.
        mixture: the text.
        objective: the loss.
        rates: how much of the learning rate each parameter takes.
        heldout: looks at held-out text before the first step and while training; None: none.
    """

    model: torch.nn.Module
    mixture: Mixture
    objective: Objective
    rates: ParameterRates = field(default_factory=ParameterRates)
    heldout: HeldOutLooks | None = None


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take denormal numbers for zero inside the block.

    They slow a CPU down many times and teach nothing. Left on afterwards, it would change whatever
    this thread computes next.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


# Called with a step's number and what was measured of it, by name.
Report = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Watch:
    """Who is told how a run comes on, in the first of its processes alone.

    Attributes:
        progress: called at every point of the curve.
        report: called after every step with its number and what was measured of it: `loss`, `rate`,
            `gradient_norm`, `tokens_per_s`, `memory_bytes`, and `heldout_loss` where it was looked
            at.
    """

    progress: Progress | None = None
    report: Report | None = None


UNWATCHED = Watch()


@denormals_flushed()
def optimise(
    training: Training,
    recipe: Optimisation,
    checkpoints: RunCheckpoints | None = None,
    watch: Watch = UNWATCHED,
) -> TrainingReport:
    """Run AdamW with warm-up and cosine over the parameters that require a gradient.

    Several processes take the sequences of a step in turn.

    Args:
        training: what is trained, on what, towards what.
        recipe: steps, batch, rate and the like.
        checkpoints: where the run leaves its state; None: it leaves none.
        watch: who is told how it comes on.

    Returns:
        What the run took. The model ends where it trained, in evaluation mode.
    """
    wall_started, cpu_started = time.monotonic(), _cpu_seconds()
    torch.manual_seed(recipe.seed)
    accelerator = Accelerator()
    groups = _parameter_groups(training, recipe)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    # Both may come back wrapped, for several processes or another device.
    running, optimiser = accelerator.prepare(training.model, optimiser)
    trained = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    if training.heldout:
        # Before a checkpoint is loaded: what the run is compared with is the model as it came.
        training.heldout.look(running, 0)
    state = checkpoints.load(accelerator) if checkpoints else RunState()
    training.model.train()
    while state.step < recipe.steps:
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * group["scale"] * schedule(state.step, recipe)
        step_started = time.monotonic()
        loss = _backward(accelerator, running, training, recipe, state.step)
        norm = accelerator.clip_grad_norm_(trained, recipe.clip)
        optimiser.step()
        optimiser.zero_grad()
        new_point = state.record(loss, recipe.steps)
        tokens_per_s = recipe.batch * recipe.sequence / (time.monotonic() - step_started)
        measured = {
            "loss": loss,
            "rate": recipe.learning_rate * schedule(state.step - 1, recipe),
            "gradient_norm": float(norm) if norm is not None else 0.0,
            "tokens_per_s": tokens_per_s,
            "memory_bytes": float(_peak_bytes(accelerator.device)),
        }
        warning = _look(training, running, recipe, state.step, measured)
        if accelerator.is_main_process:
            if watch.progress and (new_point or warning):
                said = f"loss {loss:.3f}" if not new_point else f"loss {state.curve[-1][1]:.3f}"
                watch.progress(state.step, recipe.steps, warning or said)
            if watch.report:
                watch.report(state.step, measured)
        if checkpoints and state.step % recipe.save_every == 0 and state.step < recipe.steps:
            checkpoints.save(accelerator, state)
    training.model.eval()
    if checkpoints:
        checkpoints.clear()
    tokens = recipe.steps * recipe.batch * recipe.sequence
    through = training.objective.trains_through_model
    return TrainingReport(
        tokens=tokens,
        flops=tokens * flops_per_token(training.model, through=through),
        wall_s=round(time.monotonic() - wall_started, 3),
        device_s=round(_cpu_seconds() - cpu_started, 3),
        peak_bytes=_peak_bytes(accelerator.device),
        parameters=parameter_counts(training.model).total,
        trained_parameters=sum(parameter.numel() for parameter in trained),
        curve=state.curve,
        heldout=training.heldout.to_json() if training.heldout else None,
    )


def _look(
    training: Training,
    running: torch.nn.Module,
    recipe: Optimisation,
    step: int,
    measured: dict[str, float],
) -> str | None:
    """Look at held-out text where that is due, in every process; return a warning, if any."""
    looks = training.heldout
    if looks is None or not looks.is_due(step, recipe.steps):
        return None
    measured["heldout_loss"] = looks.look(running, step)
    return looks.judge(recipe)


def flops_per_token(model: torch.nn.Module, *, through: bool = True) -> float:
    """Estimate the floating point operations that one token takes in one training step.

    Two forward and two backward for each parameter that a token meets, two more for each of those
    that trains. A teacher's pass over general text is not counted.

    Args:
        model: dense or mixed.
        through: whether gradients flow back through the model.

    Returns:
        Operations per token.
    """
    counts = parameter_counts(model)
    trained = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    # Of trained experts too a token meets only the top k.
    unmet = counts.total - counts.active if any(map(is_expert_parameter, trained)) else 0
    met_and_trained = sum(trained.values()) - unmet
    return float((4 if through else 2) * counts.active + 2 * met_and_trained)


def schedule(step: int, recipe: Optimisation) -> float:
    """Return the share of the peak rate at a step: linear warm-up, then a cosine to final_rate.

    Args:
        step: from 0.
        recipe: steps, warmup_steps and final_rate.

    Returns:
        The share, up to 1.
    """
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return float(recipe.final_rate + (1 - recipe.final_rate) * cosine)


def _backward(
    accelerator: Accelerator,
    running: torch.nn.Module,
    training: Training,
    recipe: Optimisation,
    step: int,
) -> float:
    """Add up the gradients of one step, part by part, and return the mean loss."""
    ids, domains = training.mixture.batch(step, recipe.batch, recipe.sequence)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    ids, domains = ids[mine], domains[mine]
    bfloat16 = recipe.precision == "bfloat16"
    total = 0.0
    for numbers in np.array_split(np.arange(len(ids)), recipe.accumulate):
        part = Batch(
            torch.from_numpy(ids[numbers]).to(accelerator.device),
            tuple(domains[number] for number in numbers),
        )
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bfloat16):
            loss = training.objective(running, part, step / recipe.steps)
            loss = loss * (len(numbers) / len(ids))
        accelerator.backward(loss)
        total += float(loss.detach())
    return total


# Any: a parameter group as torch.optim takes it.
def _parameter_groups(training: Training, recipe: Optimisation) -> list[dict[str, Any]]:
    """Return one group per rate and decay: vectors and norms do not decay."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in training.model.named_parameters():
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((training.rates.of(name), decay), []).append(parameter)
    return [
        {"params": parameters, "scale": scale, "weight_decay": decay, "lr": 0.0}
        for (scale, decay), parameters in groups.items()
    ]


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system
