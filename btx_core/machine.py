"""The processes and the device that a stage runs on, and the only place that loads a model.

In:  what torchrun or accelerate started this process with; a checkpoint folder.
Out: the machine; a stock transformers model on its device, whole, or one shard of it a process.
Training, tuning, the teacher, the first router weights, evaluation, attribution and the harness all
load here, so device, dtype and sharding are decided in one place, and whoever computes with a model
asks `device_of` where it is. Sharding is transformers' own (FSDP2, and expert parallelism for
mixtures), which loads each process's share from the plain folder. Checking a folder that is not
trusted is left to `btx_core.checkpoints.checkpoint`.
"""

import gc
import math
import os
import platform
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.distributed import fsdp
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_flash_attn_2_available

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.mixture_layouts import LAYOUTS
from btx_core.problems import BtxError, ShapeMismatch

# Variables of the environment; see `here`.
EXPERT_PARALLEL, RECOMPUTE = "BTX_EXPERT_PARALLEL", "BTX_RECOMPUTE"

# A variable that transformers reads.
READ_IN_TURN = "HF_DEACTIVATE_ASYNC_LOAD"

T = TypeVar("T")
# Called with a model: the names of some of its modules.
Blocks = Callable[[PreTrainedModel], Iterable[str]]
# Called with a loaded model: the names of the parameters that train.
Trains = Callable[[PreTrainedModel], Container[str]]


class OtherProcessFailed(BtxError):
    """Another process of this run raised an error."""


