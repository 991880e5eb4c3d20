"""How far a run has come, and the checkpoint from which it goes on after it died.

In:  what fixes a run: its recipe, its model's weights and its text; what trains in it.
Out: a hidden folder beside the run's output, with one folder a checkpoint, which only the very same
run takes up, on as many processes as there are then.
A checkpoint holds what trains, its moving averages and the random state, written by all processes
(torch.distributed.checkpoint). It counts once its run.json is there, which is written last and
names every file with its size; only then the one before is removed. When one is due is left to
`btx_core.training.loop`, and when the run needs none any more to whoever writes its result.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as read_tensors
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from btx_core.batches import Mixture
from btx_core.files import any_json, replace_text
from btx_core.machine import Machine, here
from btx_core.training.recipes import Optimisation

# How many points a run's curve has at most, one more where the last step falls between two.
POINTS = 50
RUN = "run.json"
# Of a model's folder: its weights, how it computes and what its text becomes.
FIXED = (
    "*.safetensors",
    "config.json",
    "tokenizer*",
    "chat_template*",
    "*.model",
    "vocab*",
    "merges.txt",
)
# What AdamW keeps of a parameter.
STEP, AVERAGES = "step", ("exp_avg", "exp_avg_sq")
RANDOM = "random"


@dataclass
class RunState:
    """How far a run has come.

    Attributes:
        step: steps done.
        curve: (step, mean loss since the point before), nats per token.
        losses: the loss of every step since the curve's last point.
        wall_s: seconds by the clock that its steps took, whichever process computed them.
        device_s: seconds of CPU time, likewise of the first process.
        heldout: (step, loss) of the looks at held-out text; empty: as before there were any.
        peak_bytes: the most memory that the first process held up to its checkpoints.
    """

    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    device_s: float = 0.0
    heldout: list[tuple[int, float]] = field(default_factory=list)
    peak_bytes: int = 0

    def record(self, loss: float, steps: int) -> bool:
        """Count one step.

        Args:
            loss: its loss.
            steps: how many steps the run has.

        Returns:
            Whether the curve has a new point.
        """
        self.step += 1
        self.losses.append(loss)
        if self.step % max(1, steps // POINTS) and self.step != steps:
            return False
        self.curve.append((self.step, sum(self.losses) / len(self.losses)))
        self.losses = []
        return True


@dataclass(frozen=True, eq=False)
class Trained:
    """What trains in a run.

    Attributes:
        parameters: by name.
        optimiser: AdamW over them.
        device: of this process.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    device: torch.device

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the parameters and what the optimiser keeps of each; changed in place, they are.

        A parameter that had no gradient as yet gets averages of zero.
        """
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"model.{name}"] = parameter.detach()
            kept = self.optimiser.state[parameter]
            if STEP not in kept:
                kept[STEP] = torch.zeros((), dtype=torch.float32, device=self.device)
                kept.update({key: torch.zeros_like(parameter).detach() for key in AVERAGES})
            for key in (STEP, *AVERAGES):
                tensors[f"optimiser.{name}.{key}"] = kept[key]
        return tensors

    def random(self) -> dict[str, torch.Tensor]:
        """Return the random state, which is the same in every process."""
        state = {f"{RANDOM}.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state[f"{RANDOM}.cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_random(self, state: Mapping[str, torch.Tensor]) -> None:
        """Set what `random` returned."""
        for name, value in state.items():
            if name.endswith("cuda"):
                torch.cuda.set_rng_state(value, self.device)
            else:
                torch.set_rng_state(value)


@dataclass(frozen=True)
class RunCheckpoints:
    """Where a run leaves its state.

    Attributes:
        folder: holds a folder for each checkpoint.
        key: a JSON text of all that fixes the run.
        machine: the processes that run it.
        minutes: after which a checkpoint is due, whatever the recipe says.
    """

    folder: Path
    key: str
    machine: Machine = field(default_factory=here)
    minutes: float = 10.0

    @classmethod
    def beside(
        cls,
        out: Path,
        recipe: Optimisation,
        model: Path,
        mixture: Mixture,
        *,
        taken_over: Iterable[Path] = (),
        also: Mapping[str, object] | None = None,
    ) -> "RunCheckpoints":
        """Keep a run's checkpoints in a hidden folder beside its output.

        Args:
            out: the run's output.
            recipe: with another recipe the run begins anew.
            model: the folder of the model that is trained; with other weights, another config or
                another tokenizer the run begins anew.
            mixture: the text; with other text the run begins anew.
            taken_over: files of weights that the run starts from beside the model's own.
            also: what fixes the run besides, in JSON values.

        Returns:
            The checkpoints of exactly this run.
        """
        machine = here()
        weights = dict[str, dict[str, str]]()
        with machine.together():
            if machine.is_main:
                files = (one for form in FIXED for one in model.glob(form))
                weights["model"] = _digests(one for one in files if one.is_file())
                if before := list(taken_over):
                    weights["taken_over"] = _digests(before)
        fixed = {
            "recipe": asdict(recipe),
            "data": {name: corpus.digest for name, corpus in mixture.corpora.items()},
            **machine.told(weights),
            **(also or {}),
        }
        key = json.dumps(fixed, sort_keys=True)
        return cls(out.with_name(f".{out.name}.training"), key, machine)

    def save(self, trained: Trained, state: RunState) -> None:
        """Write a checkpoint, and remove the one before once it is whole.

        Args:
            trained: what trains.
            state: how far the run has come.
        """
        new = self.folder / f"step-{state.step:09}"
        with self.machine.together():
            if self.machine.is_main:
                _remove(new)
                new.mkdir(parents=True)
        tensors = {name: _plainly_sharded(one) for name, one in trained.tensors().items()}
        everything = {**tensors, **trained.random()}
        with _alone_as_meant():
            write_tensors(everything, checkpoint_id=new, no_dist=self.machine.world == 1)
        with self.machine.together():
            if self.machine.is_main:
                run = {
                    "key": self.key,
                    "step": state.step,
                    "curve": state.curve,
                    "since": state.losses,
                    "wall_s": state.wall_s,
                    "device_s": state.device_s,
                    "heldout": state.heldout,
                    "peak_bytes": state.peak_bytes,
                    "files": {file.name: file.stat().st_size for file in sorted(new.iterdir())},
                }
                replace_text(new / RUN, json.dumps(run))
                for folder in self._all():
                    if folder != new:
                        _remove(folder)

    def load(self, trained: Trained) -> RunState:
        """Take up the newest checkpoint of this very run.

        Args:
            trained: its parameters, averages and random state become the checkpoint's.

        Returns:
            How far the run had come; step 0 where there is no checkpoint of it.
        """
        with self.machine.together():
            found = self._newest() if self.machine.is_main else None
        found = self.machine.told(found)
        if found is None:
            return RunState()
        folder, run = found
        tensors = trained.tensors()
        sharded = {name: _plainly_sharded(tensor) for name, tensor in tensors.items()}
        reader = FileSystemReader(folder)
        stored = reader.read_metadata().state_dict_metadata
        random = {name: one for name, one in trained.random().items() if name in stored}
        with _alone_as_meant():
            alone = self.machine.world == 1
            read_tensors({**sharded, **random}, storage_reader=reader, no_dist=alone)
        for name, tensor in tensors.items():
            read = sharded[name]
            if isinstance(tensor, DTensor) and isinstance(read, DTensor) and read is not tensor:
                tensor.copy_(read.redistribute(placements=tensor.placements))
        trained.set_random(random)
        # Earlier code left neither times nor looks nor peaks.
        return RunState(
            run["step"],
            [(step, loss) for step, loss in run["curve"]],
            run["since"],
            run.get("wall_s", 0.0),
            run.get("device_s", 0.0),
            [(step, loss) for step, loss in run.get("heldout", ())],
            run.get("peak_bytes", 0),
        )

    def clear(self) -> None:
        """Remove every checkpoint of the run: its result stands."""
        with self.machine.together():
            if self.machine.is_main:
                for folder in self._all():
                    _remove(folder)
                shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        """Return the folders of all checkpoints, whole or not, the newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    # Any: run.json as `save` wrote it.
    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        for folder in self._all():
            run = _read_whole(folder)
            if run is not None and run["key"] == self.key:
                return folder, run
        return None


