"""Who runs the stages: processes of this machine, actors of a Ray cluster, jobs of Slurm.

In:  a workspace's root, tasks, what each is given.
Out: what the stages write; what failed is named, what ended stays.
Only the name of a stage travels to a worker: orders, data and weights are in the workspace, which
every machine sees under the same path. What a stage writes depends on its order alone (the order
fixes the number of threads and processes), so it does not matter where, or beside what, it ran.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from btx_core.problems import BtxError, Interrupted
from pipelines.stages import local_processes, ray_cluster, slurm_jobs
from pipelines.stages.dvc_runs import StageFailed
from pipelines.stages.monitor import Log, TaskMonitor
from pipelines.stages.task import Task
from pipelines.workspace import run_lock
from pipelines.workspace.placement import Resources, check_counts
from pipelines.workspace.settings_file import RaySettings, Settings
from registry.errors import Invalid, Unavailable
from registry.records.answers.building import PlannedStage
from registry.records.base import JsonObject
from registry.units import size

logger = logging.getLogger(__name__)

# Set for a stage whose command names the executor.
EXECUTOR = "BTX_EXECUTOR"
# The package that an executor needs, where that is an extra of this distribution.
PACKAGES = {"ray": "ray", "slurm": "submitit"}


@dataclass(frozen=True)
class Clusters:
    """Where clusters are, and what they are told beside the resources of a stage.

    Attributes:
        ray: where the cluster of the executor `ray` is.
        slurm: parameters of submitit, from [slurm] in btx.toml.
    """

    ray: RaySettings = field(default_factory=RaySettings)
    slurm: JsonObject = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "Clusters":
        """Return what btx.toml says of clusters."""
        return cls(settings.ray, settings.slurm)


def check(resources: Resources, clusters: Clusters) -> None:
    """Refuse resources that their executor cannot honour, before anything starts.

    Raises:
        Invalid: naming the setting.
    """
    check_counts(resources)
    package = PACKAGES.get(resources.executor)
    if package and not find_spec(package):
        raise Invalid(
            f"executor {resources.executor}",
            found=f"no package {package} here",
            expected="it is installed",
            next=f"pip install 'btx-registry[{resources.executor}]'",
        )
    if resources.executor == "slurm":
        slurm_jobs.check(resources, clusters.slurm)
    elif resources.executor == "ray":
        ray_cluster.check(resources)
    else:
        local_processes.check(resources)


def resolved(resources: Resources) -> Resources:
    """Return the resources with the number of GPUs that a stage takes."""
    return local_processes.resolved(resources) if resources.executor == "local" else resources


def placed(stage: str, resources: Resources, needed_bytes: int | None = None) -> PlannedStage:
    """Return where a stage would run, as an answer says it.

    Args:
        stage: its name.
        resources: what it is given.
        needed_bytes: of memory, by each of its processes.
    """
    resources = resolved(resources)
    return PlannedStage(
        stage=stage,
        executor=resources.executor,
        nodes=resources.nodes,
        processes=resources.processes,
        gpus=resources.gpus or 0,
        threads=None if resources.gpus else resources.threads,
        needed_bytes=needed_bytes,
        available_bytes=available(resources),
    )


def require_memory(named: str, place: PlannedStage) -> None:
    """Refuse, before it starts, a stage that needs more memory than there is.

    Args:
        named: the command.
        place: where the stage would run.

    Raises:
        Unavailable: with what to change.
    """
    if place.fits is False:
        raise Unavailable(
            named,
            found=f"{size(place.available_bytes or 0)} of memory a process",
            expected=f"about {size(place.needed_bytes or 0)}",
            next=(
                "lower sequence, or batch with accumulate; more processes, or recompute = true "
                "under [machine]; or --anyway"
            ),
        )


def available(resources: Resources) -> int | None:
    """Return the memory that each process has; None where it cannot be seen from here."""
    resources = resolved(resources)
    if resources.executor == "local":
        return local_processes.memory_each(resources)
    if resources.gpus or resources.memory_gb is None:
        return None
    return int(resources.memory_gb * 1e9) // resources.processes_per_node


def holding(resources: Resources, needed_bytes: int | None) -> Resources:
    """Return the resources with the memory that each process is known to need.

    Only where nothing is said of memory, and tasks without a GPU run here: as many are started at
    once as the memory holds.

    Args:
        resources: of a stage.
        needed_bytes: by each of its processes; None: nobody knows.
    """
    elsewhere = resources.executor != "local" or resolved(resources).gpus
    if elsewhere or resources.memory_gb is not None or needed_bytes is None:
        return resources
    return replace(resources, memory_gb=needed_bytes * resources.processes_per_node / 1e9)


def execute(
    root: Path,
    tasks: Sequence[Task],
    resources: Resources,
    clusters: Clusters,
    log: Log = lambda name, ran: None,
    reason_to_stop: Callable[[], BtxError | None] = lambda: None,
) -> None:
    """Run the tasks side by side, as far as the resources allow.

    Args:
        root: the workspace.
        tasks: what is run.
        resources: what each of them is given.
        clusters: where clusters are.
        log: called with a task's label and what happened.
        reason_to_stop: asked every second; the tasks are interrupted once it returns an error,
            which is then raised.

    Raises:
        Invalid: for what the executor cannot honour.
        StageFailed: naming every task that did not end well.
        Interrupted: on Ctrl-C.
    """
    check(resources, clusters)
    names = ", ".join(task.label for task in tasks)
    logger.info("executor %s runs %s in %s", resources.executor, names, root)
    logger.debug("each has %s", resources)
    try:
        with TaskMonitor(root, tasks, log, reason_to_stop) as monitor:
            if resources.executor == "slurm":
                slurm_jobs.run(root, tasks, resources, clusters.slurm, monitor)
            elif resources.executor == "ray":
                ray_cluster.run(root, tasks, resources, clusters.ray.address, monitor)
            else:
                local_processes.run(root, tasks, resources, monitor)
    except KeyboardInterrupt:
        _wait_until_gone(root, tasks)
        raise Interrupted(_subject(names, tasks)) from None
    except BtxError:
        _wait_until_gone(root, tasks)
        raise
    if monitor.errors:
        _wait_until_gone(root, [task for task in tasks if task.label in monitor.errors])
        raise StageFailed(
            _subject(", ".join(monitor.errors), tasks),
            found="; ".join(f"{name}: {error}" for name, error in monitor.errors.items()),
            expected="that it ends well",
            next="fix what is named, then run the command again: what ended well is kept",
        )


def _wait_until_gone(root: Path, tasks: Sequence[Task]) -> None:
    for task in tasks:
        run_lock.wait_until_gone(root, task.run)


def _subject(names: str, tasks: Sequence[Task]) -> str:
    """Return what an error is about: branches, or a stage."""
    return f"training of {names}" if tasks[0].branch else f"stage {names}"
