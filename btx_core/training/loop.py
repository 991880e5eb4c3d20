"""The optimiser's loop, one for branches, small seed models and tuning.

In:  a model in memory, a mixture of text, an objective, a recipe.  Out: the same model trained, and
what that cost.
It runs on a CPU, a GPU, or several processes that torchrun or `accelerate launch` starts. A batch
depends on its step alone, so a run that died is taken up at its last checkpoint and ends, on as
many processes of a CPU, in the bytes that it would have had. Loading models is left to
`btx_core.machine`, writing them to `write_back`.
Shapes: B sequences of S tokens (ids hold one more).
"""

import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from btx_core.batches import Mixture
from btx_core.machine import (
    Machine,
    assign,
    device_of,
    here,
    keep_gradients_whole,
    reshard,
    whole,
)
from btx_core.problems import NotFinite
from btx_core.progress import Progress
from btx_core.routed import experts_computing_in, is_expert_parameter, parameter_counts
from btx_core.training.heldout import HeldOutLooks
from btx_core.training.memory import WHOLE_GRADIENTS
from btx_core.training.objectives import Batch, Objective
from btx_core.training.recipes import Optimisation, check_parts
from btx_core.training.run_state import RunCheckpoints, RunState, Trained


@dataclass(frozen=True)
class TrainingReport:
    """What a run of the loop took.

    Attributes:
        tokens: read in all steps.
        flops: floating point operations, by `flops_per_token`.
        wall_s: seconds by the clock; of a run that went on, those up to its checkpoints too.
        device_s: seconds of CPU time of this process, likewise.
        peak_bytes: the most memory held: of the GPU where there is one, else of this process; of a
            run that went on, that of the parts before too.
        parameters: of the model.
        trained_parameters: those that required a gradient.
        curve: (step, mean loss since the point before), nats per token.
        heldout: the looks at held-out text, where the run took any.
        processes: that computed together, each on a device of its own.
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
    processes: int = 1

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
        machine: the processes that train together.
        heldout: looks at held-out text before the first step and while training; None: none.
        kept_rows: by the name of a parameter that trains, its rows that keep their values.
    """

    model: torch.nn.Module
    mixture: Mixture
    objective: Objective
    rates: ParameterRates = field(default_factory=ParameterRates)
    machine: Machine = field(default_factory=here)
    heldout: HeldOutLooks | None = None
    kept_rows: Mapping[str, Sequence[int]] = field(default_factory=dict)


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

    Several processes take the sequences of a step in turn, and compute every forward pass together
    whatever their own sequences are.

    Args:
        training: what is trained, on what, towards what.
        recipe: steps, batch, rate and the like.
        checkpoints: where the run leaves its state; None: it leaves none. Who writes the result
            clears them when it stands.
        watch: who is told how it comes on.

    Returns:
        What the run took. The model ends where it trained, in evaluation mode.

    Raises:
        WrongUsage: for a batch that does not divide into equal parts.
        NotFinite: at the first step whose loss or gradient is not finite; the last checkpoint
            stays.
    """
    wall_started, cpu_started = time.monotonic(), _cpu_seconds()
    machine = training.machine
    check_parts(recipe, machine.world)
    torch.manual_seed(recipe.seed)
    model = training.model
    if device_of(model).type != machine.device.type:
        model.to(machine.device)
    reshard(model)
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    machine.share(trained.values())
    optimiser = torch.optim.AdamW(
        _parameter_groups(training, recipe), betas=(0.9, 0.95), fused=True
    )
    masks = {name: _mask(trained[name], rows) for name, rows in training.kept_rows.items()}
    kept = Trained(trained, optimiser, machine.device)
    if training.heldout:
        # Before a checkpoint is loaded: what the run is compared with is the model as it came.
        with precision(recipe, machine):
            training.heldout.look(model, 0)
        # Else whole parameters as they came would hide what the checkpoint loads.
        reshard(model)
    state = checkpoints.load(kept) if checkpoints else RunState()
    if training.heldout and state.heldout:
        training.heldout.losses = list(state.heldout)
    wall_before, cpu_before = state.wall_s, state.device_s

    def count_spent() -> None:
        state.wall_s = wall_before + time.monotonic() - wall_started
        state.device_s = cpu_before + _cpu_seconds() - cpu_started
        state.peak_bytes = max(state.peak_bytes, _peak_bytes(machine.device))

    clock = _Clock(checkpoints.minutes if checkpoints else math.inf)
    with _training_mode(training, recipe):
        while state.step < recipe.steps:
            rate = recipe.learning_rate * schedule(state.step, recipe)
            for group in optimiser.param_groups:
                group["lr"] = group["scale"] * rate
            loss = _backward(training, recipe, state.step)
            machine.average_gradients(trained.values())
            for name, mask in masks.items():
                _zero_masked(trained[name], mask)
            norm = clipped_norm(list(trained.values()), recipe.clip)
            measured = _measured(machine, state.step, loss, norm)
            optimiser.step()
            optimiser.zero_grad()
            new_point = state.record(measured["loss"], recipe.steps)
            measured |= {"rate": rate, **clock.measured(recipe, machine)}
            warning = _look(training, recipe, state.step, measured)
            if machine.is_main:
                said = f"loss {state.curve[-1][1]:.3f}" if new_point else None
                _tell(watch, state.step, recipe, measured, warning or said)
            if checkpoints and state.step < recipe.steps:
                by_steps = state.step % recipe.save_every == 0
                if machine.told(by_steps or clock.is_due()):
                    count_spent()
                    state.heldout = list(training.heldout.losses) if training.heldout else []
                    checkpoints.save(kept, state)
                    clock.saved()
    reshard(model)
    tokens = recipe.steps * recipe.batch * recipe.sequence
    through = training.objective.trains_through_model
    count_spent()
    return TrainingReport(
        tokens=tokens,
        flops=tokens * flops_per_token(model, through=through),
        wall_s=round(state.wall_s, 3),
        device_s=round(state.device_s, 3),
        peak_bytes=state.peak_bytes,
        parameters=parameter_counts(model).total,
        trained_parameters=sum(parameter.numel() for parameter in trained.values()),
        curve=state.curve,
        heldout=training.heldout.to_json() if training.heldout else None,
        processes=machine.world,
    )


def _tell(
    watch: Watch,
    step: int,
    recipe: Optimisation,
    measured: Mapping[str, float],
    said: str | None,
) -> None:
    if said and watch.progress:
        watch.progress(step, recipe.steps, said)
    if watch.report:
        watch.report(step, measured)


def _look(
    training: Training, recipe: Optimisation, step: int, measured: dict[str, float]
) -> str | None:
    """Look at held-out text where that is due, in every process; return a warning, if any."""
    looks = training.heldout
    if looks is None or not looks.is_due(step, recipe.steps):
        return None
    with precision(recipe, training.machine):
        measured["heldout_loss"] = looks.look(training.model, step)
    reshard(training.model)
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


@contextmanager
def _training_mode(training: Training, recipe: Optimisation) -> Iterator[None]:
    """Let the model compute as it does while it trains, and as it does otherwise afterwards."""
    model, machine = training.model, training.machine
    experts = (
        experts_computing_in(model, torch.bfloat16)
        if recipe.precision == "bfloat16" and machine.world == 1
        else nullcontext()
    )
    model.train()
    if machine.recompute:
        model.activation_checkpointing_enable()  # type: ignore[operator]
    try:
        with training.objective.attached(), experts, repeatable(machine.device):
            yield
    finally:
        if machine.recompute:
            model.activation_checkpointing_disable()  # type: ignore[operator]
        model.eval()


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let a GPU compute the same bits from the same input inside the block, where it can.

    On the CPU it does by itself. On CUDA attention with a mask may still differ in the last bits on
    the way back: a run that went on is then equal to rounding, not to the byte.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        yield
        return
    # Read when the libraries are first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic  # Any: its one setting has no type
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = filled


class _Clock:
    """When a checkpoint is due, and how fast the steps are."""

    def __init__(self, minutes: float) -> None:
        self.seconds = minutes * 60
        self.saved()
        self.last = time.monotonic()

    def saved(self) -> None:
        self.since = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self.since > self.seconds

    def measured(self, recipe: Optimisation, machine: Machine) -> dict[str, float]:
        now, tokens = time.monotonic(), recipe.batch * recipe.sequence
        rate, self.last = tokens / max(now - self.last, 1e-9), now
        return {"tokens_per_s": rate, "memory_bytes": _peak_bytes(machine.device)}


def _backward(training: Training, recipe: Optimisation, step: int) -> dict[str, float]:
    """Add up the gradients of one step, part by part; return this process's mean losses by name."""
    step_batch = training.mixture.batch(step, recipe.batch, recipe.sequence)
    machine = training.machine
    mine = np.arange(machine.rank, len(step_batch.ids), machine.world)
    total = torch.zeros((), dtype=torch.float64, device=machine.device)
    parts = np.array_split(mine, recipe.accumulate)
    keeps_whole = _gradient_bytes(training.model) <= WHOLE_GRADIENTS
    for number, numbers in enumerate(parts, 1):
        if len(parts) > 1:
            # Else the processes would exchange the gradients of every part.
            keep_gradients_whole(training.model, keeps_whole and number < len(parts))
        part = Batch.on(machine.device, step_batch.of(numbers))
        with precision(recipe, machine):
            loss = training.objective(training.model, part, step / recipe.steps)
            loss = loss * (len(numbers) / len(mine))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return {"loss": float(total)}


