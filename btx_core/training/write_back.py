"""Write a trained model as a checkpoint folder, tensor by tensor and once for all processes.

In:  a model in memory, of which every process may hold a share; the folder that it came from.
Out: a whole folder: a dense branch in its seed model's dtype, or a tuned mixture in which only the
changed files are new. No process holds more than one whole tensor at a time; the first one writes.
What is trained is left to `branch` and `tune`.
"""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.headers import TensorInfo
from btx_core.checkpoints.tensor_files import DTYPES, TensorFile, TensorShape
from btx_core.checkpoints.tokenizer_files import copy_tokenizer
from btx_core.files import link_or_copy, whole_folder
from btx_core.machine import Machine, whole
from btx_core.routed import RoutedModel, is_expert_parameter

if TYPE_CHECKING:
    from peft import PeftModel

TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
WEIGHTS = "model.safetensors"
# As transformers has it: a larger model is divided over several files.
LARGEST_FILE = 50 * 10**9


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


@dataclass(frozen=True, eq=False)
class NewFolder:
    """A folder that is being made.

    Attributes:
        path: where its files are put.
        files: the weight files that are written anew.
    """

    path: Path
    files: list[TensorFile] = field(default_factory=list)

    def write(self, network: PreTrainedModel, name: str, tensor: torch.Tensor) -> None:
        """Write a parameter as the tensors that it is on disk, in the dtype of its file."""
        for on_disk, values in revert_weight_conversion(network, {name: tensor}).items():
            for file in self.files:
                if on_disk in file.shapes:
                    dtype = TORCH_DTYPES[file.shapes[on_disk].dtype]
                    file.write(on_disk, values.to(dtype))


def write_branch(
    model: "PreTrainedModel | PeftModel",
    seed_model: Path,
    out: Path,
    machine: Machine,
    notes: Mapping[str, str],
) -> None:
    """Write a branch in its seed model's dtype, with the seed's tokenizer files byte for byte.

    What did not train is copied from the seed model's own files where these hold it in that dtype.

    Args:
        model: the branch; adapters on it are merged into what is written.
        seed_model: the dense folder that it was branched from.
        out: the folder to be made.
        machine: the processes that share the model; all call.
        notes: text files that go beside the checkpoint, by name.

    Raises:
        WrongUsage: where `out` exists.
    """
    state = _state(model)
    network = _network(model)
    config = json.loads((seed_model / "config.json").read_text())
    dtype: torch.dtype = getattr(torch, str(config.get("dtype", "float32")))
    seed = Checkpoint.open(seed_model)
    copied: dict[str, TensorInfo] = {}

    def start(folder: Path) -> list[TensorFile]:
        shapes: dict[str, TensorShape] = {}
        for name, value in state.items():
            for on_disk, meta in revert_weight_conversion(network, {name: value.shape}).items():
                meta = meta.to(dtype) if meta.is_floating_point() else meta
                shapes[on_disk] = TensorShape.of(meta)
                stored = seed.tensors.get(on_disk)
                same = stored and (stored.dtype, stored.shape) == (
                    shapes[on_disk].dtype,
                    shapes[on_disk].shape,
                )
                if stored and same and not value.trained:
                    copied[on_disk] = stored
        _write_config(network, dtype, folder)
        copy_tokenizer(seed_model, folder)
        for name, text in notes.items():
            (folder / name).write_text(text)
        return [TensorFile(folder / name, part) for name, part in _divided(shapes, folder).items()]

    def finish(folder: NewFolder) -> None:
        for name in copied:
            for file in folder.files:
                if name in file.shapes:
                    file.write(name, seed.read(name))

    _write_once(network, state, out, machine, Steps(start, finish))


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

    def start(folder: Path) -> list[TensorFile]:
        files = []
        for file in sorted(mixed.iterdir()):
            if file.name not in changed:
                link_or_copy(file, folder / file.name)
                continue
            shapes = {
                name: TensorShape(info.dtype, info.shape)
                for name, info in opened.tensors.items()
                if info.file.name == file.name
            }
            files.append(TensorFile(folder / file.name, shapes))
        return files

    _write_once(routed.network, state, out, routed.machine, Steps(start, lambda folder: None))


def weight_files(mixed: Path) -> tuple[str, ...]:
    """Return the names of a folder's weight files, sorted."""
    return tuple(sorted(file.name for file in mixed.glob("*.safetensors")))


@dataclass(frozen=True)
class Steps:
    """What the first process does before and after the tensors are read.

    Attributes:
        start: puts all else into the folder and opens its weight files.
        finish: writes what is not read from the model.
    """

    start: Callable[[Path], list[TensorFile]]
    finish: Callable[[NewFolder], None]


def _write_once(
    network: PreTrainedModel, state: State, out: Path, machine: Machine, steps: Steps
) -> None:
    """Make a folder in the first process, of tensors that all processes read together."""
    folder: NewFolder | None = None
    with ExitStack() as stack:
        with machine.together():
            if machine.is_main:
                path = stack.enter_context(whole_folder(out))
                folder = NewFolder(path, steps.start(path))
        with machine.together():
            _stream(network, state.items(), folder)
        with machine.together():
            if folder is not None:
                steps.finish(folder)
                for file in folder.files:
                    file.close()
                stack.close()


def _stream(
    network: PreTrainedModel, values: Iterable[tuple[str, Value]], folder: NewFolder | None
) -> None:
    """Read every tensor in all processes, though the one that writes may have failed."""
    failure: Exception | None = None
    for name, value in values:
        tensor = value.read()
        if folder is None or failure is not None:
            continue
        try:
            folder.write(network, name, tensor)
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


def _write_config(network: PreTrainedModel, dtype: torch.dtype, folder: Path) -> None:
    """Write config.json and generation_config.json as `save_pretrained` does."""
    config = copy.deepcopy(network.config)
    if hasattr(config, "distributed_config"):
        del config.distributed_config
    config.dtype = str(dtype).removeprefix("torch.")
    config.architectures = [type(network).__name__.removeprefix("FSDP")]
    config.save_pretrained(folder)
    if network.can_generate():
        network.generation_config.save_pretrained(folder)


def _divided(shapes: Mapping[str, TensorShape], folder: Path) -> dict[str, dict[str, TensorShape]]:
    """Divide tensors over files that are not too large; several files get an index."""
    parts: list[dict[str, TensorShape]] = [{}]
    for name, shape in shapes.items():
        filled = sum(other.bytes for other in parts[-1].values())
        if parts[-1] and filled + shape.bytes > LARGEST_FILE:
            parts.append({})
        parts[-1][name] = shape
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    named = {
        f"model-{number:05}-of-{len(parts):05}.safetensors": part
        for number, part in enumerate(parts, 1)
    }
    index = {
        "metadata": {"total_size": sum(shape.bytes for shape in shapes.values())},
        "weight_map": {name: file for file, part in named.items() for name in part},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / f"{WEIGHTS}.index.json").write_text(text)
    return named