# Any: run.json as `save` wrote it.
def _digests(files: Iterable[Path]) -> dict[str, str]:
    digests = {}
    for file in sorted(files):
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _read_whole(folder: Path) -> dict[str, Any] | None:
    """Return what run.json of a checkpoint says; None where a file that it names is not whole."""
    try:
        run: dict[str, Any] = any_json((folder / RUN).read_text(encoding="utf-8"))
        for name, size in run["files"].items():
            if (folder / name).stat().st_size != size:
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return run


@contextmanager
def _alone_as_meant() -> Iterator[None]:
    """Keep torch from warning that one process reads or writes by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _remove(folder: Path) -> None:
    """Remove a checkpoint; it stops counting before its first file is gone."""
    (folder / RUN).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _plainly_sharded(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of which each shard is one stretch, which a checkpoint can describe.

    What is sharded twice over one axis, as experts are, is redistributed where that left its shards
    in pieces; a copy is as large as the share.
    """
    if not isinstance(tensor, DTensor) or _in_stretches(tensor):
        return tensor
    placements = [
        Shard(each.dim) if isinstance(each, _StridedShard) else each for each in tensor.placements
    ]
    if list(tensor.placements) == placements:
        return tensor
    return tensor.redistribute(placements=placements)


def _in_stretches(tensor: DTensor) -> bool:
    """Whether each shard of a tensor that is sharded twice over one axis is one stretch of it.

    The first division strides so far that the second leaves a single stretch, where both divide the
    axis evenly.
    """
    if len(tensor.placements) != 2:
        return False
    first, second = tensor.placements
    if not isinstance(first, _StridedShard) or not isinstance(second, Shard):
        return False
    mesh, axis = tensor.device_mesh, first.dim
    divides = tensor.shape[axis] % mesh.size() == 0
    return second.dim == axis and first.split_factor == mesh.size(1) and divides
