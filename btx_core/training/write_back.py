"""Write a trained model as a checkpoint folder, tensor by tensor and once for all processes.

In:  a model in memory, of which every process may hold a share; the folder that it came from.
Out: a whole folder: a dense branch in its seed model's form, or a tuned mixture in which only the
changed files are new. No process holds more than one whole tensor at a time; the first one writes.
What is trained is left to `branch` and `tune`.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from btx_core.checkpoints.canonical import BUFFERS, EMBEDDING, HEAD
from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.rewriting import copy_all, write_value
from btx_core.checkpoints.tensor_files import DTYPES, TensorFile, TensorShape
from btx_core.files import link_or_copy, whole_folder
from btx_core.machine import Machine, whole
from btx_core.problems import ShapeMismatch
from btx_core.routed import RoutedModel, is_expert_parameter

if TYPE_CHECKING:
    from peft import PeftModel

TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}

# The number of an expert in a tensor's name.
_EXPERT = re.compile(r"(\.experts\.)(\d+)\.")


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of a model's state.

    Attributes:
        shape: of the whole tensor, on the meta device.
        read: returns the whole tensor; every process calls it.
        trained: whether it may differ from what the model was loaded from.
    """

    shape: torch.Tensor
    read: Callable[[], torch.Tensor]
    trained: bool


State = Mapping[str, Value]


# Writes a tensor of a checkpoint under the name that it has on disk.
Write = Callable[[str, torch.Tensor], None]


def write_branch(
    model: "PreTrainedModel | PeftModel",
    seed_model: Path,
    out: Path,
    machine: Machine,
    notes: Mapping[str, str],
) -> None:
    """Write a branch in its seed model's form: the same files, tensor names, dtypes and config.

    What did not train is the seed model's own bytes. A tied head is stored exactly where the seed
    model stores it.

    Args:
        model: the branch; adapters on it are merged into what is written.
        seed_model: the dense folder that it was branched from.
        out: the folder to be made.
        machine: the processes that share the model; all call.
        notes: text files that go beside the checkpoint, by name.

    Raises:
        WrongUsage: where `out` exists.
        ShapeMismatch: for a tensor of the seed model that the branch has not.
    """
    state, network = _state(model), _network(model)
    base = Checkpoint.open(seed_model)

    def start(folder: Path) -> Write:
        names = set()
        for name, value in state.items():
            names |= revert_weight_conversion(network, {name: value.shape}).keys()
        tied = {EMBEDDING: HEAD, HEAD: EMBEDDING}
        for name in base.tensors:
            if name not in names and tied.get(name) not in names and not BUFFERS.search(name):
                raise ShapeMismatch(
                    f"{seed_model}, {name}",
                    found="no such tensor in the trained model",
                    expected="the tensors of the seed's class",
                    next="start from a seed that btx seed add takes today",
                )
        copy_all(base, folder)
        for name, text in notes.items():
            (folder / name).write_text(text, encoding="utf-8")

        def write(name: str, tensor: torch.Tensor) -> None:
            stored = [name]
            if name in tied and tied[name] not in names:
                stored.append(tied[name])
            for each in stored:
                if each in base.tensors:
                    write_value(base.tensors[each], tensor, folder)

        return write

    trained = {name: value for name, value in state.items() if value.trained}
    _write_once(network, trained, out, machine, start)