@dataclass(frozen=True)
class Machine:
    """The processes that run a stage together, and this one's device.

    Attributes:
        rank: of this process.
        world: how many processes there are. More than one share every model that is loaded.
        device: of this process.
        expert_parallel: how many processes divide the experts of a mixture among them.
        recompute: compute the layers' activations again on the way back instead of keeping them.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    expert_parallel: int = 1
    recompute: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block only when every process has, and raise in all what one has raised.

        Inside, no process may wait for another.

        Raises:
            OtherProcessFailed: in the processes that did not fail themselves.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        text = None if failure is None else f"{type(failure).__name__}: {failure}"
        texts = self._gathered(text)
        if failure is not None:
            raise failure
        for rank, found in enumerate(texts):
            if found is not None:
                raise OtherProcessFailed(
                    f"process {rank}",
                    found=found,
                    expected="every process to get this far",
                    next="fix what is named, then run the same command again",
                )

    def told(self, value: T) -> T:
        """Return the main process's value in every process."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=_host_group())
        return values[0]

    def totals(self, values: Sequence[float]) -> list[float]:
        """Add each number up over the processes."""
        if self.world == 1:
            return list(values)
        summed = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(summed, group=_host_group())
        return cast(list[float], summed.tolist())

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the processes, without a gradient."""
        if self.world == 1:
            return tensor.detach()
        summed = tensor.detach().clone()
        dist.all_reduce(summed)
        return summed / self.world

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add a tensor in main memory up over the processes, without a gradient."""
        if self.world == 1:
            return tensor
        summed = tensor.detach().clone()
        dist.all_reduce(summed, group=_host_group())
        return summed

    @property
    def part(self) -> slice:
        """Which of many things this process computes where the processes divide them."""
        return slice(self.rank, None, self.world)

    def of_all(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what every process holds of its sequences as one process would hold it.

        The processes take the sequences of a step in turn. There is no gradient.

        Args:
            tensor: (B, ...), of the same shape in every process.

        Returns:
            (world × B, ...), in the order of the step.
        """
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor.detach().contiguous())
        return torch.stack(parts, 1).flatten(0, 1)

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what belongs to this process's sequences (B, ...) of all (world × B, ...)."""
        return tensor[self.part]

    def share(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give parameters that every process holds whole the main process's values."""
        if self.world == 1:
            return
        for parameter in parameters:
            if not isinstance(parameter, DTensor):
                dist.broadcast(parameter.data, src=0)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Average the gradients of parameters that every process holds whole.

        Those of sharded parameters have been averaged on the way back.
        """
        if self.world == 1:
            return
        for parameter in parameters:
            if not isinstance(parameter, DTensor) and parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world

    def _gathered(self, text: str | None) -> list[str | None]:
        if self.world == 1:
            return [text]
        texts: list[str | None] = [None] * self.world
        dist.all_gather_object(texts, text, group=_host_group())
        return texts


@lru_cache(maxsize=1)
def _host_group() -> dist.ProcessGroup:
    """Return the group in which processes exchange what is in main memory."""
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo"))


def here() -> Machine:
    """Return the machine that this process is a part of.

    The environment says what cannot be seen: `BTX_EXPERT_PARALLEL`, how many processes divide the
    experts of a mixture among them, which divides the number of processes; and
    `BTX_RECOMPUTE`, "1" where activations are to be computed again on the way back.

    Returns:
        All processes that torchrun or `accelerate launch` started together; alone, the first GPU,
        or else the CPU.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    # Without being told, accelerate joins no processes on a CPU.
    state = PartialState(cpu=asked or not torch.accelerator.is_available())
    return Machine(
        rank=state.process_index,
        world=state.num_processes,
        device=state.device,
        expert_parallel=int(os.environ.get(EXPERT_PARALLEL, "1")) if state.num_processes > 1 else 1,
        recompute=os.environ.get(RECOMPUTE) == "1",
    )


def load(
    folder: Path,
    dtype: torch.dtype | None = None,
    *,
    machine: Machine | None = None,
    trains: Trains | None = None,
    compute: torch.dtype | None = None,
    blocks: Blocks | None = None,
) -> PreTrainedModel:
    """Load a dense or mixed causal language model.

    Args:
        folder: a checkpoint folder that stock transformers loads.
        dtype: of every parameter that trains; None: as stored, but see `_as_computed`.
        machine: where it is to be; this process's own unless given.
        trains: tells which parameters require a gradient; all do unless given.
        compute: the dtype that is computed in, and of the parameters that do not train; None: the
            same dtype as all others'.
        blocks: names modules that are shared each by itself, so that it can be called alone.

    Returns:
        The model in evaluation mode on the machine's device. Several processes hold a share of each
        parameter, and all must call together.
    """
    machine = here() if machine is None else machine
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    stored = compute is not None and compute != dtype
    if dtype is None and compute is None:
        dtype = _as_computed(folder, machine.device)
    sharding = _sharding(folder, machine, compute, blocks)
    empty = set() if sharding is None else _empty_tensors(folder)
    quietly = _without_report() if empty else nullcontext()
    with quietly, _one_by_one(machine), _experts_shared_evenly():
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto" if dtype is None or stored else dtype,
            attn_implementation=_attention(folder, machine.device, compute),
            distributed_config=sharding,
            # FSDP gives a process's share of an empty tensor another shape than its file does.
            ignore_mismatched_sizes=bool(empty),
            output_loading_info=True,
        )
    # Any: what transformers tells of the loading.
    model, report = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    _check_shapes(folder, report["mismatched_keys"])
    trained = None if trains is None else trains(model)
    for name, parameter in model.named_parameters():
        trains_here = trained is None or name in trained
        # In an empty one there is nothing to train, and no share of it to keep.
        parameter.requires_grad_(trains_here and parameter.numel() > 0)
        if stored:
            parameter.data = parameter.data.to(dtype if parameter.requires_grad else compute)
    if machine.world == 1:
        # transformers wraps `to` in a decorator that hides its parameters from the type checker.
        model.to(machine.device)  # type: ignore[arg-type]
    return model


def reshard(model: torch.nn.Module) -> None:
    """Let this process hold no more than its share again, after forward passes without a way back.

    Until then some modules of a model that several processes share keep whole parameters.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def release() -> None:
    """Free the models that nobody refers to any more: FSDP ties the modules of one in cycles."""
    gc.collect()


def keep_gradients_whole(model: torch.nn.Module, keep: bool) -> None:
    """Let backward passes add up whole gradients in each process, or divide their sum again.

    Args:
        model: perhaps shared by several processes, which all call.
        keep: False before the last of several backward passes, whose end divides the sum.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(not keep, recurse=False)


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device that a model computes on."""
    return next(model.parameters()).device


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """Return all of a parameter, of which this process may hold a share.

    It must be called in every process. A gradient that flows back is averaged over the processes.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    if not parameter.numel():
        return torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    world = parameter.device_mesh.size()
    full: torch.Tensor = parameter.full_tensor(
        grad_placements=[Partial() for _ in parameter.placements]
    )
    if full.requires_grad:
        full.register_hook(lambda gradient: gradient / world)  # type: ignore[no-untyped-call]
    return full


@torch.no_grad()
def assign(parameter: torch.Tensor, values: torch.Tensor) -> None:
    """Set a parameter, of which this process may hold a share, to whole values in place."""
    values = values.to(device=parameter.device, dtype=parameter.dtype)
    if isinstance(parameter, DTensor):
        values = torch.distributed.tensor.distribute_tensor(
            values, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    parameter.copy_(values)


def _sharding(
    folder: Path, machine: Machine, compute: torch.dtype | None, blocks: Blocks | None
) -> DistributedConfig | None:
    if machine.world == 1:
        return None
    config = AutoConfig.from_pretrained(folder)
    plan = None
    if blocks is not None:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        plan = dict.fromkeys(map(_of_any_layer, blocks(skeleton)), "free_full_weight")
    return DistributedConfig(
        fsdp_size=machine.world,
        fsdp_plan=plan,
        ep_size=_dividing_experts(config, machine),
        fsdp_mixed_precision=compute == torch.bfloat16,
    )


def _dividing_experts(config: PreTrainedConfig, machine: Machine) -> int:
    """Return how many processes divide the experts of a model evenly, of those that are to."""
    layout = LAYOUTS.get(config.model_type)
    experts = getattr(config, layout.count_key, 0) if layout else 0
    # Of a dense model no experts can be divided, though the stage's settings say so.
    return math.gcd(machine.expert_parallel, experts or 1)


def _attention(folder: Path, device: torch.device, compute: torch.dtype | None) -> str | None:
    """Return the attention to take; None: transformers' own choice.

    Flash attention, which is of 16 bits alone, is told where packed documents begin and takes no
    mask: what trains takes it where its package is installed and the family has it.
    """
    if device.type != "cuda" or compute != torch.bfloat16 or not is_flash_attn_2_available():
        return None
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    # Any: transformers' map has several classes for some configs, but of causal models one.
    kind: Any = AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(folder))]
    return "flash_attention_2" if kind._supports_flash_attn else None


