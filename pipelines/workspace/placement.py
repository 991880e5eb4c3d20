"""Where stages run, and with how much: `[machine]` of `btx.toml`.

In:  the table, with a table of its own for a stage that differs.  Out: the resources of a stage,
every one of them resolved. Whether an executor can honour them is left to the executor.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.errors import Invalid

StageName = Literal["train", "tune", "evaluate"]
ExecutorName = Literal["local", "ray", "slurm"]
STAGE_NAMES: tuple[StageName, ...] = ("train", "tune", "evaluate")
EXECUTOR_NAMES: tuple[ExecutorName, ...] = ("local", "ray", "slurm")

Count = Annotated[int, Field(ge=1)]


class StageSettings(BaseModel):
    """What one stage may use: `[machine.train]`, `[machine.tune]`, `[machine.evaluate]`.

    Attributes:
        executor: where it runs.
        nodes: machines that compute it together.
        processes: that compute it together, on all nodes; one a GPU where it is left out.
        gpus: on all nodes; 0 computes on the CPU. Left out, the local executor takes one a
            process where this machine has any, and the others take none.
        memory_gb: of a node.
        minutes: after which the stage is stopped, or queued again to go on.
        rendezvous: HOST:PORT of the first node, where the local executor uses several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    executor: ExecutorName | None = None
    nodes: Count | None = None
    processes: Count | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    minutes: Count | None = None
    rendezvous: Annotated[str, Field(pattern=r"^[^:\s]+:\d+$")] | None = None


class MachineSettings(StageSettings):
    """What every stage may use, unless its own table says otherwise.

    Attributes:
        threads: of each process that computes on the CPU. They are a part of a stage's order,
            since the order of float additions follows them.
        train: what differs for a training.
        tune: what differs for tuning.
        evaluate: what differs for evaluating.
    """

    threads: Count | None = None
    train: StageSettings = StageSettings()
    tune: StageSettings = StageSettings()
    evaluate: StageSettings = StageSettings()


class OlderTrainSettings(BaseModel):
    """`[train]`, which workspaces had before `[machine]`.

    Attributes:
        threads: as `[machine] threads`.
        gpus: as `[machine.train] gpus`, but 0 uses what is there.
        processes: as `[machine.train] processes`, but 1 where it is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: Count | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    processes: Count | None = None


@dataclass(frozen=True)
class Resources:
    """What one stage is given. The attributes are those of `StageSettings`, resolved.

    Attributes:
        gpus: None: one a process where this machine has any.
    """

    executor: ExecutorName = "local"
    nodes: int = 1
    processes: int = 1
    gpus: int | None = None
    threads: int = 1
    memory_gb: float | None = None
    minutes: int | None = None
    rendezvous: str | None = None

    @property
    def processes_per_node(self) -> int:
        """The processes on each node."""
        return self.processes // self.nodes

    @property
    def gpus_per_node(self) -> int:
        """The GPUs of each node."""
        return (self.gpus or 0) // self.nodes


def resources_of(
    stage: StageName,
    machine: MachineSettings,
    older: OlderTrainSettings,
    executor: ExecutorName | None = None,
) -> Resources:
    """Return what a stage is given.

    Args:
        stage: its name.
        machine: `[machine]`.
        older: `[train]`.
        executor: instead of the one in the settings.

    Raises:
        Invalid: for a key that stands in `[train]` and in `[machine]`.
    """
    _check_older(machine, older)
    own = _from_older(older) if stage == "train" else StageSettings()
    for settings in (machine, getattr(machine, stage)):
        said = settings.model_dump(include=set(StageSettings.model_fields), exclude_none=True)
        own = own.model_copy(update=said)
    nodes = own.nodes or 1
    return Resources(
        executor=executor or own.executor or "local",
        nodes=nodes,
        processes=own.processes or max(nodes, own.gpus or 1),
        gpus=own.gpus,
        threads=machine.threads or older.threads or 1,
        memory_gb=own.memory_gb,
        minutes=own.minutes,
        rendezvous=own.rendezvous,
    )


def _from_older(older: OlderTrainSettings) -> StageSettings:
    """Return what `[train]` says of a training."""
    if older.gpus is None and older.processes is None:
        return StageSettings()
    return StageSettings(gpus=older.gpus or None, processes=older.processes or 1)


def _check_older(machine: MachineSettings, older: OlderTrainSettings) -> None:
    """Refuse a key that stands in both tables."""
    for key in older.model_fields_set:
        also = [table for table in (machine, machine.train) if key in table.model_fields_set]
        if also:
            raise Invalid(
                f"btx.toml, [train] {key}",
                found=f"{key} in [machine] too",
                expected="one of the two",
                next="remove the one in [train]",
            )


def check_counts(resources: Resources) -> None:
    """Refuse resources that no executor could honour.

    Raises:
        Invalid: naming the setting.
    """
    nodes, processes, gpus = resources.nodes, resources.processes, resources.gpus
    if processes % nodes:
        raise Invalid(
            "btx.toml, [machine] processes",
            found=f"{processes} on {nodes} nodes",
            expected="as many on each node",
            next=f"set processes to a multiple of {nodes}",
        )
    if gpus and processes > 1 and gpus != processes:
        raise Invalid(
            "btx.toml, [machine] gpus",
            found=f"{gpus} for {processes} processes",
            expected=f"{processes}, one a process, or 0 to compute on the CPU",
            next="change gpus or processes",
        )