def write_tuned(routed: RoutedModel, mixed: Path, changed: tuple[str, ...], out: Path) -> None:
    """Write a tuned mixture: the changed files anew, every other as a hard link.

    Args:
        routed: the mixture in memory; all processes that share it call.
        mixed: the folder that it was loaded from.
        changed: names of the weight files that the tuning changed; they get the same tensors under
            the same names and dtypes.
        out: the folder to be made.

    Raises:
        WrongUsage: where `out` exists.
    """
    opened = Checkpoint.open(mixed)
    with_experts = changed == weight_files(mixed)
    state = {
        name: value
        for name, value in _state(routed.network).items()
        if with_experts or not is_expert_parameter(name)
    }

    files: list[TensorFile] = []
    found = map(_EXPERT.search, opened.tensors)
    # An expert that was taken out leaves its slot free; in memory the others follow each other.
    slots = sorted({int(match[2]) for match in found if match})

    def start(folder: Path) -> Write:
        for file in sorted(mixed.iterdir()):
            if file.is_dir():
                shutil.copytree(file, folder / file.name)
                continue
            if file.name not in changed:
                link_or_copy(file, folder / file.name)
                continue
            shapes = {
                name: TensorShape(info.dtype, info.shape)
                for name, info in opened.tensors.items()
                if info.file.name == file.name
            }
            files.append(TensorFile(folder / file.name, shapes))

        def write(name: str, tensor: torch.Tensor) -> None:
            name = _EXPERT.sub(lambda match: f"{match[1]}{slots[int(match[2])]}.", name)
            for file in files:
                if name in file.shapes:
                    file.write(name, tensor.to(TORCH_DTYPES[file.shapes[name].dtype]))

        return write

    def finish() -> None:
        for file in files:
            file.close()

    _write_once(routed.network, state, out, routed.machine, start, finish)


def weight_files(mixed: Path) -> tuple[str, ...]:
    """Return the names of a folder's weight files, sorted."""
    return tuple(sorted(file.name for file in mixed.glob("*.safetensors")))


def _write_once(
    network: PreTrainedModel,
    state: State,
    out: Path,
    machine: Machine,
    start: Callable[[Path], Write],
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Make a folder in the first process, of tensors that all processes read together.

    Args:
        network: the model.
        state: what is read.
        out: the folder to be made.
        machine: the processes.
        start: puts all else into the folder; returns what writes a tensor.
        finish: called after the last tensor.
    """
    write: Write | None = None
    with ExitStack() as stack:
        with machine.together():
            if machine.is_main:
                write = start(stack.enter_context(whole_folder(out)))
        with machine.together():
            _stream(network, state, write)
        with machine.together():
            if machine.is_main:
                finish()
                stack.close()


def _stream(network: PreTrainedModel, state: State, write: Write | None) -> None:
    """Read every tensor in all processes, though the one that writes may have failed."""
    failure: Exception | None = None
    for name, value in state.items():
        tensor = value.read()
        if write is None or failure is not None:
            continue
        try:
            for on_disk, values in revert_weight_conversion(network, {name: tensor}).items():
                write(on_disk, values)
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


def _network(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    if isinstance(model, PreTrainedModel):
        return model
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    return base


def _state(model: "PreTrainedModel | PeftModel") -> dict[str, Value]:
    """Return what a checkpoint holds of a model, each tied tensor once and adapters merged."""
    network = _network(model)
    ignored = set(network._keys_to_ignore_on_save or ())
    state: dict[str, Value] = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) in seen or name in ignored or ".lora_" in name:
            continue
        seen.add(id(tensor))
        shape = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        module_name, _, base_layer = name.partition(".base_layer.")
        if base_layer:
            adapter = network.get_submodule(module_name)
            read = (
                partial(_merged, adapter, tensor)
                if base_layer == "weight"
                else partial(whole, tensor.detach())
            )
            state[f"{module_name}.{base_layer}"] = Value(shape, read, base_layer == "weight")
        else:
            read = partial(whole, tensor.detach())
            state[name] = Value(shape, read, tensor.requires_grad)
    return state


@torch.no_grad()
def _merged(adapter: torch.nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight with its adapter added, in float32 or wider."""
    # PEFT's layer; its type is not known where PEFT is not imported.
    delta: torch.Tensor = adapter.get_delta_weight("default")  # type: ignore[operator]
    wide = torch.promote_types(weight.dtype, torch.float32)
    return whole(weight.detach()).to(wide) + delta.to(wide)