def _gradient_bytes(model: torch.nn.Module) -> int:
    """Return what the gradients take of all that trains, whole."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return sum(parameter.numel() * parameter.element_size() for parameter in trained)


def precision(recipe: Optimisation, machine: Machine) -> torch.autocast:
    """Return the context in which a run computes as precisely as its recipe says.

    What trains is float32 and the rest bfloat16 in a run of that precision, so a forward pass
    outside it fails.

    Args:
        recipe: the run's.
        machine: where it computes.
    """
    bfloat16 = recipe.precision == "bfloat16"
    return torch.autocast(machine.device.type, dtype=torch.bfloat16, enabled=bfloat16)


def _measured(
    machine: Machine, step: int, losses: Mapping[str, float], norm: torch.Tensor
) -> dict[str, float]:
    """Return a step's mean losses over all processes, and the norm of its gradient.

    Raises:
        NotFinite: where one of them is not finite.
    """
    totals = machine.totals([*losses.values(), float(norm)])
    means = [total / machine.world for total in totals]
    measured = dict(zip([*losses, "gradient_norm"], means, strict=True))
    for name, value in measured.items():
        if not math.isfinite(value):
            raise NotFinite(
                f"step {step + 1}",
                found=f"{name.replace('_', ' ')} {value}",
                expected="a finite number",
                next="lower learning_rate, or look at the text; nothing was written",
            )
    return measured


def clipped_norm(parameters: Sequence[torch.nn.Parameter], largest: float) -> torch.Tensor:
    """Scale gradients down to a largest norm of all together.

    Args:
        parameters: whole or shared by several processes, in any mixture.
        largest: the norm.

    Returns:
        The norm that they had.
    """
    groups: dict[DeviceMesh | None, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault(mesh, []).append(parameter)
    if list(groups) == [None]:
        return torch.nn.utils.clip_grad_norm_(parameters, largest)
    norms = []
    for group in groups.values():
        gradients = [one.grad for one in group if one.grad is not None]
        if gradients:
            norms.append(whole(torch.nn.utils.get_total_norm(gradients)))
    norm: torch.Tensor = torch.stack(norms).norm()
    for group in groups.values():
        torch.nn.utils.clip_grads_with_norm_(group, largest, norm)
    return norm


# Any: a parameter group as torch.optim takes it.
def _parameter_groups(training: Training, recipe: Optimisation) -> list[dict[str, Any]]:
    """Return one group per rate and decay: vectors, norms and kept rows do not decay."""
    groups: dict[tuple[float, float, DeviceMesh | None], list[torch.nn.Parameter]] = {}
    for name, parameter in training.model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name not in training.kept_rows
            decay = recipe.weight_decay if decays else 0.0
            # One group holds no parameters that are divided in two ways.
            mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
            groups.setdefault((training.rates.of(name), decay, mesh), []).append(parameter)
    return [
        {"params": parameters, "scale": scale, "weight_decay": decay, "lr": 0.0}
        for (scale, decay, _), parameters in groups.items()
    ]


def _mask(parameter: torch.nn.Parameter, rows: Sequence[int]) -> torch.Tensor:
    """Return zeros where rows of a parameter keep their values, and ones elsewhere."""
    mask, values = torch.ones_like(parameter, requires_grad=False), torch.ones(parameter.shape)
    values[list(rows)] = 0
    assign(mask, values)
    return mask


def _zero_masked(parameter: torch.nn.Parameter, mask: torch.Tensor) -> None:
    """Set the gradient of kept rows to zero: so AdamW, without decay, leaves them to the bit."""
    if parameter.grad is not None:
        parameter.grad.mul_(mask)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system
