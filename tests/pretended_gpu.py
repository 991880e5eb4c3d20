"""A pretended GPU: values stay on the CPU, and every storage is marked with the device it is on.

One mode answers `.device`, `.to` and `device=` as a machine with CUDA would. The other looks at
every operation and refuses one whose operands are on two devices, by CUDA's own rules: copies, CPU
indices and numbers without dimensions are allowed. Arithmetic is counted by device.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
# These may read and write over two devices.
ACROSS = {"copy_", "_to_copy", "set_", "is_same_size", "_foreach_copy_"}
# These may take indices from the CPU; they run where their first operand is.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
ARITHMETIC = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_grouped_mm",
    "linear",
    "linalg_solve_ex",
    "_linalg_solve_ex",
    "_scaled_dot_product_flash_attention_for_cpu",
    "exp",
    "_softmax",
    "_log_softmax",
}


class TwoDevices(RuntimeError):
    """What CUDA would refuse."""


class PretendedGpu:
    """The storages that are on the GPU, and what was computed where.

    Attributes:
        work: elements that arithmetic returned, by "cuda" and "cpu".
    """

    def __init__(self) -> None:
        # Each storage is kept, so that no other takes its id.
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.work: Counter[str] = Counter()

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def take(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage
        return tensor

    def release(self, tensor: Tensor) -> None:
        self.storages.pop(tensor.untyped_storage()._cdata, None)

    def moved(
        self, tensor: Tensor, target: torch.device | None, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return a tensor changed and moved, as a new one wherever `to` would make one."""
        was, out = self.holds(tensor), change(tensor)
        wanted = was if target is None else target.type == "cuda"
        if wanted == was and self.holds(out) == wanted:
            return out
        if out.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            out = out.clone()
        self.release(out)
        return self.take(out) if wanted else out


class _Operations(TorchDispatchMode):
    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func._schema.name.split("::")[1]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        operands = [tensor for tensor in given if tensor.dim()] or given
        on_gpu = [self.gpu.holds(tensor) for tensor in operands]
        if len(set(on_gpu)) > 1 and name not in ACROSS | INDEXING:
            shapes = {
                kind: [
                    tuple(tensor.shape)
                    for tensor, found in zip(operands, on_gpu, strict=True)
                    if found == (kind == "cuda")
                ][:3]
                for kind in ("cuda", "cpu")
            }
            raise TwoDevices(f"aten::{name}: operands on two devices, {shapes}")
        out = func(*args, **(kwargs or {}))
        first = name in ACROSS | INDEXING and name != "_to_copy"
        there = self.gpu.holds(given[0]) if first and given else any(map(self.gpu.holds, given))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                if there:
                    self.gpu.take(leaf)
                if name in ARITHMETIC:
                    self.gpu.work["cuda" if there else "cpu"] += leaf.numel()
        return out


class _Devices(TorchFunctionMode):
    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        holds = self.gpu.holds
        answers: dict[Any, Callable[[], Any]] = {
            Tensor.device.__get__: lambda: GPU if holds(args[0]) else func(*args),
            Tensor.is_cuda.__get__: lambda: holds(args[0]),
            Tensor.is_cpu.__get__: lambda: not holds(args[0]),
            Tensor.get_device: lambda: 0 if holds(args[0]) else -1,
            Tensor.cuda: lambda: self.gpu.moved(args[0], GPU, lambda tensor: tensor),
            Tensor.cpu: lambda: self.gpu.moved(args[0], CPU, lambda tensor: tensor),
            Tensor.to: lambda: self._to(func, args, named),
        }
        if func in answers:
            return answers[func]()
        if func is Tensor.numpy and holds(args[0]):
            raise TwoDevices("can't convert a cuda:0 tensor to numpy")
        # CUDA counts integers, the CPU does not: the experts of transformers ask for it.
        if getattr(func, "__name__", "") == "histc" and not args[0].is_floating_point():
            return func(args[0].float(), *args[1:], **named).to(args[0].dtype)
        if named.get("device") is not None and torch.device(named["device"]).type == "cuda":
            made = func(*args, **{**named, "device": "cpu"})
            # as_tensor may share the storage of what it was given.
            copied = getattr(func, "__name__", "") == "as_tensor"
            return self.gpu.take(made.clone() if copied else made)
        return func(*args, **named)

    def _to(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        tensor, *rest = args
        target = named.pop("device", None)
        settings: list[Any] = []
        for item in rest:
            if isinstance(item, str | torch.device):
                target = item
            elif isinstance(item, Tensor):
                target = GPU if self.gpu.holds(item) else CPU
                settings.append(item.dtype)
            elif item is not None:
                settings.append(item)
        settings = [item for item in settings if not isinstance(item, bool)]
        others = {key: value for key, value in named.items() if key == "dtype" and value}

        def change(value: Tensor) -> Tensor:
            return func(value, *settings, **others) if settings or others else value

        return self.gpu.moved(tensor, None if target is None else torch.device(target), change)


@contextlib.contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Let accelerate, transformers and every tensor operation find one CUDA device."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    PartialState()
    PartialState._shared_state["device"] = GPU
    capability = torch.cuda.get_device_capability
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    # What stands on the pretended device is computed by the CPU, and so is its autocast.
    autocast = torch.autocast
    torch.autocast = lambda device_type, **named: autocast("cpu", **named)
    gpu = PretendedGpu()
    try:
        with _Devices(gpu), _Operations(gpu):
            yield gpu
    finally:
        torch.cuda.get_device_capability = capability
        torch.autocast = autocast
        AcceleratorState._reset_state(True)