def _as_computed(folder: Path, device: torch.device) -> torch.dtype | None:
    """Return the dtype to compute in where that is not the stored one.

    A processor without arithmetic for numbers of 16 bits takes some six times as long for them as
    for float32, which is taken instead where the memory is there.
    """
    if device.type != "cpu" or multiplies_halves():
        return None
    tensors = Checkpoint.open(folder).tensors.values()
    halves = [tensor.bytes for tensor in tensors if tensor.dtype in ("BF16", "F16")]
    fits = 2 * sum(halves) <= psutil.virtual_memory().available
    return torch.float32 if halves and fits else None


def multiplies_halves() -> bool:
    """Whether this processor has instructions that multiply bfloat16; of an Arm it is assumed."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _empty_tensors(folder: Path) -> set[str]:
    """Return the names of a checkpoint's tensors without elements: a shared expert of width 0."""
    tensors = Checkpoint.open(folder).tensors
    return {name for name, info in tensors.items() if 0 in info.shape}


@contextmanager
def _one_by_one(machine: Machine) -> Iterator[None]:
    """Let several processes read a tensor when it is its turn.

    Else transformers reads ahead what it has not put together yet: up to a second share.
    """
    before = os.environ.get(READ_IN_TURN)
    if machine.world > 1:
        os.environ[READ_IN_TURN] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(READ_IN_TURN, None)
        else:
            os.environ[READ_IN_TURN] = before


@contextmanager
def _experts_shared_evenly() -> Iterator[None]:
    """Let processes share experts that they do not divide evenly by the columns of each matrix.

    FSDP shares a parameter by its first dimension, here the experts: more processes than experts
    would leave some without a share, which transformers cannot load.
    """
    # Any: transformers takes no such rule from outside.
    sharing: Any = fsdp
    before = sharing.fully_shard
    sharing.fully_shard = _share_evenly
    try:
        yield
    finally:
        sharing.fully_shard = before


# Any: what `fully_shard` takes and returns.
def _share_evenly(module: Any, *, mesh: Any, **named: Any) -> Any:
    def place(parameter: torch.nn.Parameter) -> Shard | None:
        held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        count = mesh.size()
        if held.ndim < 3 or held.shape[0] % count == 0 or held.shape[-1] % count:
            return None
        return Shard(held.ndim - 1)

    return fully_shard(module, mesh=mesh, shard_placement_fn=place, **named)


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from reporting what `_check_shapes` judges."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _check_shapes(folder: Path, mismatched: Iterable[tuple[str, torch.Size, torch.Size]]) -> None:
    """Refuse tensors whose shape is not their parameter's.

    Raises:
        ShapeMismatch: naming the first one that is not empty.
    """
    for name, stored, expected in sorted(mismatched):
        if stored.numel() or expected.numel():
            raise ShapeMismatch(
                f"{folder}, {name}",
                found=f"shape {tuple(stored)}",
                expected=f"{tuple(expected)}, as the config says",
                next="take the checkpoint from its source again",
            )


def _of_any_layer(name: str) -> str:
    """Return a module's name as plans of transformers have it, with * for the layer's number."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
